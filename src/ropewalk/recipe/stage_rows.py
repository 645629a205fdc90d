"""Reads a stage's sequences from a built corpus. Checks, training and inspection all use this one path."""

from ropewalk.corpus.mix.dataset import Dataset, open_dataset, plan_strata
from ropewalk.corpus.mix.strata import Stratum
from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.recipe.spec import Recipe


def plan_stage_strata(recipe: Recipe, index: int, corpus: Corpus) -> list[Stratum]:
    """The strata that a stage reads, each with its share; nothing is packed.

    Raises UserError where the corpus cannot give the stage's mix.
    """
    stage = recipe.stages[index]
    return plan_strata(
        corpus,
        recipe.mix(stage),
        context_tokens=stage.context_length,
        tokens=stage.rows * stage.context_length,
        max_repeats=recipe.corpus.max_repeats,
        rules=recipe.rules(stage),
    )


def open_stage(recipe: Recipe, index: int, corpus: Corpus, *, rows: int | None = None) -> Dataset:
    """Open the first ``rows`` sequences of a stage (all if None); a larger number begins with the same sequences.

    Raises UserError where a stratum has too little text for its share.
    """
    stage = recipe.stages[index]
    return open_dataset(
        corpus,
        mix=recipe.mix(stage),
        context_tokens=stage.context_length,
        rows=stage.rows if rows is None else rows,
        seed=recipe.seed,
        stage=index,
        max_repeats=recipe.corpus.max_repeats,
        rules=recipe.rules(stage),
    )


def source_shares(recipe: Recipe, index: int, corpus: Corpus) -> dict[str, float]:
    """The share of a stage's tokens that each source gives. The sequences are dealt out by these shares."""
    shares = dict.fromkeys(corpus.sources, 0.0)
    for stratum in plan_stage_strata(recipe, index, corpus):
        shares[stratum.source] += stratum.share
    return shares
