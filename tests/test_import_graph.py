"""The graph of imports between the modules: without a cycle, and with imports in functions only where a rule allows it.

An import stands at the top of its file. It may stand in a function where the package is an optional extra or slow to
import, where a module that needs torch is imported by a torch-free room, and in cli/, where ``--help`` loads no verb.
"""

import ast
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

from test_architecture import FILES, SRC, TORCH_FREE

ROOT = "ropewalk"
NEED_TORCH = {"torch", "transformers", "matplotlib"}
SLOW = {
    "matplotlib": "only a picture needs it",
    "rich": "only a bar on a terminal needs it",
    "huggingface_hub": "only a model that is not on this disk needs it",
    "torch._inductor": "only a compiled model needs it",
    "torch.utils.tensorboard": "imports the optional tensorboard",
}
OPTIONAL = (
    *("fast", "parquet", "chinese", "html", "pdf", "fasttext", "kenlm", "lora", "gguf", "liger", "hub"),
    *("cluster", "track"),
)
"""Extras of pyproject.toml: their packages may be absent."""

When = Literal["start", "call", "types"]


class Import(NamedTuple):
    """One name that a file imports, and when: as the file is imported, in a call, or only for a type checker."""

    line: int
    when: When
    module: str
    name: str = ""

    def of(self, sources: Mapping[str, str]) -> str:
        """The imported module: ``from a import b`` means a.b if it is one of ``sources``, else a."""
        whole = f"{self.module}.{self.name}"
        return whole if whole in sources else self.module


Imports = list[Import]
Sources = Mapping[str, str]
"""The text of each module, by its dotted name."""


def name_module(file: Path) -> str:
    return ".".join((ROOT, *file.relative_to(SRC).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {name_module(file): file for file in FILES}


@cache
def list_imports(source: str) -> Imports:
    """All imports of a file, those in functions and under TYPE_CHECKING too."""
    found: Imports = []

    def visit(node: ast.AST, when: When) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            when = "call"
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            when = "types"
        elif isinstance(node, ast.Import):
            found.extend(Import(node.lineno, when, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.extend(Import(node.lineno, when, str(node.module), alias.name) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child, when)

    visit(ast.parse(source), "start")
    return found


def find_cycle(sources: Sources) -> list[str] | None:
    """A circle of modules that import each other, at start or later; None if there is none."""
    graph = {
        name: {to for each in list_imports(text) if (to := each.of(sources)) in sources}
        for name, text in sources.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


def imported_at_start(name: str, sources: Sources) -> set[str]:
    """The foreign packages that importing module ``name`` imports, through our modules and their folders' too."""
    seen: set[str] = set()
    foreign: set[str] = set()
    stack = [name]
    while stack:
        at = stack.pop()
        if at not in sources:
            foreign.add(at.partition(".")[0])
        elif at not in seen:
            seen.add(at)
            stack += [at.rpartition(".")[0]]
            stack += [each.of(sources) for each in list_imports(sources[at]) if each.when == "start"]
    return foreign


def find_needless(name: str, sources: Sources, optional: set[str]) -> str | None:
    """The first import in a function of module ``name`` that no rule allows."""
    room = name.split(".")[1] if "." in name else ""
    for each in list_imports(sources[name]):
        to = each.of(sources)
        if each.when != "call":
            continue
        if to in sources:
            if room == "cli" or (room in TORCH_FREE and imported_at_start(to, sources) & NEED_TORCH):
                continue
        elif to.partition(".")[0] in optional or any(f"{to}.".startswith(f"{slow}.") for slow in SLOW):
            continue
        return f"line {each.line}: imports {to} in a function; it belongs at the top"
    return None


SOURCES = {name: file.read_text() for name, file in MODULES.items()}


def optional_packages() -> set[str]:
    extras = tomllib.loads((SRC.parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    packages = {re.split(r"[\[>]", wish)[0].replace("-", "_") for extra in OPTIONAL for wish in extras[extra]}
    return packages | {"fasttext"}  # the module of fasttext-predict


def test_no_module_imports_itself_through_others() -> None:
    assert find_cycle(SOURCES) is None
    late = {"ropewalk.a": "import ropewalk.b", "ropewalk.b": "def late():\n    from ropewalk import a"}
    assert find_cycle(late) == ["ropewalk.a", "ropewalk.b", "ropewalk.a"]
    assert find_cycle({**late, "ropewalk.b": "def late():\n    import numpy"}) is None


def test_an_import_in_a_function_has_a_reason() -> None:
    optional = optional_packages()
    assert {name: fault for name in SOURCES if (fault := find_needless(name, SOURCES, optional))} == {}


@pytest.mark.parametrize(
    ("room", "line", "fine"),
    [
        ("commands", "from ropewalk.train import loop", True),
        ("commands", "from ropewalk.core import seed", False),
        ("train", "from ropewalk.train import loop", False),
        ("cli", "from ropewalk.core import seed", True),
        ("train", "import torch", False),
        ("commands", "import numpy", False),
        ("corpus", "import pyarrow.parquet", True),
        ("report", "from matplotlib.figure import Figure", True),
        ("model", "import torch._inductor.exc", True),
    ],
)
def test_the_rule_of_imports_in_functions_by_example(room: str, line: str, fine: bool) -> None:
    sources = {"ropewalk.train.loop": "import torch", "ropewalk.core.seed": "import json"}
    sources[f"ropewalk.{room}.work"] = f"def work():\n    {line}"
    assert (find_needless(f"ropewalk.{room}.work", sources, optional_packages()) is None) == fine
