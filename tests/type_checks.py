"""Under test, every call of a function of this project is checked: types by beartype, shapes of arrays by jaxtyping.

Whole numbers are welcome where a float is asked for. jaxtyping has an import hook of its own, which binds the signature
and checks the arguments twice in every call: half of the suite's time went there. This hook checks them once, and
remembers shapes only where a signature has arrays. A function inside a function is prepared anew by each call of the
outer one, for a millisecond; it is checked only where it takes arrays, and only while the test has checks left for it.
In each test the first ``MOST_CALLS`` calls of a function, and as many objects of a class, are checked: a training calls
it a thousand times with the same types. ``config.jaxtyping_disable`` turns all checks off.
"""

import ast
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from functools import wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any, get_args

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, config, jaxtyped

PACKAGE = "ropewalk"
MOST_CALLS = 16
"""Checked calls of one function in one test; a forked rank goes on from where its parent is."""
_tests_begun = [0]
_check: Any = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=TypeError))


def check_class(kind: Any) -> Any:
    """A dataclass whose fields have the types and shapes that they say; any other class as it is."""
    if is_dataclass(kind) and "__init__" in vars(kind):
        kind.__init__ = check_function(kind.__init__)
    return kind


def begin_test() -> None:
    """From now on calls are those of another test: the first ones of each function are checked again."""
    _tests_begun[0] += 1


class _Budget:
    """Says of each call of one function whether it is checked."""

    __slots__ = ("left", "test")

    def __init__(self) -> None:
        self.test, self.left = -1, 0

    def spend(self) -> bool:
        if config.jaxtyping_disable:
            return False
        if self.test != _tests_begun[0]:
            self.test, self.left = _tests_begun[0], MOST_CALLS
        self.left -= 1
        return self.left >= 0


_inner: dict[CodeType, _Budget] = {}


def _is_left(function: Callable[..., Any]) -> bool:
    """Whether a function inside a function stays as it is: nothing is checked, or this test had enough of them.

    Each call of the outer function makes it anew; to prepare it takes a millisecond, longer than most of them run.
    """
    return "<locals>" in function.__qualname__ and not _inner.setdefault(function.__code__, _Budget()).spend()


def check_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function; its arguments and its result agree in their shapes."""
    if _is_left(function):
        return function
    hints = inspect.get_annotations(function).values()
    has_arrays = any(_has_array(hint) for hint in hints)
    if any(isinstance(hint, str) for hint in hints) or (has_arrays and inspect.isgeneratorfunction(function)):
        return jaxtyped(function, typechecker=_check)  # type: ignore[no-any-return] # it knows what these need
    checked, spend = _check(function), _Budget().spend
    if not has_arrays:

        @wraps(function)
        def call(*args: Any, **settings: Any) -> Any:
            return (checked if spend() else function)(*args, **settings)

        return call

    @wraps(function)
    def call_with_arrays(*args: Any, **settings: Any) -> Any:
        if not spend():
            return function(*args, **settings)
        with jaxtyped("context"):  # in which a name of an axis has one size
            return checked(*args, **settings)

    return call_with_arrays


def _has_array(hint: Any) -> bool:
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return True
    return any(_has_array(each) for each in get_args(hint))


class _Decorate(ast.NodeTransformer):
    """Puts the decorators into a module; ``arrays`` are the names in it that stand for arrays."""

    def __init__(self) -> None:
        self.arrays: set[str] = set()
        self.depth = 0

    def visit_Module(self, node: ast.Module) -> ast.Module:
        for each in node.body:
            if isinstance(each, ast.ImportFrom) and each.module == "jaxtyping":
                self.arrays |= {alias.asname or alias.name for alias in each.names}
            elif isinstance(each, ast.Assign) and self._names_array(each.value):
                self.arrays |= {target.id for target in each.targets if isinstance(target, ast.Name)}
        self.generic_visit(node)
        place = int(ast.get_docstring(node) is not None)
        node.body.insert(place, *ast.parse(f"import {__name__}").body)
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Only statements: no expression has a function with types in it, and most of a file is expressions."""
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            for each in getattr(node, block, ()):
                self.visit(each)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.generic_visit(node)
        node.decorator_list.insert(0, self._name("check_class", node))  # around what @dataclass makes
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1
        if not self.depth or self._takes_arrays(node):
            node.decorator_list.append(self._name("check_function", node))
        return node

    def _takes_arrays(self, node: ast.FunctionDef) -> bool:
        given = node.args
        arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        annotations = [node.returns, *(each.annotation for each in arguments if each is not None)]
        return any(self._names_array(each) for each in annotations if each is not None)

    def _names_array(self, node: ast.AST) -> bool:
        return any(isinstance(each, ast.Name) and each.id in self.arrays for each in ast.walk(node))

    @staticmethod
    def _name(check: str, node: ast.stmt) -> ast.expr:
        return ast.copy_location(ast.parse(f"{__name__}.{check}", mode="eval").body, node)


def compile_checked(source: str | bytes, path: str) -> CodeType:
    """A module's code with all checks."""
    return compile(_Decorate().visit(ast.parse(source, path)), path, "exec")


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        """Never from a cache: the cached code of this file is that without checks."""
        path = self.get_filename(fullname)
        return compile_checked(self.get_data(path), path)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != PACKAGE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Check what is imported from now on."""
    assert PACKAGE not in sys.modules, "it is imported already, without checks"
    sys.meta_path.insert(0, _Finder())
