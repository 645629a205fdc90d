"""``ropewalk prepare``: the token store of a recipe; for a model that starts from nothing also its first weights."""

from pathlib import Path

from ropewalk.commands.claim import read_base_shape, refuse_findings
from ropewalk.commands.on_ranks import on_ranks
from ropewalk.commands.run_inputs import base_model, rank_setup
from ropewalk.core.artifact import is_finished
from ropewalk.core.run_folder import RunFolder
from ropewalk.corpus.prepare.build import build, read_tokenizer_texts
from ropewalk.corpus.prepare.foreign_documents import read_foreign, refuse_known_documents
from ropewalk.corpus.prompt_rules import PROBES
from ropewalk.corpus.read.source import source_files
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.tokenizer import load_tokenizer
from ropewalk.corpus.tokens.train_tokenizer import train_tokenizer
from ropewalk.model.folder import check_tokenizer
from ropewalk.plan.rank_setup import RankSetup
from ropewalk.recipe.check import base_context
from ropewalk.recipe.check_corpus import check_corpus
from ropewalk.recipe.missing_paths import require_paths
from ropewalk.recipe.spec import Init, ModelSource, Recipe
from ropewalk.shape.read import read_shape


def prepare_corpus(recipe: Recipe, folder: RunFolder) -> None:
    """Prepare the token store; for a model that starts from nothing also its tokenizer and first weights.

    Raises UserError, before anything else is done, where files that the recipe names are missing; and at the end where
    the corpus cannot give what the stages ask for.
    """
    if not is_finished(folder.corpus):
        require_paths(recipe)
    if isinstance(recipe.model, ModelSource) and not is_finished(folder.initial):
        init = recipe.model.init
        tokenizer = folder.tokenizer
        if isinstance(init.tokenizer, str):
            tokenizer = Path(init.tokenizer)
        elif not tokenizer.exists():
            texts = read_tokenizer_texts(recipe.corpus, seed=recipe.corpus_seed)
            train_tokenizer(texts, vocabulary=init.tokenizer, folder=tokenizer)
        setup = RankSetup(recipe.parallel.device)
        on_ranks(init_on_rank, 1, init, tokenizer, folder.initial, recipe.seed, setup=setup)
    is_new = not is_finished(folder.corpus)
    if is_new:
        _build_corpus(recipe, folder)
    # Now, and not when the model is extended or after days of training.
    if is_new or not is_finished(folder.extended(0)):
        corpus, base_tokens = open_corpus(folder.corpus), base_context(recipe, read_base_shape(recipe))
        _refuse_known_text(recipe, corpus, base_tokens)
        findings = [*check_corpus(recipe, corpus, base_tokens)]
        refuse_findings(findings, fix="correct that key, or add text to the sources; then the same command continues")


def _build_corpus(recipe: Recipe, folder: RunFolder) -> None:
    """Build the store. Raises UserError where the tokenizer does not fit, or text outside of the mix cannot be read."""
    base = base_model(folder, recipe)
    check_tokenizer(base, vocabulary=read_shape(base).vocabulary)
    for text in recipe.evaluate.foreign:  # before hours of preparation
        if text.embedded is None:
            source_files(text.source)
    spoken, probes = load_tokenizer(base), ask_probes(recipe, base)
    build(recipe.corpus, tokenizer=spoken, seed=recipe.corpus_seed, folder=folder.corpus, probes=probes)


def _refuse_known_text(recipe: Recipe, corpus: Corpus, base_tokens: int | None) -> None:
    """Raise UserError where text outside of the mix is in the mix, where it shows no forgetting.

    Each start asks until the training begins, so that a second one does not train for an evaluation that will refuse.
    """
    for text in recipe.evaluate.foreign:
        asked = {"context_tokens": base_tokens or 1, "tokens": recipe.evaluate.short_tokens}
        refuse_known_documents(text.name, read_foreign(text.embedded or text.source, **asked), corpus)


def ask_probes(recipe: Recipe, base: Path) -> dict[str, list[str]]:
    """The prompts of the recipe's own probes, by task, if its corpus must not contain them; else empty."""
    if PROBES not in recipe.corpus.decontaminate.files:
        return {}
    prompts: dict[str, list[str]] = on_ranks(write_prompts, 1, recipe, base, setup=rank_setup(recipe, base))
    return prompts


def init_on_rank(spec: Init, tokenizer: Path, out: Path, seed: int) -> None:
    """Write the first weights of a model that starts from nothing into ``out``."""
    from ropewalk.model.init import init_model

    init_model(spec, out, tokenizer=tokenizer, seed=seed)


def write_prompts(recipe: Recipe, base: Path) -> dict[str, list[str]]:
    """The texts of every retrieval prompt of the recipe, by task."""
    from ropewalk.evaluate.evaluate import plan_measurements
    from ropewalk.evaluate.retrieval import Retrieval

    tokenizer, base_tokens = load_tokenizer(base), read_shape(base).context_tokens
    planned = plan_measurements(recipe.evaluate, tokenizer, corpus=None, base_tokens=base_tokens)
    asked = [each for each in planned if isinstance(each, Retrieval)]
    return {each.task: [tokenizer.decode(item.tokens) for item in each.items] for each in asked}
