"""Finds arrays without a shape in code: in the types of signatures, and in comments where tensors are rearranged."""

import ast
import re
from collections.abc import Iterator

ARRAYS = {"Tensor", "ndarray", "NDArray"}


def list_annotations(tree: ast.Module) -> Iterator[ast.expr]:
    """The types of parameters, results and fields, and what stands for a type under a name of its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation is not None:
            yield node.annotation
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None:
            yield node.returns
        elif isinstance(node, ast.ClassDef | ast.Module):
            yield from (field.annotation for field in node.body if isinstance(field, ast.AnnAssign))
            values = (line.value for line in node.body if isinstance(line, ast.Assign | ast.AnnAssign))
            yield from (value for value in values if isinstance(value, ast.Subscript | ast.BinOp | ast.Attribute))


def list_bare_arrays(annotation: ast.AST, shaped: set[str]) -> Iterator[str]:
    """The arrays that ``annotation`` names outside of a jaxtyping shape; ``shaped`` are the names of these shapes."""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value).rpartition(".")[2] in shaped:
        return
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            annotation = ast.parse(annotation.value, mode="eval").body
        except SyntaxError:  # the text of a Literal
            return
        yield from list_bare_arrays(annotation, shaped)
    elif isinstance(annotation, ast.Name | ast.Attribute) and ast.unparse(annotation).rpartition(".")[2] in ARRAYS:
        yield f"line {annotation.lineno}: {ast.unparse(annotation)}"
    for child in ast.iter_child_nodes(annotation):
        yield from list_bare_arrays(child, shaped)


def find_bare_array(tree: ast.Module) -> str | None:
    """The first array without a shape in the signatures and fields of a file. Variables in a function may have none."""
    shaped = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "jaxtyping"
        for alias in node.names
    }
    found = (bare for annotation in list_annotations(tree) for bare in list_bare_arrays(annotation, shaped))
    return next(found, None)


BARE_ARRAYS = [
    "def double(tensor: Tensor) -> float: ...",
    "def double(*tensors: torch.Tensor | None) -> None: ...",
    "def double(tensor: Float[Tensor, 'tokens']) -> tuple[int, Tensor]: ...",
    "async def double(*, arrays: dict[str, list[np.ndarray]]) -> None: ...",
    "def double(make: Callable[[np.ndarray[Any, np.dtype[Any]]], int]) -> None: ...",
    "def double() -> 'dict[str, Tensor]': ...",
    "class Batch:\n    tokens: np.ndarray | None = None",
    "class Batch:\n    def double(self) -> None:\n        def inner(tensor: Tensor) -> None: ...",
    "Fields = Mapping[str, np.ndarray]",
    "Array: TypeAlias = np.ndarray",
]


REARRANGING = {
    "cat", "concat", "concatenate", "stack", "hstack", "vstack", "column_stack", "chunk", "split", "tensor_split",
    "unbind", "gather", "scatter", "scatter_", "scatter_add", "scatter_add_", "index_select", "index_add", "index_add_",
    "index_copy", "index_copy_", "index_put", "index_put_", "take_along_dim", "take_along_axis",
}  # fmt: skip
"""Functions and methods of torch and numpy whose line does not show which shape comes out."""
SHAPE_COMMENT = re.compile(r"#.*(?<!\w)\[\w[^\[\]]*\]")
"""A comment with a shape, such as ``[tokens, width]``. An index (``x[0]``) and ``type: ignore[override]`` are none."""


def list_own_parts(statement: ast.stmt) -> Iterator[ast.AST]:
    """The expressions of a statement, without the statements in its body."""
    stack: list[ast.AST] = [statement]
    while stack:
        node = stack.pop()
        yield node
        stack += (child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt))


def is_text_split(node: ast.AST) -> bool:
    """Whether it calls str.split: without arguments, or at a fixed text."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr != "split":
        return False
    return not node.args or (isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str))


def find_untold_shape(text: str) -> str | None:
    """The first statement that rearranges a tensor without a comment that says the shape, in its lines or right above.

    A function that is only named, as in ``map(torch.cat, ...)``, counts as one that is called.
    """
    lines = text.splitlines()
    for statement in ast.walk(ast.parse(text)):
        if not isinstance(statement, ast.stmt):
            continue
        parts = list(list_own_parts(statement))
        of_text = {part.func for part in parts if isinstance(part, ast.Call) and is_text_split(part)}
        named = {part for part in parts if isinstance(part, ast.Attribute) and part.attr in REARRANGING}
        if not named - of_text:
            continue
        body: list[ast.stmt] = getattr(statement, "body", [])
        first, last = statement.lineno, body[0].lineno - 1 if body else statement.end_lineno
        while first > 1 and lines[first - 2].lstrip().startswith("#"):
            first -= 1
        if not any(map(SHAPE_COMMENT.search, lines[first - 1 : last])):
            return f"line {statement.lineno}: {lines[statement.lineno - 1].strip()}"
    return None


UNTOLD_SHAPES = [
    "both = torch.cat([left, right])",
    "# Both sides.\nboth = np.concatenate([left, right])",
    "both = torch.stack(sides)  # type: ignore[override]",
    "nll, loss = map(torch.cat, parts)",
    "# [tokens] -> [2, tokens]\n\nleft, right = both.chunk(2)",
    "# [tokens]\nif both:\n    left, right = both.split(2)",
    "for part in both.split(lengths):\n    use(part)  # [tokens]",
    "total.index_add_(0, index, parts[0])  # parts[0]",
]
TOLD_SHAPES = [
    "both = torch.cat([left, right])  # [tokens]",
    "# Both sides: [tokens, width] -> [2 * tokens, width].\n# Left first.\nboth = torch.cat(\n    [left, right]\n)",
    "words = text.split() + text.split(',')",
]
