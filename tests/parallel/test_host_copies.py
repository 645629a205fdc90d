"""Activations in host memory: late copies change nothing, and compute waits for none too early."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from gpus import needs_gpu
from ropewalk.model.attention_interface import NAME
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.tiled_mlp import tile_mlps
from ropewalk.parallel.host_copies import CopyStream, HostCopies, offload_blocks
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.recompute import set_recompute
from ropewalk.partition import partition_tokens
from ropewalk.plan.rank_setup import RankSetup

LAYERS, TOKENS = 4, 24


class LateStream(CopyStream):
    """As slow as possible: a copy is done when somebody waits for it; until then its target is not a number.

    ``told`` are the copies out and in, and the waits, in the order of the host's calls.
    """

    def __init__(self) -> None:
        self.told: list[str] = []
        self.lent: list[Tensor] = []
        self.adopted: list[Tensor] = []
        self._queue: list[Callable[[], Any]] = []
        self._done = 0
        self._follows = False

    def follow(self) -> None:
        self._follows = True

    @contextmanager
    def copying(self) -> Iterator[None]:
        with _DeferCopies(self):
            yield

    def queue(self, copy: Callable[[], Any], target: Tensor, source: Tensor) -> None:
        self.told.append("out" if self._follows else "in")
        self._follows = False
        with torch.no_grad():
            target.fill_(torch.nan)
        self._queue.append(copy)

    def mark(self) -> int:
        return len(self._queue)

    def await_copy(self, mark: int) -> None:
        self.told.append("wait")
        for copy in self._queue[self._done : mark]:
            copy()
        self._done = max(self._done, mark)

    def lend(self, tensor: Tensor) -> None:
        self.lent.append(tensor)

    def adopt(self, tensor: Tensor) -> None:
        self.adopted.append(tensor)


class _DeferCopies(TorchDispatchMode):
    def __init__(self, stream: LateStream) -> None:
        super().__init__()
        self._stream = stream

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.ops.aten.copy_.default:
            return func(*args, **(kwargs or {}))
        assert args[2:] == (True,), "the host does not wait"
        self._stream.queue(lambda: func(*args, **(kwargs or {})), *args[:2])
        return args[0]


def train_once(recompute: Any, stream: LateStream | None, *, passes: int = 1) -> tuple[list[str], list[Tensor]]:
    """What was told until the backward began, and the gradients."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=64, attn_implementation=NAME,
    )  # fmt: skip
    learner = ModelWithLoss(LlamaForCausalLM(config)).train()
    tile_mlps(learner.causal, 16)
    copies = HostCopies(torch.device("cpu"), stream=stream)
    set_recompute(learner.causal, recompute, keep=copies.keep if stream else None)
    if stream is not None:
        offload_blocks(learner.blocks, copies)
    document = np.repeat([[0, 1]], TOKENS // 2, axis=1).astype(np.int32)
    told: list[str] = []
    for seed in range(passes):
        tokens = torch.from_numpy(np.random.default_rng(seed).integers(64, size=TOKENS))
        partition = partition_tokens(document, ranks=1)
        fields = tokens, torch.arange(TOKENS) % (TOKENS // 2), tokens.roll(-1), torch.ones(TOKENS)
        loss = learner(*fields, partition=partition)[0]
        told = [] if stream is None else list(stream.told)
        loss.backward()
        learner.eval()
        with torch.no_grad():
            learner(*fields, partition=partition)  # an evaluation between steps copies nothing
        learner.train()
    return told, [weight.grad for weight in learner.parameters() if weight.grad is not None]


@pytest.mark.parametrize(("recompute", "kept"), [("full", 1), ("save_attention", 3)])
def test_late_copies_change_nothing_and_hide_behind_compute(recompute: str, kept: int) -> None:
    """Of a block: its input, and with ``save_attention`` attention's output and log-sum-exp."""
    stream = LateStream()
    forward, found = train_once(recompute, stream)
    assert forward == ["out"] * kept * (LAYERS - 1), "forward waits for no copy; the last block copies nothing"
    # Backward of block 2: its tensors come, and those of block 1 are asked for before block 2 computes; and so on.
    first = ["in"] * kept + ["in"] * kept + ["wait"] * kept
    middle = ["in"] * kept + ["wait"] * kept
    assert stream.told[len(forward) :] == first + middle * (LAYERS - 3) + ["wait"] * kept
    assert len(stream.lent) == len(forward) == len(stream.adopted)
    for mine, expected in zip(found, train_once(recompute, None)[1], strict=True):
        assert torch.equal(mine, expected)


def test_a_gpus_tensors_wait_in_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the host would wait for each copy."""
    pinned: list[bool] = []
    plain = torch.empty_like

    def note(*given: Any, pin_memory: bool = False, **more: Any) -> Tensor:
        pinned.append(pin_memory)
        return plain(*given, **more)

    monkeypatch.setattr(torch, "empty_like", note)
    for device in (torch.device("cuda", 0), torch.device("cpu")):
        copies = HostCopies(device, stream=CopyStream())
        with copies.block(0, is_last=False):
            copies.keep(torch.ones(3))
    assert pinned == [True, False]


def test_several_micro_batches() -> None:
    found = train_once("save_attention", LateStream(), passes=3)[1]
    for mine, expected in zip(found, train_once("save_attention", None, passes=3)[1], strict=True):
        assert torch.equal(mine, expected)


def test_a_graph_that_is_dropped_frees_the_host_memory() -> None:
    """Blocks that recompute nothing: everything that autograd saves of them goes to the host."""
    copies = HostCopies(torch.device("cpu"))
    blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3))
    offload_blocks(blocks, copies)
    values = torch.ones(4, 8)
    for block in blocks:
        values = block(values)
    assert copies._last is not None
    waiting = copies._last.waiting
    assert waiting and all(each() is not None for each in waiting)
    del values
    assert all(each() is None for each in waiting)


@pytest.mark.gpu
@needs_gpu
def test_copies_on_a_gpu() -> None:
    run_ranks(compare_on_a_gpu, 1, setup=RankSetup("cuda"))


def compare_on_a_gpu() -> None:
    """The same gradients as without, over pinned memory and a stream of its own, whose timing no emulation has."""
    device = torch.device("cuda")
    blocks = nn.ModuleList(nn.Sequential(nn.Linear(256, 256), nn.Tanh()) for _ in range(4)).to(device)
    values = torch.randn(4096, 256, device=device)

    def run() -> list[Tensor]:
        out = values
        for block in blocks:
            out = block(out)
        return list(torch.autograd.grad(out.sum(), list(blocks.parameters())))

    expected = run()
    offload_blocks(blocks, HostCopies(device))
    for _ in range(5):
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(run(), expected, strict=True))
