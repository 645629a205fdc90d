"""The losses of a step's experts: ranks and micro-batches give what one rank gives at once, by autograd in float64."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from conformance.tiny_families import make_model
from ropewalk.attention.prepare_schedule import prepare_attention
from ropewalk.model.attention_interface import NAME
from ropewalk.model.expert_balance import ExpertBalance, find_routers, hold_choice_biases
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.parallel.fsdp import shard_model
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.mesh import Mesh, make_mesh
from ropewalk.parallel.recompute import RecomputePolicy, set_recompute
from ropewalk.partition import local_shard, partition_tokens
from ropewalk.recipe.expert_training import ExpertTraining
from ropewalk.train.batches import MicroBatch, StepBatches
from ropewalk.train.loss_metrics import LossMetrics
from ropewalk.train.step import StepGradients, compute_gradients
from tiny_experts import make_mixture

ROWS, TOKENS = 4, 24
METRICS = LossMetrics(("text",), TOKENS)
RULES = {"balance_loss": 0.3, "z_loss": 0.05}
FLOAT32_ROUTERS = ("glm4_moe", "minimax_m2", "ernie4_5_moe", "granitemoe")
"""Classes that compute their routers in float32, whatever the type of the model is."""
Gradients = dict[str, torch.Tensor]


def documents() -> np.ndarray:
    """Sequences of two documents and padding, each with other lengths."""
    rows = [np.repeat([0, 1, -1], [7 + row, 12 - 2 * row, 5 + row]) for row in range(ROWS)]
    return np.stack(rows).astype(np.int32)


def cut(rows: list[int], mesh: Mesh) -> MicroBatch:
    document = documents()[rows]
    random = np.random.default_rng(3)
    tokens = random.integers(0, 97, (ROWS, TOKENS))[rows]
    labels = random.integers(0, 97, (ROWS, TOKENS))[rows]
    position = np.stack(
        [np.concatenate([np.arange(n) for n in np.unique(row, return_counts=True)[1]]) for row in document]
    )
    partition = partition_tokens(document, ranks=mesh.context_ranks)
    prepare_attention(partition, mesh.context_rank)
    source = np.where(document < 0, -1, 0)
    weights = (source >= 0) * np.linspace(0.5, 1.5, TOKENS)
    fields = [local_shard(partition, mesh.context_rank, each) for each in (tokens, position, labels, weights, source)]
    lengths = partition.document_tokens(mesh.context_rank)
    made = [torch.from_numpy(np.ascontiguousarray(each)) for each in (*fields, lengths)]
    return MicroBatch(*made, partition=partition)


def build(kind: str, rules: dict[str, Any], recompute: RecomputePolicy = "none") -> ModelWithLoss:
    model: Any = make_mixture(kind, experts="batched_mm").double()
    hold_choice_biases(model)
    model.set_attn_implementation(NAME)
    set_recompute(model, recompute)
    learner = ModelWithLoss(model).train()
    learner.balance = ExpertBalance(model, ExpertTraining(**rules))
    return learner


def step(kind: str, context: int, micro: list[list[int]], **settings: Any) -> tuple[Gradients, StepGradients]:
    """The gradients of one step over all ranks; ``micro`` are the rows of each micro-batch of each data rank."""
    mesh = make_mesh(torch.distributed.get_world_size(), context)
    unit_bytes = settings.pop("unit_bytes", 1 << 30)
    learner = build(kind, RULES | settings.pop("rules", {}), **settings)
    shard_model(learner, mesh, precision=None, whole_bytes=0, unit_bytes=unit_bytes)
    units = [name for name, module in learner.named_modules() if isinstance(module, FSDPModule)]
    apart = unit_bytes == 0 and kind != "ernie4_5_moe"  # there, two shared experts are as large as the four others
    assert any(name.endswith(".experts") for name in units) == apart
    mine = micro if context > 1 else micro[mesh.data_rank :: mesh.data_ranks]
    batches = StepBatches(ROWS, tuple(cut(rows, mesh) for rows in mine), 1.0, 5, np.ones(1, np.int64))
    found = compute_gradients(learner, batches, mesh=mesh, loss_metrics=METRICS)
    grads = {}
    for name, parameter in learner.named_parameters():
        assert isinstance(parameter, DTensor)
        grads[name] = (
            torch.zeros_like(parameter).full_tensor() if parameter.grad is None else parameter.grad.full_tensor()
        )
    return grads, found


def truth(kind: str) -> tuple[Gradients, list[torch.Tensor]]:
    """All rows at once, the losses spelled out, gradients by autograd; and by layer the shares and the two losses."""
    learner = build(kind, {})
    routers = find_routers(learner.causal)
    said: list[tuple[torch.Tensor, ...]] = []
    for router in routers:
        router.module.register_forward_hook(lambda module, args, output: said.append(output))
    mesh = make_mesh(1, 1)
    batch = cut(list(range(ROWS)), mesh)
    loss, _, _ = learner(batch.tokens, batch.positions, batch.labels, batch.weights, partition=batch.partition)
    total, real, figures = loss / batch.weights.sum(), batch.source >= 0, []
    count = int(real.sum())
    for logits, _, chosen in said:
        scores = logits.sigmoid()
        sigmoid = kind in ("glm4_moe", "minimax_m2")
        probabilities = scores / scores.sum(1, keepdim=True) if sigmoid else logits.softmax(1)
        choices = torch.stack([(chosen[real] == expert).sum() for expert in range(logits.shape[1])]).double()
        even = logits.shape[1] / (chosen.shape[1] * count**2) * (choices * probabilities[real].sum(0)).sum()
        sharp = (logits[real].logsumexp(1) ** 2).mean()
        total = total + RULES["balance_loss"] * even + RULES["z_loss"] * sharp
        figures.append((choices / choices.sum(), even.detach(), sharp.detach()))
    total.backward()
    grads = {
        name: torch.zeros_like(each) if each.grad is None else each.grad for name, each in learner.named_parameters()
    }
    return grads, [torch.stack(each).double() for each in zip(*figures, strict=True)]


@pytest.mark.parametrize("kind", ["qwen3_moe", "glm4_moe", "gpt_oss", "granitemoe", "minimax_m2", "ernie4_5_moe"])
def test_ranks_and_micro_batches_are_one_batch(kind: str) -> None:
    ((expected, (shares, losses, z_losses)),) = run_ranks(truth, 1, kind, threads=1)
    exact = {"balance_counts": "step"}
    ways = [
        (1, 1, [[0, 1, 2, 3]], "none"),
        (1, 1, [[0], [1], [2], [3]], "full"),
        (2, 1, [[0], [1], [2], [3]], "none"),
        (2, 2, [[0, 1], [2, 3]], "save_attention"),
        (2, 2, [[0, 1, 2, 3]], "full"),
    ]
    for ranks, context, micro, recompute in ways[: None if kind == "qwen3_moe" else 2] + ways[3:4]:
        units = {"unit_bytes": 0} if context == 2 else {}  # the experts of a layer are gathered apart
        work = partial(step, kind, context, micro, rules=exact, recompute=recompute, **units)
        found, gradients = run_ranks(work, ranks, threads=1)[0]
        assert gradients.experts is not None
        torch.testing.assert_close(gradients.experts.shares, shares, rtol=0, atol=1e-15)
        near = 1e-6 if kind in FLOAT32_ROUTERS else 1e-12
        torch.testing.assert_close(gradients.experts.losses, losses, rtol=near, atol=0)
        torch.testing.assert_close(gradients.experts.z_losses, z_losses, rtol=near, atol=0)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            away = float((found[name] - gradient).norm() / (gradient.norm() + 1e-6))
            assert away < max(near, 1e-10), (name, ranks, micro)


def test_the_losses_are_those_of_the_whole_step_and_one_where_experts_are_even() -> None:
    def describe(rows: list[list[int]]) -> Any:
        return step("qwen3_moe", 1, rows, rules={"balance_counts": "step"})[1].experts

    (whole,), (parts,) = (
        run_ranks(partial(describe, rows), 1, threads=1) for rows in ([[0, 1, 2, 3]], [[0, 1], [2, 3]])
    )
    for one, other in zip((whole.losses, whole.z_losses), (parts.losses, parts.z_losses), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
    assert (whole.losses > 1).all() and (whole.loads > 1).all()
    balance = build("qwen3_moe", RULES).balance
    assert balance is not None
    balance.tokens = 10.0
    even = balance.describe(torch.tensor([[5.0] * 4 + [2.5] * 4 + [0.0]] * 2, dtype=torch.float64))
    assert even.losses.tolist() == [1.0, 1.0] and even.loads.tolist() == [1.0, 1.0]
    worst = balance.describe(torch.tensor([[10.0, 10, 0, 0, 5, 5, 0, 0, 0]] * 2, dtype=torch.float64))
    assert worst.losses.tolist() == [2.0, 2.0] == worst.loads.tolist()


def test_the_former_step_weighs_the_loss_by_default() -> None:
    """A step after another equals one with exact counts, because both have the same tokens and weights."""

    def twice(rules: dict[str, Any]) -> Any:
        mesh, learner = make_mesh(1, 1), build("qwen3_moe", RULES | rules)
        batches = StepBatches(ROWS, tuple(cut([row], mesh) for row in range(ROWS)), 1.0, 5, np.ones(1, np.int64))
        found = []
        for _ in range(2):
            gradients = compute_gradients(learner, batches, mesh=mesh, loss_metrics=METRICS)
            assert learner.balance is not None and gradients.experts is not None
            learner.balance.finish(gradients.experts)
            found.append([each.clone() for each in gradients.gradients])
            learner.zero_grad()
        return found

    (former,), (exact,) = (
        run_ranks(partial(twice, {"balance_counts": rule}), 1, threads=1) for rule in ("former_step", "step")
    )
    assert all(
        torch.allclose(one, other, rtol=1e-12, atol=1e-14) for one, other in zip(former[1], exact[0], strict=True)
    )
    assert not all(torch.allclose(one, other, rtol=1e-6) for one, other in zip(former[0], exact[0], strict=True))


def test_a_bias_moves_towards_an_even_load_and_stays_without_it() -> None:
    for kind in ("glm4_moe", "minimax_m2", "ernie4_5_moe"):
        learner = build(kind, {"bias_update": 0.01})
        balance = learner.balance
        assert balance is not None
        (name, before), *_ = ((name, bias.clone()) for name, bias in balance.biases.items())
        assert name in learner.causal.state_dict()
        table = torch.zeros(len(balance.routers), 9, dtype=torch.float64)
        table[:, :4] = torch.tensor([8.0, 4.0, 3.0, 1.0])
        balance.finish(balance.describe(table))
        moved = (balance.biases[name] - before).flatten()
        torch.testing.assert_close(moved.float(), torch.tensor([-0.01, 0.0, 0.01, 0.01]))
        still = build(kind, {}).balance
        assert still is not None
        still.finish(still.describe(table))
        assert torch.equal(still.biases[name], before)


def test_evaluation_and_work_outside_a_step_are_not_watched() -> None:
    (grads,), (plain,) = (
        run_ranks(partial(_read_alone, rules), 1, threads=1) for rules in (RULES, {"balance_loss": 0.0})
    )
    assert all(torch.equal(one, other) for one, other in zip(grads, plain, strict=True))


def _read_alone(rules: dict[str, Any]) -> list[torch.Tensor]:
    learner = build("qwen3_moe", rules)
    batch = cut([0], make_mesh(1, 1))
    learner(batch.tokens, batch.positions, batch.labels, batch.weights, partition=batch.partition)[0].backward()
    assert learner.balance is not None and learner.balance.table is None
    return [each.grad for each in learner.parameters() if each.grad is not None]


def test_probabilities_that_a_router_returns_are_taken_as_they_are() -> None:
    """Gemma 4's router returns its softmax; the gradient is that of the loss spelled out with these probabilities."""
    tokens, real = torch.arange(3, 3 + TOKENS)[None], torch.arange(TOKENS) < TOKENS - 5
    watched, plain = (make_model("Gemma4ForCausalLM", dtype=torch.float64) for _ in range(2))
    balance = ExpertBalance(watched, ExpertTraining(balance_loss=0.3))
    for _ in range(2):  # the first step gives the shares of the second
        with balance.step(float(real.sum())), balance.read(real):
            logits = watched(tokens, use_cache=False).logits
            assert balance.table is not None
            balance.finish(balance.describe(balance.table))
            weights = [router.module.get_parameter("proj.weight") for router in balance.routers]
            found = torch.autograd.grad(0.0 * logits.sum(), weights)
    said: list[tuple[torch.Tensor, ...]] = []
    for router in find_routers(plain):
        router.module.register_forward_hook(lambda module, args, output: said.append(output))
    plain(tokens, use_cache=False)
    expected = torch.zeros((), dtype=torch.float64)
    for (given, _, chosen), shares in zip(said, balance.shares, strict=True):
        assert given.sum(1).sub(1).abs().max() < 1e-6, "probabilities"
        counted = torch.stack([(chosen[real] == expert).sum() for expert in range(given.shape[1])])
        torch.testing.assert_close(shares, counted / counted.sum(), check_dtype=False)
        expected = expected + 0.3 * given.shape[1] * (given[real].double() @ shares).sum() / real.sum()
    weights = [router.module.get_parameter("proj.weight") for router in find_routers(plain)]
    for one, other in zip(found, torch.autograd.grad(expected, weights), strict=True):
        assert (one - other).norm() < 1e-5 * other.norm()  # its softmax is in float32
