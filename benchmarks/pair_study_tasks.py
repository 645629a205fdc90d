"""How each trained model of the harder study differs from theta alone, prompt by prompt.

    python benchmarks/pair_study_tasks.py RESULTS.json recipes/study-tasks.yaml [PATH=VALUE]...    # where the study ran

The sweep kept the sums of every answer. Theta alone is the model before any training at the new theta; both were asked
the same prompts, so a difference is taken prompt by prompt, and its interval is over prompts. The differences are
written into RESULTS.json, for `benchmarks/study_tasks.py`.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.commands.sweep import SUMS
from ropewalk.commands.sweep_results import format_results
from ropewalk.core.run_folder import RunFolder
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.corpus.tokens.tokenizer import load_tokenizer
from ropewalk.evaluate.evaluate import describe_written, plan_measurements
from ropewalk.evaluate.retrieval import Retrieval
from ropewalk.evaluate.score import difference
from ropewalk.evaluate.stored_sums import find_sums
from ropewalk.recipe.sweep import Cell, load_sweep
from study_tasks import ALONE, BASE_TOKENS

Prompts = tuple[np.ndarray, np.ndarray]
"""Right answers and answers of each prompt."""


def read_prompts(cell: Cell, model: Path, store: Path) -> dict[tuple[str, int], Prompts]:
    """(task, tokens) -> what the sweep kept of a model's answers."""
    spec, folder = cell.recipe.evaluate, RunFolder(Path(cell.recipe.run))
    tokenizer = load_tokenizer(model)
    planned = plan_measurements(spec, tokenizer, corpus=open_corpus(folder.corpus), base_tokens=BASE_TOKENS)
    sums = find_sums(store, model, [each.items for each in planned], describe_written(spec, ()))
    assert sums is not None, f"{cell.name}: the study has no sums of {model}"
    found = {}
    for each, own in zip(planned, sums, strict=True):
        if isinstance(each, Retrieval):
            right = own.correct == own.count
            for items in each.by_length:
                groups = [np.unique(item.group[item.group >= 0]) for item in items]
                shares = np.array([right[asked].sum() for asked in groups], dtype=float)
                tokens = int(each.context_tokens[groups[0][0]])
                found[each.task, tokens] = shares, np.array([len(asked) for asked in groups], dtype=float)
    return found


def pair(study: Path, overrides: list[str]) -> Iterator[dict[str, Any]]:
    """Each trained arm less theta alone, of each seed, task and length: value, error and degrees of freedom."""
    sweep, cells = load_sweep(study, overrides)
    store = Path(sweep.study) / SUMS
    for seed in sweep.seeds:
        own = {(cell.kind, cell.arm): cell for cell in cells if cell.seed == seed}
        alone_folder = RunFolder(Path(own[ALONE].recipe.run)).extended(0)
        alone = read_prompts(own[ALONE], alone_folder, store)
        for (kind, arm), cell in own.items():
            if kind != "trained":
                continue
            ours = read_prompts(cell, RunFolder(Path(cell.recipe.run)).trained(0), store)
            for (task, tokens), prompts in ours.items():
                found = difference(prompts, alone[task, tokens])
                row = {"arm": arm, "seed": seed, "task": task, "tokens": tokens, "value": found.value}
                yield row | {"error": found.error, "freedom": found.freedom, "prompts": found.samples}


def main(place: Path, study: Path, overrides: list[str]) -> None:
    results = json.loads(place.read_text())
    results["pairs"] = list(pair(study, overrides))
    place.write_text(format_results(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
