"""The checks that run under every test find what is wrong, and only that."""

import functools
import gc
import inspect
import os
import weakref
from typing import Any

import numpy as np
import pytest

import type_checks
from type_checks import MOST_CALLS, begin_test, compile_checked, no_checks

SOURCE = """
from collections.abc import Iterator
from dataclasses import dataclass, field
from jaxtyping import Float64
import numpy as np

Row = Float64[np.ndarray, "tokens"]

@dataclass(frozen=True, slots=True)
class Pair:
    name: str
    row: Row

@dataclass
class Names:
    all: list[str] = field(default_factory=list)

def add(one: Float64[np.ndarray, "tokens"], two: Row) -> Float64[np.ndarray, "tokens"]:
    return np.concatenate([one, two]) if one[0] else one + two

def half(value: float) -> float:
    return value / 2

def outer(row: Row) -> Row:
    add(np.zeros(2), np.zeros(2))  # its tokens are not those of this row
    def inner(other: Float64[np.ndarray, "tokens tokens"]) -> None: ...
    inner(np.zeros((len(row), 3)))
    return row

class Double:
    def __init__(self, factor: float = 2.0, *, shift: float = 0.0) -> None:
        self.factor, self.shift = factor, shift

    @classmethod
    def of(cls, factor: float) -> "Double":
        return cls(factor)

    @staticmethod
    def name(letter: str) -> str:
        return letter + letter

    @property
    def shown(self) -> str:
        return self.factor  # wrong on purpose

    def change(self, row: Row, *more: float, **settings: str) -> Row:
        return row * self.factor + self.shift

class Triple(Double):
    def __init__(self, *, shift: float = 0.0) -> None:
        super().__init__(3.0, shift=shift)

def count_down(number: int) -> int:
    'Docs.'
    return number if number <= 0 else count_down(number - 1)

def cut(row: Row) -> Iterator[Row]:
    yield row[:1]
    yield row[1:]
"""

INNER = """
from collections.abc import Callable
from jaxtyping import Float64
import numpy as np

class Held(np.ndarray): ...

def make(row: Float64[np.ndarray, "tokens"]) -> Callable:
    held = row.view(Held)
    def add(other: Float64[np.ndarray, "tokens"]) -> Float64[np.ndarray, "tokens"]:
        return other + held
    return add
"""


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "made"}
    exec(compile_checked(SOURCE, "made"), names)
    return names


def test_what_is_right_passes(made: dict[str, Any]) -> None:
    assert made["half"](3) == 1.5, "a whole number is welcome"
    assert made["add"](np.zeros(4), np.ones(4)).sum() == 4
    assert made["Pair"]("a", np.zeros(2)).name == "a" and made["Names"]().all == []
    assert made["outer"](np.zeros(3)).shape == (3,)
    assert [len(row) for row in made["cut"](np.zeros(5))] == [1, 4]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("half", ("3",)),
        ("add", (np.zeros(4), np.zeros(5))),
        ("add", (np.zeros(4), np.zeros(4, np.float32))),
        ("add", (np.ones(4), np.zeros(4))),
        ("Pair", (3, np.zeros(2))),
        ("Pair", ("a", np.zeros((2, 2)))),
        ("Names", ("a",)),
        ("outer", (np.zeros(2),)),
        ("cut", (np.zeros((2, 2)),)),
    ],
    ids=str,
)
def test_what_is_wrong_is_told(made: dict[str, Any], name: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        made[name](*arguments)


def test_the_first_calls_of_each_test_are_checked(made: dict[str, Any]) -> None:
    begin_test()
    for _ in range(MOST_CALLS):
        made["half"](2.0)
    with pytest.raises(TypeError, match="unsupported operand"):
        made["half"]("3")  # not checked: it fails by itself
    begin_test()
    with pytest.raises(TypeError, match="violates type hint"):
        made["half"]("3")


def test_the_first_objects_of_each_test_are_checked(made: dict[str, Any]) -> None:
    begin_test()
    for _ in range(MOST_CALLS):
        made["Pair"]("a", np.zeros(2))
    assert made["Pair"](3, np.zeros(2)).name == 3, "not checked"
    begin_test()
    with pytest.raises(TypeError, match="violates type hint"):
        made["Pair"](3, np.zeros(2))


def test_a_function_inside_is_checked_while_the_test_has_checks_left(made: dict[str, Any]) -> None:
    """Its outer one makes it anew each time: what is not checked is not prepared either."""
    begin_test()
    for _ in range(MOST_CALLS):
        with pytest.raises(TypeError, match="violates type hint"):
            made["outer"](np.zeros(2))
    assert made["outer"](np.zeros(2)).shape == (2,)
    begin_test()
    with pytest.raises(TypeError, match="violates type hint"):
        made["outer"](np.zeros(2))
    with no_checks():
        assert made["outer"](np.zeros(2)).shape == (2,)
    with pytest.raises(TypeError, match="violates type hint"):
        made["outer"](np.zeros(2))


def test_a_function_has_its_own_code_when_its_checks_are_spent(made: dict[str, Any]) -> None:
    """No wrapper stays around it; it is the same object all the time, and in the next test it is checked again."""
    half = made["half"]
    own, bound = half.__wrapped__.__code__, functools.partial(half, 4.0)
    for _ in range(2):
        begin_test()
        assert half.__code__ is not own
        assert [bound() for _ in range(MOST_CALLS)] == [2.0] * MOST_CALLS
        assert bound() == 2.0 and half.__code__ is own and half is made["half"]
    begin_test(checks=False)
    assert half.__code__ is own
    begin_test()
    with no_checks():
        assert half.__code__ is own
    assert half.__code__ is not own


def test_its_signature_source_and_defaults_are_its_own(made: dict[str, Any]) -> None:
    begin_test()
    signature = "(number: int) -> int"
    for _ in range(MOST_CALLS + 1):
        assert str(inspect.signature(made["count_down"])) == signature and made["count_down"].__doc__ == "Docs."
        made["count_down"](0)
    begin_test()
    for _ in range(MOST_CALLS + 1):
        assert made["Triple"]().factor == 3.0 and made["Triple"](shift=2.0).shift == 2.0
        assert made["Double"]().factor == 2.0 and made["Double"].of(5.0).factor == 5.0
        assert made["Double"].name("a") == "aa"
        assert made["Triple"](shift=1.0).change(np.ones(2), 1.0, other="a").tolist() == [4.0, 4.0]
    assert made["count_down"](50) == 0


def test_methods_of_each_kind_are_checked(made: dict[str, Any]) -> None:
    wrong = (
        lambda: made["Double"]("2"),
        lambda: made["Double"](shift="2"),
        lambda: made["Triple"](shift="2"),
        lambda: made["Double"].of("2"),
        lambda: made["Double"].name(2),
        lambda: made["Double"]().shown,
        lambda: made["Double"]().change(np.ones((2, 2))),
        lambda: made["Double"]().change(np.ones(2), "more"),
        lambda: made["Double"]().change(np.ones(2), other=3),
    )
    for each in wrong:
        begin_test()
        with pytest.raises(TypeError):
            each()


def test_forked_processes_spend_the_checks_together(made: dict[str, Any]) -> None:
    """What one of them has checked often enough no other one checks again; what no other one calls is checked."""
    begin_test()
    assert run_in_fork(lambda: [made["half"](2.0) for _ in range(MOST_CALLS - 1)]) == 0
    assert run_in_fork(lambda: made["half"]("3")) == 1, "one check is left, in another process"
    with pytest.raises(TypeError, match="unsupported operand"):
        made["half"]("3")  # not checked: it fails by itself
    assert run_in_fork(lambda: made["Double"].name(3)) == 1, "the forked process alone calls it"


def test_a_worker_counts_with_its_own_forks_alone(made: dict[str, Any]) -> None:
    begin_test()

    def work() -> None:
        type_checks.count_apart()
        begin_test()
        for _ in range(MOST_CALLS):
            made["half"](2.0)
        if run_in_fork(lambda: made["half"]("3")) != 2:  # not checked: it fails by itself
            raise TypeError("violates type hint, and is found by a fork that counts apart")

    assert run_in_fork(work) == 0
    assert run_in_fork(lambda: made["half"]("3")) == 1, "a worker spends no check of another one"


def run_in_fork(call: Any) -> int:
    """1 where a check finds a fault in the call, 0 where it passes."""
    if not (child := os.fork()):
        try:
            call()
        except TypeError as error:
            os._exit(1 if "violates type hint" in str(error) else 2)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_an_inner_function_has_one_place_however_often_it_is_made(made: dict[str, Any]) -> None:
    begin_test()
    with no_checks():
        made["outer"](np.zeros(3))
        before = type_checks._functions[0]
        for _ in range(20):
            made["outer"](np.zeros(3))
    assert type_checks._functions[0] == before


def test_an_inner_function_and_what_it_holds_end_with_their_caller(made: dict[str, Any]) -> None:
    """A ring through the code of a function would never be collected."""
    begin_test()
    names: dict[str, Any] = {"__name__": "made"}
    exec(compile_checked(INNER, "inner"), names)
    kept = names["make"](np.zeros(3))
    assert kept.__wrapped__ is not None and kept(np.zeros(3)).shape == (3,)
    held = weakref.ref(kept), weakref.ref(kept.__closure__[0].cell_contents)
    del kept
    gc.collect()
    assert [each() for each in held] == [None, None]
