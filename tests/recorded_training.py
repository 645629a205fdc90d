"""A small whole training whose results are recorded: a change that should change no result is compared with them.

    PYTHONPATH=tests python -m recorded_training       # records again, after a change that is meant to change results

Two sources of made-up text become a tokenizer, a store and a corpus; a model from nothing is trained for 4 steps on 64
tokens and, with YaRN, for 4 steps on 128 tokens, on two ranks that share each sequence. Nothing that this machine has
installed is read: the text comes from a generator of this file. Indices and counters are recorded as digests, which
must be equal; losses, gradients and weights as numbers, since another CPU adds in another order (``TOLERANCE``).
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from ropewalk.checkpoint.load import newest
from ropewalk.commands.run import do_part
from ropewalk.core.digest import digest_arrays, digest_file, digest_value
from ropewalk.core.record import read_metrics
from ropewalk.core.run_folder import RunFolder
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.recipe.load import parse_recipe
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage_dataset import open_stage
from ropewalk.shape.read import read_shape

RECORDED = Path(__file__).with_suffix(".json")
TOLERANCE = 1e-5
"""Relative. Two builds of one CPU library differ by 1e-7 in a loss; a frequency that is 0.1 % off changes 1e-4."""
SYLLABLES = ("ka", "ro", "mi", "ten", "sul", "ba", "vor", "e", "li", "dun")


def make_text(number: int, words: int) -> str:
    """``words`` words of two to four syllables, by a linear congruential generator."""
    state, said = number, []
    for _ in range(words):
        word = ""
        for _ in range(2 + state % 3):
            state = (state * 1103515245 + 12345) % 2**31
            word += SYLLABLES[state // 65536 % len(SYLLABLES)]
        said.append(word)
    return " ".join(said) + "."


def make_run(folder: Path) -> Recipe:
    """Write the texts, train both stages, and return the recipe."""
    prose = [{"text": make_text(number, 20 + 9 * number % 70)} for number in range(60)]
    prose += [{"text": prose[7]["text"] + " mi."}, prose[3]]  # copies, of which the corpus keeps one
    pairs = [{"question": make_text(900 + n, 6), "answer": make_text(990 + n, 3)} for n in range(40)]
    for name, records in (("prose", prose), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    shape = {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "mlp_width": 48}
    init = {**shape, "context_length": 64, "deviation": 0.3, "tokenizer": 300}  # large enough that positions matter
    steps = {"tokens": 1024, "step_tokens": 256, "lr": 3e-3, "checkpoint_steps": 4, "log_steps": 2}
    yarn = {"context_length": 128, "rope": {"kind": "yarn"}, **steps}
    options = {"prompt_key": "question", "answer_key": "answer"}
    sources: list[dict[str, Any]] = [
        {"name": "prose", "path": "prose.jsonl", "role": "general", "language": "en"},
        {"name": "pairs", "path": "pairs.jsonl", "role": "instruction", "language": "en", "options": options},
    ]
    for source in sources:
        source["path"] = str(folder / source["path"])
    data = {
        "model": {"init": init},
        "run": str(folder / "run"),
        "seed": 5,
        "corpus": {
            "store": str(folder / "store"),
            "sources": sources,
            "mix": {"general": 3, "instruction": 1},
            "held_out": 0.2,
        },
        "stages": [{"context_length": 64, "rope": {"kind": "unchanged"}, **steps}, yarn],
        "parallel": {"ranks": 2, "context_parallel": 2, "recompute": "none", "precision": "float32"},
    }
    recipe = parse_recipe(data, where="recorded training")
    for part in ("prepare", "train"):
        do_part(part, recipe)
    return recipe


def describe(recipe: Recipe) -> dict[str, Any]:
    """What the run folder has, of every step from text to weights."""
    folder = RunFolder(Path(recipe.run))
    corpus = open_corpus(folder.corpus)
    found: dict[str, Any] = {"corpus": describe_corpus(Path(recipe.corpus.store), folder)}
    for stage in range(len(recipe.stages)):
        dataset = open_stage(recipe, stage, corpus)
        batch = dataset.batch(0, dataset.sequences)
        fields = (batch.tokens, batch.labels, batch.weights, batch.positions, batch.document, batch.source)
        checkpoint = newest(folder.checkpoints(stage))
        assert checkpoint is not None
        state = json.loads((checkpoint / "state.json").read_text())
        shape = read_shape(folder.extended(stage))
        rows = [row for row in read_metrics(folder.metrics) if row.stage == stage]
        found[f"stage {stage}"] = {
            "mix": digest_arrays(*fields),
            "frequencies": shape.positions[0].inv_freq(shape.head_dim).tolist(),
            "attention factor": shape.positions[0].attention_factor,
            "counters": {name: state[name] for name in ("step", "cursor", "skipped", "rollbacks", "ranks")},
            **{name: [row.value for row in rows if row.name == name] for name in ("lr", "loss/train", "grad_norm")},
            "weights": {
                name: float(np.linalg.norm(weight.astype(np.float64)))
                for name, weight in sorted(load_file(folder.trained(stage) / "model.safetensors").items())
            },
        }
    return found


def describe_corpus(store: Path, folder: RunFolder) -> dict[str, Any]:
    """Digests of the tokenizer, of the tokens of both sources, and of which documents were kept and held out."""
    kept = {path.relative_to(folder.corpus).as_posix(): path for path in folder.corpus.rglob("*") if path.is_file()}
    binary = {name: digest_file(path) for name, path in sorted(kept.items()) if not name.endswith((".json", ".jsonl"))}
    ledger = digest_value(json.loads((folder.corpus / "ledger.json").read_text()))
    stored = sorted(digest_file(path) for path in store.rglob("shard-*"))
    return {"tokenizer": digest_file(folder.tokenizer / "tokenizer.json"), "store": stored, "ledger": ledger, **binary}


def find_difference(found: Any, recorded: Any, path: str = "") -> str:
    """The first value that differs, by its path; empty if none does. Fractions may differ by ``TOLERANCE``."""
    if isinstance(recorded, dict) and isinstance(found, dict) and recorded.keys() == found.keys():
        pairs = [(f"{path}/{key}", found[key], recorded[key]) for key in recorded]
    elif isinstance(recorded, list) and isinstance(found, list) and len(recorded) == len(found):
        pairs = [(f"{path}/{place}", *both) for place, both in enumerate(zip(found, recorded, strict=True))]
    elif isinstance(recorded, float) and isinstance(found, float):
        return "" if abs(found - recorded) <= TOLERANCE * abs(recorded) else f"{path}: {found}, recorded {recorded}"
    else:
        return "" if found == recorded else f"{path}: {found}, recorded {recorded}"
    return next(filter(None, (find_difference(*pair[1:], pair[0]) for pair in pairs)), "")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        RECORDED.write_text(json.dumps(describe(make_run(Path(folder))), indent=1) + "\n")


if __name__ == "__main__":
    main()
