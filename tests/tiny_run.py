"""A corpus of made-up tokens, a tiny model that stands where a run's extended one would, and a recipe over both."""

import json
import string
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models

from ropewalk.core.artifact import new_folder
from ropewalk.core.record import read_metrics
from ropewalk.core.seed import stream
from ropewalk.corpus.tokens.corpus_folder import content_digest, point_to
from ropewalk.corpus.tokens.store import write_shards
from ropewalk.model.init import init_model
from ropewalk.parallel.launch import run_ranks
from ropewalk.recipe.spec import Init, Recipe
from ropewalk.train.stage import train_stage

VOCABULARY = 64
CONTEXT_TOKENS = 64
RUN = {"model": "tiny-base", "run": "runs/test", "seed": 3}


def make_recipe(**changes: Any) -> Recipe:
    """Eight steps of 4 rows of 64 tokens on 2 ranks, context degree 2; ``changes`` go to the stage or ``parallel``.

    A pass reads two rows, so a step still adds up two micro-batches: a small pass costs as much as a smaller one.
    """
    parallel = {
        "ranks": 2,
        "context_parallel": 2,
        "recompute": "none",
        **{"offload": "none", "states": "device", "mlp_tile_tokens": None},  # no rank forecasts what is fastest
        "precision": "float32",
        **changes.pop("parallel", {}),
    }
    stage = {
        "context_length": CONTEXT_TOKENS,
        "rope": {"kind": "unchanged"},
        "tokens": 8 * 4 * CONTEXT_TOKENS,
        "step_tokens": 4 * CONTEXT_TOKENS,
        "micro_batch_size": 2,
        "lr": 0.01,
        "checkpoint_steps": 4,
        "log_steps": 3,
        **changes,
    }
    sources = [{"name": name, "embedded": name, "role": "general"} for name in ("plain", "counted")]
    corpus = {"sources": sources, "mix": {"plain": 1, "counted": 1}, "max_repeats": 100}
    return Recipe.model_validate({**RUN, "corpus": corpus, "stages": [stage, stage], "parallel": parallel})


def write_corpus(folder: Path) -> Path:
    """Two sources: tokens at random, and tokens that count up, of which only each document's last half is learnt."""
    entries = {}
    for name in ("plain", "counted"):
        random = stream("corpus", name)
        documents = []
        for length in random.integers(8, 90, size=60).tolist():
            tokens = (
                (np.arange(length) + random.integers(60)) % 60
                if name == "counted"
                else random.integers(60, size=length)
            )
            mask = np.arange(length) >= length // 2 if name == "counted" else np.ones(length)
            documents.append((tokens.astype(np.int64), mask.astype(np.uint8)))
        store = folder / "store" / name
        with new_folder(store, kind="token store", inputs={}) as work:
            write_shards(documents, work, vocabulary=VOCABULARY)
        total = sum(len(tokens) for tokens, _ in documents)
        facts = {"role": "general", "documents": 60, "tokens": total, "held_out_documents": 12, "held_out_tokens": 786}
        facts |= {"languages": {"en": 60}, "license": None}
        path = point_to(store, from_folder=folder / "corpus")
        entries[name] = {"facts": facts, "store": path, "store_digest": content_digest(store)}
    with new_folder(folder / "corpus", kind="corpus", inputs={}) as work:
        for name in entries:
            (work / name).mkdir()
            np.save(work / name / "train.npy", np.arange(60), allow_pickle=False)
            (work / name / "held_out").mkdir()
            random = stream("held out", name)
            texts = [(random.integers(60, size=length), np.ones(length, dtype=np.uint8)) for length in range(60, 72)]
            write_shards(texts, work / name / "held_out", vocabulary=VOCABULARY)
        content = {"digest": "made-up", "vocabulary": VOCABULARY, "eos_id": 63, "long_documents": "split"}
        (work / "corpus.json").write_text(json.dumps({**content, "sources": entries}))
        (work / "ledger.json").write_text("{}")
    return folder / "corpus"


def write_model(run: Path, folder: Path) -> None:
    """Random weights as the extended model of both stages of ``run``."""
    folder.mkdir()
    letters = string.ascii_letters + " \n.,:;?!-'="
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    init = {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "mlp_width": 48}
    spec = Init.model_validate({**init, "context_length": CONTEXT_TOKENS, "tokenizer": str(folder)})
    for stage in (0, 1):
        init_model(spec, run / "stages" / str(stage) / "extended", tokenizer=folder, seed=1)


def train_extended(run: Path, extended: Path, corpus: Path, ranks: int) -> list[float]:
    """Losses of three steps of an extended base; on two ranks blocks run again, with what is then exchanged again."""
    (run / "stages" / "0").mkdir(parents=True)
    (run / "stages" / "0" / "extended").symlink_to(extended)
    recipe = make_recipe(
        tokens=3 * 4 * CONTEXT_TOKENS,
        log_steps=1,
        checkpoint_steps=3,
        lr=1e-3,
        parallel={"ranks": ranks, "context_parallel": ranks, "recompute": "none" if ranks == 1 else "save_attention"},
    )

    def on_rank() -> str:
        return train_stage(recipe, stage=0, run=run, corpus=corpus)

    assert run_ranks(on_rank, ranks, threads=1)[0] == "limit"
    return [row.value for row in read_metrics(run / "metrics.jsonl") if row.name == "loss/train"]
