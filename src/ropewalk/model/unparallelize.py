"""Takes context parallelism out of a model again: it runs as it did before ``parallelize``, to the bit.

``parallelize`` changes the name of the attention, adds hooks before forwards, and gives some layers a derived class. It
notes what was there before; a model that is parallelized twice keeps the first note.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from ropewalk.core.error import UserError
from ropewalk.model.rope_hooks import forget_direction, is_directed

_NOTE = "_ropewalk_before"


@dataclass(frozen=True)
class _Before:
    attention: str
    classes: Mapping[str, type]
    """The class of each module, by the module's name."""
    hooks: Mapping[str, frozenset[int]]
    """The numbers of each module's hooks before forwards."""
    directed: bool
    """Whether ropewalk ran its positions already."""


def note_before(model: PreTrainedModel) -> None:
    """Note what ``parallelize`` is about to change, unless it was noted."""
    if getattr(model, _NOTE, None) is None:
        modules = dict(model.named_modules())
        hooks = {name: frozenset(each._forward_pre_hooks) for name, each in modules.items()}
        classes = {name: type(each) for name, each in modules.items()}
        setattr(model, _NOTE, _Before(model.config._attn_implementation, classes, hooks, is_directed(model)))


def forget_before(model: PreTrainedModel) -> None:
    """Drop the note, where ``parallelize`` refused the model and changed nothing."""
    setattr(model, _NOTE, None)


def unparallelize(model: nn.Module) -> None:
    """Undo ``parallelize``: attention, hooks and classes are those from before; weights are not touched.

    Modules that were added since then, such as adapters, stay. Raises UserError for a model that is not parallelized.
    """
    before = getattr(model, _NOTE, None)
    if before is None:
        raise UserError(
            f"{type(model).__name__} is not parallelized",
            where="ropewalk.unparallelize: model",
            why="parallelize was not called on it",
            fix="give the model that was given to parallelize, not a wrapper of it",
        )
    assert isinstance(model, PreTrainedModel) and isinstance(before, _Before)
    for name, module in model.named_modules():
        if name in before.classes and type(module) is not before.classes[name]:
            module.__class__ = before.classes[name]  # type: ignore[assignment]
        for number in [each for each in module._forward_pre_hooks if each not in before.hooks.get(name, ())]:
            if name in before.hooks:
                del module._forward_pre_hooks[number]
                module._forward_pre_hooks_with_kwargs.pop(number, None)
    if not before.directed:
        forget_direction(model)
    model.set_attn_implementation(before.attention)
    forget_before(model)
