"""Reads a stage's sequences from a built corpus. Checks, training and inspection all use this one path."""

from ropewalk.corpus.mix.dataset import Dataset, deal_sequences
from ropewalk.corpus.mix.planned_strata import plan_strata
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
        tokens=stage.sequences * stage.context_length,
        max_repeats=recipe.corpus.max_repeats,
        rules=recipe.rules(stage),
    )


def open_stage(recipe: Recipe, index: int, corpus: Corpus, *, sequences: int | None = None) -> Dataset:
    """Open the first ``sequences`` sequences of a stage (all if None); a larger number begins with the same sequences.

    The stage's own number decides the shares, so that sequences after a rollback have those of the sequences before it.
    Raises UserError where a stratum has too little text for its share.
    """
    stage = recipe.stages[index]
    return deal_sequences(
        corpus,
        plan_stage_strata(recipe, index, corpus),
        context_tokens=stage.context_length,
        sequences=stage.sequences if sequences is None else sequences,
        seed=recipe.seed,
        stage=index,
        max_repeats=recipe.corpus.max_repeats,
        rules=recipe.rules(stage),
    )
