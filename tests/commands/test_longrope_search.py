"""A recipe that leaves LongRoPE's factors open: searched on the base, kept through a kill, and what the model runs."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ropewalk.commands.longrope_search import draw_documents, extend_with_search
from ropewalk.commands.run import do_part
from ropewalk.core.error import UserError
from ropewalk.core.run_folder import RunFolder
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.evaluate import items
from ropewalk.parallel.collective import rank_and_ranks
from ropewalk.parallel.launch import run_ranks
from ropewalk.plan.memory import WHOLE_BYTES
from ropewalk.recipe.load import parse_recipe
from ropewalk.recipe.spec import Recipe
from ropewalk.rope.dynamic import LongRope
from ropewalk.shape.read import read_shape

SEARCH = {"population": 3, "iterations": 1, "mutations": 1, "crossovers": 0, "parents": 2, "documents": 2}


@pytest.fixture
def searching(recipe: Recipe) -> Recipe:
    """The small recipe with one stage, whose factors are open."""
    data: dict[str, Any] = recipe.to_json()
    stage = {**data["stages"][1], "rope": {"kind": "longrope", "search": SEARCH}}
    return parse_recipe({**data, "stages": [stage]}, where="test")


def count_reads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rank writes how many sequences it has read."""
    read_sequence = items._read_sequence

    def read(learner: Any, row: Any) -> Any:
        mine = folder / f"reads-{rank_and_ranks()[0]}"
        mine.write_text(str(1 + int(mine.read_text() if mine.exists() else 0)))
        return read_sequence(learner, row)

    monkeypatch.setattr(items, "_read_sequence", read)


@pytest.mark.timeout(120)
def test_factors_are_searched_on_what_is_trained_on_and_only_once(
    searching: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(Path(searching.run))
    count_reads(folder.root.parent, monkeypatch)
    with pytest.raises(UserError, match="ropewalk prepare"):
        do_part("extend", searching)
    do_part("prepare", searching)
    check_documents(open_corpus(folder.corpus))

    do_part("extend", searching)
    found = json.loads(folder.factors(0).read_text())
    assert found["evaluations"] == 4 and found["score"] <= min(found["seed_scores"].values())
    running = read_shape(folder.extended(0)).base_rope.running
    assert isinstance(running, LongRope) and running.long_factor == tuple(found["factors"])
    assert (running.factor, running.original_tokens) == (2, 64)
    assert not (folder.extended(0).parent / "candidate").exists()

    assert {path.read_text() for path in folder.root.parent.glob("reads-*")} == {"4"}, "each rank read one of two texts"
    for ranks, whole_bytes in ((1, WHOLE_BYTES), (2, 0)):  # one rank alone; a model sharded over two
        kept = folder.factors(0).read_bytes()
        shutil.rmtree(folder.extended(0).parent)
        run_ranks(extend_with_search, ranks, searching, folder, 0, whole_bytes, threads=1)
        assert folder.factors(0).read_bytes() == kept, "the same factors and scores to the bit"

    # Killed between search and extension: what was found is taken, whatever it is.
    shutil.rmtree(folder.extended(0))
    factors = [1.0] * 4 + [1.5] * 4
    folder.factors(0).write_text(json.dumps({"factors": factors}))
    do_part("extend", searching)
    running = read_shape(folder.extended(0)).base_rope.running
    assert isinstance(running, LongRope) and running.long_factor == tuple(factors)


def check_documents(corpus: Corpus) -> None:
    drawn = draw_documents(corpus, tokens=128, documents=3, seed=1)
    trained = corpus.train("stories")
    texts = {trained.read(number)[0][:128].astype(np.int64).tobytes() for number in range(len(trained))}
    assert len(drawn) == 3 and {tokens.tobytes() for tokens in drawn} <= texts, "never held-out text"
    with pytest.raises(UserError, match="the target is 1,000,000"):
        draw_documents(corpus, tokens=1_000_000, documents=3, seed=1)
