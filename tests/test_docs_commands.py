"""The commands, recipes and messages that the tutorials and how-tos show are ones that the program accepts or prints.

No command is run here. Each is parsed by the command line's own parser, and its overrides are applied to its recipe.
"""

import ast
import importlib
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from ropewalk.cli.main import app
from ropewalk.recipe.explain import find_places
from ropewalk.recipe.load import load_recipe, parse_advice, parse_evaluate, parse_export, parse_recipe, parse_stage
from ropewalk.recipe.plain_yaml import parse_yaml
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.suite import find_suite

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("tutorial/*.md"), *DOCS.glob("how-to/*.md")])
IDS = [str(page.relative_to(DOCS)) for page in PAGES]
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"`([^`\n]+)`")
NO_RECIPE: dict[str, Callable[[list[str]], object]] = {
    "advise": parse_advice,
    "extend": parse_stage,
    "export": parse_export,
    "evaluate": lambda overrides: parse_evaluate(overrides, find_suite("quick", base_tokens=512, reach_tokens=2048)),
}
NO_OVERRIDES = {"schema", "replay"}


def find_blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [block for _, told, block in BLOCK.findall(text) if told == language]


def find_commands(page: Path) -> Iterator[str]:
    """Every line of a block, and every piece of code in the text, that calls ropewalk."""
    for block in find_blocks(page, ""):
        for line in block.replace("\\\n", " ").splitlines():
            if (begin := re.search(r"^\s*(?:torchrun .*--no-python )?ropewalk (?=\w)", line)) is not None:
                yield line[begin.end() - len("ropewalk ") :]
    for code in QUOTED.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if code.startswith("ropewalk ") and " " in code.removeprefix("ropewalk "):
            yield code


def find_recipe(name: str) -> Path | str:
    """The recipe of a command: a file that ships, or a block of a tutorial whose first line is its name."""
    if name == "RECIPE":
        return ROOT / "recipes" / "quickstart.yaml"
    for block in (block for page in PAGES for block in find_blocks(page, "yaml")):
        if block.startswith(f"# {name}\n"):
            return block
    return ROOT / name


def check_overrides(verb: str, target: str, overrides: list[str], folder: Path) -> None:
    if not target.endswith(".yaml") and target != "RECIPE":
        NO_RECIPE[verb](overrides)
        return
    if verb == "mix":  # its overrides begin below the corpus
        overrides = [f"corpus.{each}" for each in overrides]
    recipe = find_recipe(target)
    if isinstance(recipe, str):
        (folder / target).write_text(recipe, encoding="utf-8")
        recipe = folder / target
    load_recipe(recipe, overrides)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_is_one(page: Path, tmp_path: Path) -> None:
    found = list(find_commands(page))
    assert found or page.name == "index.md"
    for line in found:
        command: Any = typer.main.get_command(app)
        words = shlex.split(line.partition(" > ")[0])[1:]
        verb = words[0]
        while hasattr(command, "commands"):
            verb = words.pop(0)
            command = command.commands[verb]
        given = command.make_context(verb, list(words)).params
        lists = [value for value in given.values() if isinstance(value, list | tuple)]
        overrides = [each for value in lists for each in value if "=" in each]
        targets = [
            str(value) for value in given.values() if isinstance(value, Path | str) and value != given.get("kind")
        ]
        if verb not in NO_OVERRIDES:
            target = next((each for each in targets if each.endswith(".yaml") or each == "RECIPE"), targets[0])
            check_overrides(verb, target, overrides, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_recipe_holds_together(page: Path) -> None:
    whole = parse_yaml((ROOT / "recipes" / "quickstart.yaml").read_text(encoding="utf-8"), where="quickstart")
    for block in find_blocks(page, "yaml"):
        assert parse_recipe({**whole, **parse_yaml(block, where=page.name)}, where=page.name)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_key_exists(page: Path) -> None:
    places = {place for held in find_places(Recipe).values() for place in held}
    for code in QUOTED.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        key = re.sub(r"\.\d+(?=\.|$)", "[]", re.split(r"[=:]", code)[0])
        if re.fullmatch(r"(corpus|stages|parallel|evaluate|export)(\[\])?(\.\w+(\[\])?)+", key):
            assert key in places, f"no key {key}"


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: str(page.relative_to(DOCS)))
def test_what_a_page_imports_and_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block in find_blocks(page, "python"):
        for module, names in re.findall(r"^from (ropewalk[\w.]*) import ([\w, ]+)$", block, re.MULTILINE):
            held = importlib.import_module(module)
            for name in names.split(", "):
                assert hasattr(held, name), f"no {name} in {module}"
    for named in re.findall(r"\bdocs/([\w/-]+\.md)", text):
        assert (DOCS / named).is_file() or page.name == "log.md", f"no page {named}"


def find_texts() -> str:
    """All texts of the program, one a line; where a value is put into one, its parts stand on lines of their own."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "src").rglob("*.py"))
    nodes = (node for tree in trees for node in ast.walk(tree))
    return "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def test_every_message_is_printed_so() -> None:
    """In the page of troubles, what follows ``Message:`` and holds a blank is a text of the program."""
    page = (DOCS / "how-to" / "troubleshoot.md").read_text(encoding="utf-8")
    told = [code for line in page.splitlines() if re.search(r"Messages?: `", line) for code in QUOTED.findall(line)]
    texts = find_texts()
    assert len(told) > 10
    for message in told:
        for part in filter(None, (part.strip() for part in message.split("…"))):
            assert part in texts, f"no text {part!r}"
