"""Give a model new positions: the same weights under a config with another RoPE and a longer context.

transformers builds its angles when the model is built and ignores later changes of the config. So the config is
written first, the model is built from the folder as everybody will, and the live frequencies are compared with ours.
"""

from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from ropewalk.core.artifact import new_folder
from ropewalk.core.error import UserError
from ropewalk.model.family import rotaries_of
from ropewalk.model.folder import check_tokenizer, copy_tokenizer, link_weights, read_config, write_config
from ropewalk.model.load import load_model
from ropewalk.model.weights import Dtype, stored_dtype
from ropewalk.rope.frequency import wavelengths
from ropewalk.rope.method import Method
from ropewalk.rope.scaling import Rope
from ropewalk.shape.read import read_shape

_RTOL = 5e-6  # transformers computes in float32; its llama3 at theta 1e9 lies 3.0e-6 from float64


def extend(base: Path, out: Path, *, rope: Rope, context_tokens: int) -> None:
    """Write ``out``: the model of ``base`` with ``rope``, completed for ``context_tokens``. A finished folder.

    Weight files are linked where the disk allows. Raises UserError for a base that does not load strictly, a method
    that does not fit it, or live angles that are not the method's.
    """
    shape = read_shape(base)
    method = rope.complete(shape.base_rope, context_tokens)
    dtype = stored_dtype(base)
    check_tokenizer(base, vocabulary=shape.vocabulary)
    facts: dict[str, Any] = {}
    inputs = {"base": str(base), "rope": method.model_dump(mode="json"), "context_tokens": context_tokens}
    with new_folder(out, kind="model", inputs=inputs, facts=lambda: facts) as work:
        positions = method.to_hf(shape.theta)
        write_config(work, read_config(base), rope_parameters=positions, context_tokens=context_tokens, dtype=dtype)
        copy_tokenizer(base, work, context_tokens=context_tokens)
        link_weights(base, work)
        model = _load(work, base, dtype=dtype)
        facts |= {
            "base_theta": shape.theta,
            "base_context_tokens": shape.context_tokens,
            "context_tokens": context_tokens,
            "theta": method.final_theta(shape.theta),
            "longest_wavelength_tokens": float(wavelengths(method.inv_freq(shape.theta, shape.head_dim)).max()),
            **check_positions(model, method, theta=shape.theta, head_dim=shape.head_dim),
        }


def check_positions(model: PreTrainedModel, method: Method, *, theta: float, head_dim: int) -> dict[str, float]:
    """Compare every live rotary module with the completed ``method``; returns the largest relative difference.

    ``theta`` is the base's. Raises UserError where frequencies or attention factor differ by more than 5e-6.
    """
    wanted = method.inv_freq(theta, head_dim)
    worst = 0.0
    found = list(rotaries_of(model))
    assert found, "a supported model turns positions"
    for name, rotary in found:
        live = rotary.inv_freq.double().numpy()
        if live.shape != wanted.shape:
            raise _mismatch(name, f"it turns {len(live)} pairs, the method {len(wanted)}")
        scale = np.where(wanted == 0, 1.0, wanted)
        errors = np.append(np.abs(live - wanted) / scale, abs(rotary.attention_scaling / method.attention_factor - 1))
        if not errors.max() <= _RTOL:
            pair = int(errors.argmax())
            part = f"pair {pair}" if pair < len(live) else "the attention factor"
            raise _mismatch(name, f"{part} differs by {errors.max():.2e} of its value, more than {_RTOL:g}")
        worst = max(worst, float(errors.max()))
    return {"live_frequency_difference": worst}


def _load(work: Path, base: Path, *, dtype: Dtype) -> PreTrainedModel:
    """The model in ``work``; what is wrong with it is told of ``base``, which gave the weights and stays."""
    try:
        return load_model(work, dtype=dtype)
    except UserError as error:
        where = error.where.replace(str(work), str(base))
        raise UserError(error.what, where=where, why=error.why, fix=error.fix) from None


def _mismatch(name: str, why: str) -> UserError:
    return UserError(
        "the built model does not turn positions as the method says",
        where=name,
        why=why,
        fix="install a transformers version from the supported range, and report this with the config.json",
    )
