"""The search of settings beside trying everything: 200 random cases, each with its ratio and its seconds.

    python benchmarks/plan_search.py      # needs no GPU; writes benchmarks/results

Everything means at least 500 settings of a case, or all that it has. Seconds are of the processor.
"""

import json
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from ropewalk.plan.search import find_fastest
from ropewalk.plan.sharing import cut_sequences
from search_cases import draw_case, list_settings, plan_setting

CASES, TRIED = 200, 600
RESULTS = Path(__file__).parent / "results" / "2026-11-30-plan-search.json"


def main() -> None:
    found = []
    for seed in range(CASES):
        draw = random.Random(1000 + seed)
        case = draw_case(draw)
        cut_sequences.cache_clear()
        begun = time.process_time()
        best = find_fastest([case.space], case.layouts)
        seconds = time.process_time() - begun
        settings = list(list_settings(case))
        tried = draw.sample(settings, min(TRIED, len(settings)))
        fitting = [plan.seconds for plan in (plan_setting(case, each) for each in tried) if plan.fits]
        assert best is not None or not fitting
        ratio = best.seconds / min(fitting) if best is not None and fitting else None
        found.append({"seed": seed, "settings": len(settings), "tried": len(tried), "seconds": seconds, "ratio": ratio})
    ratios = [each["ratio"] for each in found if each["ratio"] is not None]
    summary = {
        "cases": len(found), "with a plan that fits": len(ratios), "worst ratio": max(ratios),
        "slowest search": max(each["seconds"] for each in found),
        "over 500 settings": sum(each["settings"] > 500 for each in found),
    }  # fmt: skip
    RESULTS.write_text(json.dumps({"summary": summary, "cases": found}, indent=1) + "\n", encoding="utf-8")
    print(summary)


if __name__ == "__main__":
    main()
