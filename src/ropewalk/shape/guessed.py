"""Rows of data that were read off classes without one, and who reads them.

Reading a class needs torch, which this room must not import. So the package, which stands above all rooms, names the
function that does it (``ropewalk/__init__.py``), and it is called when a config.json names a class without a row.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # ``import ropewalk`` loads this file
    from ropewalk.shape.family import Family

Guess = Callable[[str, Mapping[str, Any], str], "Family"]
"""From the name of a class, its config.json and the name of that file to a row; raises UserError with the reason."""
Registered = Callable[[str], bool]
"""Whether a program registered a class of this name with transformers."""

GUESSED: "dict[str, Family]" = {}
"""The rows that this process has read off classes, by the name of the class."""
_asked: list[tuple[Guess, Registered]] = []


def guess_with(guess: Guess, is_registered: Registered) -> None:
    """Let ``guess`` read the classes without a row, and ``is_registered`` tell which are a program's own."""
    _asked[:] = [(guess, is_registered)]


def guess_row(name: str, config: Mapping[str, Any], where: str) -> "Family":
    """The row of a class that has none in this package. Raises UserError for a class that cannot be read."""
    return _asked[0][0](name, config, where)


def is_own_class(name: str) -> bool:
    """Whether the class is a program's own, so its name says nothing about what it computes."""
    return _asked[0][1](name)


def describe_guess(name: str) -> str:
    """A line on the figures of a model that were read off its class; empty where the class has a row."""
    family = GUESSED.get(name)
    if family is None:
        return ""
    share = f"{family.rotary_share:g} of a head" + (f" ({family.rotary_key})" if family.partial else "")
    windows = {"none": "none", "all": "in all layers", "some": "by layer_types"}[family.windows]
    figures = {
        "MLP": family.mlp,
        "norms of a block": family.block_norms,
        "norm of queries and keys": family.qk_norm,
        "RoPE turns": share,
        "cosines": family.cos_sin,
        "windows": windows,
        "layers without RoPE": family.nope,
        "factor of logits": family.logit_scale[0] if family.logit_scale else "none",
        "cap of logits": family.logit_cap[0] if family.logit_cap else "none",
    }
    if family.experts is not None:
        keys = family.experts
        figures["experts"] = f"{keys.count[0]} of width {keys.width}, {keys.per_token} of them a token"
        figures["scores of experts"] = keys.scores
        figures["layers without experts"] = keys.dense
        figures["beside the experts"] = keys.shared or keys.shared_width or "nothing"
    told = ", ".join(f"{name} {value}" for name, value in figures.items())
    return f"{name} has no row of data, so these were read off the class with a tiny model: {told}"
