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
STEPS, WARM_STEPS = 64, 2
STEP_TOKENS = 8192  # of short rows; a longer row is a step of its own
RATES: dict[str, dict[str, Any]] = {
    "full": {"lr": 2e-4},
    "lora": {"lr": 1e-3, "embedding_lr": 0.2, "lora": {}},  # the embedding is trained whole, at the rate of full
}
STOPPED = 75
HANG_SECONDS = 3600.0  # a step of a row takes ten minutes on a shared core


def train(bench: Any, kind: str, *, method: str, row: int, end: float) -> None:
    """Train until ``end``, then export the newest checkpoint under the tokens that it has seen.

    ``row`` is the length of a training sequence; below the target, PoSE's positions reach the target.
    """
    recipe, run = write_recipe(bench, kind, method, row)
    for verb in ("prepare", "extend", "train"):
        if not _call(verb, recipe, end=end):
            break
    folder = RunFolder(run)
    step = folder.newest_step(0)
    if not step:
        print("no checkpoint yet; the same command continues", file=sys.stderr)
        return
    tokens = step * step_tokens(row)
    arm = f"{method}+{kind}" + (f"-{format_length(row)}" if row < bench.targets[0] else "")
    name = f"{arm}@{format_length(tokens)}-{format_length(bench.targets[0])}"
    out = bench.out / "trained" / name
    if not out.exists():
        subprocess.run(
            [sys.executable, "-m", "ropewalk", "export", str(folder.checkpoint(0, step)), str(out)], check=True
        )
    print(f"{out}: {tokens:,} tokens seen")


def step_tokens(row: int) -> int:
    """Tokens of a step of rows of ``row`` tokens."""
    return max(row, STEP_TOKENS)


def write_recipe(bench: Any, kind: str, method: str, row: int) -> tuple[Path, Path]:
    """The recipe, with its text beside it; and the run's folder."""
    target = bench.targets[0]
    run = bench.out / f"run-{method}-{kind}-{format_length(row)}"
    text = bench.out / "train.jsonl"
    book = bench.unread()
    pieces = [book[at : at + DOCUMENT_CHARACTERS] for at in range(0, len(book), DOCUMENT_CHARACTERS)]
    text.write_text("".join(json.dumps({"text": piece, "id": f"part {n}"}) + "\n" for n, piece in enumerate(pieces)))
    rope = bench.survey(target)[method]
    stage: dict[str, Any] = {
        "context_length": row,
        "rope": rope.model_dump(mode="json", exclude_none=True),
        "tokens": STEPS * step_tokens(row),
        "step_tokens": step_tokens(row),
        "schedule": {"shape": "constant", "warmup": WARM_STEPS / STEPS},
        "checkpoint_steps": 4,  # a stop saves too
        "log_steps": 1,
    }
    # the unchanged model is trained as it is, a control for what the book alone teaches
    stage |= RATES[kind] | ({"pose": {"reach": target}} if row < target and method != "unchanged" else {})
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
        "parallel": {
            "ranks": bench.threads,
            "context_parallel": bench.threads,
            "hang_seconds": HANG_SECONDS,
        },
        "evaluate": {"lengths": [1], "answers": 16, "documents": 2},
    }
    path = bench.out / f"{run.name}.yaml"
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
