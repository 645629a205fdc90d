"""Searches LongRoPE's factors for a stage without them, by evolution on the base's own loss at the target length.

A candidate's model is extended like any model, with linked weights. It reads a few long documents, and is removed
before the next one. The documents are training documents and never held-out ones: the factors must not be chosen on the
text that later measures the run. The result is a file beside the extended folder, so it survives a kill.

All ranks read each candidate: documents are dealt to them, and a large model is sharded over them (open_model.py). A
document is always read by itself, and its loss is added up apart from the others. So the scores, and the factors with
them, are the same to the bit on any number of ranks.
"""

import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from ropewalk.commands.run_inputs import stage_input
from ropewalk.core.artifact import is_finished, write_whole
from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.core.quantity import format_count, format_length
from ropewalk.core.read_json import read_written
from ropewalk.core.run_folder import RunFolder
from ropewalk.core.seed import stream
from ropewalk.core.strict_json import spell_json
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.same_tokenizer import require_model
from ropewalk.plan.memory import WHOLE_BYTES
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage import Stage
from ropewalk.rope.longrope_search import Factors, FoundFactors, Search, search_factors
from ropewalk.rope.method import BaseRope
from ropewalk.rope.scaling import LongRope
from ropewalk.shape.read import read_shape

Document = Int64[np.ndarray, "tokens"]


def needs_search(stage: Stage) -> bool:
    """True if the stage's factors are still open."""
    return isinstance(stage.rope, LongRope) and stage.rope.long_factor is None


def extend_with_search(recipe: Recipe, folder: RunFolder, stage: int, whole_bytes: int = WHOLE_BYTES) -> None:
    """Extend the stage's model with factors from a search, unless it is done. Every rank calls it.

    A model of more than ``whole_bytes`` is sharded over the ranks. Raises UserError on every rank where no training
    document is as long as the target.
    """
    from ropewalk.parallel.collective import share_from_first
    from ropewalk.parallel.rank_zero import first_does

    out, found = folder.extended(stage), folder.factors(stage)
    # The first rank looks, because torchrun's ranks may arrive here at different times.
    is_done, is_found = share_from_first((is_finished(out), found.exists()))
    if is_done:
        return
    base, spec = stage_input(folder, recipe, stage), recipe.stages[stage]
    if not is_found:
        corpus = open_corpus(folder.corpus)
        require_model(corpus, base)
        documents = draw_documents(
            corpus, tokens=spec.reach_tokens, documents=_budget(spec).documents, seed=recipe.seed
        )
        best = _search(base, spec, documents, work=found.parent / "candidate", whole_bytes=whole_bytes)
        first_does(partial(_write_factors, found, best))
    first_does(partial(_extend_by_file, base, out, spec, found))


def _write_factors(found: Path, best: FoundFactors) -> None:
    found.parent.mkdir(parents=True, exist_ok=True)
    write_whole(found, spell_json(asdict(best), indent=2))


def _extend_by_file(base: Path, out: Path, stage: Stage, found: Path) -> None:
    _extend(base, out, _fill(stage, read_written(found, lambda content: tuple(content["factors"]))))


def _replace_candidate(base: Path, work: Path, stage: Stage) -> None:
    shutil.rmtree(work, ignore_errors=True)
    work.parent.mkdir(parents=True, exist_ok=True)
    _extend(base, work, stage)


def _extend(base: Path, out: Path, stage: Stage) -> None:
    from ropewalk.model.extend import extend

    extend(base, out, rope=stage.rope, layers=stage.layers, context_tokens=stage.reach_tokens)


def _search(base: Path, stage: Stage, documents: list[Document], *, work: Path, whole_bytes: int) -> FoundFactors:
    from ropewalk.evaluate.evaluate import measure_model
    from ropewalk.evaluate.loss_by_position import PositionLoss
    from ropewalk.model.weights import stored_dtype
    from ropewalk.parallel.collective import rank_and_ranks
    from ropewalk.parallel.rank_zero import first_does

    tokens, search = stage.reach_tokens, _budget(stage)
    loss, asked = PositionLoss(documents, tokens, 1), 0

    def score(factors: Factors) -> float:
        nonlocal asked
        asked += 1
        first_does(partial(_replace_candidate, base, work, _fill(stage, factors)))
        name = f"factors {asked} of {search.evaluations}"
        (sums,) = measure_model(
            work, [loss], name=name, precision=stored_dtype(base), whole_bytes=whole_bytes, sequence_tokens=tokens
        )
        return float(sums.nll.sum() / sums.count.sum())

    found = search_factors(score, base=_count_from(base), context_tokens=tokens, search=search)
    first_does(partial(shutil.rmtree, work, ignore_errors=True))
    seeds = ", ".join(f"{name} {value:.4f}" for name, value in found.seed_scores.items())
    if rank_and_ranks()[0] == 0:
        say(f"factors: loss {found.score:.4f} after {format_count(found.evaluations, 'evaluation')}; {seeds}")
    return found


def draw_documents(corpus: Corpus, *, tokens: int, documents: int, seed: int) -> list[Document]:
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
            "no document is long enough for the search of factors",
            where="stages: rope.search",
            why=f"the longest training document has {longest:,} tokens, and the target is {tokens:,}",
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
