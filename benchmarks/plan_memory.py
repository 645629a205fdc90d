"""The plan's peak memory beside that of the allocator, for small configurations on one rank and on two.

python benchmarks/plan_memory.py             # prints the table of docs/plan-published.md; a minute on two cores
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from memory_sides import build_model
from ropewalk.model.attention_interface import NAME
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.parallel.device import rank_device
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.mesh import make_mesh
from ropewalk.parallel.peak import measure_peak_bytes
from ropewalk.partition import partition_tokens
from ropewalk.plan.flops import Recompute
from ropewalk.plan.memory import estimate_memory
from ropewalk.plan.savings import Savings
from ropewalk.rope.layers import plain_layers
from ropewalk.shape.model_shape import ModelShape
from ropewalk.train.optimizer import make_optimizer
from ropewalk.train.prepare_model import prepare_model

CHUNK_TOKENS = 256


class Case(NamedTuple):
    family: Literal["llama", "qwen3"]
    layers: int
    tokens: int
    document_tokens: int
    ranks: int
    context_ranks: int
    recompute: Recompute
    tile: int | None
    precision: Literal["float32", "bfloat16"]
    times: int = 1
    """Of the widths; from 4 on the model is too large to be gathered at once."""

    @property
    def shape(self) -> ModelShape:
        sizes = {"llama": (352, 4000, False), "qwen3": (384, 8000, True)}[self.family]
        mlp, vocabulary, tied = sizes
        name = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}[self.family]
        return ModelShape(
            name, 128 * self.times, 4 * self.times, 2 * self.times, 32, mlp * self.times, vocabulary, tied, 1 << 20,
            plain_layers(self.layers, 1e4),
            qk_norm="head" if self.family == "qwen3" else "none",
        )  # fmt: skip

    @property
    def savings(self) -> Savings:
        return Savings(self.recompute, self.tile)


CASES = [
    Case("llama", 2, 1024, 1024, 1, 1, "none", None, "float32"),
    Case("llama", 4, 2048, 2048, 1, 1, "save_attention", None, "float32"),
    Case("llama", 4, 2048, 2048, 1, 1, "full", 256, "float32"),
    Case("llama", 4, 2048, 256, 1, 1, "none", None, "float32"),
    Case("qwen3", 3, 1024, 1024, 1, 1, "none", None, "bfloat16"),
    Case("qwen3", 3, 2048, 512, 1, 1, "full", None, "bfloat16"),
    Case("llama", 4, 2048, 2048, 2, 2, "none", None, "float32"),
    Case("llama", 4, 2048, 2048, 2, 2, "full", 256, "float32"),
    Case("llama", 4, 1024, 1024, 2, 1, "none", None, "float32"),
    Case("llama", 4, 2048, 256, 2, 2, "save_attention", None, "bfloat16"),
    Case("llama", 6, 1024, 256, 2, 2, "none", None, "bfloat16", 4),
    Case("llama", 6, 1024, 256, 2, 1, "full", 128, "float32", 4),
]


def make_step(case: Case) -> tuple[Callable[[], None], ModelWithLoss, torch.optim.Optimizer]:
    """A rank's step of the case, with the model and the optimizer that it trains; every rank must call it.

    A first step over few tokens has been made: it makes the moments.
    """
    torch.manual_seed(0)
    learner = ModelWithLoss(build_model(case.shape, NAME), chunk_tokens=CHUNK_TOKENS).train()
    mesh = make_mesh(case.ranks, case.context_ranks)
    prepare_model(learner, mesh, savings=case.savings, precision=case.precision)
    optimizer = make_optimizer(learner, weight_decay=0.1, betas=(0.9, 0.95), eight_bit=False)
    rank = dist.get_rank() if dist.is_initialized() else 0
    group = mesh.context_group if case.context_ranks > 1 else None

    def step_over(count: int) -> Callable[[], None]:
        document = np.arange(count, dtype=np.int32)[None] // case.document_tokens
        partition = partition_tokens(document, ranks=case.context_ranks)
        tokens = torch.as_tensor(partition.owned(rank % case.context_ranks).astype(np.int64))
        ids, positions, weights = tokens % case.shape.vocabulary, tokens % case.document_tokens, torch.ones(len(tokens))

        def step() -> None:
            loss, *_ = learner(ids, positions, ids, weights, partition=partition, context_group=group)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    step_over(CHUNK_TOKENS)()
    return step_over(case.tokens), learner, optimizer


def measure_peak(case: Case) -> int:
    """The most bytes of a rank's tensors in a step after the first, states included; every rank must call it."""
    step, learner, optimizer = make_step(case)
    held = [*learner.parameters(), *(each for state in optimizer.state.values() for each in state.values())]
    local = [each.to_local() if hasattr(each, "to_local") else each for each in held]
    return sum(each.nbytes for each in local) + measure_peak_bytes(step, rank_device())


def plan_peak(case: Case) -> float:
    """What the plan says of the same step."""
    return estimate_memory(
        case.shape, case.tokens // case.context_ranks, ranks=case.ranks, savings=case.savings,
        element_bytes={"float32": 4, "bfloat16": 2}[case.precision], loss_chunk_tokens=CHUNK_TOKENS,
    ).peak_bytes  # fmt: skip


def main() -> None:
    print("| model, ranks | savings, precision | tokens, documents | measured, MB | planned, MB | error |")
    print("|---|---|---|---|---|---|")
    for case in CASES:

        def on_rank(case: Case = case) -> int:
            return measure_peak(case)

        found = max(run_ranks(on_rank, case.ranks, threads=1))
        planned = plan_peak(case)
        ranks = f"{case.family}, {case.ranks}" + (f", context {case.context_ranks}" if case.ranks > 1 else "")
        ranks += ", by blocks" if case.times > 1 else ""
        cells = ranks, f"{case.savings.describe()}, {case.precision}", f"{case.tokens}, {case.document_tokens}"
        print(
            "| "
            + " | ".join((*cells, f"{found / 1e6:.1f}", f"{planned / 1e6:.1f}", f"{planned / found - 1:+.0%}"))
            + " |"
        )


if __name__ == "__main__":
    main()
