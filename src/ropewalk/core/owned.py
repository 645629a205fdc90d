"""``Owned`` hands a value over: after ``take`` only the receiver holds it.

A document can be a book of hundreds of megabytes, and Python frees a value only when its last reference is gone. A
local variable is a reference until its function returns, and in a generator until the caller asks for the next item.
So a plain ``return clean(text)`` holds the text for the whole call, beside every text that ``clean`` makes of it: the
peak memory is twice as high as needed. The way out is three steps::

    owned = Owned(text)
    del text
    return clean(owned.take())

The argument of the call is then the last reference, so ``clean`` decides when the text is freed.
"""

from typing import Generic, TypeVar

T = TypeVar("T")


class Owned(Generic[T]):
    """A value that can be taken once."""

    __slots__ = ("_held",)

    def __init__(self, value: T) -> None:
        self._held = [value]

    def take(self) -> T:
        """The value; this object holds it no longer."""
        assert self._held, "an owned value is taken once"
        return self._held.pop()
