"""Whether the formula fits published steps better if products are counted as they run with recomputation.

    python benchmarks/plan_passes.py          # prints a table; needs no GPU; a minute

The formula counts four passes of all products. Counted are fewer: the head is in no block, so it has three; and torch's
checkpoint that is not re-entrant stops before the MLP's last product, except in tiles. Each source is left out of its
own fit, as in benchmarks/plan_published.py.
"""

import math
from dataclasses import replace
from statistics import fmean, median

from plan_published import Case, fit, make_cases

WAYS = ("four passes of all", "head three passes", "head three, last product of a block three")


def count_passes_as_run(case: Case, way: str) -> Case:
    """``case`` with its products scaled, so that four passes of them are what runs."""
    plan, shape = case.plan, case.row.shape
    if way == WAYS[0] or plan.savings.recompute == "none":
        return case
    less = 2.0 * shape.vocabulary * shape.width
    if way == WAYS[2] and plan.savings.mlp_tile_tokens is None:
        less += 2.0 * shape.layers * shape.width * shape.mlp_width
    flops = replace(plan.work.flops, linear=plan.work.flops.linear - less / 4)
    return replace(case, plan=replace(plan, work=replace(plan.work, flops=flops)))


def main() -> None:
    print("| products with recomputation | median error, left out | mean of its logarithm | median, fitted to all |")
    print("|---|---|---|---|")
    for way in WAYS:
        cases = [count_passes_as_run(case, way) for case in make_cases(True)]
        sources = dict.fromkeys(["", *(case.row.source for case in cases)])
        fitted = {name: fit([each for each in cases if each.row.source != name]) for name in sources}
        left_out = [case.ratio(fitted[case.row.source]) for case in cases]
        final = [case.ratio(fitted[""]) for case in cases]
        errors, others = (median(abs(each - 1) for each in found) for found in (left_out, final))
        print(f"| {way} | {errors:.1%} | {fmean(abs(math.log(each)) for each in left_out):.3f} | {others:.1%} |")


if __name__ == "__main__":
    main()
