"""The suites of ``ropewalk evaluate MODEL``: named values of ``evaluate`` for a model without a recipe."""

from typing import Any, Literal, get_args

from ropewalk.core.error import UserError
from ropewalk.probe.held_out_tasks import HELD_OUT_NAMES
from ropewalk.recipe.foreign_text import BUILT_IN

SuiteName = Literal["quick", "ruler", "full"]
_FOREIGN = {"foreign": [{"name": name, "embedded": name} for name in BUILT_IN], "abilities": 64}


def find_suite(name: str, *, base_tokens: int, reach_tokens: int) -> dict[str, Any]:
    """The keys of ``evaluate`` in a suite: lengths are doublings of ``base_tokens`` up to ``reach_tokens``.

    ``quick``: retrieval, text that no corpus has, abilities. ``ruler``: RULER's 13 tasks. ``full``: both, the eight
    held-out tasks, and the grid of position, filler and length. Raises UserError for another name.
    """
    lengths = [1]
    while lengths[-1] * 2 * base_tokens <= reach_tokens:
        lengths.append(lengths[-1] * 2)
    tasks = [
        {"kind": "held_out", "task": task, "language": language} for task in HELD_OUT_NAMES for language in ("en", "zh")
    ]
    suites: dict[str, dict[str, Any]] = {
        "quick": {"answers": 100, **_FOREIGN},
        "ruler": {"answers": 8, "ruler": {"samples": 20}},
        "full": {"answers": 400, "probes": tasks, "grid": {}, "ruler": {"samples": 100}, **_FOREIGN},
    }
    if name not in suites:
        raise UserError(
            f"there is no suite {name!r}",
            where="--suite",
            why=f"the suites are {', '.join(get_args(SuiteName))}",
            fix="--suite quick",
        )
    return {"lengths": lengths, **suites[name]}
