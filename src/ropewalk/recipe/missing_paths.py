"""Files and folders that a recipe names and this machine does not have: told all together, before one is needed.

Only what can be seen at once is looked at: whether a path is there, or a glob has a match. What the files hold is read
where they are used. Addresses on the network are not asked for.
"""

from collections.abc import Iterator
from pathlib import Path

from ropewalk.core.error import UserError
from ropewalk.corpus.prompt_rules import PROBES
from ropewalk.corpus.read.find_files import WILD
from ropewalk.corpus.tokens.tokenizer_files import read_json_object, read_template
from ropewalk.recipe.finding import Finding
from ropewalk.recipe.spec import ModelSource, Recipe

_HERE = "this machine"
_FIX = "correct the path, or start where it is; a plan does not need the text"


def find_missing_paths(recipe: Recipe, *, prepared: bool) -> list[Finding]:
    """A warning for each path of ``recipe`` that is missing here; of the text none where the corpus is ``prepared``.

    It is no error, because a recipe may be planned on another machine than the one that trains.
    """
    named = [*_list_evaluated(recipe), *(() if prepared else _list_text(recipe))]
    told = [
        Finding("warning", key, f"{path}: no such file or folder, seen from {Path.cwd()}", _HERE, _FIX)
        for key, path in named
        if not is_there(path)
    ]
    return told if prepared else [*told, *_find_missing_template(recipe)]


def require_paths(recipe: Recipe) -> None:
    """Raise UserError where paths of ``recipe`` are missing, with all of them: before hours of preparation."""
    missing = find_missing_paths(recipe, prepared=False)
    if missing:
        raise UserError(
            "files that the recipe names are missing",
            where=", ".join(finding.key for finding in missing),
            why="; ".join(finding.message for finding in missing),
            fix="correct these keys, or put the files there",
        )


def _list_text(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The paths that the corpus is made of, with their keys."""
    if isinstance(recipe.model, ModelSource) and isinstance(recipe.model.init.tokenizer, str):
        yield "model.init.tokenizer", recipe.model.init.tokenizer
    for index, source in enumerate(recipe.corpus.sources):
        if source.path is not None:
            yield f"corpus.sources.{index}.path", source.path
        if source.scores is not None:
            yield f"corpus.sources.{index}.scores", source.scores
    for index, path in enumerate(recipe.corpus.decontaminate.files):
        if path != PROBES:
            yield f"corpus.decontaminate.files.{index}", path


def _list_evaluated(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The paths that the evaluation reads, with their keys."""
    for index, text in enumerate(recipe.evaluate.foreign):
        if text.path is not None:
            yield f"evaluate.foreign.{index}.path", text.path
    ruler = recipe.evaluate.ruler
    for key in ("essays", "squad", "hotpot"):
        path = None if ruler is None else getattr(ruler, key)
        if path is not None:
            yield f"evaluate.ruler.{key}", path
    for index, benchmark in enumerate(recipe.evaluate.benchmarks):
        for key, path in (("path", benchmark.path), ("demos", benchmark.demos)):
            if path is not None:
                yield f"evaluate.benchmarks.{index}.{key}", path


def is_there(path: str) -> bool:
    """Whether a path or a glob leads to anything here; an address on the network counts as there."""
    named = Path(path)
    if "://" in path or named.exists():
        return True
    pattern = named.relative_to(named.anchor)
    return WILD.search(path) is not None and next(Path(named.anchor).glob(str(pattern)), None) is not None


def _find_missing_template(recipe: Recipe) -> Iterator[Finding]:
    """A warning for each source that needs the chat template of a base that lies here and has none."""
    if not isinstance(recipe.model, str) or not (Path(recipe.model) / "config.json").is_file():
        return
    folder = Path(recipe.model)
    if read_template(folder, read_json_object(folder / "tokenizer_config.json")) is not None:
        return
    for index, source in enumerate(recipe.corpus.sources):
        if source.embedded is None and source.record_options.template == "chat":
            key, message = f"corpus.sources.{index}.options.template", f"{folder}: the model has no chat template"
            yield Finding("warning", key, message, _HERE, "copy that of its chat version there, or use plain")
