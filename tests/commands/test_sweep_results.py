"""Means over seeds where seeds have unlike tasks, and the table where a study has many of them."""

from typing import Any

import pytest

from ropewalk.commands.sweep_results import average, tabulate


def make_cell(seed: int, scores: dict[str, float], metric: str = "nats") -> dict[str, Any]:
    rows = [[task, metric, 2048, None, 10, value, value - 1, value + 1] for task, value in scores.items()]
    return {"kind": "trained", "arm": "theta", "choices": {}, "seed": seed, "cost_flops": 1.0, "context_tokens": 2048,
            "scores": rows}  # fmt: skip


def test_a_task_that_one_seed_lacks_has_no_mean_and_moves_no_other() -> None:
    """A law of loss by context is refused in some seeds, and LongPPL has no key tokens in some."""
    cells = [
        make_cell(1, {"nll/gap": 1.0, "context_law/gamma": 1.5, "short/law": 3.0}),
        make_cell(2, {"nll/gap": 2.0, "short/law": 5.0}),
        make_cell(3, {"long_ppl": 7.0, "nll/gap": 3.0, "short/law": 4.0}),
    ]
    (entry,) = average(cells)
    assert [(row[0], row[4], row[5]) for row in entry["scores"]] == [("nll/gap", 30, 2.0), ("short/law", 30, 4.0)]
    assert entry["seeds"] == 3 and entry["scores"][0][6] == pytest.approx(2 - 4.302653 / 3**0.5, abs=1e-5)
    assert {row[0] for row in average(cells[:1])[0]["scores"]} == {"nll/gap", "context_law/gamma", "short/law"}


def test_the_table_of_many_tasks_has_names_that_can_be_printed() -> None:
    cells = [make_cell(1, {f"retrieval/task_{number}": 0.5 for number in range(60)}, metric="accuracy")]
    told = tabulate({"means": average(cells), "contrasts": [], "cells": [], "pruned": {}})
    assert told.isprintable() or all(line.isprintable() for line in told.splitlines())
    names = [line.partition(":")[0] for line in told.splitlines()[:60]]
    assert names[:2] == ["a", "b"] and names[25:28] == ["z", "aa", "ab"] and len(set(names)) == 60
