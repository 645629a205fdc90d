"""A value that is handed over is freed by its receiver, while the giver's function still runs."""

import gc
import weakref
from collections.abc import Callable, Iterator

import pytest

from ropewalk.core.owned import Owned


class Book:
    """Something that can be referenced weakly."""


def drop(book: Book, alive: Callable[[], object]) -> bool:
    """Whether ``book`` lives on after this function lets it go."""
    del book
    return alive() is not None


def give_plainly(book: Book) -> bool:
    return drop(book, weakref.ref(book))


def give_owned(book: Book) -> bool:
    owned, alive = Owned(book), weakref.ref(book)
    del book
    return drop(owned.take(), alive)


def yield_owned() -> Iterator[Book]:
    owned = Owned(Book())
    yield owned.take()


def test_a_receiver_frees_what_it_was_given() -> None:
    assert give_plainly(*[Book()]), "without Owned the caller holds it"
    gc.disable()  # references alone decide
    try:
        lives_on = give_owned(Owned(Book()).take())  # not within assert: pytest would hold the book
        assert not lives_on
        books = yield_owned()
        book = next(books)
        alive = weakref.ref(book)
        del book
        assert alive() is None, "the waiting generator holds nothing"
    finally:
        gc.enable()


def test_a_value_is_taken_once() -> None:
    owned = Owned("text")
    assert owned.take() == "text"
    with pytest.raises(AssertionError, match="taken once"):
        owned.take()
