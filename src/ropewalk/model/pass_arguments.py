"""Blocks of some classes drop the arguments that attention needs; torch hooks hand them on.

StableLM's and Nemotron's blocks get the partition and the group from their model, but call their attention without
them. A hook before the block notes them, and one before its attention adds them. A block that is recomputed in the
backward is called with the same arguments again, so the hooks need no memory of the forward.
"""

from typing import Any

from torch import nn

from ropewalk.model.architectures import attention_of, blocks_of, family_of
from ropewalk.model.compiled import stay_outside

_NAMES = ("partition", "context_group", "position_ids")


class _HandOn:
    """The two hooks of one block."""

    def __init__(self) -> None:
        self._given: dict[str, Any] = {}

    @stay_outside
    def note(self, module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        self._given = {name: given[name] for name in _NAMES if name in given}

    @stay_outside
    def add(
        self, module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, self._given | given


def hand_on_arguments(model: nn.Module) -> None:
    """Let every attention of ``model`` get the arguments that its blocks get, where its class drops them."""
    family = family_of(model)
    if family is None or not family.drops_arguments:
        return
    for block in blocks_of(model):
        if any(isinstance(getattr(hook, "__self__", None), _HandOn) for hook in block._forward_pre_hooks.values()):
            return
        hooks = _HandOn()
        block.register_forward_pre_hook(hooks.note, with_kwargs=True)
        attention_of(model, block).register_forward_pre_hook(hooks.add, with_kwargs=True)
