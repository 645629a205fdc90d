"""Give the recurrent layers of a hybrid our forward, by derived classes on the finished model.

The classes of transformers run a recurrence over the whole sequence that they get, so packed documents leak into each
other there, with restarting positions and with lengths of documents as arguments. So the modules get another forward,
and no such arguments. A row of shape/hybrid_families.py names the layout of its layers; the class for it is here.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import nn

from ropewalk.model.architectures import blocks_of, family_of, recurrent_of
from ropewalk.model.recurrent_delta import DeltaByKeyHead, DeltaInFour, DeltaInSix
from ropewalk.model.recurrent_kda import KimiDelta
from ropewalk.model.recurrent_layer import RecurrentLayer
from ropewalk.model.recurrent_lightning import Lightning
from ropewalk.model.recurrent_short import ShortConvolution
from ropewalk.model.recurrent_ssd import ScaledStateSpace, StateSpace

LAYOUTS: Mapping[str, type[RecurrentLayer]] = {
    "qwen3_next": DeltaByKeyHead,
    "qwen3_5": DeltaInFour,
    "olmo_hybrid": DeltaInSix,
    "kda": KimiDelta,
    "lfm2": ShortConvolution,
    "mamba2": StateSpace,
    "falcon_h1": ScaledStateSpace,
    "nemotron_h": StateSpace,
    "lightning": Lightning,
}
"""By the layout of ``RecurrentKeys``."""


def mix_documents(model: Any) -> None:
    """Make the recurrent layers of ``model`` keep documents apart, over all ranks that share a sequence.

    Modules' classes are replaced by derived ones, as in FSDP2; names of weights do not change. A model without
    recurrent layers stays as it is.
    """
    for block in blocks_of(model):
        layer: Any = recurrent_of(model, block)
        if layer is not None and not isinstance(layer, RecurrentLayer):
            family = family_of(model)
            assert family is not None and family.recurrent is not None
            layer.__class__ = _derive(type(layer), family.recurrent.layout)  # type: ignore[arg-type]


def name_recurrent(model: Any) -> set[str]:
    """The names of the weights of the recurrent layers of ``model``, as in its files."""
    layers = {recurrent_of(model, block): None for block in blocks_of(model)}
    paths = [path for path, module in model.named_modules() if module in layers]
    return {f"{path}.{name}" for path in paths for name, _ in model.get_submodule(path).named_parameters()}


@cache
def _derive(kind: type[nn.Module], layout: str) -> type[nn.Module]:
    """One class for all layers."""
    return type(kind.__name__, (LAYOUTS[layout], kind), {})
