"""Scores of a clean text, for the choice of documents: zlib's ratio, a fastText or KenLM model, or the user's function.

The ratio of a whole document grows with its length, so a band over whole documents would choose by length. It is
measured in windows of 4 KiB.
"""

import importlib
import importlib.util
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ropewalk.core.digest import digest_file
from ropewalk.core.error import UserError, explain_import_fault
from ropewalk.core.quantity import is_finite
from ropewalk.core.record import Document
from ropewalk.corpus.selection_rules import ScoreRules
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.language import language_kind

Scorer = Callable[[Document], dict[str, float]]
_WINDOW, _WINDOWS = 4096, 16
_FORMAT = 1
_DIGITS = 6
_BY_CHARACTER = ("zh", "ja", "han")
_BROKEN_MODEL = (OSError, ValueError, RuntimeError)
"""What the libraries raise for a file that is no model of theirs."""


def describe_score(source: Source) -> dict[str, Any] | None:
    """All that determines the scores of a source, as JSON data; None where it has none.

    Raises UserError where a model or a module is not there.
    """
    rules = source.score
    if rules is None:
        return None
    made_of: dict[str, Any] = {"format": _FORMAT, **rules.model_dump(exclude={"fasttext", "kenlm"})}
    for name in ("fasttext", "kenlm"):
        path = getattr(rules, name)
        made_of[name] = path and digest_file(_require(path, f"source {source.name}: score.{name}"))
    if rules.callable is not None:
        code = _find_module(rules.callable, source)
        made_of["code"] = digest_file(code) if code is not None else None
    return made_of


def make_scorer(source: Source) -> Scorer | None:
    """The function that scores a document of a source; None where the source has no ``score``.

    Raises UserError where a model, a library or a function is not there.
    """
    rules = source.score
    if rules is None:
        return None
    makers = {"gzip": lambda _: compression, "fasttext": _fasttext, "kenlm": _kenlm, "callable": _callable}
    functions = {name: makers[name](source) for name in rules.columns}
    return partial(_score, functions, source.name)


def _score(functions: Mapping[str, Callable[[Document], Any]], source: str, document: Document) -> dict[str, float]:
    found = {}
    for name, function in functions.items():
        value = function(document)
        if not is_finite(value):
            raise UserError(
                "a score is no number",
                where=f"document {document.id} of source {source}: score.{name}",
                why=f"it is {value!r:.80}",
                fix="let the function return a finite number for every text",
            )
        found[name] = round(float(value), _DIGITS)
    return found


def compression(document: Document) -> float:
    """How many times zlib makes the text smaller: the mean of at most 16 windows of 4 KiB, spread evenly."""
    text = document.text
    last = max(0, len(text) - _WINDOW)
    count = min(_WINDOWS, max(1, len(text) // _WINDOW))
    starts = [last * number // max(1, count - 1) for number in range(count)]
    windows = [text[start : start + _WINDOW].encode()[:_WINDOW] for start in starts]
    ratios = [len(window) / len(zlib.compress(window, 6)) for window in windows]
    return sum(ratios) / len(ratios)


def _fasttext(source: Source) -> Callable[[Document], float]:
    rules = _rules(source)
    where = f"source {source.name}: score.fasttext"
    path = _require(str(rules.fasttext), where)
    try:
        import fasttext
    except ImportError as fault:
        raise _missing(fault, "fasttext", where) from None
    try:
        model = fasttext.load_model(str(path))
    except _BROKEN_MODEL as fault:
        raise _broken(path, fault, where) from None

    def score(document: Document) -> float:
        labels, shares = model.predict(document.text.replace("\n", " "), k=-1)
        found: dict[str, float] = dict(zip(labels, map(float, shares), strict=True))
        if rules.label not in found:
            raise UserError(
                "the fastText model has no such label",
                where=f"source {source.name}: score.label {rules.label}",
                why=f"its labels are {', '.join(sorted(found))}",
                fix="give one of them",
            )
        return found[str(rules.label)]

    return score


def _kenlm(source: Source) -> Callable[[Document], float]:
    where = f"source {source.name}: score.kenlm"
    path = _require(str(_rules(source).kenlm), where)
    try:
        import kenlm
    except ImportError as fault:
        raise _missing(fault, "kenlm", where) from None
    try:
        model = kenlm.Model(str(path))
    except _BROKEN_MODEL as fault:
        raise _broken(path, fault, where) from None

    def score(document: Document) -> float:
        units, total = 0, 0.0
        for line in _lines_of_units(document):
            total += model.score(line, bos=True, eos=True)
            units += line.count(" ") + 2  # the units, and the end of the line
        return float(10 ** (-total / max(1, units)))

    return score


def _lines_of_units(document: Document) -> Iterator[str]:
    """Yield the lines that are not empty, with one space between units: characters of Han and kana, else words."""
    by_character = language_kind(document.language) in _BY_CHARACTER
    for line in document.text.split("\n"):
        units = [letter for letter in line if not letter.isspace()] if by_character else line.split()
        if units:
            yield " ".join(units)


def _callable(source: Source) -> Callable[[Document], Any]:
    named = str(_rules(source).callable)
    _find_module(named, source)
    module, _, name = named.partition(":")
    where = f"source {source.name}: score.callable {named}"
    try:
        with _working_folder():
            function = getattr(importlib.import_module(module), name, None)
    except (Exception, SystemExit) as fault:  # a module can raise anything
        raise _failed(f"the module {module} cannot be loaded", fault, where) from fault
    if not callable(function):
        raise UserError(
            "there is no such function to score with",
            where=where,
            why=f"the module {module} has no function {name}",
            fix="correct the name: module:function",
        )

    def score(document: Document) -> Any:
        try:
            with _working_folder():  # it may import more
                return function(document.text, dict(document.metadata))
        except (Exception, SystemExit) as fault:  # a function can raise anything
            raise _failed("the function that scores failed", fault, f"{where}, document {document.id}") from fault

    return score


def _failed(what: str, fault: BaseException, where: str) -> UserError:
    """The error for a module or function of the user that raised ``fault``, with the line at which it did."""
    last = traceback.extract_tb(fault.__traceback__)[-1]
    place = f"{fault.filename}, line {fault.lineno}" if isinstance(fault, SyntaxError) else None
    return UserError(
        what,
        where=where,
        why=f"{type(fault).__name__}: {fault} ({place or f'{last.filename}, line {last.lineno}'})",
        fix="correct it; the function takes a text and the document's metadata, and returns a finite number",
    )


def _broken(path: Path, fault: Exception, where: str) -> UserError:
    return UserError(
        "a model to score with cannot be read",
        where=where,
        why=f"{path}: {fault}",
        fix="give a model file of this library",
    )


@contextmanager
def _working_folder() -> Iterator[None]:
    """Meanwhile modules are also found in the working folder, behind installed ones. Python searches it by itself only
    where it was started with ``-m``, and not as the program ``ropewalk``."""
    folder = str(Path.cwd())
    sys.path.append(folder)
    try:
        yield
    finally:
        del sys.path[len(sys.path) - 1 - sys.path[::-1].index(folder)]


def _find_module(named: str, source: Source) -> Path | None:
    """The file of the module of a function. Raises UserError where there is no such module."""
    module = named.partition(":")[0]
    try:
        with _working_folder():
            found = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # ValueError: a module that was made by hand has no spec
        found = None
    except (Exception, SystemExit) as fault:  # the package around it, which is loaded, can raise anything
        where = f"source {source.name}: score.callable {named}"
        raise _failed(f"the module {module} cannot be loaded", fault, where) from fault
    if found is None:
        raise UserError(
            "there is no such module to score with",
            where=f"source {source.name}: score.callable {named}",
            why=f"Python does not find the module {module}",
            fix="correct the name, put the module into the working folder, or install it",
        )
    path = Path(found.origin or "")
    return path if path.is_file() else None


def _rules(source: Source) -> ScoreRules:
    assert source.score is not None
    return source.score


def _require(path: str, where: str) -> Path:
    if not Path(path).is_file():
        raise UserError(
            "a model to score with is not there", where=where, why=f"{path} is no file", fix="correct the path"
        )
    return Path(path)


def _missing(fault: ImportError, library: str, where: str) -> UserError:
    return UserError(
        f"the library {library} is not installed",
        where=where,
        why=explain_import_fault(fault, library),
        fix=f"pip install 'ropewalk[{library}]', or use another score",
    )
