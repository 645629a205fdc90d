"""Compare every layer of a built model with the position value that it should run.

Config and model can differ: transformers builds its angles once and ignores later changes of the config, and it ignores
some keys altogether. So this file does not read a config.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count
from ropewalk.model.read_rope import LiveLayer
from ropewalk.model.rope_hooks import RTOL, read_live, temperature_at
from ropewalk.rope.layers import LayerPosition


def check_positions(
    model: Any, positions: Sequence[LayerPosition], *, head_dim: int | Sequence[int], context_tokens: int
) -> dict[str, float]:
    """Compare every live layer with its position, in a short document and in one of ``context_tokens``.

    ``head_dim`` counts the dimensions that RoPE turns; it is one number for each layer where layers differ. Returns the
    largest relative difference of a frequency or a factor. Raises UserError where one exceeds 2e-5, or where a window
    differs.
    """
    worst, dims = 0.0, [head_dim] * len(positions) if isinstance(head_dim, int) else head_dim
    for tokens in (2, max(2, context_tokens)):
        lives = read_live(model, tokens=tokens)
        assert len(lives) == len(positions)
        for index, (live, position, dim) in enumerate(zip(lives, positions, dims, strict=True)):
            worst = max(worst, _compare(live, position, index=index, tokens=tokens, head_dim=dim))
    return {"live_frequency_difference": worst}


def _compare(live: LiveLayer, position: LayerPosition, *, index: int, tokens: int, head_dim: int) -> float:
    wanted = position.inv_freq_at(tokens, head_dim)
    if live.window_tokens != position.window_tokens:
        raise _mismatch(index, f"its window is {live.window_tokens} tokens, and should be {position.window_tokens}")
    if live.inv_freq.shape != wanted.shape:
        raise _mismatch(index, f"it should rotate {format_count(len(wanted), 'pair')}, not {len(live.inv_freq)}")
    scale = np.where(wanted == 0, 1.0, wanted)
    errors = {f"pair {pair}": error for pair, error in enumerate(np.abs(live.inv_freq - wanted) / scale)}
    errors["the attention factor"] = abs(live.attention_factor / position.attention_factor - 1)
    errors["the temperature"] = abs(live.temperature / temperature_at(position, tokens - 1) - 1)
    part = max(errors, key=lambda part: errors[part])
    if not errors[part] <= RTOL:
        raise _mismatch(
            index, f"at {tokens} tokens {part} differs by {errors[part]:.2e} of its value, more than {RTOL:g}"
        )
    return float(errors[part])


def _mismatch(index: int, why: str) -> UserError:
    return UserError(
        "the model that was built has other positions than the method asks for",
        where=f"layer {index}",
        why=why,
        fix="install a transformers version from the supported range, and report this with the config.json",
    )
