"""Under test, calls of the functions of this project are checked: types by beartype, shapes of arrays by jaxtyping.

Whole numbers are welcome where a float is asked for. jaxtyping has an import hook of its own, which binds the signature
and checks the arguments twice in every call: half of the suite's time went there. This hook checks them once, and
remembers shapes only where a signature has arrays.
In each test the first ``MOST_CALLS`` calls of a function, and as many objects of a class, are checked, counted over the
test's process and all that are forked from it: a training calls it a thousand times with the same types. A wrapper that
only counts costs as much as many functions do, so none stays after the last checked call: the function's code is
exchanged, for code that calls a checked copy, and back (``_Checked``). ``begin_test(checks=False)`` and ``no_checks()``
give all functions their own code, as torch.compile needs it.
A function inside a function is prepared anew by each call of the outer one, for a millisecond; it is checked only where
it takes arrays, and only while the test has checks left for it.
"""

import ast
import functools
import inspect
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, FunctionType, ModuleType
from typing import Any, get_args
from weakref import ref

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, config, jaxtyped

PACKAGE = "ropewalk"
MOST_CALLS = 3
"""Checked calls of one function in one test: the first of each of two ranks, and one after what these left behind."""
_MOST_FUNCTIONS = 1 << 15
_calls = mmap.mmap(-1, _MOST_FUNCTIONS)
"""The checked calls of each function in this test. A forked process counts in the same memory."""
_owner, _functions = os.getpid(), [0]
_all: list["ref[FunctionType]"] = []
_disarmed: list["ref[FunctionType]"] = []
"""Functions with their own code, which are checked again in the next test."""
_check: Any = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=TypeError))


def check_class(kind: Any) -> Any:
    """A dataclass whose fields have the types and shapes that they say; any other class as it is."""
    if is_dataclass(kind) and "__init__" in vars(kind):
        check_function(kind.__init__)  # type: ignore[misc]
    return kind


def begin_test(*, checks: bool = True) -> None:
    """From now on calls are those of another test: the first ones of each function are checked, or with False none."""
    _calls[: _functions[0]] = bytes(_functions[0])
    _check_all(checks)


def count_apart() -> None:
    """This fork runs tests of its own from now on: it shares its counts with its own forks alone."""
    global _calls, _owner
    _calls, _owner = mmap.mmap(-1, _MOST_FUNCTIONS), os.getpid()


@contextmanager
def no_checks() -> Iterator[None]:
    """Nothing is checked inside it."""
    _check_all(False)
    try:
        yield
    finally:
        _check_all(True)


def _check_all(checks: bool) -> None:
    config.update("jaxtyping_disable", not checks)
    those = _disarmed[:] if checks else _all
    if checks:
        _disarmed.clear()
    for each in those:
        if (function := each()) is not None:
            (_Checked.arm if checks else _Checked.disarm)(function.__checks__)  # type: ignore[attr-defined]


class _Budget:
    """Says of each call of one function whether it is checked.

    A function that a forked process makes is counted by that process alone: others may give its place to another one.
    """

    __slots__ = ("place", "table")

    def __init__(self) -> None:
        self.table: bytearray | None = bytearray(1)
        self.place = 0
        if os.getpid() == _owner:
            self.table, self.place = None, _functions[0]
            _functions[0] += 1
            assert self.place < _MOST_FUNCTIONS, "there are more functions than places for their calls"

    def spend(self) -> bool:
        table: Any = _calls if self.table is None else self.table
        if config.jaxtyping_disable or table[self.place] >= MOST_CALLS:
            return False
        table[self.place] += 1
        return True


class _Checked:
    """Exchanges the code of one function.

    The function refers to this, and this to the function by a weak reference: no collector looks into a code.
    """

    __slots__ = ("armed", "budget", "checked", "function", "kept", "own", "plain")

    def __init__(self, function: FunctionType, plain: FunctionType, budget: _Budget) -> None:
        self.function, self.own, self.plain, self.budget = ref(function), function.__code__, plain, budget
        self.checked, self.armed = _add_checks(plain), False
        self.kept: CodeType | None = None

    def arm(self) -> None:
        """The next calls are checked, while the budget lasts."""
        function = self.function()
        if function is None or self.armed:
            return
        code = self.kept or _code_that_calls(self, function)
        if "<locals>" not in function.__qualname__:  # one that ends must not be in a ring
            self.kept = code
        function.__code__, self.armed = code, True

    def disarm(self) -> None:
        function = self.function()
        if function is not None and self.armed:
            function.__code__, self.armed = self.own, False
            _disarmed.append(self.function)

    def call(self, /, *args: Any, **settings: Any) -> Any:
        if self.budget.spend():
            return self.checked(*args, **settings)
        self.disarm()
        return self.plain(*args, **settings)


@functools.cache
def _make_template(free: int) -> CodeType:
    """The code of a function that calls its own first constant; ``free`` is the number of its free variables."""
    names = [f"free_{each}" for each in range(free)]
    lines = "checked = 0.5", "return checked(*args, **settings)", *names
    source = f"def make({', '.join(names)}):\n def call(*args, **settings):\n"
    source += "".join(f"  {line}\n" for line in lines) + " return call"
    made: dict[str, Any] = {}
    exec(compile(source, __file__, "exec"), made)
    return made["make"](*names).__code__  # type: ignore[no-any-return]


def _code_that_calls(checks: _Checked, function: FunctionType) -> CodeType:
    template = _make_template(len(checks.own.co_freevars))
    constants = tuple(checks.call if each == 0.5 else each for each in template.co_consts)
    return template.replace(co_consts=constants, co_name=function.__name__, co_qualname=function.__qualname__)


_inner: dict[CodeType, tuple[_Budget, _Budget]] = {}
"""Of each function inside a function: how often it may be prepared, and called with checks."""


def check_function(function: FunctionType) -> FunctionType:
    """The same function; its arguments and its result agree in their shapes."""
    if "<locals>" in function.__qualname__:
        if function.__code__ not in _inner:
            _inner[function.__code__] = _Budget(), _Budget()
        prepared, budget = _inner[function.__code__]
        if not prepared.spend():
            return function
    else:
        budget = _Budget()
        _all.append(ref(function))
    settings = function.__name__, function.__defaults__, function.__closure__
    plain = functools.update_wrapper(FunctionType(function.__code__, function.__globals__, *settings), function)
    del plain.__wrapped__
    plain.__kwdefaults__ = function.__kwdefaults__
    checks = _Checked(function, plain, budget)
    vars(function).update(__wrapped__=plain, __checks__=checks)
    if config.jaxtyping_disable:
        _disarmed.append(checks.function)
    else:
        checks.arm()
    return function


def _add_checks(plain: FunctionType) -> Callable[..., Any]:
    hints = inspect.get_annotations(plain).values()
    has_arrays = any(_has_array(hint) for hint in hints)
    if any(isinstance(hint, str) for hint in hints) or (has_arrays and inspect.isgeneratorfunction(plain)):
        return jaxtyped(plain, typechecker=_check)  # type: ignore[no-any-return] # it knows what these need
    checked = _check(plain)
    if not has_arrays:
        return checked  # type: ignore[no-any-return]

    def call(*args: Any, **settings: Any) -> Any:
        with jaxtyped("context"):  # in which a name of an axis has one size
            return checked(*args, **settings)

    return call


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
