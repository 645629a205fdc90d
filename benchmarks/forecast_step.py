"""The forecast of one step of Llama-3-8B at 128Ki tokens on eight H100, term by term, and of published runs beside it.

    python benchmarks/forecast_step.py          # prints two tables for docs/gpu.md; needs no GPU

Products and attention are FLOPs over the rates of plan/hardware. Elementwise work is bytes: every kernel of a layer
that is neither a product nor attention is counted on tensors without values, by the difference of two depths. The sum
assumes that messages are hidden behind compute; they are told beside it.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, LlamaConfig, LlamaModel

from packs import draw_pack
from ropewalk.partition import partition_tokens
from ropewalk.plan.flops import Recompute, token_flops
from ropewalk.plan.forecast import forecast
from ropewalk.plan.hardware import DATASHEET_FLOPS, KNOWN
from ropewalk.plan.plan import Split
from ropewalk.shape.model_shape import ModelShape, plain_layers

LLAMA_8B = ModelShape("LlamaForCausalLM", 4096, 32, 8, 128, 14_336, 128_256, False, 131_072, plain_layers(32, 5e5))
CARD = KNOWN["h100"]
MEMORY_BYTES_PER_SECOND = 0.9 * 3.35e12
"""The data sheet's rate of an H100, of which an H200's copy was seen to reach 0.9."""
OPTIMIZER_BYTES = 7 * 4
"""Of a parameter: AdamW reads a weight, a gradient and two moments, and writes a weight and two moments."""
FA2_FORWARD, FA2_BACKWARD = 366e12, 330e12
"""FLOP/s of FlashAttention 2 on an H100, which published runs used."""
COUNTED_TOKENS = 256


class Published(NamedTuple):
    """A run of Llama-3.1-8B on H100: tokens of one rank's row and of the whole sequence, and seconds of its step."""

    name: str
    rank_tokens: float
    sequence_tokens: int
    ranks: int
    recompute: Recompute
    seconds: float


PUBLISHED = [
    Published("torchtitan 2024-12, not compiled, 8Ki, 2 rows", 16_384, 8192, 8, "none", 16_384 / 5762),
    Published("ALST table 2, 8 GPUs, 32K", 32_000, 32_000, 8, "full", 17),
    Published("ALST table 2, 8 GPUs, 160K each", 160_000, 160_000, 8, "full", 123),
    Published("ALST table 2, 8 GPUs, 1.1M", 137_500, 1_100_000, 8, "full", 564),
    Published("ALST table 2, 8 GPUs, 3.8M", 475_000, 3_800_000, 8, "full", 6455),
    Published("ALST table 3, 32 GPUs, 15.5M", 484_375, 15_500_000, 32, "full", 26_709),
]  # fmt: skip


class CountBytes(TorchDispatchMode):
    """Bytes that kernels read and write, and their number, but for products, attention and views."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.kernels = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.name()
        if not (func.is_view or "mm" in name or "attention" in name or "empty" in name or "detach" in name):
            found = torch.utils._pytree.tree_leaves((args, kwargs, out))
            self.bytes += sum(each.numel() * each.element_size() for each in found if isinstance(each, torch.Tensor))
            self.kernels += 1
        return out


class _Uncounted(torch.autograd.Function):
    """Attention's place: outputs and gradients without values, and no kernel."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value)
        return torch.empty_like(query).transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(each) for each in ctx.saved_tensors)


AttentionInterface.register("uncounted", lambda module, *rows, **_: (_Uncounted.apply(*rows[:3]), None))


def count_layer_bytes(*, backward: bool) -> tuple[float, int]:
    """(bytes per token, kernels) of a layer's elementwise work as transformers writes it: two depths' difference."""
    found = []
    for layers in (1, 2):
        config = LlamaConfig(
            hidden_size=4096, intermediate_size=14_336, num_attention_heads=32, num_key_value_heads=8, vocab_size=64,
            num_hidden_layers=layers, attn_implementation="uncounted",
        )  # fmt: skip
        with torch.device("meta"):
            model = LlamaModel(config).bfloat16()
            rows = torch.zeros(1, COUNTED_TOKENS, dtype=torch.long)
            mask = torch.zeros(1, 1, 1, 1)  # given, so that none is made
        with CountBytes() as counted:
            out = model(rows, attention_mask=mask, use_cache=False).last_hidden_state
            if backward:
                out.backward(torch.empty_like(out))
        found.append((counted.bytes, counted.kernels))
    return (found[1][0] - found[0][0]) / COUNTED_TOKENS, found[1][1] - found[0][1]


def find_terms(
    rank_tokens: float, pairs_share: float, sequence_tokens: int, ranks: int, recompute: Recompute, *, flash2: bool
) -> dict[str, float]:
    """Seconds of each term of a step; ``pairs_share`` is the busiest rank's part of one document's pairs x ranks."""
    flops = token_flops(LLAMA_8B, sequence_tokens)
    rates = (FA2_FORWARD, FA2_BACKWARD) if flash2 else (CARD.attention_forward_flops, CARD.attention_backward_flops)
    linear, attention = flops.seconds(recompute, matmul=CARD.matmul_flops, forward=rates[0], backward=rates[1])
    forward_bytes, both_bytes = count_layer_bytes(backward=False)[0], count_layer_bytes(backward=True)[0]
    moved = both_bytes + (0 if recompute == "none" else forward_bytes)
    return {
        "matrix products": rank_tokens * linear,
        "attention": rank_tokens * attention * pairs_share,
        "elementwise": rank_tokens * LLAMA_8B.layers * moved / MEMORY_BYTES_PER_SECOND,
        "optimizer": LLAMA_8B.parameters / ranks * OPTIMIZER_BYTES / MEMORY_BYTES_PER_SECOND,
    }


def print_step() -> None:
    """The step of one document of 128Ki, and of a pack around 4Ki, on eight ranks."""
    tokens, ranks = 131_072, 8
    whole = tokens * (tokens + 1) / 2
    columns = {}
    for name, median in (("one document", None), ("pack around 4Ki", 4096)):
        partition = partition_tokens(draw_pack(tokens, median), ranks=ranks)
        share = float(partition.pairs.max()) * ranks / whole
        terms = find_terms(tokens / ranks, share, tokens, ranks, "save_attention", flash2=False)
        flops = token_flops(LLAMA_8B, tokens)
        model = tokens * 3 * (flops.linear + flops.attention * float(partition.pairs.sum()) / whole)
        useful, total = model / ranks / DATASHEET_FLOPS["h100"], sum(terms.values())
        least = find_terms(tokens / ranks, share, tokens, ranks, "none", flash2=False)
        needed = float(partition.traffic_tokens.sum()) / ((ranks - 1) * tokens)
        plan = forecast(
            LLAMA_8B, context_tokens=tokens, tokens=tokens, ranks=ranks, machine=CARD,
            split=Split(context_ranks=ranks, needed_share=needed),
        )  # fmt: skip
        link = CARD.link_bytes_per_second
        columns[name] = {f"{term}, s": f"{seconds:.2f}" for term, seconds in terms.items()} | {
            "step, s": f"{total:.2f}",
            "MFU": f"{useful / total:.0%}",
            "MFU without elementwise work": f"{useful / (total - terms['elementwise']):.0%}",
            "MFU without recomputation": f"{useful / sum(least.values()):.0%}",
            "MFU without both": f"{useful / (sum(least.values()) - least['elementwise']):.0%}",
            "hidden: keys, s": f"{plan.context_bytes / link:.2f}",
            "hidden: weights and gradients, s": f"{plan.state_bytes / link:.2f}",
        }
    print("| term | " + " | ".join(columns) + " |\n|---|---|---|")
    for term in columns["one document"]:
        print(f"| {term} | " + " | ".join(column[term] for column in columns.values()) + " |")


def print_published() -> None:
    """The same formula beside published steps, which used FlashAttention 2."""
    print("| published run | published, s | by the formula, s | difference |\n|---|---|---|---|")
    for run in PUBLISHED:
        terms = find_terms(run.rank_tokens, 1.0, run.sequence_tokens, run.ranks, run.recompute, flash2=True)
        total = sum(terms.values())
        print(f"| {run.name} | {run.seconds:,.1f} | {total:,.1f} | {total / run.seconds - 1:+.0%} |")


if __name__ == "__main__":
    forward, both = count_layer_bytes(backward=False), count_layer_bytes(backward=True)
    print(
        f"Elementwise work of a layer: {forward[1]} kernels and {forward[0] / 1e3:.0f} kB a token forward, "
        f"{both[1]} and {both[0] / 1e3:.0f} kB with backward.\n"
    )
    print_step()
    print()
    print_published()
