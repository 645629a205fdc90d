"""The schema accepts what we accept, refuses what we refuse, explains every key, and is what the docs show."""

import copy
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter, ValidationError
from typer.testing import CliRunner

from ropewalk.cli.main import app
from ropewalk.core.error import UserError
from ropewalk.core.quantity import COUNT
from ropewalk.core.spec import Spec
from ropewalk.recipe.key_table import place_table
from ropewalk.recipe.load import parse_recipe, read_data
from ropewalk.recipe.schema import make_schema

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "recipes").glob("*.yaml"))
NOT_COUNTS = ("seed", "seeds", "draw_seed", "vary")  # the values of ``vary`` are read by the keys that they are of


def kind_of(path: Path) -> str:
    return "study" if "arms" in read_data(path) else "recipe"


@functools.cache
def validator_of(kind: str) -> Draft202012Validator:
    """A valid schema of a recipe or a study; no test changes it."""
    schema = make_schema(kind)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_shipped_file_is_valid(path: Path) -> None:
    kind = kind_of(path)
    assert (kind == "study") == path.stem.startswith("study-")
    assert [error.message for error in validator_of(kind).iter_errors(read_data(path))] == []


@pytest.mark.parametrize(
    ("key", "value", "good"),
    [
        ("context_length", "16Ki", True),
        ("context_length", 16384, True),
        ("context_length", "16Kib", False),
        ("context_length", "16k", False),
        ("context_length", 1.5, False),
        ("context_length", True, False),
        ("tokens", "1.5M", True),
        ("tokens", 2e6, True),
        ("micro_batch_size", 0, False),
        ("lr", "2e-5", True),
        ("lr", "fast", False),
        ("rope", {"kind": "theta", "theta": "1e6"}, True),
        ("rope", {"kind": "theta", "theta": "auto"}, True),
        ("rope", {"kind": "theta"}, False),
        ("rope", "yarn", False),
        ("layers", [{"rope": "nope"}, {"window": "4Ki"}], True),
        ("schedule", {"shape": "wsd", "decay": "0.1"}, True),
        ("schedule", {"shape": "step"}, False),
        ("tokns", 1, False),
        ("lengths", {"0": 1, "64Ki": 3}, True),
    ],
)
def test_the_schema_and_the_program_agree(key: str, value: Any, good: bool) -> None:
    data = copy.deepcopy(read_data(ROOT / "recipes" / "quickstart.yaml"))
    data["stages"][0][key] = value
    assert validator_of("recipe").is_valid(data) == good
    if good:
        parse_recipe(data, where="test")
    else:
        with pytest.raises(UserError):
            parse_recipe(data, where="test")


def every_entry(node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        yield from node.get("properties", {}).items()
        for inner in node.values():
            yield from every_entry(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from every_entry(inner)


@pytest.mark.parametrize("kind", ["recipe", "study"])
def test_every_property_says_what_it_means(kind: str) -> None:
    entries = list(every_entry(make_schema(kind)))
    assert len(entries) > {"recipe": 200, "study": 7}[kind]
    for name, entry in entries:
        assert len(entry["description"]) >= 5 and "\n" not in entry["description"], name


def every_spec(kind: type[Spec]) -> Iterator[type[Spec]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from every_spec(inner)


def test_every_count_takes_units() -> None:
    """No whole number of any spec but a seed is without; 2Ki is read, or refused for being too large a count."""
    counts = 0
    for spec in every_spec(Spec):
        if not spec.__module__.startswith("ropewalk."):
            continue
        for name, entry in spec.model_json_schema().get("properties", {}).items():
            text = json.dumps(entry)
            assert '"integer"' not in text or name in NOT_COUNTS, f"{spec.__name__}.{name} is a number without units"
            if entry.get("title") == COUNT or any(branch.get("title") == COUNT for branch in entry.get("anyOf", ())):
                counts += 1
                field = spec.model_fields[name]
                try:
                    assert TypeAdapter(field.rebuild_annotation()).validate_python("2Ki") == 2048
                except ValidationError as error:
                    assert {fault["type"] for fault in error.errors()} & {"less_than_equal", "less_than"}, name
    assert counts > 60


def test_the_verb_prints_it() -> None:
    for kind, arguments in (("recipe", []), ("study", ["study"])):
        printed = CliRunner().invoke(app, ["schema", *arguments])
        assert printed.exit_code == 0 and json.loads(printed.stdout) == make_schema(kind)
    assert CliRunner().invoke(app, ["schema", "--table"]).stdout.startswith("| key |")


def test_there_is_no_schema_of_anything_else() -> None:
    with pytest.raises(UserError, match="no schema of 'corpus'"):
        make_schema("corpus")


@pytest.mark.parametrize("kind", ["recipe", "study"])
def test_the_documentation_has_the_table(kind: str) -> None:
    page = (ROOT / "docs" / f"{kind}.md").read_text(encoding="utf-8")
    assert page == place_table(page, kind), "run benchmarks/tabulate_keys.py"
    lines = page[page.index("keys: begin") : page.index("keys: end")].splitlines()
    rows = [number for number, line in enumerate(lines) if line.startswith("| `")]
    assert rows == list(range(rows[0], rows[0] + len(rows))), "a blank line would cut the table in two"
