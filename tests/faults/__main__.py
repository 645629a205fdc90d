"""Run every trial of every experiment, or go on where an earlier call stopped, and tell what held.

    PYTHONPATH=tests python -m faults [--only NAME] [--seconds 500] [--folder runs/faults] [--results FILE] [--table]

A trial's result is a line in FOLDER/results.jsonl; what stands there is not run again. ``--results`` writes the figures
as JSON once all trials have run, ``--table`` prints them as docs/reliability.md has them.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from faults.corruptions import CORRUPTIONS
from faults.disks import DISKS
from faults.experiment import Experiment, Result, run_trial
from faults.ground import Ground, make_ground
from faults.hangs import HANGS
from faults.kills import CONTEXT_KILLS, HYBRID_KILLS, KILLS
from faults.poisons import POISONS
from faults.reshards import RESHARDS
from faults.rows import ROWS
from faults.runs import RUNS
from faults.saves import SAVES
from faults.stops import STOPS

EXPERIMENTS = [
    *[KILLS, CONTEXT_KILLS, HYBRID_KILLS, SAVES, CORRUPTIONS, RESHARDS],
    *[DISKS, STOPS, HANGS, POISONS, ROWS, RUNS],
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="an experiment whose name begins so")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no trial after this time")
    parser.add_argument("--folder", type=Path, default=Path("runs/faults"))
    parser.add_argument("--results", type=Path, help="write the figures here when every trial has run")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    chosen = [each for each in EXPERIMENTS if each.name.startswith(asked.only or "")]
    ground = make_ground(asked.folder.resolve() / "ground")
    log, deadline = asked.folder / "results.jsonl", time.monotonic() + asked.seconds
    complete = True
    for experiment in chosen:
        complete &= run_experiment(experiment, ground, log, deadline)
    figures = [describe(experiment, read_results(log)) for experiment in EXPERIMENTS]
    if complete and asked.results:
        asked.results.write_text(json.dumps({"machine": describe_machine(), "experiments": figures}, indent=1) + "\n")
    print(tabulate(figures) if asked.table else json.dumps([f for f in figures if f["trials"]], indent=1))
    broken = any(figure["broken"] or figure["control_harmed"] < figure["control_trials"] / 2 for figure in figures)
    sys.exit(1 if broken else 0 if complete else 75)


def run_experiment(experiment: Experiment, ground: Ground, log: Path, deadline: float) -> bool:
    """Run what has no result yet; whether all have one now."""
    known = {(result.trial, result.guarded) for result in read_results(log) if result.experiment == experiment.name}
    trials = experiment.trials if isinstance(experiment.trials, Sequence) else experiment.trials(ground)
    for trial, guarded in [*((trial, True) for trial in trials), *((trial, False) for trial in experiment.controls)]:
        if (trial, guarded) in known:
            continue
        if time.monotonic() > deadline:
            return False
        result = run_trial(experiment, ground, trial, guarded=guarded)
        with log.open("a") as file:
            file.write(json.dumps(asdict(result)) + "\n")
        mark = "as promised" if result.as_promised else "NOT AS PROMISED"
        said = f"{'' if guarded else 'control '}{trial}: {mark}, {result.seconds} s  {result.fault.splitlines()[-1:]}"
        print(f"{experiment.name}: {said}", file=sys.stderr, flush=True)
    return True


def read_results(log: Path) -> list[Result]:
    """What has run so far; the last word on a trial counts."""
    if not log.exists():
        return []
    found = [Result(**json.loads(line)) for line in log.read_text().splitlines()]
    return list({(each.experiment, each.trial, each.guarded): each for each in found}.values())


def describe(experiment: Experiment, results: list[Result]) -> dict[str, Any]:
    """The figures of one experiment; what was not as promised by name."""
    mine = [result for result in results if result.experiment == experiment.name]
    guarded, controls = [r for r in mine if r.guarded], [r for r in mine if not r.guarded]
    return {
        "experiment": experiment.name,
        "promise": experiment.promise,
        "trials": len(guarded),
        "held": sum(not result.fault for result in guarded),
        "control": experiment.control,
        "control_trials": len(controls),
        "control_harmed": sum(bool(result.fault) for result in controls),
        "seconds": round(sum(result.seconds for result in mine)),
        "broken": {result.trial: result.fault[-300:] for result in guarded if result.fault},
        "harmless_controls": [result.trial for result in controls if not result.fault],
    }


def describe_machine() -> dict[str, str]:
    """Where and with what."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cores": str(len(os.sched_getaffinity(0))),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def tabulate(figures: list[dict[str, Any]]) -> str:
    """Markdown, as docs/reliability.md has it."""
    lines = [
        "| what is done to it | what must hold | held | control: the same, but | came to harm |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {f['experiment']} | {f['promise']} | {f['held']} of {f['trials']} | {f['control']} "
        f"| {f['control_harmed']} of {f['control_trials']} |"
        for f in figures
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
