"""The house rules as a test: one import order, a torch-free half, one door into transformers, small files."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from array_shapes import BARE_ARRAYS, TOLD_SHAPES, UNTOLD_SHAPES, find_bare_array, find_untold_shape

SRC = Path(__file__).parents[1] / "src" / "ropewalk"
TORCH_FREE_ROOMS = ["core", "rope", "shape", "probe", "corpus", "recipe", "partition", "plan"]
TORCH_ROOMS = ["attention", "recurrence", "parallel", "model", "checkpoint", "evaluate", "train"]
LATE_ROOMS = ["report", "commands"]
ORDER = TORCH_FREE_ROOMS + TORCH_ROOMS + LATE_ROOMS
CORPUS_ORDER = ["text", "embedded", "clean", "read", "dedup", "tokens", "join", "mix", "prepare", "inspect"]
"""Folders of corpus/: each imports only from those to its left, and from the specs beside them."""
TORCH_FREE = {*TORCH_FREE_ROOMS, *LATE_ROOMS, "cli"}
REPORT_MAY_IMPORT = {"core", "rope", "partition", "plan", "report"}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
FORBIDDEN_SUFFIXES = ("Manager", "Handler", "Processor", "Engine", "Base")
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 300, 60, 8

FILES = sorted(SRC.rglob("*.py"))


RULES: dict[str, Callable[[Path], None]] = {}


def of_each_file(rule: Callable[[Path], None]) -> Callable[[], None]:
    """One test of a rule for all files: a test for each of 450 files and ten rules took as long as a whole training."""
    RULES[rule.__name__] = rule

    def check() -> None:
        broken = {}
        for path in FILES:
            try:
                rule(path)
            except AssertionError as fault:
                broken[str(path.relative_to(SRC))] = str(fault)
        assert broken == {}

    check.__name__, check.__doc__ = rule.__name__, rule.__doc__
    return check


def room(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(tree: ast.AST) -> Iterator[tuple[str, ast.stmt]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield node.module or "", node


def imported_at_start(tree: ast.Module) -> Iterator[str]:
    """What importing the module imports: not what stands in functions or under TYPE_CHECKING."""
    stack: list[ast.AST] = list(tree.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (name for name, _ in imports(node))
        stack.extend(ast.iter_child_nodes(node))


@of_each_file
def test_imports_point_left(path: Path) -> None:
    here = room(path)
    if here not in ORDER:  # __init__ and cli stand above all rooms
        return
    for name, node in imports(parse(path)):
        parts = name.split(".")
        if parts[0] != "ropewalk" or len(parts) == 1:
            continue
        assert parts[1] in ORDER, f"line {node.lineno}: {here} imports {name}"
        assert ORDER.index(parts[1]) <= ORDER.index(here), f"line {node.lineno}: {here} imports {name}, to its right"
        assert (here, parts[1]) != ("train", "report") and (here, parts[1]) != ("evaluate", "train")
        if here == "report":
            assert parts[1] in REPORT_MAY_IMPORT, f"line {node.lineno}: report imports {name}"


def find_breach(here: str, names: Iterable[str]) -> str | None:
    """The first module that a file in folder ``here`` of corpus/ may not import, of the modules that it does."""
    for name in names:
        parts = name.split(".")
        if parts[:2] != ["ropewalk", "corpus"] or len(parts) < 3 or parts[2] not in CORPUS_ORDER:
            continue
        if here not in CORPUS_ORDER or CORPUS_ORDER.index(parts[2]) > CORPUS_ORDER.index(here):
            return name
    return None


@of_each_file
def test_folders_of_the_corpus_import_from_the_left(path: Path) -> None:
    parts = path.relative_to(SRC).parts
    if parts[0] != "corpus" or parts[1] == "__init__.py":
        return
    names = [name for name, _ in imports(parse(path))]
    if parts[1] in (
        "spec.py",
        "mix_rules.py",
        "fill_rules.py",
        "join_rules.py",
        "read_options.py",
        "task_rules.py",
        "prompt_rules.py",
    ):  # the specs stand beside the folders; text/ is below them
        names = [name for name in names if not name.startswith("ropewalk.corpus.text.")]
    assert find_breach(parts[1], names) is None


def test_the_rule_of_corpus_folders_by_example() -> None:
    assert find_breach("read", ["ropewalk.corpus.tokens.store"]) and find_breach(
        "spec.py", ["ropewalk.corpus.mix.packing"]
    )


@of_each_file
def test_torch_and_transformers_stay_in_their_rooms(path: Path) -> None:
    here, tree = room(path), parse(path)
    if here in TORCH_FREE or here == "__init__":
        for name in imported_at_start(tree):
            assert name.split(".")[0] not in {"torch", "transformers", "matplotlib"}, f"{here} imports {name} at start"
    if here != "model":
        for name, node in imports(tree):
            assert name.split(".")[0] != "transformers", f"line {node.lineno}: only model/ imports transformers"


@of_each_file
def test_sizes(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, node.name
            positional = [arg for arg in node.args.args if arg.arg not in {"self", "cls"}]
            if any("command" in ast.dump(decorator) for decorator in node.decorator_list):
                continue  # a verb of the command line: its parameters are what the user types
            assert len(positional) + len(node.args.kwonlyargs) <= MAX_PARAMETERS, node.name


@of_each_file
def test_names_and_words(path: Path) -> None:
    tree = parse(path)
    assert not FORBIDDEN_NAMES & {part.removesuffix(".py") for part in path.relative_to(SRC).parts}
    docstring = ast.get_docstring(tree)
    assert docstring, "a file opens with what it is for"
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            assert not node.name.endswith(FORBIDDEN_SUFFIXES) or node.name in {"Base"}, node.name
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            public = node in tree.body
            body = node.end_lineno - node.lineno if node.end_lineno else 0
            assert not public or body < 6 or ast.get_docstring(node), f"{node.name} is public and says nothing"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: a bare except"
            names = {child.id for child in ast.walk(node.type) if isinstance(child, ast.Name)}
            reraises = any(isinstance(child, ast.Raise) for child in ast.walk(node))
            assert reraises or not names & {"Exception", "BaseException"}, f"line {node.lineno}: a broad except"


@of_each_file
def test_environment_is_read_only_where_ranks_start(path: Path) -> None:
    if path.relative_to(SRC).as_posix() in {"parallel/launch.py", "parallel/torchrun.py", "core/secret.py"}:
        return  # the last one reads keys of services, on which no result depends
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}:
            raise AssertionError(f"line {node.lineno}: reads the environment")


ASKS_CUDA = {"is_available", "device_count", "current_device"}
NAMES_CUDA = {"device", "to", "Generator"}


def find_loose_device(tree: ast.AST) -> str | None:
    """The first place that leaves to CUDA which device is meant, or asks CUDA before ranks are forked."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ASKS_CUDA and ast.unparse(node.value).endswith("cuda"):
            return f"line {node.lineno}: asks CUDA for {node.attr}; ask parallel/device.py"
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        bare = node.func.attr == "cuda" or (node.func.attr == "get_rng_state" and not node.args)
        named = node.func.attr in NAMES_CUDA and len(node.args) == 1 and ast.unparse(node.args[0]) == "'cuda'"
        given = any(each.arg == "device" and ast.unparse(each.value) == "'cuda'" for each in node.keywords)
        if (bare and ast.unparse(node.func).startswith("torch.cuda") == (node.func.attr == "get_rng_state")) or (
            named or given
        ):
            return f"line {node.lineno}: a GPU without its number"
    return None


@of_each_file
def test_a_gpu_is_named_by_its_number(path: Path) -> None:
    tree = parse(path)
    if path != SRC / "parallel" / "device.py":
        assert find_loose_device(tree) is None


def test_the_rule_of_devices_by_example() -> None:
    for loose in (
        "torch.cuda.current_device()",
        "model.to('cuda')",
        "torch.zeros(1, device='cuda')",
        "torch.device('cuda')",
        "bias.cuda()",
        "torch.cuda.is_available()",
        "torch.cuda.get_device_capability() if torch.cuda.device_count() else 0",
    ):
        assert find_loose_device(ast.parse(loose)), loose
    assert find_loose_device(ast.parse("torch.device('cuda', 3); rows.to(mesh.device)")) is None


RUN_FOLDER = SRC / "core" / "run_folder.py"
FILE_NAME = re.compile(r"[a-z-]+\.(json|jsonl|yaml|html|md)")
PART_NAMES = {"corpus", "export", "tokenizer"}
"""Folders of a run that other folders name too: a corpus of its own, the export of a checkpoint."""
OF_OTHERS = {("corpus/read/find_files.py", "state.json")}
"""Files of other programs that have the name of one in a run folder, where they are read: the datasets library's."""


def list_run_names() -> tuple[set[str], set[str]]:
    """The names of files and of folders that core/run_folder.py spells."""
    words = [node.value for node in ast.walk(parse(RUN_FOLDER)) if isinstance(node, ast.Constant)]
    joined = [node.right for node in ast.walk(parse(RUN_FOLDER)) if isinstance(node, ast.BinOp)]
    files = {word for word in words if isinstance(word, str) and FILE_NAME.fullmatch(word)}
    folders = {str(node.value) for node in joined if isinstance(node, ast.Constant)} - files - PART_NAMES
    return files, folders


RUN_FILES, RUN_FOLDERS = list_run_names()


def find_run_name(tree: ast.AST) -> str | None:
    """The first name of something in a run folder that the code spells: a file's, a folder's in a path, a checkpoint's.

    ``step-{step:08}`` is a checkpoint; a longer name that begins so is another file.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) and re.fullmatch(r"f'step-\{[\w.]+:08\}'", ast.unparse(node)):
            return ast.unparse(node)
        if isinstance(node, ast.Constant) and node.value in RUN_FILES:
            return str(node.value)
        joins = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant)
        if joins and node.right.value in RUN_FOLDERS:
            return str(node.right.value)
    return None


@of_each_file
def test_one_file_knows_the_names_in_a_run_folder(path: Path) -> None:
    name = None if path == RUN_FOLDER else find_run_name(parse(path))
    assert name is None or (path.relative_to(SRC).as_posix(), name) in OF_OTHERS, name


def test_the_rule_of_run_folders_by_example() -> None:
    assert {"metrics.jsonl", "corpus.json", "state.json", "corpus-card.md"} <= RUN_FILES
    assert {"stages", "extended", "checkpoints", "trained", "skipped", "initial", "trackers"} <= RUN_FOLDERS
    for code in ('run / "stages" / number', 'open("metrics.jsonl")', 'folder / "state.json"', 'f"step-{step:08}"'):
        assert find_run_name(ast.parse(code)), code


def test_importing_the_torch_free_half_imports_no_torch() -> None:
    modules = [
        ".".join(("ropewalk", *file.relative_to(SRC).with_suffix("").parts)).removesuffix(".__init__")
        for file in FILES
        if room(file) in TORCH_FREE
    ]
    heavy = "sorted({'torch', 'transformers'} & set(sys.modules))"
    code = f"import sys\nfor name in {modules!r}: __import__(name)\nprint({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


FORMER_NAMES = {
    *(
        "head_ranks",
        "swap_in",
        "swap_out",
        "panel",
        "panels",
        "anneal",
        "annealing",
        "hear",
        "gauge",
        "tally",
        "journal",
    ),
    *(
        "promotion",
        "promote",
        "clip",
        "micro_rows",
        "blend",
        "by_parts",
        "strand",
        "strands",
        "fate",
        "fates",
        "screen",
    ),
    *("mend", "mended", "ragged", "triangles", "rectangles", "feed", "feeds"),
}
"""Words that docs/glossary.md has replaced, as a whole name or as a part of a function's, a class's or a file's."""
STILL_MEANT = {("corpus/read/csv_table.py", "feed"), ("shape/rope_block.py", "screen_keys")}
"""The lines that a table is read from; keys of a config that are looked through."""


def find_former_name(tree: ast.AST) -> Iterator[str]:
    """Names that a file defines in words that are no longer used."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", node.name).lower().strip("_").split("_")
            names = [node.name] if FORMER_NAMES & {*words, node.name} else []
        elif isinstance(node, ast.arg):
            names = [node.arg]
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            names = [node.id if isinstance(node, ast.Name) else node.attr]
        for name in names:
            if name.lower().strip("_") in FORMER_NAMES or isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield name


@of_each_file
def test_names_are_those_of_the_glossary(path: Path) -> None:
    here = path.relative_to(SRC).as_posix()
    found = [name for name in find_former_name(parse(path)) if (here, name.strip("_").lower()) not in STILL_MEANT]
    assert not found and path.stem not in FORMER_NAMES, found


@of_each_file
def test_every_array_has_a_shape(path: Path) -> None:
    assert find_bare_array(parse(path)) is None


def test_the_rule_of_array_shapes_by_example() -> None:
    for code in BARE_ARRAYS:
        assert find_bare_array(ast.parse(f"from jaxtyping import Float\n{code}")), code
    whole = "def pick(tensor: Float[Tensor, 'tokens'] | None) -> None:\n    last: Tensor = tensor"
    assert find_bare_array(ast.parse(f"from jaxtyping import Float\n{whole}")) is None


@of_each_file
def test_every_rearrangement_says_the_shapes(path: Path) -> None:
    if room(path) in {"attention", "recurrence", "model"}:
        assert find_untold_shape(path.read_text()) is None


def test_the_rule_of_told_shapes_by_example() -> None:
    for code in UNTOLD_SHAPES:
        assert find_untold_shape(code), code
    for code in TOLD_SHAPES:
        assert find_untold_shape(code) is None, code


BREAKING = [
    (test_imports_point_left, "core/a.py", "from ropewalk.train import loop"),
    (test_imports_point_left, "core/a.py", "def late():\n    import ropewalk.train.loop"),
    (test_imports_point_left, "core/a.py", "from .record import Metric"),
    (test_imports_point_left, "evaluate/a.py", "from ropewalk.train import loop"),
    (test_imports_point_left, "report/a.py", "from ropewalk.recipe.spec import Recipe"),
    (test_folders_of_the_corpus_import_from_the_left, "corpus/text/a.py", "import ropewalk.corpus.mix.packing"),
    (test_folders_of_the_corpus_import_from_the_left, "corpus/spec.py", "import ropewalk.corpus.read.files"),
    (test_torch_and_transformers_stay_in_their_rooms, "core/a.py", "import torch"),
    (test_torch_and_transformers_stay_in_their_rooms, "cli/a.py", "from matplotlib.figure import Figure"),
    (test_torch_and_transformers_stay_in_their_rooms, "train/a.py", "def late():\n    import transformers"),
    (test_sizes, "core/a.py", "\n" * 301),
    (test_sizes, "core/a.py", "def long():\n" + "    pass\n" * 60),
    (test_sizes, "core/a.py", "def wide(a, b, c, d, e, *, f, g, h, i): ..."),
    (test_names_and_words, "core/helpers.py", '"""A file."""'),
    (test_names_and_words, "core/a.py", "import json"),
    (test_names_and_words, "core/a.py", '"""A file."""\nclass StoreManager: ...'),
    (test_names_and_words, "core/a.py", '"""A file."""\ndef store():\n' + "    pass\n" * 7),
    (test_names_and_words, "core/a.py", '"""A file."""\ntry: ...\nexcept: ...'),
    (test_names_and_words, "core/a.py", '"""A file."""\ntry: ...\nexcept (OSError, Exception): ...'),
    (test_environment_is_read_only_where_ranks_start, "core/a.py", "import os\nhome = os.environ['HOME']"),
    (test_environment_is_read_only_where_ranks_start, "core/a.py", "from os import getenv\nimport os\nos.getenv('A')"),
    (test_a_gpu_is_named_by_its_number, "train/a.py", "model.to('cuda')"),
    (test_one_file_knows_the_names_in_a_run_folder, "train/a.py", "run / 'stages' / '0'"),
    (test_every_array_has_a_shape, "core/a.py", "def double(array: np.ndarray) -> None: ..."),
    (test_every_rearrangement_says_the_shapes, "model/a.py", "both = torch.cat([left, right])"),
    (test_names_are_those_of_the_glossary, "train/a.py", "def tally_rows(panel: int) -> None: ..."),
]
"""A file that breaks a rule, for every rule that reads each file."""


def test_every_rule_by_a_file_that_breaks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SRC", tmp_path)
    for number, (rule, name, code) in enumerate(BREAKING):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
        parse.cache_clear()
        with pytest.raises(AssertionError):
            RULES[rule.__name__](path)
            pytest.fail(f"number {number}, {rule.__name__}: {code}", pytrace=False)
    parse.cache_clear()
    assert {rule.__name__ for rule, _, _ in BREAKING} == set(RULES)
