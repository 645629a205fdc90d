"""The row of data of a class that has none, read off the class itself, and the proofs that it is right.

A tiny model of the class is tried first (trial.py): packed documents are each alone, and two context ranks are one.
Then its modules, keys and defaults are read, each by its effect. At last the row must give what the class has: the
number of parameters, windows, frequencies, how queries are turned, and the logits. What fails is refused by name.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ropewalk.core.error import UserError
from ropewalk.model.architectures import find_class, is_causal
from ropewalk.model.attention_interface import NAME, count_calls
from ropewalk.model.check_rope import check_positions
from ropewalk.model.guess_experts import fix_scores, guess_experts, make_few
from ropewalk.model.guess_keys import (
    Changes,
    Kind,
    guess_biases,
    guess_defaults,
    guess_logit_rules,
    guess_rope,
)
from ropewalk.model.guess_layers import check_queries, guess_nope, guess_windows
from ropewalk.model.guess_parts import (
    FoundMatrices,
    FoundParts,
    count_norms,
    find_layout,
    find_matrices,
    find_norm,
    find_parts,
)
from ropewalk.model.null_entries import drop_nulls
from ropewalk.model.pass_arguments import hand_on_arguments
from ropewalk.model.read_rope import read_native
from ropewalk.model.trial import (
    BOTH_KINDS,
    REFUSALS,
    SHORT_WINDOW,
    WHOLE,
    refuse_class,
    run_watched,
    tell_error,
    try_short_windows,
)
from ropewalk.model.twin import HEADS, LAYERS, WIDTH, make_config, make_empty, make_twin
from ropewalk.partition import partition_tokens
from ropewalk.shape.families import OWN_TYPE
from ropewalk.shape.family import Family
from ropewalk.shape.guessed import GUESSED
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import parse_shape

NOT_GUESSED = (
    *("kin", "assumes_more", "kept_rope_keys", "file_names", "required", "fixed", "layer_word"),
    "latent",
)
"""Fields of a row that a class cannot be asked for; a class that needs one of them is refused by a proof."""


def read_class(kind: Kind, changes: Changes | None = None) -> Family:
    """The family of ``kind``, a causal language model of transformers without a row.

    ``changes`` are keys of the tiny config that differ from twin.py's. Raises UserError, with the reason, for a class
    that mixes tokens outside of attention or that no row can describe.
    """
    changes = {**make_few(kind), **(changes or {})}
    try:
        model, watch = try_short_windows(kind, changes)
        found = find_parts(model, watch)
        matrices = find_matrices(kind.__name__, found)
        if watch.calls[0].key.shape[0] == HEADS:
            changes["num_key_value_heads"] = ...  # the class has a key head for each query head
        family = _prove(kind, changes, _read_row(kind, changes, found, matrices), found, matrices)
    except REFUSALS as error:
        why = f"a tiny model of it cannot be built or run: {tell_error(error)}"
        raise refuse_class(kind.__name__, why) from error
    return family


def _read_row(kind: Kind, changes: Changes, found: FoundParts, matrices: FoundMatrices) -> Family:
    windows = guess_windows(kind, changes)
    asked: dict[str, Any] = {
        **guess_biases(kind, changes, found, matrices),
        **guess_defaults(kind, changes),
        **guess_rope(kind, changes, found),
        **windows,
        **guess_nope(kind, changes, found, matrices, windows["windows"]),
        **guess_logit_rules(kind, changes, found.parts.backbone),
    }
    return Family(
        str(kind.config_class.model_type),
        norm=find_norm(kind.__name__, found.backbone.get_submodule(found.parts.norm)),
        block_norms=count_norms(found),
        mlp="gated" if matrices.gated else "plain",
        projections=matrices.projections,
        cos_sin=find_layout(kind.__name__, found),
        score_cap=_caps_scores(kind, changes),
        drops_arguments=_drops_arguments(kind, changes, found),
        sinks=any(name.endswith("sinks") for name, _ in found.attention.named_parameters()),
        parts=found.parts,
        experts=guess_experts(kind, changes, found),
        fixed=fix_scores(kind, changes),
        **asked,
    )


def _caps_scores(kind: Kind, changes: Changes) -> bool:
    model = make_twin(kind, {**changes, "attn_logit_softcapping": 3.0})
    return run_watched(model, WHOLE)[1].calls[0].settings.get("softcap") == 3.0


def _drops_arguments(kind: Kind, changes: Changes, found: FoundParts) -> bool:
    """Whether attention does not get what the model was called with. Raises UserError where it gets no angles."""
    model, seen = make_twin(kind, changes), set[str]()
    layers: Any = getattr(getattr(model, found.parts.backbone), found.parts.layers)
    attention = layers[0].get_submodule(found.parts.attention)
    attention.register_forward_pre_hook(lambda module, args, given: seen.update(given), with_kwargs=True)
    run_watched(model, WHOLE)
    if "position_embeddings" not in seen:
        raise refuse_class(kind.__name__, "its attention does not get the angles by the name position_embeddings")
    return not {"partition", "context_group", "position_ids"} <= seen


def _prove(kind: Kind, changes: Changes, family: Family, found: FoundParts, matrices: FoundMatrices) -> Family:
    """``family`` with the parameters that belong to no matrix and no norm, after all of it was compared with the class.

    Raises UserError where row and class differ.
    """
    name, before = kind.__name__, dict(GUESSED)
    switched = {**changes, **SHORT_WINDOW, **({"layer_types": BOTH_KINDS} if family.windows == "some" else {})}
    wide = {**changes, "hidden_size": 2 * WIDTH, "num_attention_heads": 2 * HEADS, "intermediate_size": 88}
    try:
        GUESSED[name] = family
        rest, left = divmod(_count_rest(kind, changes), LAYERS)
        GUESSED[name] = family = replace(family, other_parameters=rest)
        if rest < 0 or left or _count_rest(kind, wide):
            raise refuse_class(name, "its blocks have parameters that belong to no matrix and no norm of a Llama")
        for each in (changes, switched):
            model = make_twin(kind, each)
            shape = _parse_twin(kind, each)
            check_positions(model, shape.positions, head_dim=shape.rotary_dim, context_tokens=shape.context_tokens)
            check_queries(model, found, matrices, read_native(model))
        _require_calls(make_twin(kind, changes))
        return family
    finally:
        GUESSED.clear()
        GUESSED.update(before)


def _parse_twin(kind: Kind, changes: Changes) -> ModelShape:
    name = kind.__name__
    return _parse(name, {**make_config(kind, changes).to_dict(), "architectures": [name]}, name)


def _count_rest(kind: Kind, changes: Changes) -> int:
    """The parameters that the class has and its row does not."""
    found = sum(each.numel() for each in make_empty(kind, changes).parameters())
    return int(found - _parse_twin(kind, changes).parameters)


@torch.no_grad()
def _require_calls(model: PreTrainedModel) -> None:
    """Raise UserError unless every layer attends over a partition once the arguments are handed on."""
    hand_on_arguments(model)
    model.set_attn_implementation(NAME)
    partition = partition_tokens(np.zeros((1, 8), np.int32), ranks=1)
    with count_calls() as calls:
        model(WHOLE[:, :8], position_ids=WHOLE[:, :8], use_cache=False, partition=partition, context_group=None)
    if len(calls) != LAYERS:
        raise refuse_class(type(model).__name__, "its blocks do not pass on the arguments that attention needs")


def guess_family(name: str, config: Mapping[str, Any], where: str) -> Family:
    """The row of the class ``name``, compared with the class in the sizes of ``config``; kept for this process.

    Raises UserError for a class that is not there, that mixes tokens outside of attention, or that no row describes, at
    every call.
    """
    kind = find_class(name)
    if kind is None or not is_causal(kind):
        raise UserError(
            f"{name} is not supported",
            where=f"{where}: architectures",
            why="transformers has no causal language model of this name, and no program registered one",
            fix="choose a base of a class of transformers; a class of your own must be registered with AutoConfig and "
            "AutoModelForCausalLM before (docs/models.md)",
        )
    if name in _compared_now:
        return GUESSED[name]
    if name not in GUESSED or _read_off.get(name) is not kind:  # a program may register a class of this name again
        GUESSED[name], _read_off[name] = read_class(kind), kind
    told = kind, json.dumps(config, sort_keys=True, default=str)
    if OWN_TYPE not in config and told not in _compared:
        _compare(kind, config, where)
        _compared.add(told)
    return GUESSED[name]


_read_off: dict[str, Kind] = {}
_compared: set[tuple[Kind, str]] = set()
"""Classes, and the config.json files whose sizes were compared with them."""
_compared_now: set[str] = set()
"""The classes whose row is compared now, so it is taken as it is."""


def _parse(name: str, config: Mapping[str, Any], where: str) -> ModelShape:
    """The shape by the row that ``GUESSED`` has, without another comparison of it."""
    _compared_now.add(name)
    try:
        return parse_shape(config, where)
    finally:
        _compared_now.discard(name)


def _compare(kind: Kind, config: Mapping[str, Any], where: str) -> None:
    name = kind.__name__
    counted = _parse(name, config, where).parameters
    try:
        with torch.device("meta"):
            made = kind(kind.config_class.from_dict(drop_nulls(config)))
    except REFUSALS as error:
        raise refuse_class(name, f"it cannot be built from {where}: {tell_error(error)}") from error
    found = sum(each.numel() for each in made.parameters())
    if found != counted:
        raise refuse_class(
            name,
            f"it has {found:,} parameters in the sizes of {where}, and the row that was read off a tiny model gives "
            f"{counted:,}",
        )
