"""Finds every message in the source, and keeps the catalogues of translations (src/ropewalk/messages) in step with it.

    PYTHONPATH=src:tests python -m message_templates            what has no translation, and what no longer needs one
    PYTHONPATH=src:tests python -m message_templates --write    sorts the files by room, drops what is stale, and adds
                                                                what is missing, with "" to be filled in

A message is text for people: a string, an f-string (each ``{expression}`` is a hole), a sum of them, and both arms of a
conditional expression. Docstrings, help of options, patterns, assertions and text that is made for models are none.
"""

import ast
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SRC = Path(__file__).parents[1] / "src" / "ropewalk"
ZH = SRC / "messages" / "zh"
ROOMS = (
    "core", "rope", "shape", "probe", "corpus", "recipe", "partition", "plan", "attention", "recurrence", "parallel",
    "model", "checkpoint", "evaluate", "train", "report", "commands", "cli",
)  # fmt: skip

HOLE, PLURAL, LABEL = "\0", "\1", "\2"
_EDGE = " .;:,\n"
_PROSE = re.compile(r"(?<![\w./={}\[\]<>-])[A-Za-z][a-z'’-]*(?=[ ,.;?!)\"”]|: |$)(?![./=\[][\w{])")
_FORMATTED = re.compile(r"\{(target|recipe|second|file|length)\}")
"""Fields of strings that str.format fills in (cli/next_steps.py)."""
_CODE = re.compile(
    r"<.*|.*viewBox.*|[a-z0-9_]+( [a-z0-9]*_[a-z0-9_]+| [a-z0-9]+)*( [a-z0-9]*_[a-z0-9_]+){2}.*", re.DOTALL
)
_COLON = (
    "error: ", "warning: ", "WARNING:", "next:", "Missed:", "stopping:", "strict:", "fix:", "where:", "why:", "note:",
)  # fmt: skip
_PLACES = ("source ", "line ", "record ", "document ", "page ", "stage ", "rank ", "message ")
_SMALL = {
    "theta", "min", "h", "ms",
    "a", "an", "and", "as", "at", "by", "for", "from", "in", "is", "it", "of", "on", "or", "s", "the", "to", "with",
    "x", "per", "not",
}  # fmt: skip
_MOST_SPELLINGS = 16
_NO_MESSAGES = {
    "compile", "match", "search", "fullmatch", "sub", "split", "findall", "Option", "Argument", "Typer",
    "filterwarnings", "Float", "Int64", "Float64", "TypeVar", "export_lazily", "getLogger", "dumps", "find_scores",
    "removeprefix", "startswith", "endswith", "partition", "import_module", "NewType", "Literal", "stream",
    "AssertionError", "Thread",
}  # fmt: skip
"""Calls whose strings are no messages."""
LABELLED = {
    "Table", "TableCell", "Section", "HeadFigure", "Page", "set_title", "set_xlabel", "set_ylabel", "annotate", "watch",
}  # fmt: skip
"""Calls whose strings are messages even if they are one word."""
_SILENT_FILES = (
    "corpus/embedded/", "corpus/text/", "corpus/clean/", "probe/", "commands/launch_kubernetes.py",
    "commands/launch_slurm.py", "commands/launch_cloud.py", "commands/new_recipe.py", "commands/model_card.py",
    "recipe/key_table.py", "model/twin.py", "corpus/join/task_wordings.py",
    "corpus/inspect/card.py", "core/lazy.py", "core/catalogue.py", "core/translate.py",
)  # fmt: skip
"""Files that write text for models, shells and recipes: here only errors are messages."""


NOT_SHOWN = {
    # code, and what becomes a part of code or of a file
    "$([ {0} = 0 ] && echo 1 || echo 0)", "--no-python ropewalk run {0}", "--model-impl transformers",
    "{0} --model-impl transformers", "llama-server -m {0} -c {1}", "vllm serve {0} --max-model-len {1}",
    "options: {{encoding: {0}}}", "options: {{messages_key: {0}}}",
    "--suite quick", "from ropewalk.corpus.prepare.workers import serve; serve()", "Model card, by ropewalk",
    "Model folder, by ropewalk",
    "# end", "def f(x)", "\treturn {{'a': [1, 2]}}", "don't WE'LL I'M", "naïve café — “quotes” …",
    "from pathlib import Path",
    'model = load_model(Path("this folder"))', "{{comment}} {{path}}",
    "No class of transformers has this model's positions: config.json tells them under `ropewalk`, layer by",
    "layer. Other programs refuse the folder, so they do not silently run another model. It loads with",
    # names of verbs, keys, devices and papers
    "advise RECIPE", "corpus card", "corpus export", "corpus inspect", "corpus mix", "corpus report", "corpus score",
    "corpus tokenise", "evaluate MODEL", "export MODEL", "export RECIPE", "extend MODEL", "receipt A B", "device minor",
    "Hu et al. 2021 (2106.09685)", "plan, docs/plan.md", "keep max_to_keep keep_last", "optim optimizer optimizer_type",
    "skips max_skips", "until early_stopping", "adam_epsilon adam_eps eps optimizer_eps",
    "report_to wandb wandb_project logger tensorboard_dir logging",
    # keys of results
    "undrawn", "columns",
    # places in a recipe
    "sources: embedded: {0}", "sources: embedded: {0}, options",
    # words of gloo
    "Unable to find address for",
    # words of the JSON module
    "Expecting ',' delimiter", "Extra data", "starting at", "tokens for",
}  # fmt: skip
"""Strings that look like messages, and are not shown to people as such."""


@dataclass(frozen=True, slots=True)
class Found:
    """A template, with the place of its first message in the source."""

    template: str
    room: str
    place: str


def find_messages(source: str, *, errors_only: bool = False, labels: bool = False) -> list[tuple[str, int]]:
    """Every template in a file, as it stands in a catalogue, with its line; ``labels``: it names columns and rows."""
    walk = _Walk(errors_only=errors_only, labels=labels)
    walk.visit(ast.parse(source), 0)
    return walk.found


def find_all() -> dict[str, Found]:
    """All templates of the source, in the order of rooms: the first room that has one keeps it."""
    found = dict[str, Found]()
    for room in ROOMS:
        for path in sorted((SRC / room).rglob("*.py")):
            inside = path.relative_to(SRC).as_posix()
            silent, labels = inside.startswith(_SILENT_FILES), room in ("plan", "report")
            messages = find_messages(path.read_text(), errors_only=silent, labels=labels)
            for template, line in messages:
                found.setdefault(template, Found(template, room, f"{inside}:{line}"))
        for path in sorted((SRC / room).rglob("*.html")):
            for label in re.findall(r'\{\{ "([^"]+)"\|label', path.read_text()):
                template = label.strip(_EDGE)
                found.setdefault(template, Found(template, room, path.relative_to(SRC).as_posix()))
    return found


def read_entries() -> dict[str, str]:
    """The entries of the Chinese catalogue for messages of our own; others.json has those of other programs,
    and parts of ours."""
    entries = dict[str, str]()
    for path in sorted(ZH.glob("*.json")):
        entries |= json.loads(path.read_text()) if path.stem in ROOMS else {}
    return entries


class _Walk:
    """Goes through a file; ``found`` are the templates with their lines.

    ``forced`` is 1 in an error, where every text with a word is for people, and 2 where one word is enough.
    """

    def __init__(self, *, errors_only: bool, labels: bool) -> None:
        self.found = list[tuple[str, int]]()
        self._errors_only = errors_only
        self._label_names = _LABEL_NAMES if labels else ()

    def visit(self, node: ast.AST, forced: int) -> None:
        kind = type(node)
        if kind is ast.Call:
            self._visit_call(node, forced)  # type: ignore[arg-type]
        elif kind in _TEXTS and _is_text(node):
            self._read(node, forced)
        elif kind is ast.Subscript:
            self.visit(node.value, forced)  # type: ignore[attr-defined]
        elif kind is ast.AnnAssign:
            self._visit_all([node.value], 2 if self._names_labels(node) else forced)  # type: ignore[attr-defined]
        elif kind is ast.FunctionDef:
            self._visit_all([*node.args.defaults, *node.body], 2 if node.name in self._label_names else forced)  # type: ignore[attr-defined]
        elif kind is ast.Assign or kind is ast.AugAssign:
            self.visit(node.value, 2 if self._names_labels(node) else forced)  # type: ignore[attr-defined]
        elif kind is ast.Compare:
            self._visit_all([each for each in (node.left, *node.comparators) if type(each) is not ast.Constant], forced)  # type: ignore[attr-defined]
        elif kind not in _SILENT and not (kind is ast.Expr and type(node.value) is ast.Constant):  # type: ignore[attr-defined]
            for name in node._fields:
                value = getattr(node, name)
                if type(value) is list:
                    self._visit_all(value, forced)
                elif isinstance(value, ast.AST):
                    self.visit(value, forced)

    def _visit_all(self, nodes: list[Any], forced: int) -> None:
        for node in nodes:
            if isinstance(node, ast.AST):
                self.visit(node, forced)

    def _visit_call(self, node: ast.Call, forced: int) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in _NO_MESSAGES:
            return
        forced = 1 if name == "UserError" else 2 if name in LABELLED else forced
        self.visit(node.func, forced)
        self._visit_all([each for at, each in enumerate(node.args) if at not in _NO_TEXT.get(name, ())], forced)
        for each in node.keywords:
            if each.arg == "where" and _is_place(each.value, inner := list[ast.AST]()):
                self._visit_all(inner, 0)
            elif each.arg not in _STYLES:
                self.visit(each.value, forced)

    def _names_labels(self, node: ast.AST) -> bool:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]  # type: ignore[attr-defined]
        return any(
            isinstance(each, ast.Name) and each.id in self._label_names
            for target in targets
            for each in ast.walk(target)
        )

    def _read(self, node: ast.AST, forced: int) -> None:
        inner = list[ast.AST]()
        for spelling in dict.fromkeys(_spell(node, inner)):
            for line in spelling.split("\n"):
                template, wanted = _write(line.lstrip(LABEL)), 2 if line.startswith(LABEL) else forced
                if (forced or not self._errors_only) and template and _is_message(template, wanted):
                    self.found.append((template, node.lineno))  # type: ignore[attr-defined]
        self._visit_all(inner, 0)


_LABEL_NAMES = {"rows", "_list_rows", "columns", "title", "lead", "caption", "facts", "_WORDS", "_AIMS"}
"""Functions and variables whose strings are labels."""
_NO_TEXT = {"Section": (0,), "Table": (2,), "TableCell": (1,)}
"""Arguments, by their place, that are no text for people."""
_TEXTS = {ast.BinOp, ast.IfExp, ast.JoinedStr, ast.Constant}
_SILENT = {ast.Assert, ast.Name, ast.Import, ast.ImportFrom, ast.Constant, ast.arguments, ast.Global, ast.Pass}
_STYLES = {
    "linestyle", "color", "ha", "va", "xycoords", "textcoords", "loc", "marker", "align", "axis", "mark",
    "verdict_mark", "anchor", "fontsize", "edgecolor", "cmap", "edgecolors", "bbox",
}  # fmt: skip
"""Arguments of pictures and tables that are no text for people."""


def _is_text(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp):
        if isinstance(node.op, ast.Add):
            return _is_text(node.left) or _is_text(node.right)
        return isinstance(node.op, ast.Mult) and isinstance(node.left, ast.Constant) and _is_text(node.left)
    if isinstance(node, ast.IfExp):
        return _is_text(node.body) or _is_text(node.orelse)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _spell(node: ast.AST, inner: list[ast.AST]) -> list[str]:
    """The texts that an expression can give, with holes; expressions in holes are added to ``inner``."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [_FORMATTED.sub(HOLE, node.value)]
    if isinstance(node, ast.FormattedValue):
        width = node.format_spec is not None and isinstance(node.value, ast.Constant)
        if width:
            return [f"{LABEL}{node.value.value}\n"]  # type: ignore[attr-defined]  # in a column of its own
        return _spell(node.value, inner) if _is_text(node.value) and not node.format_spec else _hole(node.value, inner)
    if isinstance(node, ast.JoinedStr):
        return _join([_spell(part, inner) for part in node.values], node, inner)
    if isinstance(node, ast.IfExp) and _is_text(node):
        arms = [*_spell(node.body, inner), *_spell(node.orelse, inner)]
        return [PLURAL] if set(arms) == {"", "s"} else arms
    if isinstance(node, ast.BinOp) and _is_text(node):
        if isinstance(node.op, ast.Mult):
            text = node.left.value  # type: ignore[attr-defined]
            return [PLURAL] if text == "s" else ["", text]
        return _join([_spell(node.left, inner), _spell(node.right, inner)], node, inner)
    return _hole(node, inner)


def _hole(node: ast.AST, inner: list[ast.AST]) -> list[str]:
    inner.append(node)
    return [HOLE]


def _join(parts: list[list[str]], node: ast.AST, inner: list[ast.AST]) -> list[str]:
    """Every way to join one text of each part; where there are too many, parts with a choice become holes."""
    count = 1
    for part in parts:
        count *= len(part)
    if count > _MOST_SPELLINGS:
        inner += [each for each in ast.walk(node) if isinstance(each, ast.IfExp)]
        parts = [part if len(part) == 1 else [HOLE] for part in parts]
    texts = [""]
    for part in parts:
        texts = [text + each for text in texts for each in part]
    return texts


def _write(spelling: str) -> str:
    """A spelling as a template of the catalogue: holes numbered, edges of punctuation removed."""
    text = re.sub(f"{HOLE}+", HOLE, spelling).strip(_EDGE)
    if text.startswith("(") and text.endswith(")") and text.find(")") == len(text) - 1:
        text = text[1:-1].strip(_EDGE)
    text = text.replace("{", "{{").replace("}", "}}").replace(PLURAL, "{s}")
    numbers = iter(range(100))
    return re.sub(HOLE, lambda _: f"{{{next(numbers)}}}", text)


def _is_place(node: ast.AST, inner: list[ast.AST]) -> bool:
    """Whether the place of a fault is a key or a path, perhaps of a file: ``{where}: architectures``."""
    spelled = [each for each in map(_write, _spell(node, inner)) if each]
    return all(len(_PROSE.findall(each)) < 2 and not each.startswith(_PLACES) for each in spelled)


def _words(template: str) -> list[str]:
    """The words of a template that are neither code nor small."""
    text = re.sub(r"\{\w+\}", "0", re.sub(r"\{\{|\}\}", "", template).replace("{s}", "s"))
    text = text.replace("tokens/s", "tokens")
    return [word for word in _PROSE.findall(text) if word.lower() not in _SMALL and len(word) > 1]


def _is_message(template: str, forced: int) -> bool:
    if template.startswith(_COLON):
        return True
    if template in NOT_SHOWN or _CODE.fullmatch(template):
        return False
    if re.fullmatch(r"(ropewalk (?!does)|pip install |python )[^,;]*", template) and not re.search(
        r" (or|and|to) ", template
    ):
        return False  # a command
    if re.fullmatch(r"[\w.]+: [\w.{}]+", template) and not template.startswith(_PLACES):
        return False  # a key and its value
    words = _words(template)
    if " " not in template:
        return forced == 2 and (bool(words) or template == "FAIL")
    said = bool(words) or template.startswith("it is ")
    return any(word[0].islower() for word in words) or (said and forced > 0)


def write_catalogue() -> None:
    """Sort the files by room, drop what is stale, and add what is missing with an empty translation."""
    found, entries = find_all(), read_entries()
    ZH.mkdir(parents=True, exist_ok=True)
    for room in ROOMS:
        own = {each.template: entries.get(each.template, "") for each in found.values() if each.room == room}
        path = ZH / f"{room}.json"
        if own:
            ordered = dict(sorted(own.items(), key=lambda pair: (pair[0].lower(), pair[0])))
            path.write_text(json.dumps(ordered, ensure_ascii=False, indent=1) + "\n")
        else:
            path.unlink(missing_ok=True)


def main() -> None:
    found, entries = find_all(), read_entries()
    missing = [each for each in found.values() if not entries.get(each.template)]
    stale = [english for english in entries if english not in found]
    for each in missing:
        print(f"missing  {each.place}: {json.dumps(each.template, ensure_ascii=False)}")
    for english in stale:
        print(f"stale  {json.dumps(english, ensure_ascii=False)}")
    print(f"{len(found)} messages, {len(missing)} without a translation, {len(stale)} stale")
    if "--write" in sys.argv:
        write_catalogue()


if __name__ == "__main__":
    main()
