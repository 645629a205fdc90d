"""The forecast of one step of Llama-3-8B at 128Ki tokens on eight H100, term by term, and steps of a million.

    python benchmarks/forecast_step.py          # prints the tables of docs/forecast.md; needs no GPU

All terms are those of plan/step_time. Messages are hidden behind compute in it; they are told beside it. The last
tables are steps of 1,048,576 tokens with activations on the host: of stock transformers, as published, and ours.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from packs import draw_pack
from ropewalk.partition import partition_tokens
from ropewalk.plan.block_memory import ReceivedKeys
from ropewalk.plan.devices import find_device, find_peak_flops
from ropewalk.plan.flops import token_flops
from ropewalk.plan.forecast import forecast
from ropewalk.plan.hardware import KNOWN, Machine, make_machine
from ropewalk.plan.memory import estimate_memory
from ropewalk.plan.plan import Split
from ropewalk.plan.room import USABLE_MEMORY
from ropewalk.plan.savings import Savings
from ropewalk.plan.step_time import FITTED, Factors, Software, StepTime, Work, estimate_step_time
from ropewalk.recipe.parallel import LOSS_CHUNK_TOKENS
from ropewalk.rope.layers import plain_layers
from ropewalk.shape.experts import Experts
from ropewalk.shape.model_shape import ModelShape

LLAMA_8B = ModelShape("LlamaForCausalLM", 4096, 32, 8, 128, 14_336, 128_256, False, 131_072, plain_layers(32, 5e5))
QWEN3_8B = ModelShape(
    "Qwen3ForCausalLM", 4096, 32, 8, 128, 12_288, 151_936, False, 32_768, plain_layers(36, 1e6), qk_norm="head"
)
QWEN3_06B = ModelShape(
    "Qwen3ForCausalLM", 1024, 16, 8, 128, 3072, 151_936, True, 32_768, plain_layers(28, 1e6), qk_norm="head"
)
QWEN3_32B = ModelShape(
    "Qwen3ForCausalLM", 5120, 64, 8, 128, 25_600, 151_936, False, 32_768, plain_layers(64, 1e6), qk_norm="head"
)
QWEN3_30B_A3B = ModelShape(
    "Qwen3MoeForCausalLM", 2048, 32, 4, 128, 6144, 151_936, False, 32_768, plain_layers(48, 1e6), qk_norm="head",
    experts=Experts(128, 8, 768, tuple(range(48)), other_parameters=2048 * 128),
)  # fmt: skip
CARD = KNOWN["h100-sxm"]
"""With cuDNN's attention, which torch's scaled_dot_product_attention takes on Hopper."""
FA2 = make_machine(find_device("h100"), "flash2")
"""An H100 with FlashAttention 2, which published runs used."""
FA3 = make_machine(find_device("h100"), "flash3")
"""An H100 with FlashAttention 3 installed."""
MILLION = 1 << 20
PLAIN_PRODUCTS = replace(FITTED, products={"hopper": 1.0, None: 1.0})
PLAIN_ATTENTION = replace(FITTED, attention=1.0)
PLAIN_BOTH = replace(PLAIN_PRODUCTS, attention=1.0)
"""The rates that kernels reach alone, without what published steps take over them."""
GOALS = {"one document": 0.5, "pack around 4Ki": 0.45}
STOCK = Savings("full", offload=True)
OURS = Savings("save_attention", 4096, offload=True, attention_on_host=True)


class Million(NamedTuple):
    """A published step of a stock Trainer on a million tokens or more."""

    name: str
    shape: ModelShape
    machine: Machine
    seconds: float
    tokens: int = MILLION
    ranks: int = 8


MILLIONS = [
    Million("Qwen3-8B, cuDNN", QWEN3_8B, CARD, 380),
    Million("Qwen3-8B, FlashAttention 2", QWEN3_8B, FA2, 606),
    Million("Qwen3-0.6B, cuDNN", QWEN3_06B, CARD, 137),
]
OTHERS = [
    Million("Qwen3-8B, cuDNN, first draft", QWEN3_8B, CARD, 364),
    Million("Qwen3-8B, cuDNN", QWEN3_8B, CARD, 696, 2 * MILLION, 16),
    Million("Qwen3-8B, cuDNN", QWEN3_8B, CARD, 1346, 4 * MILLION, 32),
    Million("Qwen3-0.6B, cuDNN", QWEN3_06B, CARD, 2135, 4 * MILLION, 8),
    Million("Qwen3-32B, cuDNN", QWEN3_32B, CARD, 1295),
    Million("Qwen3-30B-A3B, cuDNN", QWEN3_30B_A3B, CARD, 483),
]
"""The other steps of the same author's first draft (huggingface/trl#6845), in which the first row took 364 s."""


def find_times(
    tokens: int, ranks: int, pairs_share: float, savings: Savings, *, fused: bool = True, factors: Factors = FITTED
) -> StepTime:
    """A step's terms; ``pairs_share`` is the busiest rank's part of one document's pairs x ranks."""
    work = Work(
        tokens / ranks, token_flops(LLAMA_8B, tokens), ranks, imbalance=pairs_share,
        trained_parameters=LLAMA_8B.parameters,
    )  # fmt: skip
    return estimate_step_time(LLAMA_8B, work, savings=savings, machine=CARD, software=Software(fused), factors=factors)


def find_fewest(tokens: int, ranks: int, savings: Savings) -> int:
    """The fewest first blocks that are recomputed on an H100, where the others keep everything."""
    for blocks in range(1, LLAMA_8B.layers):
        memory = estimate_memory(
            LLAMA_8B, tokens // ranks, ranks=ranks, savings=replace(savings, recompute_blocks=blocks),
            loss_chunk_tokens=LOSS_CHUNK_TOKENS[True], received=ReceivedKeys(tokens * (ranks - 1) / ranks),
        )  # fmt: skip
        if memory.peak_bytes <= USABLE_MEMORY * CARD.memory_bytes:
            return blocks
    return LLAMA_8B.layers


def _list_tiled(tokens: int, ranks: int, share: float) -> Iterator[tuple[str, StepTime]]:
    """What else an H100 has room for: MLPs in tiles of 4096 in all blocks, and nothing else recomputed."""
    way = Savings(mlp_tile_tokens=4096)
    memory = estimate_memory(LLAMA_8B, tokens // ranks, ranks=ranks, savings=way, loss_chunk_tokens=4096)
    assert memory.peak_bytes <= USABLE_MEMORY * CARD.memory_bytes
    yield "MLPs in tiles instead", find_times(tokens, ranks, share, way)


def print_step() -> None:
    """The step of one document of 128Ki, and of a pack around 4Ki, on eight ranks, with Liger's kernels."""
    tokens, ranks = 131_072, 8
    whole = tokens * (tokens + 1) / 2
    columns = {}
    for name, median in (("one document", None), ("pack around 4Ki", 4096)):
        partition = partition_tokens(draw_pack(tokens, median), ranks=ranks)
        share = float(partition.pairs.max()) * ranks / whole
        times = find_times(tokens, ranks, share, Savings("save_attention"))
        flops = token_flops(LLAMA_8B, tokens)
        model = tokens * 3 * (flops.linear + flops.attention * float(partition.pairs.sum()) / whole)
        useful, total = model / ranks / find_peak_flops("NVIDIA H100"), times.total
        again = Savings("save_attention")
        others = {
            "with torch's separate kernels": find_times(tokens, ranks, share, again, fused=False),
            "without recomputation": find_times(tokens, ranks, share, Savings()),
            "with products at their plain rate": find_times(tokens, ranks, share, again, factors=PLAIN_PRODUCTS),
            "with attention at its plain rate": find_times(tokens, ranks, share, again, factors=PLAIN_ATTENTION),
            "with both, without recomputation": find_times(tokens, ranks, share, Savings(), factors=PLAIN_BOTH),
        }
        blocks = find_fewest(tokens, ranks, again)
        partly = find_times(tokens, ranks, share, replace(again, recompute_blocks=blocks))
        needed = float(partition.traffic_tokens.sum()) / ((ranks - 1) * tokens)
        plan = forecast(
            LLAMA_8B, context_tokens=tokens, tokens=tokens, ranks=ranks, machine=CARD,
            split=Split(context_ranks=ranks, needed_share=needed),
        )  # fmt: skip
        link = CARD.link_bytes_per_second
        columns[name] = {
            f"{term.replace('_', ', ')}, s": f"{getattr(times, term):.2f}"
            for term in ("products", "attention_forward", "attention_backward", "elementwise", "optimizer", "fixed")
        } | {
            "step, s": f"{total:.2f}",
            "MFU": f"{useful / total:.0%}",
            **{f"MFU {name}": f"{useful / each.total:.0%}" for name, each in others.items()},
            f"step with {blocks} of {LLAMA_8B.layers} blocks recomputed, s": f"{partly.total:.2f}",
            f"MFU with {blocks} of {LLAMA_8B.layers} blocks recomputed": f"{useful / partly.total:.0%}",
            **{f"MFU with {name}": f"{useful / each.total:.0%}" for name, each in _list_tiled(tokens, ranks, share)},
            "step at 50% and 45% MFU, the goal, s": f"{useful / GOALS[name]:.2f}",
            "hidden: keys, s": f"{plan.context_bytes / link:.2f}",
            "hidden: weights and gradients, s": f"{plan.state_bytes / link:.2f}",
        }
    print("| term | " + " | ".join(columns) + " |\n|---|---|---|")
    for term in columns["one document"]:
        print(f"| {term} | " + " | ".join(column[term] for column in columns.values()) + " |")


def compare_million(run: Million) -> tuple[StepTime, StepTime]:
    """The stock Trainer's step by the formula, and ours: attention's output waits on the host, and copies overlap."""
    work = Work(run.tokens / run.ranks, token_flops(run.shape, run.tokens))
    plain = Software(fused=False, overlaps=False)
    stock = estimate_step_time(run.shape, work, savings=STOCK, machine=run.machine, software=plain)
    return stock, estimate_step_time(run.shape, work, savings=OURS, machine=run.machine)


def print_million() -> None:
    print("| 1,048,576 tokens, 8 x H100 | published, s | by the formula, s | difference | ours, s | ours, scaled, s |")
    print("|---|---|---|---|---|---|")
    for run in MILLIONS:
        stock, ours = (each.total for each in compare_million(run))
        print(
            f"| {run.name} | {run.seconds:.0f} | {stock:.0f} | {stock / run.seconds - 1:+.1%} | {ours:.0f} | "
            f"{run.seconds * ours / stock:.0f} |"
        )
    print("\n| terms, s | " + " | ".join(f"{run.name}: stock | ours" for run in MILLIONS) + " |")
    print("|---" * (1 + 2 * len(MILLIONS)) + "|")
    columns = [each for run in MILLIONS for each in compare_million(run)]
    for term in ("products", "attention_forward", "attention_backward", "elementwise", "tiles", "copies"):
        print(f"| {term.replace('_', ', ')} | " + " | ".join(f"{getattr(each, term):.1f}" for each in columns) + " |")


def print_others() -> None:
    print("| step | tokens, H100 | published, s | by the formula, s | difference |\n|---|---|---|---|---|")
    for run in OTHERS:
        stock = compare_million(run)[0].total
        print(
            f"| {run.name} | {run.tokens >> 20}Mi, {run.ranks} | {run.seconds:.0f} | {stock:.0f} | "
            f"{stock / run.seconds - 1:+.1%} |"
        )
    for run in (MILLIONS[0], MILLIONS[2]):
        seconds = compare_million(run._replace(machine=FA3))[1].total
        print(f"\n{run.name.split(',')[0]}, ours with FlashAttention 3: {seconds:.0f} s")


if __name__ == "__main__":
    print_step()
    print()
    print_million()
    print()
    print_others()
