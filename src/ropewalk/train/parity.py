"""The parity gate: compare the gradients of the user's model on the user's sequences at two context-parallel degrees.

The degrees are 1 and the chosen one. Both sides run the real training code and share one set of sharded weights. So
only the partition differs, and the gate needs the memory of one step plus a second copy of the gradients. Equal losses
do not prove equal models. So the gate also computes the gradient of one document's loss to all other documents, which
must be exactly 0. It also counts how often our attention ran.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int32
from torch import Tensor
from torch.distributed.tensor import DTensor

from ropewalk.checkpoint.state import name_weights
from ropewalk.core.seed import seed_for
from ropewalk.corpus.mix.dataset import Dataset
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.corpus.tokens.same_tokenizer import require_model
from ropewalk.model.attention_interface import count_calls
from ropewalk.model.fusion import choose_fusion
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.parallel.collective import max_over_ranks, sum_over_ranks
from ropewalk.parallel.mesh import Mesh, make_mesh
from ropewalk.partition import UlyssesPartition, local_shard
from ropewalk.partition.choose import Sharing
from ropewalk.plan.precision import choose_precision
from ropewalk.recipe.expert_training import refuse_misfits
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage import Stage
from ropewalk.recipe.stage_dataset import open_stage
from ropewalk.shape.read import read_shape
from ropewalk.train.batches import MicroBatch, StepBatches, make_batches
from ropewalk.train.fit_device import fit_device
from ropewalk.train.optimizer import make_optimizer, set_learning_rate
from ropewalk.train.prepare_model import build_model_with_loss, prepare_model
from ropewalk.train.stage_context import choose_sharing
from ropewalk.train.step import agree_on_work

STEPS = 3
_SEARCHED_SEQUENCES = 256
_SMALL = 1e-3
"""The smallest norm of a tensor's gradient in a comparison, as a share of its layer's norm. A smaller norm is raised to
this share, because the gradient is noise: for example that of a bias that softmax cancels."""


@dataclass(frozen=True)
class LayerParity:
    """The comparison of one layer's gradients.

    ``difference`` is the largest difference of a tensor, relative to the norm of this tensor.
    """

    layer: str
    norm: float
    difference: float
    tensor: str


@dataclass(frozen=True)
class Parity:
    """The result of the gate. ``losses`` are pairs, degree 1 first; ``layers`` holds the worst step of each layer.

    ``foreign`` is the largest gradient of one document's loss to a token of another document; it is None where no
    sequence holds two documents. ``own`` is the largest gradient to a token of the same document. ``calls`` counts the
    runs of our attention in each layer, at the chosen degree on one rank. There were ``passes`` passes, and each layer
    should have run at least once in each. In ``crossing`` of them keys were exchanged between ranks.
    """

    losses: tuple[tuple[float, float], ...]
    layers: tuple[LayerParity, ...]
    foreign: float | None
    own: float
    calls: tuple[int, ...]
    passes: int
    crossing: int


def compare_degrees(recipe: Recipe, *, stage: int, model: Path, corpus: Path) -> dict[str, Parity]:
    """Return the result for each precision: that of training, and on a CPU also float32. Every rank must call it.

    Takes ``STEPS`` steps of as many sequences as ranks. They start at the stage's first sequence with several
    documents. Each step computes its gradients twice from the same weights; those of degree 1 update the weights.
    """
    spec, parallel = recipe.stages[stage], recipe.parallel
    mesh = make_mesh(parallel.ranks, parallel.context_parallel, replicas=parallel.replicas)
    chosen = choose_precision(parallel.precision, device=mesh.device.type)
    sequences = max(STEPS * parallel.ranks, min(spec.steps * spec.step_sequences, _SEARCHED_SEQUENCES))
    built, shape = open_corpus(corpus), read_shape(model)
    refuse_misfits(spec.experts, parallel.mlp_tile_tokens, shape)
    require_model(built, model)
    dataset = open_stage(recipe, stage, built, sequences=sequences)
    fusion = choose_fusion(parallel, shape, mesh.device)
    fit = fit_device(parallel, spec, shape)
    sharing = choose_sharing(parallel, shape, mesh, held_tokens=fit.held_tokens)
    seed = seed_for("lora", recipe.seed, stage)
    found: dict[str, Parity] = {}
    for precision in dict.fromkeys(("float32", chosen) if mesh.device.type == "cpu" else (chosen,)):
        learner = build_model_with_loss(model, spec, chunk_tokens=parallel.asked_loss_tokens, adapter_seed=seed)
        prepare_model(learner, mesh, weights=model, savings=fit.savings, precision=precision, fusion=fusion)
        found[precision] = _compare(learner, dataset, spec=spec, mesh=mesh, sharing=sharing)
    return found


def _compare(learner: ModelWithLoss, dataset: Dataset, *, spec: Stage, mesh: Mesh, sharing: Sharing) -> Parity:
    # A micro-batch is one sequence, because ranks that share several sequences could simply take one each.
    spec, single = spec.model_copy(update={"micro_batch_size": 1}), make_mesh(mesh.ranks, 1)
    alone = replace(sharing, ulysses_degree=1)
    optimizer = make_optimizer(learner, weight_decay=spec.weight_decay, betas=spec.betas)
    set_learning_rate(optimizer, spec.lr)
    losses, tables, calls = [], [], torch.zeros(len(learner.blocks), dtype=torch.int64)
    micro: list[MicroBatch] = []
    first = _find_packed(dataset, mesh.ranks)
    for cursor in range(first, first + STEPS * mesh.ranks, mesh.ranks):
        whole = make_batches(dataset, cursor, sequences=mesh.ranks, spec=spec, mesh=single, sharing=alone)
        expected = _take_gradients(learner, whole, single)
        kept = _detach_gradients(learner)
        batches = make_batches(dataset, cursor, sequences=mesh.ranks, spec=spec, mesh=mesh, sharing=sharing)
        with count_calls() as counted:
            found = _take_gradients(learner, batches, mesh)
        calls += torch.tensor([counted[layer] for layer in range(len(calls))])
        micro += batches.micro
        losses.append((expected, found))
        tables.append(_measure(kept, _detach_gradients(learner)) / mesh.replicas)
        for name, parameter in name_weights(learner):
            parameter.grad = kept[name]
        optimizer.step()
        optimizer.zero_grad()
    documents = [dataset.batch(each.sequences[0], 1).document for each in micro]
    asked = next((index for index, document in enumerate(documents) if document.max() > 0), 0)
    foreign, own = _seek_leak(learner, micro[asked], documents[asked], mesh)
    layers = tuple(_describe_layers(list(kept), torch.stack(tables)))
    crossing = sum(isinstance(each.partition, UlyssesPartition) or each.partition.exchanges for each in micro)
    return Parity(tuple(losses), layers, foreign, own, tuple(calls.tolist()), len(micro), crossing)


def _find_packed(dataset: Dataset, ranks: int) -> int:
    """Return the first sequence that holds several documents and has enough sequences after it; 0 if there is none."""
    last = dataset.sequences - STEPS * ranks
    return next((sequence for sequence in range(last + 1) if dataset.batch(sequence, 1).document.max() > 0), 0)


def _take_gradients(learner: ModelWithLoss, batches: StepBatches, mesh: Mesh) -> float:
    """Compute the gradients of the mean loss over all sequences into ``learner``; return the mean loss."""
    weight = agree_on_work(batches, mesh).weight or 1.0  # sequences without a label have no gradient at either degree
    total = torch.zeros((), dtype=torch.float64, device=mesh.device)
    for micro in batches.micro:
        loss = _lose(learner, micro, micro.weights, mesh)
        (loss / weight).backward()
        total += loss.detach()
    return float(sum_over_ranks(total)) / weight


def _lose(learner: ModelWithLoss, micro: MicroBatch, weights: Float[Tensor, "local"], mesh: Mesh) -> Float[Tensor, ""]:
    loss: Tensor = learner(
        micro.tokens,
        micro.positions,
        micro.labels,
        weights,
        partition=micro.partition,
        context_group=mesh.context_group,
    )[0]
    return loss


def _detach_gradients(learner: ModelWithLoss) -> dict[str, Float[Tensor, "..."]]:
    """Return the gradients by name, zeros where there are none, and remove them from ``learner``."""
    named = list(name_weights(learner))
    gradients = {name: torch.zeros_like(each) if each.grad is None else each.grad for name, each in named}
    learner.zero_grad()
    return gradients


def _measure(
    expected: dict[str, Float[Tensor, "..."]], found: dict[str, Float[Tensor, "..."]]
) -> Float64[Tensor, "tensors 2"]:
    """Return the square sums of each gradient and of its difference, over the shards of all ranks: [tensors, 2]."""
    squares = []
    for name, gradient in expected.items():
        one, other = (each.to_local() if isinstance(each, DTensor) else each for each in (gradient, found[name]))
        squares.append(torch.stack([one.double().square().sum(), (other.double() - one.double()).square().sum()]))
    return sum_over_ranks(torch.stack(squares)).cpu()


def _describe_layers(names: list[str], squares: Float64[Tensor, "steps tensors 2"]) -> Iterator[LayerParity]:
    """Yield one record per layer from ``squares`` [steps, tensors, 2]. Other modules have a record of their own."""
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        parts = name.removeprefix("model.").split(".")
        groups.setdefault(f"layer {parts[1]}" if parts[0] == "layers" else parts[0], []).append(index)
    norms, differences = squares.sqrt().unbind(-1)
    for layer, members in groups.items():
        whole = norms[:, members].square().sum(1, keepdim=True).sqrt()
        relative = differences[:, members] / torch.maximum(norms[:, members], _SMALL * whole).clamp(min=1e-300)
        step, worst = divmod(int(relative.argmax()), len(members))
        tensor = names[members[worst]].removesuffix(".weight").rpartition("layers.")[2].partition(".")[2]
        yield LayerParity(layer, float(whole[step]), float(relative.max()), tensor)


def _seek_leak(
    learner: ModelWithLoss, micro: MicroBatch, document: Int32[np.ndarray, "1 context"], mesh: Mesh
) -> tuple[float | None, float]:
    """Return the largest gradient of the last document's loss to tokens of other documents, and to its own tokens.

    The last document is used because a causal mask without document borders leaks to earlier tokens. ``document`` comes
    from the dataset, because a partition could hold wrong documents.
    """
    last = document.max()
    asked = torch.from_numpy(local_shard(micro.partition, mesh.context_rank, document) == last).to(mesh.device)
    seen: list[Tensor] = []

    def keep(module: Any, given: Any, out: Float[Tensor, "1 local width"]) -> None:
        out.retain_grad()
        seen.append(out)

    hook = learner.causal.get_input_embeddings().register_forward_hook(keep)
    _lose(learner, micro, asked.to(micro.weights.dtype), mesh).backward()
    hook.remove()
    learner.zero_grad()
    (reading,) = seen
    assert reading.grad is not None
    size = reading.grad[0].double().abs().amax(dim=-1)
    several = size.new_tensor(float(last > 0))
    largest = torch.stack([(size * ~asked).amax(), (size * asked).amax(), several])
    foreign, own, compared = max_over_ranks(largest).tolist()
    return (foreign if compared else None), own
