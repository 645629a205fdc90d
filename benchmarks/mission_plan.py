"""What +50 % means on 8 x H100, by the formula of the plan: Llama-3-8B in sequences of 32Ki and 128Ki, against rings.

    python benchmarks/mission_plan.py          # prints the table of docs/speedup.md; needs no GPU

Ours against a ring with the same recompute that computes all pairs of the row, and against one that knows documents and
cuts each head-and-tail. Their attention runs at our rate ("same kernels"), or at the share of the kernel's rate that
was published for such rings on 8 x H800: 0.90 of one document, 0.76 of a pack, forward and backward
(ring-flash-attention's README). Messages are hidden behind attention, as plan/step_time.py does. The last column makes
all of our attention and its messages free: it is the most that any attention could win.
"""

from dataclasses import replace
from statistics import fmean

import numpy as np

from forecast_step import CARD, LLAMA_8B
from packs import draw_pack
from ropewalk.partition import partition_tokens
from ropewalk.plan.flops import TokenFlops, token_flops
from ropewalk.plan.savings import Savings
from ropewalk.plan.step_time import StepTime, Work, estimate_step_time

RANKS, PACKS, MEDIAN_TOKENS = 8, 12, 4096
SAVINGS = Savings("save_attention")
RING_SHARE = {"all pairs": 0.90, "document-true": 0.76}
LINKS = {"400 GB/s": 400e9, "50 GB/s": 50e9}


def find_step(tokens: int, flops: TokenFlops, *, sent_bytes: float, link: float, share: float = 1.0) -> StepTime:
    """The step of one rank; ``share`` is that of the kernel's rate that its attention reaches."""
    machine = replace(
        CARD,
        attention_forward_flops=share * CARD.attention_forward_flops,
        attention_backward_flops=share * CARD.attention_backward_flops,
    )
    work = Work(
        tokens / RANKS,
        flops,
        ranks=RANKS,
        trained_parameters=LLAMA_8B.parameters,
        context_seconds=sent_bytes / link,
    )
    return estimate_step_time(LLAMA_8B, work, savings=SAVINGS, machine=machine)


def count_ring_bytes(tokens: int) -> float:
    """Bytes that a rank of a ring sends: keys round twice, and gradients in float32 one hop more."""
    return tokens / RANKS * LLAMA_8B.sent_width * LLAMA_8B.layers * (2 * (RANKS - 1) * 2 + RANKS * 4)


def compare_rows(tokens: int, document: np.ndarray, link: float) -> dict[str, tuple[float, float, float]]:
    """By baseline: the ratio with the same kernels, with the published ones, and the most possible."""
    partition = partition_tokens(document, ranks=RANKS)
    lengths = np.unique(document, return_counts=True)[1]
    whole, true = token_flops(LLAMA_8B, tokens), token_flops(LLAMA_8B, tokens, document_tokens=lengths)
    sent = float(partition.traffic_tokens.sum(axis=0).max()) * LLAMA_8B.sent_width * LLAMA_8B.layers * 2 * 3
    ours = find_step(tokens, true, sent_bytes=sent, link=link)
    others = ours.total - ours.attention_forward - ours.attention_backward - ours.messages
    found = {}
    for baseline, flops in {"all pairs": whole, "document-true": true}.items():
        steps = [
            find_step(tokens, flops, sent_bytes=count_ring_bytes(tokens), link=link, share=share).total
            for share in (1.0, RING_SHARE[baseline])
        ]
        found[baseline] = (steps[0] / ours.total, steps[1] / ours.total, steps[1] / others)
    return found


def main() -> None:
    print("| sequence | text | link | baseline | same kernels | published kernels | most possible |")
    print("|---|---|---|---|---|---|---|")
    for tokens in (32_768, 131_072):
        for text, median in (("one document", None), ("packs", MEDIAN_TOKENS)):
            documents = [draw_pack(tokens, median, seed) for seed in range(PACKS if median else 1)]
            for name, link in LINKS.items():
                found = [compare_rows(tokens, document, link) for document in documents]
                for baseline in RING_SHARE if median else ("all pairs",):
                    ratios = (fmean(each[baseline][column] for each in found) for column in range(3))
                    told = " | ".join(f"{ratio:.2f}" for ratio in ratios)
                    print(f"| {tokens // 1024}Ki | {text} | {name} | ring, {baseline} | {told} |")
    times = [
        find_step(
            131_072,
            token_flops(
                LLAMA_8B,
                131_072,
                document_tokens=np.unique(draw_pack(131_072, MEDIAN_TOKENS, seed), return_counts=True)[1],
            ),
            sent_bytes=0,
            link=1,
        )
        for seed in range(PACKS)
    ]
    terms = ("products", "attention_forward", "attention_backward", "elementwise", "optimizer", "fixed")
    means = {term: fmean(getattr(each, term) for each in times) for term in terms}
    print("\nSeconds of a pack of 128Ki: " + ", ".join(f"{term} {value:.2f}" for term, value in means.items()))


if __name__ == "__main__":
    main()
