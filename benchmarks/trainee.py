"""The model that is trained in step.py, and a whole step of it in the ways that are compared.

A Llama of 4 layers, width 256, 4 heads on 2 of 64, a vocabulary of 32,000, random weights, alike on all sides. A step
is forward, backward, one sum of all gradients over the ranks, and torch's fused AdamW, on every side; what differs is
attention, the order of rows, and whose loss it is. DeepSpeed's Python imports this too, so ropewalk is
imported where it is used.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from packs import count_places
from ringmaster_peer import Ringmaster
from torch_ring import attend_ring, own_rows
from zigzag_ring import ZigzagRing, own_zigzag_rows

SHAPE = {
    "vocab_size": 32_000,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
_RING = {"head-tail": True, "contiguous": False}
Run = Callable[[], Tensor]
"""One step; this rank's part of the loss before it."""


def make_model(dtype: str, attention: str, device: str) -> PreTrainedModel:
    """The trainee with its attention under this name."""
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPE, max_position_embeddings=1 << 20, attn_implementation=attention)
    return LlamaForCausalLM(config).to(device, getattr(torch, dtype)).train()


def draw_batch(document: np.ndarray) -> dict[str, np.ndarray]:
    """Tokens, positions, labels (the next token) and weights (0 where a document ends), packed, one row."""
    tokens = np.random.default_rng(1).integers(0, SHAPE["vocab_size"], document.size)
    places = count_places(document)
    weights = np.append(places[1:] != 0, False).astype(np.float32)
    return {"tokens": tokens, "positions": places, "labels": np.roll(tokens, -1), "weights": weights}


def count_flops(tokens: int, pairs: int) -> float:
    """Of a step, all ranks together: six per token and weight of a product, fourteen per pair and attention width."""
    width, kv = SHAPE["hidden_size"], SHAPE["num_key_value_heads"] * SHAPE["head_dim"]
    block = 2 * width * width + 2 * width * kv + 3 * width * SHAPE["intermediate_size"]
    weights = SHAPE["num_hidden_layers"] * block + SHAPE["vocab_size"] * width
    return 6.0 * weights * tokens + 14.0 * SHAPE["num_hidden_layers"] * width * pairs


def make_our_step(document: np.ndarray, *, dtype: str, device: str, alone: bool = False) -> Run:
    """Ours on the rows of this rank, or ``alone`` on all."""
    from ropewalk.model.attention_interface import NAME
    from ropewalk.model.model_with_loss import ModelWithLoss
    from ropewalk.partition import partition_tokens

    ranks, rank = (1, 0) if alone else (dist.get_world_size(), dist.get_rank())
    partition = partition_tokens(document, ranks=ranks)
    learner = ModelWithLoss(make_model(dtype, NAME, device))
    batch = _cut(draw_batch(document), partition.owned(rank), device)
    weight = float(draw_batch(document)["weights"].sum())
    group = dist.group.WORLD if ranks > 1 else None

    def read_loss() -> Tensor:
        return learner(*batch.values(), partition=partition, context_group=group)[0] / weight

    return _step(learner.causal, read_loss, ranks)


def make_ring_step(document: np.ndarray, *, dtype: str, device: str, kind: str) -> Run:
    """The same model and loss with a ring in the place of our attention.

    ``head-tail`` and ``contiguous`` are torch's; ``zigzag`` cuts each document so, and computes no other pair.
    """
    ranks, rank = dist.get_world_size(), dist.get_rank()
    if kind == "zigzag":
        own = own_zigzag_rows(document, ranks=ranks, rank=rank)
        _zigzag.append(ZigzagRing(document, dist.group.WORLD))
    else:
        own = own_rows(document.size, ranks=ranks, rank=rank, balanced=_RING[kind])
    return _step_on_rows(document, own, dtype=dtype, device=device, attention=f"torch_ring_{kind}")


def make_ringmaster_step(document: np.ndarray, *, dtype: str, device: str, kind: str, folder: Path) -> Run:
    """The same model and loss with attention of axolotl-ringmaster, from a ``folder`` that has it."""
    peer, name = Ringmaster(folder, document, kind), f"ringmaster_{kind}_{len(np.unique(document))}"

    def attend(
        module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, **settings: Any
    ) -> tuple[Tensor, None]:
        return peer.attend(module, query, key, value, **settings), None

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, lambda **_: None)
    return _step_on_rows(document, peer.own, dtype=dtype, device=device, attention=name)


def _step_on_rows(document: np.ndarray, own: np.ndarray, *, dtype: str, device: str, attention: str) -> Run:
    """A step on a rank's ``own`` packed rows with our loss and an attention by its name."""
    from ropewalk.model.architectures import head_of
    from ropewalk.model.loss import chunked_cross_entropy

    model = make_model(dtype, attention, device)
    batch = _cut(draw_batch(document), own, device)
    weight = float(draw_batch(document)["weights"].sum())

    def read_loss() -> Tensor:
        hidden = model.model(
            input_ids=batch["tokens"][None], position_ids=batch["positions"][None], use_cache=False
        ).last_hidden_state[0]
        return chunked_cross_entropy(hidden, head_of(model), batch["labels"], batch["weights"])[0] / weight

    return _step(model, read_loss, dist.get_world_size())


def make_default_step(document: np.ndarray, *, dtype: str, device: str) -> Run:
    """What transformers does with packed rows by itself, on one rank: restarting positions, sdpa, its own loss."""
    model = make_model(dtype, "sdpa", device)
    batch = _cut(draw_batch(document), np.arange(document.size), device)
    labels = batch["tokens"].masked_fill(batch["positions"] == 0, -100)

    def read_loss() -> Tensor:
        rows = {"input_ids": batch["tokens"], "position_ids": batch["positions"], "labels": labels}
        return model(**{name: each[None] for name, each in rows.items()}, use_cache=False).loss

    return _step(model, read_loss, 1)


def make_ulysses_step(document: np.ndarray, *, dtype: str, device: str) -> Run:
    """DeepSpeed's Ulysses for transformers, with transformers' loss on labels that were shifted before the cut."""
    from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF

    ranks, rank = dist.get_world_size(), dist.get_rank()
    model = make_model(dtype, "sdpa", device)
    UlyssesSPAttentionHF.register_with_transformers(
        model, "sdpa", sequence_parallel_size=ranks, micro_batch_size=1, seq_length_is_variable=True
    )
    batch = _cut(draw_batch(document), own_rows(document.size, ranks=ranks, rank=rank, balanced=False), device)
    shifted = batch["labels"].masked_fill(batch["weights"] == 0, -100)[None]
    weight = int(draw_batch(document)["weights"].sum())

    def read_loss() -> Tensor:
        rows = {"input_ids": batch["tokens"][None], "position_ids": batch["positions"][None]}
        logits = model(**rows, use_cache=False).logits
        return model.loss_function(
            logits, labels=None, vocab_size=SHAPE["vocab_size"], shift_labels=shifted, num_items_in_batch=weight
        )

    return _step(model, read_loss, ranks)


def _step(model: PreTrainedModel, read_loss: Run, ranks: int) -> Run:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def run() -> Tensor:
        loss = read_loss()
        loss.backward()
        if ranks > 1:
            gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            flat = torch.cat([each.flatten() for each in gradients])
            dist.all_reduce(flat)
            torch._foreach_copy_(
                [each.view(-1) for each in gradients], flat.split([each.numel() for each in gradients])
            )
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach().float()

    return run


def _cut(batch: Mapping[str, np.ndarray], own: np.ndarray, device: str) -> dict[str, Tensor]:
    return {name: torch.from_numpy(each[own]).to(device) for name, each in batch.items()}


_zigzag: list[ZigzagRing] = []
"""The ring of the pack that this process trains on; transformers' interface passes no such thing along."""


def _attend_with_zigzag(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, *, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    return _zigzag[-1].attend(query, key, value, scale=scaling).transpose(1, 2), None


def _attend_with_ring(kind: str) -> Callable[..., tuple[Tensor, None]]:
    def attend(
        module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, *, scaling: float, **_: Any
    ) -> tuple[Tensor, None]:
        group = dist.group.WORLD
        out = attend_ring(query, key, value, group=group, balanced=_RING[kind], scale=scaling)
        return out.transpose(1, 2), None

    return attend


for _kind in _RING:
    AttentionInterface.register(f"torch_ring_{_kind}", _attend_with_ring(_kind))
    AttentionMaskInterface.register(f"torch_ring_{_kind}", lambda **_: None)
AttentionInterface.register("torch_ring_zigzag", _attend_with_zigzag)
AttentionMaskInterface.register("torch_ring_zigzag", lambda **_: None)
