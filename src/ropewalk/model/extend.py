"""Give a model new positions: the same weights under a config with other layers and a longer context.

transformers builds its angles when the model is built and ignores later changes of the config. So the config is written
first, then the model is built from the folder in the usual way, and every live layer is compared with its value.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ropewalk.core.artifact import is_finished, new_folder, read_manifest
from ropewalk.core.error import UserError
from ropewalk.model.biases import add_bias_weights
from ropewalk.model.check_carried import describe_carried
from ropewalk.model.check_rope import check_positions
from ropewalk.model.convert_layers import convert_weights
from ropewalk.model.folder import check_tokenizer, copy_tokenizer, link_weights, read_config, write_config
from ropewalk.model.load import build_model
from ropewalk.model.null_entries import drop_nulls
from ropewalk.model.weights import Dtype, check_stored, stored_dtype
from ropewalk.parallel.verify_folder import require_intact
from ropewalk.rope.frequency import wavelengths
from ropewalk.rope.layers import LayerPosition, LayerRule
from ropewalk.rope.scaling import Rope
from ropewalk.shape.change_layers import change_layers, convert_config, describe_change, list_converted
from ropewalk.shape.families import require_row
from ropewalk.shape.guessed import describe_guess
from ropewalk.shape.layer_keys import SpelledLayers, spell_layers
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import read_shape
from ropewalk.shape.wrappers import read_text_config, write_text_config


def extend(base: Path, out: Path, *, rope: Rope, layers: tuple[LayerRule, ...] = (), context_tokens: int) -> None:
    """Write ``out``: the model of ``base`` with ``rope``, completed for ``context_tokens``. A finished folder.

    ``layers`` is a pattern of rules, repeated over the layers; without one, ``rope`` applies to layers with full
    attention. Weight files are linked where the disk allows. Raises UserError for a base that does not load strictly or
    does not match its manifest, for a method or pattern that does not fit it, and for live layers that differ from
    their values.
    """
    require_intact(base)
    shape = read_shape(base)
    positions = change_layers(shape, layers, rope=rope, context_tokens=context_tokens).positions
    config, where = read_config(base), str(base / "config.json")
    text, converted = drop_nulls(read_text_config(config, where)), list_converted(shape, positions)
    if converted:
        config = text = convert_config(text, shape, positions)
    spelled = spell_layers(text, positions, context_tokens=context_tokens, where=where)
    dtype: Dtype = "float32" if converted else stored_dtype(base)
    check_tokenizer(base, vocabulary=shape.vocabulary)
    facts: dict[str, Any] = {}
    inputs = {
        "base": str(base),
        "context_tokens": context_tokens,
        "former": [layer.model_dump(mode="json", exclude_none=True) for layer in shape.positions],
        "positions": [layer.model_dump(mode="json", exclude_none=True) for layer in positions],
    }
    with new_folder(out, kind="model", inputs=inputs, facts=lambda: facts) as work:
        write_config(work, write_text_config(config, spelled.apply(text), where), dtype=dtype)
        copy_tokenizer(base, work, context_tokens=context_tokens)
        if converted:
            facts |= convert_weights(base, work, shape, converted, context_tokens=context_tokens)
        else:
            link_weights(base, work)
        add_bias_weights(work, positions, heads=shape.heads, dtype=dtype)
        model, carried = _build(work, base)
        facts |= carried | _tell_dropout(text, shape) | _tell_origin(base)
        if guess := describe_guess(shape.architecture):
            facts |= {"guessed": guess}
        if require_row(shape.architecture).methods is not None:  # config.json may have another word for the method
            facts |= {"positions": inputs["positions"]}
        facts |= check_positions(model, positions, head_dim=shape.rotary_dims, context_tokens=context_tokens)
        facts |= {"layers": describe_change(shape, positions)}  # from the request: read back, a new theta is plain RoPE
        facts |= _tell(shape, read_shape(work), spelled, context_tokens=context_tokens)


def _tell_dropout(config: Mapping[str, Any], shape: ModelShape) -> dict[str, str]:
    """A line where the base's file has a dropout that the new one has not."""
    keys = [key for key in require_row(shape.architecture).no_dropout if config.get(key)]
    told = ", ".join(f"{key} {config[key]}" for key in keys)
    why = "is 0 from here on: context ranks cannot draw the same dropout"
    return {"dropout": f"the base's {told} {why}"} if keys else {}


def _tell_origin(base: Path) -> dict[str, Any]:
    """That the weights come from a quantised file, as ``ropewalk import`` wrote it into the manifest of ``base``."""
    told = read_manifest(base)["facts"] if is_finished(base) else {}
    return {key: told[key] for key in ("dequantised", "quantisation") if told.get("dequantised")}


def read_former(folder: Path) -> tuple[LayerPosition, ...]:
    """The positions of each layer before the model was extended. Raises UserError where they were not recorded."""
    former = read_manifest(folder)["inputs"].get("former") if is_finished(folder) else None
    if former is None:
        raise UserError(
            "the positions before the change are unknown, so they cannot be interpolated",
            where=str(folder),
            why="its manifest does not have the positions of its base",
            fix="extend the base again, or set rope_interpolation_steps to 0",
        )
    return tuple(LayerPosition.model_validate(layer) for layer in former)


def _tell(base: ModelShape, made: ModelShape, spelled: SpelledLayers, *, context_tokens: int) -> dict[str, Any]:
    """The changes for the manifest: the figures of the layers that a longer context affects."""
    stretched = made.stretched
    longest = wavelengths(stretched.inv_freq_at(context_tokens, made.rotary_dim)).max()
    return {
        "architecture": spelled.architecture,
        **({} if spelled.native else {"why_no_class": spelled.why_not}),
        "base_theta": base.theta,
        "base_context_tokens": base.context_tokens,
        "context_tokens": context_tokens,
        "rotary_dim": made.rotary_dim,
        **({"base_score_scale": base.score_scale, "score_scale": made.score_scale} if made.latent else {}),
        "theta": stretched.rope.final_theta(stretched.theta),
        "longest_wavelength_tokens": float(longest) if math.isfinite(longest) else None,
    }


def _build(work: Path, base: Path) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Build the model in ``work`` and check its weights; errors name ``base``, which gave the weights and remains.

    The second value is the fact about the tensors that are not the model's.
    """
    try:
        model = build_model(work)
        check_stored(work)
        return model, describe_carried(work, model)
    except UserError as error:
        where = error.where.replace(str(work), str(base))
        raise UserError(error.what, where=where, why=error.why, fix=error.fix) from None
