"""The model card of an export, its README.md: base, positions, stages, text with licences, measurements, serving.

It is made from the run's records only, so that it says what was done. A licence that is not known is said to be not
known: the card's head has no ``license`` then, and a person must decide.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ropewalk.core.quantity import format_amount, format_length
from ropewalk.model.engines import find_commands, is_native
from ropewalk.report.contents import Contents, read_run
from ropewalk.report.table import Table
from ropewalk.report.target import verdict_table
from ropewalk.report.verdict import judge_measures
from ropewalk.shape.read import read_shape

_UNKNOWN = "not known"
_HERE = "FOLDER"
_LANGUAGE = re.compile(r"[a-z]{2,3}")
"""Codes that the hub takes: not ``code``, ``none``, ``other`` or ``latin``."""


def make_card(run: Path, like: Path, *, checkpoint: str = "") -> str:
    """The card as Markdown, with a head that the Hugging Face hub reads.

    ``like`` is a model folder with the export's config. ``checkpoint`` names the checkpoint of an export that is not
    the run's last model: the run's measurements are then left out, because they are not this model's.
    """
    contents = read_run(run)
    languages = sorted({code for facts in contents.sources.values() for code in facts.get("languages", {}) if code})
    base, at, _ = contents.model.partition("@")  # the hub refuses a card whose base is none of its models
    told = [*_tell_model(contents, like, checkpoint), *_tell_text(contents), *_tell_measures(contents, checkpoint)]
    return _finish(
        [*told, *_tell_serving(like)],
        base=base if at and not Path(contents.model).exists() else None,
        languages=[code for code in languages if _LANGUAGE.fullmatch(code)],
    )


def make_plain_card(folder: Path) -> str:
    """The card of a model folder whose run is not known: its architecture, its length, and how to serve it."""
    shape = read_shape(folder)
    told = [f"# {_escape(shape.architecture)}, {format_length(shape.context_tokens)} tokens", ""]
    told.append(f"It reads {shape.context_tokens:,} tokens. How it was trained is not known here.")
    return _finish([*told, *_tell_serving(folder)], base=None, languages=[])


def _finish(body: Sequence[str], *, base: str | None, languages: Sequence[str]) -> str:
    """The card with its head."""
    from huggingface_hub import ModelCard, ModelCardData

    head = ModelCardData(
        base_model=base,
        library_name="transformers",
        language=list(languages) or None,
        tags=["ropewalk", "long-context"],
        pipeline_tag="text-generation",
    )
    text = "\n".join(body)
    return str(ModelCard(f"---\n{head.to_yaml()}\n---\n\n{text}\n", ignore_metadata_errors=False))


def _tell_model(contents: Contents, like: Path, checkpoint: str) -> Iterator[str]:
    base = "random weights" if contents.from_nothing else f"`{_escape(contents.model)}`"
    tokens = contents.base_context_tokens
    before = "" if tokens is None else f" from {format_length(tokens)}"
    yield f"# {_escape(contents.name)}"
    yield ""
    version = _escape(contents.versions.get("ropewalk", ""))
    yield (
        f"Trained by ropewalk {version} from {base}: the context goes{before} to "
        f"{format_length(contents.context_tokens)} tokens. Recipe digest `{contents.recipe_digest}`."
    )
    if checkpoint:
        yield f"\nThese are the weights of {_escape(checkpoint)}, not those of the run's end; they were not measured."
    yield "\n## Positions and stages\n"
    rows = []
    for stage in contents.stages:
        spec, positions = stage.spec, stage.facts.get("layers", [])
        amounts = [format_length(stage.reach_tokens), f"{stage.steps:,}", format_amount(float(spec["tokens"]))]
        rows.append([str(stage.number), *amounts, f"{spec['lr']:g}", "; ".join(positions) or spec["rope"]["kind"]])
    yield from _markdown(
        Table(["stage", "context", "steps", "tokens at most", "lr", "layers: positions"], rows, "lrrrrl")
    )


def _tell_text(contents: Contents) -> Iterator[str]:
    """Tokens by source over all stages, with the licences that the recipe or the packaged text names."""
    tokens: dict[str, int] = {}
    for stage in contents.stages:
        for name, read in stage.source_tokens.items():
            tokens[name] = tokens.get(name, 0) + read
    rows = [
        [
            name,
            str(contents.sources.get(name, {}).get("role", "")),  # the corpus may have been removed since
            format_amount(read),
            contents.sources.get(name, {}).get("license") or _UNKNOWN,
        ]
        for name, read in tokens.items()
        if read
    ]
    yield "\n## Text\n"
    if not rows:
        yield "The run noted no tokens by source."
        return
    yield from _markdown(Table(["source", "role", "tokens read", "licence"], rows, "llrl"))
    if any(row[-1] == _UNKNOWN for row in rows):
        yield "\nWhere a licence is not known, ask the owner of the text."
    yield "\nThe licence of the base applies to these weights, too."


def _tell_measures(contents: Contents, checkpoint: str) -> Iterator[str]:
    verdicts = [] if checkpoint else judge_measures(contents)
    if not verdicts:
        return
    yield "\n## Measured\n"
    yield "The base, the same weights with the new positions and no training (zero-shot), and this model (extended).\n"
    yield from _markdown(verdict_table(verdicts, intervals=True))


def _tell_serving(like: Path) -> Iterator[str]:
    yield "\n## Serve it\n"
    if not is_native(like):
        yield "No class of transformers has these positions: see LOADING.md in this folder."
    for serving in find_commands(like):
        command = serving.command.replace(str(like), _HERE)
        yield f"- {serving.engine}: " + (f"`{command}`" if command else f"no. {_escape(serving.note)}")


def _markdown(table: Table) -> Iterator[str]:
    yield _line(table.columns)
    yield "|" + "|".join("---:" if letter == "r" else "---" for letter in table.align) + "|"
    for row in table.cells:
        yield _line([cell.text for cell in row])


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(_escape(text) for text in texts) + " |"


def _escape(text: str) -> str:
    """Names come from outside: they must not end a cell, begin a tag or start a line."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
