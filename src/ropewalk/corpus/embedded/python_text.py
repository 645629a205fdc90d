"""Text of the running Python: its reference manual, its docstrings, its source, and questions made of the last two.

Sources are parsed, not imported. Tests, character tables and generated build files are left out, because they repeat
themselves or name the machine. The order is shuffled by the seed, so a small size is a sample of everything.
"""

import ast
import importlib
import sysconfig
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ropewalk.core.quantity import PositiveCount
from ropewalk.core.record import Document
from ropewalk.core.seed import stream
from ropewalk.core.spec import Spec

_LEFT_OUT = {
    "site-packages",
    "dist-packages",
    "__pycache__",
    "test",
    "tests",
    "idle_test",
    "encodings",
    "pydoc_data",
    "lib2to3",
    "ensurepip",
}
_LEFT_OUT_PREFIXES = ("_sysconfigdata", "config-", "__phello__", "__hello__", "python3")
_SHORTEST_ANSWER, _LONGEST_ANSWER = 80, 4000
_SHORTEST_DOCSTRING, _SHORTEST_MANUAL = 40, 1000
Item = TypeVar("Item")
Function = ast.FunctionDef | ast.AsyncFunctionDef


class TopicDocuments(Spec):
    """Options: a document is cut at the next section once it has this many characters."""

    characters: PositiveCount = 40_000


class CodeDocuments(Spec):
    """Options: a package longer than this is cut between files."""

    characters: PositiveCount = 120_000


class CodeQuestions(Spec):
    """Options: questions about one package are joined until a document has this many characters."""

    characters: PositiveCount = 4_000


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of the standard library: its path under ``lib/python3.x`` and its text."""

    path: str
    text: str

    @property
    def package(self) -> str:
        """The top-level package, or the name of a single module."""
        return self.path.split("/")[0].removesuffix(".py")

    @property
    def module(self) -> str:
        """The dotted name of the module."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def read_files() -> Iterator[SourceFile]:
    """The source files of the standard library without tests and tables, sorted by path."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if not _LEFT_OUT.intersection(parts) and not parts[0].startswith(_LEFT_OUT_PREFIXES):
            yield SourceFile("/".join(parts), path.read_text("utf-8", errors="ignore"))


def read_code(options: CodeDocuments, seed: int) -> Iterator[Document]:
    """One or more documents per package or module. Its files are in order, each after a line with its path."""
    packages = _gather_packages()
    for package in _shuffle(list(packages), "python_code", seed):
        texts = [f"# {file.path}\n{file.text.strip()}\n" for file in packages[package] if file.text.strip()]
        for number, text in enumerate(_join(texts, options.characters, "\n\n")):
            yield Document(text, "python_code", "domain", "code", f"python_code-{package}-{number}")


def read_topics(options: TopicDocuments, seed: int) -> Iterator[Document]:
    """The language reference in parts and the docstrings of each package, in documents of about equal length."""
    topics: Mapping[str, str] = importlib.import_module("pydoc_data.topics").topics
    manual = [f"{text.strip()}\n" for _, text in sorted(topics.items()) if len(text) > _SHORTEST_MANUAL]
    packages = _gather_packages()
    names: list[str | None] = [*packages, *(None for _ in manual)]
    for name in _shuffle(names, "python_topics", seed):
        entries = [manual.pop()] if name is None else [entry for file in packages[name] for entry in _describe(file)]
        if sum(map(len, entries)) < _SHORTEST_MANUAL:
            continue
        title = f"reference-{len(manual)}" if name is None else name
        for number, text in enumerate(_join(entries, options.characters, "\n")):
            yield Document(text, "python_topics", "general", "en", f"python_topics-{title}-{number}")


def write_code_questions(options: CodeQuestions, seed: int) -> Iterator[Document]:
    """Name, signature and docstring of a function are the question. Its source is the answer and has the loss."""
    packages = _gather_packages()
    for package in _shuffle(list(packages), "code_questions", seed):
        text, spans, number = "", [], 0
        for question, answer in (pair for file in packages[package] for pair in _ask(file)):
            begin = len(text) + len(question)
            text += f"{question}{answer}\n\n"
            spans.append((begin, begin + len(answer)))
            if len(text) >= options.characters:
                yield _make_questions(text, spans, f"{package}-{number}")
                text, spans, number = "", [], number + 1
        if text:
            yield _make_questions(text, spans, f"{package}-{number}")


def _make_questions(text: str, spans: list[tuple[int, int]], name: str) -> Document:
    return Document(text, "code_questions", "instruction", "code", f"code_questions-{name}", tuple(spans))


def _gather_packages() -> dict[str, list[SourceFile]]:
    packages: dict[str, list[SourceFile]] = {}
    for file in read_files():
        packages.setdefault(file.package, []).append(file)
    return packages


def _shuffle(items: Sequence[Item], purpose: str, seed: int) -> list[Item]:
    return [items[i] for i in stream("embedded", purpose, seed).permutation(len(items))]


def _join(texts: list[str], characters: int, between: str) -> Iterator[str]:
    gathered: list[str] = []
    for text in texts:
        if gathered and sum(map(len, gathered)) + len(text) > characters:
            yield between.join(gathered)
            gathered = []
        gathered.append(text)
    yield between.join(gathered)


def _parse(file: SourceFile) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # invalid escapes in old modules of the standard library
        return ast.parse(file.text)


def _describe(file: SourceFile) -> Iterator[str]:
    """The docstrings of a module, its classes and functions, each after its name and signature."""

    def visit(node: ast.Module | ast.ClassDef | Function, name: str) -> Iterator[str]:
        docstring = ast.get_docstring(node)
        if docstring and len(docstring) >= _SHORTEST_DOCSTRING:
            title = f"{name}({ast.unparse(node.args)})" if isinstance(node, Function) else name
            yield f"{title}\n\n{docstring.strip()}\n"
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from visit(child, f"{name}.{child.name}")

    yield from visit(_parse(file), file.module)


def _ask(file: SourceFile) -> Iterator[tuple[str, str]]:
    """(question, answer) for each documented function of a file."""
    lines = file.text.splitlines()
    for node in ast.walk(_parse(file)):
        if not isinstance(node, Function):
            continue
        docstring = ast.get_docstring(node)
        if not docstring or len(docstring) < _SHORTEST_DOCSTRING or len(node.body) < 2:
            continue
        answer = "\n".join(lines[node.body[1].lineno - 1 : node.end_lineno])
        if _SHORTEST_ANSWER <= len(answer) <= _LONGEST_ANSWER:
            signature = f"def {node.name}({ast.unparse(node.args)}):"
            yield (
                f"Write the body of this function of the module {file.module}.\n\n"
                f'{signature}\n    """{docstring}"""\n\nAnswer:\n',
                answer,
            )
