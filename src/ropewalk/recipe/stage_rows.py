"""The rows of a recipe's stage out of a built corpus: one way to them for checking, training and looking at them."""

from ropewalk.corpus.mix.dataset import Feed, open_feed, plan_strands
from ropewalk.corpus.mix.strata import Strand
from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.recipe.spec import Recipe


def plan_stage(recipe: Recipe, index: int, corpus: Corpus) -> list[Strand]:
    """What a stage reads, with which share each; nothing is packed. Raises UserError for what cannot be read so."""
    stage = recipe.stages[index]
    return plan_strands(
        corpus,
        recipe.mix(stage),
        context_tokens=stage.context,
        tokens=stage.rows * stage.context,
        max_repeats=recipe.corpus.max_repeats,
        rules=recipe.rules(stage),
    )


def open_stage(recipe: Recipe, index: int, corpus: Corpus, *, rows: int | None = None) -> Feed:
    """The first ``rows`` rows of a stage (all if None); more of them begin with the same ones.

    Raises UserError where a strand has too little text for its share.
    """
    stage = recipe.stages[index]
    return open_feed(
        corpus,
        mix=recipe.mix(stage),
        context_tokens=stage.context,
        rows=stage.rows if rows is None else rows,
        seed=recipe.seed,
        stage=index,
        max_repeats=recipe.corpus.max_repeats,
        rules=recipe.rules(stage),
    )


def source_shares(recipe: Recipe, index: int, corpus: Corpus) -> dict[str, float]:
    """The share of a stage's tokens that each source is to give: what its rows are dealt out by."""
    shares = dict.fromkeys(corpus.sources, 0.0)
    for strand in plan_stage(recipe, index, corpus):
        shares[strand.source] += strand.share
    return shares
