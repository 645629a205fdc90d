"""Part 4: what cuDNN's attention costs for each new shape, what shared keys save, its speed beside FlashAttention 2.

The calls are those of training: attention/cudnn_kernel and attention/gpu_kernels, heads of Llama-3-8B.
"""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpu.target import Target, read_target, tell
from ropewalk.attention.cudnn_kernel import split_tiles
from ropewalk.attention.gpu_kernels import FlashVarlenKernel
from ropewalk.attention.schedule import BackwardInputs, Scores
from ropewalk.attention.varlen_schedule import CuSeqlens, TileMask, VarlenTiles

HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
SCORES = Scores(HEAD_DIM**-0.5)
TRIANGLE = TileMask(0, None)
TURNS = 3


class Call:
    """Forward and backward of one document of ``tokens`` by one kernel."""

    def __init__(self, target: Target, kernel: str, tokens: int, kv_heads: int = KV_HEADS) -> None:
        device = torch.device(target.device)
        ends = CuSeqlens(torch.tensor([0, tokens], dtype=torch.int32, device=device), (0, tokens))
        self.tiles, self.tokens = VarlenTiles(ends, ends, (TRIANGLE,)), tokens
        self.kernel: Any = FlashVarlenKernel() if kernel == "flash" else split_tiles(self.tiles, [0], device)
        generator = torch.Generator(device).manual_seed(0)

        def draw(heads: int) -> Tensor:
            rows = torch.randn(tokens, heads, HEAD_DIM, device=device, generator=generator)
            return rows.bfloat16()

        self.query, self.grad = draw(HEADS), draw(HEADS)
        self.key, self.value = (draw(KV_HEADS).repeat_interleave(kv_heads // KV_HEADS, dim=1) for _ in range(2))
        self.out = self.logsum = torch.empty(0)

    def forward(self) -> None:
        self.out, self.logsum = self.kernel.attend(self.query, self.key, self.value, self.tiles, SCORES)

    def backward(self) -> tuple[Tensor, ...]:
        inputs = BackwardInputs(self.query, self.grad, self.out, self.logsum)
        found: tuple[Tensor, ...] = self.kernel.differentiate(inputs, self.key, self.value, self.tiles, SCORES)
        return found


def measure_plans(target: Target, where: str) -> None:
    """The first call of each shape beside a later one: the difference is the plan of its graph."""
    for tokens in target.pick((4096, 5120, 6144, 8192), (64, 128), (64,)):
        call = Call(target, "cudnn", tokens)
        first, again = target.clock(call.forward), target.clock(call.forward)
        first_backward, again_backward = target.clock(call.backward), target.clock(call.backward)
        tell(
            f"cuDNN's first call of a shape, {where}", tokens=tokens, forward_ms=first * 1e3,
            forward_again_ms=again * 1e3, backward_ms=first_backward * 1e3, backward_again_ms=again_backward * 1e3,
        )  # fmt: skip


def measure_rates(target: Target) -> None:
    """FlashAttention 2 against cuDNN, each with shared keys and with keys repeated for their query heads."""
    tokens = target.pick(32_768, 256, 64)
    pairs = tokens * (tokens + 1) / 2
    outs: dict[str, Tensor] = {}
    for kernel in ("flash", "cudnn"):
        for kv_heads in (KV_HEADS, HEADS):
            call = Call(target, kernel, tokens, kv_heads)
            forward, backward = (_fastest(target, run) for run in (call.forward, call.backward))
            flops = HEADS * HEAD_DIM * pairs
            tell(
                f"{kernel}, {'shared keys' if kv_heads == KV_HEADS else 'repeated keys'}", tokens=tokens,
                forward_ms=forward * 1e3, backward_ms=backward * 1e3,
                forward_teraflops=4 * flops / forward / 1e12, backward_teraflops=10 * flops / backward / 1e12,
            )  # fmt: skip
            outs[f"{kernel} {kv_heads}"] = call.out
    first, *others = outs.values()
    difference = max(float((other - first).float().norm() / first.float().norm()) for other in others)
    tell("largest difference of these outputs, relative", found=difference, bound=2e-2)
    assert difference < 2e-2, "the kernels do not agree"


def _fastest(target: Target, run: Callable[[], Any]) -> float:
    run()
    return min(target.clock(run) for _ in range(TURNS))


def main(target: Target) -> None:
    with target.emulate("cudnn"):
        measure_plans(target, "main thread")
        # Plans are kept for each thread, and autograd's backward has a thread of its own.
        other = threading.Thread(target=measure_plans, args=(target, "another thread"))
        other.start()
        other.join()
        measure_rates(target)


if __name__ == "__main__":
    main(read_target())
