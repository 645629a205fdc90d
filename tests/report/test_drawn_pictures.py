"""A picture is drawn once for the same data, and again for any other; what is kept is what drawing gives."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ropewalk.core.translate import set_language
from ropewalk.report import drawn_pictures
from ropewalk.report.charts import RetrievalMap
from ropewalk.report.contents import Curve
from ropewalk.report.curves import draw_buckets
from ropewalk.report.drawn_pictures import draw_once
from ropewalk.report.figure import Picture

CURVE = Curve([1, 2, 3], [3.0, 2.0, 1.5])
MAP = RetrievalMap("base", [512, 1024], [0.0, 1.0], np.array([[0.5, np.nan], [0.25, 1.0]]))


@pytest.fixture
def drawn() -> list[Any]:
    """The arguments that were drawn."""
    return []


@pytest.fixture
def draw(drawn: list[Any]) -> Callable[..., Picture]:
    drawn_pictures._drawn.clear()

    def note(*args: Any, **settings: Any) -> Picture:
        drawn.append((args, settings))
        return Picture(str(len(drawn)), "")

    return draw_once(note)


def test_a_kept_picture_is_the_one_that_drawing_gives() -> None:
    given = {"0-512": CURVE, "512-1024": replace(CURVE, values=[3.0, 2.5, 2.0])}
    drawn_pictures._drawn.clear()
    first = draw_buckets(given, kind="length of the document", borders=[(2, "stage 1")])
    assert draw_buckets(dict(given), kind="length of the document", borders=[(2, "stage 1")]) is first
    drawn_pictures._drawn.clear()
    again = draw_buckets(given, kind="length of the document", borders=[(2, "stage 1")])
    assert again == first and again is not first


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (CURVE, replace(CURVE, values=[3.0, 2.0, np.nextafter(1.5, 2)])),
        (CURVE, replace(CURVE, steps=[1, 2, 4])),
        (MAP, replace(MAP, accuracy=np.array([[0.5, np.nan], [0.25, 0.0]]))),
        (np.arange(5000.0), np.where(np.arange(5000) == 2500, 0.0, np.arange(5000.0))),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.zeros(2), np.zeros(2, np.int64)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (["ab", "c"], ["a", "bc"]),
        ([["a"], "b"], [["a", "b"]]),
        ("1", 1),
        (1, 1.0),
        (1, True),
        (None, "None"),
    ],
    ids=str,
)
def test_any_difference_is_drawn(draw: Callable[..., Picture], drawn: list[Any], one: Any, other: Any) -> None:
    for each in (one, other, one, other):
        draw(each)
    assert len(drawn) == 2
    for each in (one, other):
        draw(named=each)
    assert len(drawn) == 4


def test_each_language_has_its_own(draw: Callable[..., Picture], drawn: list[Any]) -> None:
    english = draw(CURVE)
    set_language("zh")
    try:
        assert draw(CURVE) != english
    finally:
        set_language("en")
    assert draw(CURVE) == english and len(drawn) == 2


def test_the_latest_are_kept(draw: Callable[..., Picture], drawn: list[Any]) -> None:
    for number in range(64):
        draw(number)
    draw(0)  # now the latest
    draw(64)
    draw(0)
    assert len(drawn) == 65
    draw(1)
    assert len(drawn) == 66


def test_what_has_no_digest_is_refused(draw: Callable[..., Picture]) -> None:
    with pytest.raises(AssertionError, match="has no digest"):
        draw({1, 2})
