"""Blocks of some classes drop the arguments that attention needs; torch hooks hand them on.

StableLM's and Nemotron's blocks get the partition and the group from their model, but call their attention without
them. A hook before the block notes them, and one before its attention adds them. A block that is recomputed in the
backward is called with the same arguments again. Granite 4 does not even give its blocks the positions; they are noted
before the model, and stay until its next forward: a loop that runs two forwards before one backward must not recompute.
"""

from typing import Any

from torch import nn

from ropewalk.model.architectures import attention_of, backbone_of, blocks_of, family_of
from ropewalk.model.compiled import stay_outside

_NAMES = ("partition", "context_group", "position_ids", "key_cache")


class _HandOn:
    """The two hooks of one block."""

    def __init__(self, of_model: dict[str, Any]) -> None:
        self._of_model = of_model
        self._given: dict[str, Any] = {}

    @stay_outside
    def note(self, module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        self._given = {name: given[name] for name in _NAMES if name in given}

    @stay_outside
    def add(
        self, module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, self._of_model | self._given | given


_NOTED = "_ropewalk_noted"
"""The attribute of a model with its noted arguments; a deep copy of the model has its own."""


@stay_outside
def _note_positions(module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
    noted: dict[str, Any] = getattr(module, _NOTED)
    noted.clear()
    if given.get("position_ids") is not None:
        noted["position_ids"] = given["position_ids"]


def hand_on_arguments(model: nn.Module) -> None:
    """Let every attention of ``model`` get the arguments that its blocks get, where its class drops them."""
    family = family_of(model)
    if family is None or not family.drops_arguments:
        return
    if _note_positions in backbone_of(model)._forward_pre_hooks.values():
        return
    noted: dict[str, Any] = {}
    setattr(backbone_of(model), _NOTED, noted)
    backbone_of(model).register_forward_pre_hook(_note_positions, with_kwargs=True)
    for block in blocks_of(model):
        hooks = _HandOn(noted)
        block.register_forward_pre_hook(hooks.note, with_kwargs=True)
        attention_of(model, block).register_forward_pre_hook(hooks.add, with_kwargs=True)
