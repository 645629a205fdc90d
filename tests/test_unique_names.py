"""A name means one thing: a public function or class stands in one file, and a file's name in one room.

The same file name stands in two rooms only for the same idea, such as the keys of a stage and the training of a stage.
"""

import ast
from collections import defaultdict
from collections.abc import Mapping

from test_import_graph import SOURCES

SAME_IDEA = {
    "advice": "the question of ropewalk advise, and its answer as a page",
    "advise": "the verb, and the rules that it asks",
    "check": "the verb, and the rules that it holds a recipe against",
    "corpus": "the verbs on a corpus on the command line, their work, and their page",
    "eight_bit": "the format of 8-bit moments, and the optimizer that uses it",
    "evaluate": "the verb, and the measuring",
    "export": "the verb, and the writing of a model folder",
    "extend": "the verb, and the function that gives a model new positions",
    "import_gguf": "the verb, and the writing of the folder",
    "key_value": "the prompts, and the documents that train on them",
    "launch": "starts ranks on this machine, or writes what starts them on many",
    "ledger": "the ledger of a corpus, and its tables",
    "load": "reads what the room is about: a recipe, a model, a checkpoint",
    "long_ce": "the keys of the weighed loss, and the weighing",
    "longrope_search": "the search, and the part of a run that makes it",
    "progress": "the bar of any long work, and that of a stage",
    "receipt": "the record, the verb, and the section of the page",
    "replay": "the verb, and the step that is repeated",
    "ruler": "three tasks in our own words, and the keys of the benchmark's own",
    "spec": "the keys of a part of the recipe",
    "stage": "the keys of a stage, and its training",
    "sweep": "the keys of a study, and its run",
    "trackers": "the keys of trackers, and the trackers",
    "ulysses": "the partition of heads over ranks, and the exchange that it needs",
    "validation": "the keys of validation, and its measurement",
    "word_tasks": "the prompts, and the documents that train on them",
}
"""Names of files that stand in two rooms or more, with the idea."""


def find_doubles(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """The public functions and classes that stand at the top of more than one module, with these modules."""
    homes: dict[str, list[str]] = defaultdict(list)
    for module, source in sources.items():
        for node in ast.parse(source).body:
            named = isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            if named and not node.name.startswith("_"):
                homes[node.name].append(module)
    return {name: modules for name, modules in homes.items() if len(modules) > 1}


def find_shared_file_names(sources: Mapping[str, str]) -> set[str]:
    """The names of files that stand in more than one folder. An ``__init__`` counts as its folder."""
    homes: dict[str, set[str]] = defaultdict(set)
    for module in sources:
        folder, _, name = module.rpartition(".")
        if not any(other.startswith(f"{module}.") for other in sources):
            homes[name].add(folder)
    return {name for name, folders in homes.items() if len(folders) > 1}


def test_a_public_name_stands_in_one_file() -> None:
    assert find_doubles(SOURCES) == {}
    twice = {"ropewalk.model.extend": "def extend(): ...", "ropewalk.cli.main": "class A: ...\ndef extend(): ..."}
    assert find_doubles(twice) == {"extend": [*twice]}
    assert find_doubles({**twice, "ropewalk.cli.main": "def _extend(): ...\nclass A:\n    def extend(self): ..."}) == {}


def test_files_of_one_name_have_one_idea() -> None:
    assert find_shared_file_names(SOURCES) == set(SAME_IDEA)
    assert find_shared_file_names({"ropewalk.plan.choose": "", "ropewalk.partition.choose": ""}) == {"choose"}
    assert find_shared_file_names({"ropewalk.plan": "", "ropewalk.plan.plan": ""}) == set()
