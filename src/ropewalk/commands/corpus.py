"""The verbs ``ropewalk corpus report`` and ``mix``: a prepared corpus in figures, and the effect of other weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

from ropewalk.commands.prepare import ask_probes
from ropewalk.commands.run_inputs import base_model, require
from ropewalk.core.artifact import new_folder, write_whole
from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count
from ropewalk.core.run_folder import CARD, RunFolder
from ropewalk.core.strict_json import spell_json
from ropewalk.corpus.dedup.decontaminate import read_prompts
from ropewalk.corpus.inspect.card import describe_data, write_card
from ropewalk.corpus.inspect.dropped import read_columns
from ropewalk.corpus.inspect.duplicates import show_copies
from ropewalk.corpus.inspect.statistics import survey_corpus
from ropewalk.corpus.inspect.what_if import format_weighing, weigh
from ropewalk.corpus.mix.dataset import Dataset
from ropewalk.corpus.mix.strata import DryTextError
from ropewalk.corpus.prepare.sources import tokenize_share
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.foreign_formats import Format, write_tokens
from ropewalk.corpus.tokens.same_tokenizer import EXPORTED, require_tokenizer
from ropewalk.corpus.tokens.tokenizer import load_tokenizer
from ropewalk.recipe.check_corpus import describe_long_share
from ropewalk.recipe.load import load_recipe
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage_dataset import open_stage
from ropewalk.report.corpus import write_corpus_page

_OF_RECIPE = frozenset(Recipe.model_fields)


def report_corpus(recipe: Recipe) -> dict[str, Any]:
    """Write ``corpus.html`` and ``corpus.json`` into the run folder. Raises UserError if the corpus is not built.

    The page shows the prepared text also where a stage asks for more tokens than there are; this is a warning, in
    ``undrawn`` of the survey.
    """
    folder = RunFolder(Path(recipe.run))
    corpus = open_corpus(require(folder.corpus, verb="prepare"))
    corpus.require_current()
    tokenizer = load_tokenizer(base_model(folder, recipe))
    require_tokenizer(corpus, tokenizer, where=base_model(folder, recipe))
    datasets, undrawn = _open_stages(recipe, corpus)
    counted = survey_corpus(corpus, datasets, tokenizer=tokenizer, seed=recipe.seed)
    counted["undrawn"] = undrawn
    counted["copies"] = show_copies(corpus, tokenizer=tokenizer, seed=recipe.seed)
    counted["columns"] = read_columns(corpus)
    counted["card"] = describe_data(corpus, recipe.corpus)
    write_corpus_page(folder.corpus_page, folder.root.name, counted)
    write_whole(folder.corpus_survey, spell_json(counted, ensure_ascii=False) + "\n")
    write_whole(folder.corpus_card, write_card(corpus, recipe.corpus))
    made = [str(folder.corpus_page), str(folder.corpus_survey), str(folder.corpus_card)]
    faults = [f"warning: stage {each['stage']}: {fault}" for each in counted["stages"] for fault in each["faults"]]
    faults += [
        line
        for each in undrawn
        for line in (f"warning: stage {each['stage']}: {each['fault']}: {each['why']}", f"  fix: {each['fix']}")
    ]
    return {"made": made, "survey": counted, "text": "\n".join([*faults, *made])}


def _open_stages(recipe: Recipe, corpus: Corpus) -> tuple[dict[int, Dataset], list[dict[str, Any]]]:
    """The sequences of each stage, and what is wrong with the stages whose text runs dry."""
    datasets, undrawn = dict[int, Dataset](), list[dict[str, Any]]()
    for stage in range(len(recipe.stages)):
        try:
            datasets[stage] = open_stage(recipe, stage, corpus)
        except DryTextError as error:
            undrawn.append({"stage": stage, "fault": error.what, "why": error.why, "fix": error.fix})
    return datasets, undrawn


def write_recipe_card(recipe: Recipe) -> dict[str, Any]:
    """Write the data card into the run folder. Raises UserError if the corpus is not built."""
    folder = RunFolder(Path(recipe.run))
    corpus = open_corpus(require(folder.corpus, verb="prepare"))
    corpus.require_current()
    card = write_card(corpus, recipe.corpus)
    write_whole(folder.corpus_card, card)
    return {"made": str(folder.corpus_card), "card": card, "text": str(folder.corpus_card)}


def tokenise_recipe(recipe: Recipe, share: str) -> dict[str, Any]:
    """Make the shards of one share of the recipe's text, such as ``3/16``. Only the token store is written."""
    number, _, of = share.partition("/")
    if not (number.isdigit() and of.isdigit() and int(number) < int(of)):
        raise UserError(
            "this is not a valid share",
            where=f"--share {share}",
            why="a share is I/N: its number from 0, and the number of shares",
            fix="--share 0/16 up to --share 15/16; of a Slurm array: $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT",
        )
    base = base_model(RunFolder(Path(recipe.run)), recipe)
    done = tokenize_share(
        recipe.corpus,
        tokenizer=load_tokenizer(base),
        prompts=read_prompts(recipe.corpus.decontaminate, ask_probes(recipe, base)),
        seed=recipe.corpus_seed,
        share=int(number),
        shares=int(of),
    )
    then = "run the array again: sections are compared once all shares are surveyed" if done.waits else "ready"
    text = f"share {share}: {format_count(done.tasks, 'task')} done; {then}"
    return {"share": share, "tasks": done.tasks, "waits": done.waits, "text": text}


def export_corpus(recipe: Recipe, out: Path, format: str) -> dict[str, Any]:
    """Write every source's training documents into the new folder ``out``, in another trainer's format."""
    if format not in get_args(Format) or out.exists():
        there = out.exists()
        raise UserError(
            "the new folder is there already" if there else "there is no such format",
            where=str(out) if there else f"--format {format}",
            why="nothing is ever overwritten" if there else "known formats: " + ", ".join(get_args(Format)),
            fix="name another folder, or remove it" if there else "choose one of them",
        )
    corpus = open_corpus(require(RunFolder(Path(recipe.run)).corpus, verb="prepare"))
    corpus.require_current()  # its card says what was dropped
    kind = cast(Format, format)
    inputs = {"corpus": corpus.digest, "tokenizer": corpus.tokenizer}
    with new_folder(out, kind=f"{EXPORTED}{format}", inputs=inputs) as work:
        for name in corpus.sources:
            held = corpus.train(name)
            documents = (held.read(document) for document in range(len(held)))
            write_tokens(documents, work / name, format=kind, vocabulary=corpus.vocabulary)
        (work / CARD).write_text(write_card(corpus, recipe.corpus), encoding="utf-8")
    return {"made": str(out), "tokens": sum(corpus.facts(name).tokens for name in corpus.sources), "text": str(out)}


def mix_corpus(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The tokens, repeats and lengths that every stage would read with other weights, computed from indices alone.

    Overrides set keys of the corpus (``mix.general=6``), or of the recipe if they begin with one of its keys. The
    corpus must be built, with the recipe's own weights or with any other.
    """
    recipe = load_recipe(path, [_address(override) for override in overrides])
    corpus = open_corpus(require(RunFolder(Path(recipe.run)).corpus, verb="prepare"))
    if sorted(corpus.sources) != sorted(source.name for source in recipe.corpus.sources):
        raise UserError(
            "the corpus has other sources than the recipe",
            where=recipe.run,
            why=f"it was built from {', '.join(corpus.sources)}",
            fix="override weights only, or prepare the corpus of this recipe in another run folder",
        )
    stages = [
        weigh(
            corpus,
            recipe.mix(stage),
            context_tokens=stage.context_length,
            tokens=stage.sequences * stage.context_length,
            max_repeats=recipe.corpus.max_repeats,
            rules=recipe.rules(stage),
        )
        for stage in recipe.stages
    ]
    text = "\n\n".join(f"stage {number}\n{format_weighing(found)}" for number, found in enumerate(stages))
    long_shares = [*describe_long_share(recipe, corpus)]
    return {"stages": stages, "long_shares": long_shares, "text": "\n".join([text, *long_shares])}


def _address(override: str) -> str:
    return override if override.partition("=")[0].split(".")[0] in _OF_RECIPE else f"corpus.{override}"
