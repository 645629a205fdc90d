"""One training step of Llama-3-8B as a rank of 8 and of 64 runs it, on tensors without values: memory and messages.

    python benchmarks/gpu_fake_step.py          # writes the committed JSON, prints the table of docs/gpu.md; 5 minutes

The step is the one of training: sharded by FSDP2, in bfloat16, with flash attention's operators, over a group whose
messages arrive at once (torch's ``fake`` backend). torch's MemTracker follows every storage and gives the peak. A
second mode counts the bytes that the rank sends. Both stand beside the plan of the same step. The optimizer's step is
left out: its fused kernel needs no memory beside the moments, which are there. MemTracker fails on an MLP in tiles,
which runs modules without gradients on inputs that have them, so no case has tiles.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

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
from ropewalk.partition.ulysses import AnyPartition, UlyssesPartition
from ropewalk.plan.forecast import forecast
from ropewalk.plan.hardware import KNOWN
from ropewalk.plan.plan import Plan, Split
from ropewalk.plan.savings import Savings
from ropewalk.shape.model_shape import ModelShape, plain_layers
from ropewalk.train.prepare_model import prepare_model

RESULTS = Path(__file__).parent / "results" / "2026-11-29-gpu-fake-step.json"
LOCAL_TOKENS, CHUNK_TOKENS, RANK = 16_384, 1024, 3
WAYS = {
    "none": Savings(),
    "save_attention": Savings("save_attention"),
    "save_attention, tiles of 4096": Savings("save_attention", 4096),
    "full, tiles of 4096": Savings("full", 4096),
}
STATE_MESSAGES = ("_allgather_base_", "_reduce_scatter_base_")


class Case(NamedTuple):
    """A step of one sequence over all ``ranks``; ``median_tokens`` None is one document."""

    ranks: int
    way: str
    layers: int = 32
    median_tokens: int | None = None

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

    Only two chunks of tokens have a label, because each chunk takes the same memory.
    """
    with mesh.device:
        model = build_model(case.shape, NAME)
    learner = ModelWithLoss(model, chunk_tokens=CHUNK_TOKENS).train()
    prepare_model(learner, mesh, savings=WAYS[case.way], precision="bfloat16")
    shards = [each.to_local() if isinstance(each, DTensor) else each for each in learner.parameters()]
    moments = [torch.zeros_like(shard) for shard in shards for _ in range(2)]
    ids = torch.zeros(partition.local_tokens, dtype=torch.int64, device=mesh.device)
    weights, counted = torch.ones(len(ids), device=mesh.device), torch.arange(2 * CHUNK_TOKENS, device=mesh.device)

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


def plan_step(case: Case) -> Plan:
    """The plan of the same step."""
    chosen = case.divide()
    whole = isinstance(chosen, UlyssesPartition)
    tokens = chosen.token_partition if whole else chosen
    needed_share = float(tokens.traffic_tokens.sum()) / max((tokens.ranks - 1) * tokens.tokens, 1)
    split = Split(
        context_ranks=case.ranks,
        ulysses_degree=chosen.ulysses_degree if whole else 1,
        exchange=tokens.exchange,
        needed_share=needed_share,
        savings=(WAYS[case.way],),
        loss_chunk_tokens=CHUNK_TOKENS,
    )
    return forecast(
        case.shape, context_tokens=case.tokens, tokens=case.tokens, ranks=case.ranks, split=split,
        machine=KNOWN["h100-sxm"],
    )  # fmt: skip


def compare(case: Case) -> dict[str, Any]:
    """A row of the committed JSON."""
    found, plan = track_step(case), plan_step(case)
    partition = case.divide()
    planned = Found(plan.memory.peak_bytes, plan.state_bytes, plan.context_bytes)
    return {
        **case._asdict(),
        "degree": partition.ulysses_degree if isinstance(partition, UlyssesPartition) else 1,
        "tracked": found._asdict(),
        "planned": planned._asdict(),
        "error": {
            key: round(mine / max(theirs, 1) - 1, 4)
            for (key, mine), theirs in zip(planned._asdict().items(), found, strict=True)
        },
    }


CASES = [Case(ranks, way) for ranks in (8, 64) for way in WAYS] + [Case(8, "save_attention", median_tokens=4096)]


def main() -> None:
    rows = [compare(case) for case in CASES]
    RESULTS.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print_table(rows)


def print_table(rows: list[dict[str, Any]]) -> None:
    print("| ranks, sequence | recompute | peak, tracked and planned, GB | states sent, GB | attention sent, GB |")
    print("|---|---|---|---|---|")
    for row in rows:
        cells = [
            f"{row['tracked'][key] / 1e9:.2f}, {row['planned'][key] / 1e9:.2f} ({row['error'][key]:+.1%})"
            for key in Found._fields
        ]
        documents = "one document" if row["median_tokens"] is None else f"pack around {row['median_tokens']}"
        print(f"| {row['ranks']}, {documents} | {row['way']} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    if "--table" in sys.argv:
        print_table(json.loads(RESULTS.read_text(encoding="utf-8"))["rows"])
    else:
        main()
