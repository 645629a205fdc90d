"""One training step of Llama-3-8B as a rank of 8 and of 64 runs it, on tensors without values: memory and messages.

    python benchmarks/gpu_fake_step.py          # writes the committed JSON, prints the table of docs/gpu.md; 3 minutes

The step is the one of training: sharded by FSDP2, in bfloat16, with flash attention's operators, over a group whose
messages arrive at once (torch's ``fake`` backend). torch's MemTracker follows every storage and gives the peak. A
second mode counts the bytes that the rank sends. Both stand beside the plan of the same step. The optimizer's step is
left out: its fused kernel needs no memory beside the moments, which are there. MemTracker fails on an MLP in tiles,
which runs modules without gradients on inputs that have them, so no case has tiles.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from memory_sides import build_model
from packs import draw_pack
from ropewalk.attention.choose_kernel import use_kernel
from ropewalk.model.attention_interface import NAME
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.parallel.mesh import Mesh, make_mesh
from ropewalk.partition.choose import choose_partition, make_sharing
from ropewalk.partition.cost import Heads
from ropewalk.partition.partition import Partition
from ropewalk.partition.ulysses import AnyPartition, UlyssesPartition
from ropewalk.plan.flops import Recompute
from ropewalk.plan.forecast import forecast
from ropewalk.plan.hardware import KNOWN
from ropewalk.plan.plan import Split
from ropewalk.plan.savings import Savings
from ropewalk.plan.traffic import Exchange, attention_traffic
from ropewalk.rope.layers import plain_layers
from ropewalk.shape.model_shape import ModelShape
from ropewalk.train.prepare_model import prepare_model

RESULTS = Path(__file__).parent / "results" / "2026-11-29-gpu-fake-step.json"
LOCAL_TOKENS, RANK = 16_384, 3
STATE_MESSAGES = ("_allgather_base_", "_reduce_scatter_base_")


class Case(NamedTuple):
    """A step of one sequence over all ``ranks``; ``median_tokens`` None is one document."""

    ranks: int
    recompute: Recompute
    layers: int = 32
    median_tokens: int | None = None
    chunk_tokens: int = 128
    """Of the loss; a CPU's blocks of logits make a larger one slow here, and the head is larger than a chunk."""

    @property
    def shape(self) -> ModelShape:
        layers = plain_layers(self.layers, 5e5)
        return ModelShape("LlamaForCausalLM", 4096, 32, 8, 128, 14_336, 128_256, False, 1 << 20, layers)

    @property
    def tokens(self) -> int:
        return LOCAL_TOKENS * self.ranks

    def divide(self) -> AnyPartition:
        """The partition that training would choose on GPUs."""
        shape = self.shape
        heads = Heads(shape.heads, shape.kv_heads, shape.head_dim)
        sharing = make_sharing(heads, device="cuda", element_bytes=2)
        document = draw_pack(self.tokens, self.median_tokens)
        return choose_partition(document, ranks=self.ranks, sharing=sharing).partition


class Found(NamedTuple):
    """Of one rank in one step: peak bytes with states, and bytes sent for states and for attention."""

    peak_bytes: float
    state_bytes: float
    context_bytes: float


class CountMessages(TorchDispatchMode):
    """Bytes that a rank sends, by operator; what it keeps for itself is not sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent_bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, _, name = func._schema.name.partition("::")
        if namespace == "c10d":
            self.sent_bytes[name] += _count_sent(name, args)
        return func(*args, **(kwargs or {}))


def _count_sent(name: str, args: tuple[Any, ...]) -> float:
    """By the rule of a ring for gathers and sums, as the plan counts them."""
    if name == "barrier":
        return 0
    group = next(dist.ProcessGroup.unbox(each) for each in args if isinstance(each, torch.ScriptObject))
    ranks, rank = group.size(), group.rank()
    if name in ("send", "allreduce_"):
        (tensor,) = args[0]
        return float(tensor.nbytes * (1 if name == "send" else 2 * (ranks - 1) / ranks))
    if name == "recv_":
        return 0
    outgoing: Tensor = args[1]
    if name == "alltoall_base_":
        splits = args[4] or [len(outgoing) // ranks] * ranks
        return outgoing.nbytes * (1 - splits[rank] / max(sum(splits), 1))
    if name == "_allgather_base_":
        return float(outgoing.nbytes * (ranks - 1))
    assert name == "_reduce_scatter_base_", name
    return outgoing.nbytes * (ranks - 1) / ranks


@contextmanager
def fake_ranks(ranks: int) -> Iterator[None]:
    """In the block this process is one rank of ``ranks``, whose messages all arrive at once."""
    dist.init_process_group("fake", store=FakeStore(), rank=RANK, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


def make_fake_step(case: Case, mesh: Mesh, partition: AnyPartition) -> tuple[Callable[[], None], list[Any]]:
    """One forward and backward, and what the rank holds beside: its model and its two moments. In a FakeTensorMode.

    Only one chunk of tokens has labels, because each chunk takes the same memory.
    """
    with mesh.device:
        model = build_model(case.shape, NAME)
    learner = ModelWithLoss(model, chunk_tokens=case.chunk_tokens).train()
    prepare_model(learner, mesh, savings=Savings(case.recompute), precision="bfloat16")
    shards = [each.to_local() if isinstance(each, DTensor) else each for each in learner.parameters()]
    moments = [torch.zeros_like(shard) for shard in shards for _ in range(2)]
    ids = torch.zeros(partition.local_tokens, dtype=torch.int64, device=mesh.device)
    weights, counted = torch.ones(len(ids), device=mesh.device), torch.arange(case.chunk_tokens, device=mesh.device)

    def step() -> None:
        group = mesh.context_group
        loss, *_ = learner(ids, ids, ids, weights, partition=partition, context_group=group, counted=counted)
        loss.backward()

    return step, [learner, *moments]


def track_step(case: Case) -> Found:
    """Run the step of ``case`` on tensors without values."""
    partition = case.divide()  # before the mode: the choice computes with real arrays
    with fake_ranks(case.ranks):
        mesh = make_mesh(case.ranks, case.ranks)
        # Flash attention's operators have shapes on any device; the choice by device would take a CPU's kernel.
        with FakeTensorMode(allow_non_fake_inputs=True), use_kernel("varlen"):
            step, held = make_fake_step(case, mesh, partition)
            tracker, messages = MemTracker(), CountMessages()
            tracker.track_external(*held)
            with tracker, messages:
                step()
        peak_bytes = tracker.get_tracker_snapshot("peak")[mesh.device]["Total"]
    sent = messages.sent_bytes
    states = sum(sent[name] for name in STATE_MESSAGES)
    return Found(float(peak_bytes), states, sum(sent.values()) - states)


def plan_step(case: Case) -> Found:
    """What the plan says of the same step of the same rank."""
    tokens, degree = split_by_heads(case.divide())
    needed_share = float(tokens.traffic_tokens.sum()) / max((tokens.ranks - 1) * tokens.tokens, 1)
    split = Split(
        context_ranks=case.ranks,
        ulysses_degree=degree,
        exchange=cast(Exchange, tokens.exchange),
        needed_share=needed_share,
        savings=(Savings(case.recompute),),
        loss_chunk_tokens=case.chunk_tokens,
    )
    plan = forecast(
        case.shape, context_tokens=case.tokens, tokens=case.tokens, ranks=case.ranks, split=split,
        machine=KNOWN["h100-sxm"],
    )  # fmt: skip
    return Found(plan.memory.peak_bytes, plan.state_bytes, _plan_of_rank(case, plan.context_bytes))


def _plan_of_rank(case: Case, mean_bytes: float) -> float:
    """The plan counts the mean of the ranks; of a rank the partition says how many keys it sends and receives."""
    tokens, degree = split_by_heads(case.divide())
    rank, traffic = RANK // degree, tokens.traffic_tokens
    forwards = 2 if case.recompute == "full" else 1
    swap = attention_traffic(case.shape, case.tokens // tokens.ranks, ranks=degree, exchange="heads")
    swap_bytes = case.layers * swap.training_bytes(forwards=forwards)
    # Keys leave in every pass, and the gradients of what was received leave once.
    mine = (forwards + 1) * traffic[:, rank].sum() + traffic[rank].sum()
    mean = (forwards + 2) * traffic.sum() / tokens.ranks
    return swap_bytes + (mean_bytes - swap_bytes) * float(mine / max(mean, 1))


def split_by_heads(partition: AnyPartition) -> tuple[Partition, int]:
    """How tokens are cut, and the number of ranks that share heads."""
    if isinstance(partition, UlyssesPartition):
        return partition.token_partition, partition.ulysses_degree
    return partition, 1


def compare(case: Case) -> dict[str, Any]:
    """A row of the committed JSON."""
    found, planned = track_step(case), plan_step(case)
    errors = Found(*(mine / max(theirs, 1) - 1 for mine, theirs in zip(planned, found, strict=True)))
    return {
        **case._asdict(),
        "ulysses_degree": split_by_heads(case.divide())[1],
        "tracked": found._asdict(),
        "planned": planned._asdict(),
        "error": {name: round(error, 4) for name, error in errors._asdict().items()},
    }


CASES = [Case(ranks, recompute) for ranks in (8, 64) for recompute in get_args(Recompute)]
CASES += [Case(8, "save_attention", median_tokens=4096)]


def main() -> None:
    rows = []
    for case in CASES:
        rows.append(compare(case))
        print_table(rows[-1:])
        RESULTS.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def print_table(rows: list[dict[str, Any]]) -> None:
    """Lines of the table of docs/gpu.md."""
    for row in rows:
        documents = "one document" if row["median_tokens"] is None else f"a pack around {row['median_tokens']}"
        cells = [str(row["ranks"]), documents, str(row["layers"]), row["recompute"]]
        for key, digits in zip(Found._fields, (2, 1, 1), strict=True):
            mine, theirs = row["planned"][key] / 1e9, row["tracked"][key] / 1e9
            cells.append(f"{theirs:.{digits}f}, {mine:.{digits}f} ({row['error'][key]:+.1%})")
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
