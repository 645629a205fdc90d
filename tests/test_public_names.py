"""The public face: the names that others may rely on, each there, explained, and loaded only when it is asked for."""

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import ropewalk

SRC = Path(__file__).parents[1] / "src"
PACKAGES = sorted(".".join(file.relative_to(SRC).parts[:-1]) for file in SRC.rglob("__init__.py"))
PARAGRAPH_LETTERS = 40
PUBLIC = [
    "ContextParallel",
    "ContextParallelTrainer",
    "Corpus",
    "Dynamic",
    "Linear",
    "Llama3",
    "LongRope",
    "Nope",
    "Ntk",
    "NtkByParts",
    "Partition",
    "Proportional",
    "Recipe",
    "Resonance",
    "Theta",
    "Unchanged",
    "UserError",
    "Yarn",
    "attend",
    "check_recipe",
    "chunked_cross_entropy",
    "evaluate_models",
    "extend",
    "find_model",
    "forecast_recipe",
    "load_model",
    "load_recipe",
    "local_shard",
    "open_corpus",
    "parallelize",
    "unparallelize",
    "partition_tokens",
    "read_shape",
    "run_recipe",
    "survey_candidates",
    "train_stage",
    "use_kernel",
    "verify_export",
    "write_report",
]
ROOMS = [name.removeprefix("ropewalk.") for name in PACKAGES if name.count(".") == 1 and name != "ropewalk.cli"]


def names_for_type_checkers(package: str) -> Iterator[str]:
    """The names that the package imports under TYPE_CHECKING, or at its top where it exports names at once."""
    source = (SRC / package.replace(".", "/") / "__init__.py").read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ropewalk"):
            yield from (alias.name for alias in node.names if alias.name != "export_lazily")


def test_the_list_is_this_one() -> None:
    assert ropewalk.__all__ == sorted([*PUBLIC, *ROOMS]) and set(ropewalk.__all__) <= set(dir(ropewalk))
    with pytest.raises(AttributeError, match="module 'ropewalk' has no attribute 'stretch'"):
        ropewalk.stretch  # noqa: B018


@pytest.mark.parametrize("name", PUBLIC)
def test_each_name_is_its_room_s_own_and_says_what_it_does(name: str) -> None:
    found = getattr(ropewalk, name)
    assert found.__name__ == name and found.__module__.startswith("ropewalk.") and found.__doc__


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_what_it_is_and_exports_what_type_checkers_see(package: str) -> None:
    here = import_module(package)
    assert here.__doc__ and len(here.__doc__) > PARAGRAPH_LETTERS
    listed = set(getattr(here, "__all__", ()))
    assert listed == set(names_for_type_checkers(package)), "the two lists of the package differ"
    assert listed <= set(dir(here)) and all(getattr(here, name) is not None for name in listed)
    folder = Path(str(here.__file__)).parent
    modules = {file.stem for file in folder.glob("*.py")}
    lazy = "__getattr__" in vars(here)
    assert not (lazy and listed & modules), "importing the module would replace the name"
    assert all(inspect.ismodule(getattr(here, name)) == (folder / name).is_dir() for name in listed)


def test_the_two_lists_of_a_package_are_compared() -> None:
    assert set(names_for_type_checkers("ropewalk.plan")) >= {"Machine", "forecast_recipe"}
    with pytest.raises(AttributeError, match=r"'ropewalk\.rope' has no attribute 'Yaarn'"):
        ropewalk.rope.Yaarn  # noqa: B018


def test_help_reads_like_a_page() -> None:
    assert ropewalk.__doc__ is not None
    assert all(f"``{room}``" in ropewalk.__doc__ for room in ROOMS), "each room is named"
    code = [word for word in ropewalk.__doc__.split() if word.startswith("ropewalk.")]
    named = {word.removeprefix("ropewalk.").partition("(")[0] for word in code}
    assert named <= set(PUBLIC), "examples use public names"


def test_names_of_the_torch_free_half_bring_no_torch() -> None:
    code = "import sys, ropewalk; print({'torch', 'numpy', 'pydantic'} & set(sys.modules)); "
    code += "[getattr(room, name) for room in (ropewalk.core, ropewalk.rope, ropewalk.shape, ropewalk.probe, "
    code += "ropewalk.corpus, ropewalk.recipe, ropewalk.partition, ropewalk.plan, ropewalk.report, ropewalk.commands) "
    code += "for name in room.__all__]; ropewalk.load_recipe, ropewalk.Yarn, ropewalk.Recipe, ropewalk.check_recipe; "
    code += "print('torch' in sys.modules); ropewalk.attend; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["set()", "False", "False"]
