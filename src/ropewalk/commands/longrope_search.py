"""Searches LongRoPE's factors for a stage without them, by evolution on the base's own loss at the target length.

A candidate's model is extended like any model, with linked weights. It reads a few long documents, and is removed
before the next one. The documents are training documents and never held-out ones: the factors must not be chosen on the
text that later measures the run. The result is a file beside the extended folder, so it survives a kill.
"""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from ropewalk.commands.run_inputs import stage_input
from ropewalk.core.artifact import is_finished, write_whole
from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.core.quantity import format_length
from ropewalk.core.read_json import read_written
from ropewalk.core.run_folder import RunFolder
from ropewalk.core.seed import stream
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.same_tokenizer import require_model
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage import Stage
from ropewalk.rope.longrope_search import Factors, FoundFactors, Search, search_factors
from ropewalk.rope.method import BaseRope
from ropewalk.rope.scaling import LongRope
from ropewalk.shape.read import read_shape


def needs_search(stage: Stage) -> bool:
    """True if the stage's factors are still open."""
    return isinstance(stage.rope, LongRope) and stage.rope.long_factor is None


def extend_with_search(recipe: Recipe, folder: RunFolder, stage: int) -> None:
    """Extend the stage's model with factors from a search, unless it is done. Runs on a rank of its own.

    Raises UserError where no training document is as long as the target.
    """
    out, found = folder.extended(stage), folder.factors(stage)
    if is_finished(out):
        return
    base, spec = stage_input(folder, recipe, stage), recipe.stages[stage]
    if not found.exists():
        corpus = open_corpus(folder.corpus)
        require_model(corpus, base)
        found.parent.mkdir(parents=True, exist_ok=True)
        best = _search(base, spec, corpus, work=found.parent / "candidate", seed=recipe.seed)
        write_whole(found, json.dumps(asdict(best), indent=2))
    _extend(base, out, _fill(spec, read_written(found, lambda content: tuple(content["factors"]))))


def _extend(base: Path, out: Path, stage: Stage) -> None:
    from ropewalk.model.extend import extend

    extend(base, out, rope=stage.rope, layers=stage.layers, context_tokens=stage.reach_tokens)


def _search(base: Path, stage: Stage, corpus: Corpus, *, work: Path, seed: int) -> FoundFactors:
    from ropewalk.evaluate.evaluate import measure_model
    from ropewalk.evaluate.loss_by_position import PositionLoss
    from ropewalk.model.weights import stored_dtype

    tokens, search = stage.reach_tokens, _budget(stage)
    documents = draw_documents(corpus, tokens=tokens, documents=search.documents, seed=seed)
    loss, asked = PositionLoss(documents, tokens, 1), 0

    def score(factors: Factors) -> float:
        nonlocal asked
        asked += 1
        shutil.rmtree(work, ignore_errors=True)
        _extend(base, work, _fill(stage, factors))
        name = f"factors {asked} of {search.evaluations}"
        (sums,) = measure_model(work, [loss], name=name, precision=stored_dtype(base))
        return float(sums.nll.sum() / sums.count.sum())

    found = search_factors(score, base=_count_from(base), context_tokens=tokens, search=search)
    shutil.rmtree(work, ignore_errors=True)
    seeds = ", ".join(f"{name} {value:.4f}" for name, value in found.seed_scores.items())
    say(f"factors: loss {found.score:.4f} after {found.evaluations} scores; {seeds}")
    return found


def draw_documents(corpus: Corpus, *, tokens: int, documents: int, seed: int) -> list[Int64[np.ndarray, "tokens"]]:
    """The first ``tokens`` tokens of up to ``documents`` training documents; sources take turns.

    Instructions are left out, because only few of their tokens are answers. Raises UserError where no document is long
    enough.
    """
    queues, longest = [], 0
    for name in (name for name in corpus.sources if corpus.facts(name).role != "instruction"):
        train = corpus.train(name)
        longest = max(longest, int(train.lengths.max(initial=0)))
        order = stream("search", corpus.digest, name, seed).permutation(np.flatnonzero(train.lengths >= tokens))
        queues.append([(train, int(number)) for number in order[:documents]])
    turns = [queue[turn] for turn in range(documents) for queue in queues if turn < len(queue)]
    if not turns:
        raise UserError(
            "no document is long enough to search factors on",
            where="stages: rope.search",
            why=f"the longest that is trained on has {longest:,} tokens, and the target is {tokens:,}",
            fix=f"add a source with documents of {format_length(tokens)} tokens, or give long_factor",
        )
    return [train.read(number, 0, tokens)[0].astype(np.int64) for train, number in turns[:documents]]


def _budget(stage: Stage) -> Search:
    assert isinstance(stage.rope, LongRope) and stage.rope.search is not None
    return stage.rope.search


def _fill(stage: Stage, factors: Factors) -> Stage:
    return stage.model_copy(update={"rope": stage.rope.model_copy(update={"long_factor": factors})})


def _count_from(base: Path) -> BaseRope:
    """The plain RoPE that the factors refer to; if the base runs longrope already, it has the original context."""
    rope = read_shape(base).base_rope
    original = rope.running.original_tokens if isinstance(rope.running, LongRope) else None
    return replace(rope, context_tokens=original or rope.context_tokens)
