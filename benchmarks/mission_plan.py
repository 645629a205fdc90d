"""What +50 % means on 8 x H100, term by term: Llama-3-8B in rows of 32Ki and 128Ki, against the rings that users have.

    python benchmarks/mission_plan.py          # prints a table for docs/performance; needs no GPU

Ours against a ring with the same recompute that computes all pairs of the row, and against one that knows documents and
cuts each head-and-tail. Their attention runs at our rate ("same kernels"), or at the share of the kernel's rate that
was published for such rings on 8 x H800: 0.90 of a row, 0.76 of packed rows, forward and backward
(ring-flash-attention's README). A ring's messages are hidden by its own attention; only the excess costs time. The last
column makes attention and exchange of the ring free: it is the most that any attention could win.
"""

from dataclasses import dataclass

import numpy as np

from forecast_step import LLAMA_8B
from packs import draw_pack
from ropewalk.partition import partition_tokens
from ropewalk.plan.flops import BACKWARD_ATTENTION, BACKWARD_LINEAR, token_flops
from ropewalk.plan.hardware import KNOWN
from ropewalk.plan.receipt import FORWARD_PASSES
from ropewalk.plan.savings import Savings
from ropewalk.plan.step_time import estimate_step_time

CARD, RANKS = KNOWN["h100"], 8
RECOMPUTE = "save_attention"
RING_SHARE = {"row": 0.90, "pack": 0.76}
LINKS = {"in one node, 400 GB/s": 400e9, "between nodes, 50 GB/s": 50e9}


@dataclass(frozen=True)
class Step:
    """Seconds of one rank in a step of one row."""

    attention: float
    exposed: float
    others: float

    @property
    def total(self) -> float:
        return self.attention + self.exposed + self.others


def find_attention(tokens: int, pairs: float) -> float:
    """Seconds of attention of a rank with ``pairs`` pairs, forward and backward."""
    whole = token_flops(LLAMA_8B, tokens).attention * tokens
    flops = whole * pairs / (tokens * (tokens + 1) / 2)
    forwards = FORWARD_PASSES[RECOMPUTE][1]
    return flops * (forwards / CARD.attention_forward_flops + BACKWARD_ATTENTION / CARD.attention_backward_flops)


def find_others(tokens: int) -> float:
    """Seconds of products and elementwise work, which are alike on all sides."""
    times = estimate_step_time(
        LLAMA_8B, context_tokens=tokens, rank_tokens=tokens / RANKS, savings=Savings(RECOMPUTE), machine=CARD
    )
    return times.products + times.elementwise


def send_ring(tokens: int, link: float) -> float:
    """Seconds of a ring's messages: keys round twice, and gradients in float32 one hop more."""
    row = tokens / RANKS * LLAMA_8B.sent_width * LLAMA_8B.layers
    return row * (2 * (RANKS - 1) * 2 + RANKS * 4) / link


def main() -> None:
    print("| row | text | link | baseline | ratio, same kernels | ratio, published kernels | most possible |")
    print("|---|---|---|---|---|---|---|")
    for tokens in (32_768, 131_072):
        others = find_others(tokens)
        for text, median in (("one document", None), ("packs around 4Ki", 4096)):
            seeds = range(1 if median is None else 12)
            partitions = [partition_tokens(draw_pack(tokens, median, seed), ranks=RANKS) for seed in seeds]
            mine = find_attention(tokens, float(np.mean([each.pairs.max() for each in partitions])))
            true = find_attention(tokens, float(np.mean([each.pairs.mean() for each in partitions])))
            needed = float(np.mean([each.traffic_tokens.sum(axis=0).max() for each in partitions]))
            whole = find_attention(tokens, tokens * (tokens + 1) / 2 / RANKS)
            for link_name, link in LINKS.items():
                sent = needed * LLAMA_8B.sent_width * LLAMA_8B.layers * 2 * 3 / link
                ours = Step(mine, max(0.0, sent - mine), others)
                rings = {"all pairs": (whole, "row")}
                if median is not None:
                    rings["document-true"] = (true, "pack")
                for baseline, (seconds, kind) in rings.items():
                    found = []
                    for share in (1.0, RING_SHARE[kind]):
                        theirs = seconds / share
                        found.append(Step(theirs, max(0.0, send_ring(tokens, link) - theirs), others))
                    ratios = [each.total / ours.total for each in found]
                    most = found[-1].total / others
                    print(
                        f"| {tokens // 1024}Ki | {text} | {link_name} | ring, {baseline} | {ratios[0]:.2f} | "
                        f"{ratios[1]:.2f} | {most:.2f} |"
                    )
            print(
                f"<!-- {tokens} {text}: products and elementwise {others:.3f} s, attention ours {mine:.3f} s, true "
                f"{true:.3f} s, all pairs {whole:.3f} s; forward and backward {BACKWARD_LINEAR + 1:g} products -->"
            )


if __name__ == "__main__":
    main()
