"""A short training of a real model at the first target, for real_model.py: full or LoRA, through ropewalk's own verbs.

The recipe trains on the part of the book that no reading measures. It is stopped by the budget and continues from its
newest checkpoint. Each stop exports a model whose name has the tokens that it has seen: ``theta+full@256Ki``. Its rate
does not depend on the length of the run, so a stop anywhere is a model of its own.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from ropewalk.core.quantity import format_length
from ropewalk.core.run_folder import RunFolder

DOCUMENT_CHARACTERS = 120_000  # longer than a row of 16Ki tokens
ROWS_A_STEP = 2
RATES = {"full": 5e-5, "lora": 3e-4}
STOPPED = 75


def train(bench: Any, kind: str, *, end: float) -> None:
    """Train until ``end``, then export the newest checkpoint under the tokens that it has seen."""
    recipe, run = write_recipe(bench, kind)
    for verb in ("prepare", "extend", "train"):
        if not _call(verb, recipe, end=end):
            break
    folder = RunFolder(run)
    step = folder.newest_step(0)
    if not step:
        print("no checkpoint yet; the same command continues", file=sys.stderr)
        return
    tokens = step * ROWS_A_STEP * bench.targets[0]
    name = f"{bench.methods[1]}+{kind}@{format_length(tokens)}-{format_length(bench.targets[0])}"
    out = bench.out / "trained" / name
    if not out.exists():
        subprocess.run(
            [sys.executable, "-m", "ropewalk", "export", str(folder.checkpoint(0, step)), str(out)], check=True
        )
    print(f"{out}: {tokens:,} tokens seen")


def write_recipe(bench: Any, kind: str) -> tuple[Path, Path]:
    """The recipe, with its text beside it; and the run's folder."""
    run, target, method = bench.out / f"run-{kind}", bench.targets[0], bench.methods[1]
    text = bench.out / "train.jsonl"
    book = bench.unread()
    pieces = [book[at : at + DOCUMENT_CHARACTERS] for at in range(0, len(book), DOCUMENT_CHARACTERS)]
    text.write_text("".join(json.dumps({"text": piece, "id": f"part {n}"}) + "\n" for n, piece in enumerate(pieces)))
    rope = bench.survey(target)[method]
    stage: dict[str, Any] = {
        "context_length": target,
        "rope": rope.model_dump(mode="json", exclude_none=True),
        "tokens": 64 * ROWS_A_STEP * target,
        "step_tokens": ROWS_A_STEP * target,
        "lr": RATES[kind],
        "schedule": {"shape": "constant", "warmup": 0.06},
        "checkpoint_steps": 1,
        "log_steps": 1,
    } | ({"lora": {}} if kind == "lora" else {})
    recipe = {
        "model": str(bench.model),
        "run": str(run),
        "seed": 1,
        "corpus": {
            "store": str(bench.out / "store"),
            "sources": [{"name": "book", "path": str(text), "role": "general", "language": "en"}],
            "mix": {"general": 1},
            "max_repeats": 8,
            "held_out": 0.1,
        },
        "stages": [stage],
        "parallel": {"ranks": bench.threads, "context_parallel": bench.threads},
        "evaluate": {"lengths": [1, 2], "answers": 16, "documents": 2},
    }
    path = bench.out / f"{kind}.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path, run


def _call(verb: str, recipe: Path, *, end: float) -> bool:
    """Run a verb of ropewalk until ``end``; False if it was stopped there."""
    process = subprocess.Popen([sys.executable, "-m", "ropewalk", verb, str(recipe)])
    try:
        process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        process.wait()
    if process.returncode not in (0, STOPPED):
        raise SystemExit(process.returncode)
    return process.returncode == 0
