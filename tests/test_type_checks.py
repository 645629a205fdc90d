"""The checks that run under every test find what is wrong, and only that."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from jaxtyping import config

from type_checks import MOST_CALLS, begin_test, compile_checked

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

def cut(row: Row) -> Iterator[Row]:
    yield row[:1]
    yield row[1:]
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
    with config_without_checks():
        assert made["outer"](np.zeros(2)).shape == (2,)


@contextmanager
def config_without_checks() -> Iterator[None]:
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)
