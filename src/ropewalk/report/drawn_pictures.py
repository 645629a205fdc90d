"""Draws a picture again only when its data have changed.

A picture takes 0.1 to 0.5 s. The page of a run that goes on is made again and again beside the training; the positions
of its layers and what its corpus holds stay as they are, and so do the pictures of stages that have ended.
"""

import functools
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, ParamSpec

import numpy as np

from ropewalk.core.translate import get_language
from ropewalk.report.figure import Picture

_MOST_PICTURES = 64
"""A page has about 14, of some 30 kB each."""
_drawn: OrderedDict[bytes, Picture] = OrderedDict()
_turn = threading.Lock()
_Given = ParamSpec("_Given")


def draw_once(draw: Callable[_Given, Picture]) -> Callable[_Given, Picture]:
    """``draw``, whose picture follows from its arguments and the language alone; the latest 64 pictures are kept."""

    @functools.wraps(draw)
    def find(*args: _Given.args, **settings: _Given.kwargs) -> Picture:
        digest = hashlib.sha256()
        _write((draw.__module__, draw.__qualname__, get_language(), args, settings), digest.update)
        key = digest.digest()
        with _turn:
            picture = _drawn.pop(key, None)
        if picture is None:
            picture = draw(*args, **settings)
        with _turn:
            _drawn[key] = picture
            if len(_drawn) > _MOST_PICTURES:
                _drawn.popitem(last=False)
        return picture

    return find


def _write(value: Any, write: Callable[[bytes], None]) -> None:
    """Give ``write`` bytes that differ where a picture may: types, order, lengths and every digit count."""
    write(f"{type(value).__name__}(".encode())
    if isinstance(value, np.ndarray):
        write(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif is_dataclass(value):
        for field in fields(value):
            _write(getattr(value, field.name), write)
    elif isinstance(value, Mapping):
        for pair in value.items():
            _write(pair, write)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        if {type(each) for each in value} == {float}:  # a curve may have a million
            _write(np.array(value), write)
        else:
            for each in value:
                _write(each, write)
    else:
        assert value is None or isinstance(value, str | int | float | np.generic), f"{type(value)} has no digest"
        write(repr(value).encode("utf-8", "surrogatepass"))
    write(b")")
