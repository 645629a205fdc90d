"""Rope blocks by layer type that a class cannot complete: it fails when the model is built, after all text is prepared.

Classes with one RoPE per layer type fill missing blocks and thetas in, in two ways. Gemma 3 and OLMo 3 add
``rope_scaling`` to the block of full layers, and fail where ``rope_parameters`` stands there without it. Gemma 4 has
defaults for a file without ``rope_parameters``, and otherwise takes the blocks as they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.shape.family import Family
from ropewalk.shape.rope_block import ORIGINAL
from ropewalk.shape.rope_keys import FULL, TRAINED_LENGTH


def refuse_open_blocks(config: Mapping[str, Any], family: Family, kinds: Sequence[str], where: str) -> None:
    """Raise UserError for blocks that the class of ``family`` fails at. ``kinds`` has the type of each layer."""
    blocks, scaling = config.get("rope_parameters"), config.get("rope_scaling")
    if scaling is not None and family.whole_ropes:
        told = f"the class of {family.model_type} fails at it"
        raise _refuse("rope_scaling cannot be used", f"{where}: rope_scaling", told, FULL)
    if blocks is None:
        return
    if scaling is not None and not isinstance(blocks.get(FULL), Mapping):
        told = f"it has no block for {FULL}, to which the class adds rope_scaling"
        raise _refuse("rope_parameters is incomplete", f"{where}: rope_parameters", told, FULL)
    if not family.whole_ropes:
        return
    for kind in dict.fromkeys(kinds):
        block = blocks.get(kind)
        if not isinstance(block, Mapping):
            told = f"it has no block for {kind}; the class of {family.model_type} has defaults only without the key"
            raise _refuse("rope_parameters is incomplete", f"{where}: rope_parameters", told, kind)
        needed = ["rope_theta", *([ORIGINAL] if block.get("rope_type") in TRAINED_LENGTH else [])]
        if missing := [key for key in needed if block.get(key) is None]:
            told = f"it has no {' and no '.join(missing)}, for which the class of {family.model_type} has no default"
            raise _refuse("rope_parameters is incomplete", f"{where}: rope_parameters.{kind}", told, kind)


def _refuse(what: str, where: str, why: str, kind: str) -> UserError:
    fix = f"give rope_parameters.{kind} with all its figures, and no rope_scaling; or remove both keys"
    return UserError(what, where=where, why=why, fix=fix)
