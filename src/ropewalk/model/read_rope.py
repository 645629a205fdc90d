"""The positions that a built model's own modules run, layer by layer; read from live modules, never from a config.

transformers keeps frequencies in one rotary module for all layers, or in one with a set per layer type. Windows and the
switch for no RoPE are in each attention module. Mistral and its kin are an exception: their attention reads the window
from the config at every call, so there the config *is* live.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ropewalk.model.architectures import attends, attention_of, blocks_of, family_of, rotary_of
from ropewalk.shape.family import Family


@dataclass(frozen=True, slots=True)
class LiveLayer:
    """The position values of one layer in a document of given length. ``temperature`` multiplies its last query."""

    inv_freq: Float64[np.ndarray, "half"]
    attention_factor: float
    window_tokens: int | None
    temperature: float = 1.0


def read_native(model: Any) -> tuple[LiveLayer, ...]:
    """One value per layer, as the model was built; frequencies of short documents where the length decides them."""
    rotary, family = rotary_of(model), family_of(model)
    windows = [_find_window(model, attention_of(model, block)) for block in blocks_of(model)]
    nope = family.nope if family else "never"
    skips_full = nope == "full" or (nope == "full_beside_windows" and model.config.sliding_window is not None)
    found = []
    for index, block in enumerate(blocks_of(model)):
        attention: Any = attention_of(model, block)
        if rotary is None:
            found.append(LiveLayer(np.zeros(_count_dims(model.config, family) // 2), 1.0, windows[index]))
            continue
        own = not hasattr(rotary, "inv_freq")  # then one set per layer type
        prefix = f"{model.config.layer_types[index]}_" if own else ""
        inv_freq = getattr(rotary, f"{prefix}inv_freq").double().cpu().numpy()
        factor = float(getattr(rotary, f"{prefix}attention_scaling"))
        turns = getattr(attention, "use_rope", True) and attends(model, block)
        if (skips_full and windows[index] is None) or not turns:
            inv_freq, factor = np.zeros_like(inv_freq), 1.0
        found.append(LiveLayer(inv_freq, factor, windows[index]))
    return tuple(found)


def _count_dims(config: Any, family: Family | None) -> int:
    """Dimensions of a head that RoPE would turn; all of a head where no part of it is set apart."""
    if family is not None and family.latent is not None:
        return int(config.qk_rope_head_dim)
    return getattr(config, "head_dim", None) or int(config.hidden_size // config.num_attention_heads)


def _find_window(model: Any, attention: Any) -> int | None:
    """The window that a layer's attention passes on: its own attribute, or in some classes the config's at each call.

    A class may have neither and build its mask with the config's window; then it is the same for all layers.
    """
    if hasattr(attention, "sliding_window"):
        window: int | None = attention.sliding_window or None
        return window if getattr(attention, "is_sliding", True) else None
    family = family_of(model)
    return getattr(model.config, "sliding_window", None) if family and family.windows == "all" else None


def class_frequencies(model: Any, index: int) -> Callable[[int, torch.device], Float[Tensor, "half"]]:
    """The function by which the class of ``model`` computes a layer's frequencies from a length; exact in float32."""
    parameters, kind = model.config.rope_parameters, None
    if "rope_type" not in parameters:  # one set per layer type
        kind = model.config.layer_types[index]
        parameters = parameters[kind]
    compute = ROPE_INIT_FUNCTIONS[parameters["rope_type"]]

    def at(tokens: int, device: torch.device) -> Float[Tensor, "half"]:
        found: Tensor = compute(model.config, device, seq_len=torch.tensor(tokens, device=device), layer_type=kind)[0]
        return found

    return at
