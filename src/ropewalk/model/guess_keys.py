"""The keys of a class that has no row: which add biases, norms and factors, and the defaults where one is missing.

A key is known by its effect: a tiny model is built with it and without, and its parameters, angles or logits compared.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from transformers import PreTrainedModel

from ropewalk.model.guess_parts import FoundMatrices, FoundParts, find_qk_norm
from ropewalk.model.trial import REFUSALS, WHOLE, refuse_class, run_watched
from ropewalk.model.twin import HEAD_DIM, WIDTH, find_dropout, make_config, make_empty, make_twin
from ropewalk.shape.family import Bias

Kind = type[PreTrainedModel]
Changes = Mapping[str, Any]
_SMALL_VOCABULARY = 1024
"""Every tokenizer has more tokens, so a smaller id needs no check."""


def guess_biases(kind: Kind, changes: Changes, found: FoundParts, matrices: FoundMatrices) -> dict[str, Any]:
    """The fields of a family for biases and for norms of queries and keys."""

    def look(more: Changes) -> dict[str, Any]:
        model = make_empty(kind, {**changes, **more})
        block: Any = getattr(getattr(model, found.parts.backbone), found.parts.layers)[0]
        attention, mlp = block.get_submodule(found.parts.attention), block.get_submodule(found.parts.mlp)
        return {
            "qkv_bias": attention.get_submodule(matrices.query).bias is not None,
            "output_bias": attention.get_submodule(matrices.output).bias is not None,
            "mlp_bias": bool(matrices.mlp) and mlp.get_submodule(matrices.mlp).bias is not None,
            "qk_norm": find_qk_norm(replace(found, block=block)),
        }

    default: dict[str, Any] = look({})
    fields: dict[str, Any] = dict(default)
    config = make_config(kind, changes)
    for key, value in config.to_dict().items():
        if not isinstance(value, bool) or not ("bias" in key or "norm" in key):
            continue
        try:
            other = look({key: not value})
        except REFUSALS:
            continue
        for name in ("qkv_bias", "output_bias", "mlp_bias"):
            if other[name] != default[name]:
                bias: Bias = (key, value)
                fields[name] = bias
        if other["qk_norm"] != default["qk_norm"]:
            fields |= {"qk_norm": other["qk_norm"] if default["qk_norm"] == "none" else default["qk_norm"]}
            fields |= {"qk_norm_key": key}
    return fields


def guess_defaults(kind: Kind, changes: Changes) -> dict[str, Any]:
    """The fields for what the class takes where a file has no key: heads, their width, a tied head, dropout."""
    fields: dict[str, Any] = {
        "tied": bool(make_config(kind, {**changes, "tie_word_embeddings": ...}).tie_word_embeddings)
    }
    fields["no_dropout"] = find_dropout(kind.config_class())
    if changes.get("num_key_value_heads", 0) is not ...:
        many = {"num_key_value_heads": ..., "num_attention_heads": 12, "hidden_size": 12 * HEAD_DIM}
        bare = make_config(kind, {**changes, **many})
        told = getattr(bare, "num_key_value_heads", 12)
        fields["needs_kv_heads"] = told not in (None, 12) or (told is None and not _builds(kind, {**changes, **many}))
    try:
        bare = make_config(kind, {**changes, "head_dim": ..., "num_attention_heads": 2})
        told = getattr(bare, "head_dim", None)
        fields["head_dim"] = None if told in (None, WIDTH // 2) else told
        make_empty(kind, {**changes, "head_dim": ..., "num_attention_heads": 2})
    except REFUSALS:
        fields["needs_head_dim"] = True
    null = {**changes, "head_dim": None}
    fields["null_head_dim"] = fields.get("head_dim") is not None and _builds(kind, null)
    fields["original_tokens"] = getattr(kind.config_class(), "original_max_position_embeddings", None)
    pad_id = kind.config_class().pad_token_id
    fields["pad_id"] = pad_id if pad_id is not None and pad_id >= _SMALL_VOCABULARY else None
    return fields


def _builds(kind: Kind, changes: Changes) -> bool:
    try:
        make_empty(kind, changes)
    except REFUSALS:
        return False
    return True


def guess_rope(kind: Kind, changes: Changes, found: FoundParts) -> dict[str, Any]:
    """The fields for RoPE: the share of a head that it turns, theta and its key, a block of its own, types it runs."""

    def angles(more: Changes) -> dict[str, Float[torch.Tensor, "half"]]:
        rotary: Any = getattr(kind(make_config(kind, {**changes, **more})), found.parts.backbone)
        buffers = dict(getattr(rotary, found.parts.rotary).named_buffers())
        return {key: each for key, each in buffers.items() if key.endswith("inv_freq") and "original" not in key}

    default = angles({})
    share = 2 * len(next(iter(default.values()))) / HEAD_DIM
    fields: dict[str, Any] = {"ropes": "one" if "inv_freq" in default else "by_type"}
    block: Any = make_config(kind, changes).rope_parameters
    own = fields["ropes"] == "one" and block.get("rope_type", "default") != "default"
    plain = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}} if own else {}
    for key, value in (("rotary_pct", 0.75), ("rotary_dim", 12), ("partial_rotary_factor", 0.75)):
        turned = len(next(iter(angles({**plain, key: value}).values())))  # scaled types turn a share in any class
        if 2 * turned == 12 != share * HEAD_DIM:
            fields |= {"partial": True, "rotary_key": key, "rotary_counts": isinstance(value, int)}
            fields |= {"rotary_share": 1.0 if isinstance(value, int) else share}
            break
    else:
        fields["rotary_share"] = share
    fields |= _guess_theta(kind, changes, fields["ropes"])
    if fields["ropes"] == "one":
        fields["methods"] = _guess_methods(kind, changes)
        fields["ntk_alpha"] = _reads_alpha(angles)
    return fields


def _guess_theta(kind: Kind, changes: Changes, ropes: str) -> dict[str, Any]:
    block: Any = make_config(kind, changes).rope_parameters
    if ropes == "by_type":
        full, windowed = block["full_attention"]["rope_theta"], block["sliding_attention"]["rope_theta"]
        open_block: dict[str, Any] = {each: {"rope_type": "default"} for each in block}
        completed: Any = make_config(kind, {**changes, "rope_parameters": open_block}).rope_parameters
        whole = "rope_theta" not in completed["full_attention"]
        fields: dict[str, Any] = {"theta": full, "window_theta": windowed, "whole_ropes": whole}
        other: Any = make_config(kind, {**changes, "rope_local_base_freq": 777.0}).rope_parameters
        if other["sliding_attention"]["rope_theta"] == 777.0:
            fields["window_theta_key"] = "rope_local_base_freq"
        return fields
    fields = {"theta": block["rope_theta"]}
    for key in ("rope_theta", "rotary_emb_base"):
        other = make_config(kind, {**changes, key: 777.0}).rope_parameters
        if other["rope_theta"] == 777.0:
            fields["theta_key"] = key
            break
    if block.get("rope_type", "default") != "default":
        left_out = ("type", "max_position_embeddings")
        fields["default_rope"] = {key: value for key, value in block.items() if key not in left_out}
    return fields


def _guess_methods(kind: Kind, changes: Changes) -> tuple[str, ...] | None:
    """The rope types that the class runs; None where it runs all that transformers has."""
    ones = [1.0] * (HEAD_DIM // 2)
    blocks: dict[str, dict[str, Any]] = {
        "linear": {"factor": 2.0},
        "yarn": {"factor": 2.0, "original_max_position_embeddings": 32},
        "llama3": {
            **{"factor": 2.0, "original_max_position_embeddings": 32},
            **{"low_freq_factor": 1.0, "high_freq_factor": 4.0},
        },
        "longrope": {"short_factor": ones, "long_factor": ones, "original_max_position_embeddings": 32},
    }
    runs = []
    for method, keys in blocks.items():
        block = {"rope_type": method, "rope_theta": 1e4, **keys}
        try:
            config = make_config(kind, {**changes, "rope_parameters": block})
            kind(config)
        except REFUSALS:
            continue
        if config.rope_parameters["rope_type"] == method:
            runs.append(method)
    return None if len(runs) >= 3 else ("default", *runs)


def _reads_alpha(angles: Any) -> bool:
    """Whether ``dynamic`` with ``alpha`` is a fixed theta x alpha^(d / (d - 2))."""
    block = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 1.0, "alpha": 100.0}
    try:
        found = angles({"rope_parameters": block})["inv_freq"].double()
    except REFUSALS:
        return False
    dim = 2 * len(found)
    wanted = (1e4 * 100.0 ** (dim / (dim - 2))) ** (-torch.arange(0, dim, 2).double() / dim)
    return bool(torch.allclose(found, wanted, rtol=1e-5))


@torch.no_grad()
def guess_logit_rules(kind: Kind, changes: Changes, backbone: str) -> dict[str, Any]:
    """The fields for what follows the head: a key that multiplies or divides the logits, and a key that caps them.

    Raises UserError where the logits are anything else.
    """
    name, fields = kind.__name__, dict[str, Any]()
    base = make_config(kind, changes)
    keys = [key for key in base.to_dict() if "logit" in key or key == "dim_model_base"]
    for key in (key for key in keys if not isinstance(getattr(base, key), bool)):
        value, default = 2.5, getattr(base, key)
        try:
            plain, logits = _read_logits(kind, {**changes, key: value}, backbone)
        except REFUSALS:
            continue
        ratio = float((logits / plain).median())
        if torch.allclose(logits, plain, rtol=1e-9):
            continue
        if torch.allclose(logits, ratio * plain, rtol=1e-6):
            fields["logit_scale"] = key, default
            fields["logit_divides"] = abs(ratio * value - 1) < 1e-6
            fields["logit_by_width"] = abs(ratio * WIDTH / value - 1) < 1e-6
        elif torch.allclose(logits, value * (plain / value).tanh(), rtol=1e-6):
            fields["logit_cap"] = key, default
    plain, logits = _read_logits(kind, changes, backbone)
    scale, cap = 1.0, fields.get("logit_cap", ("", None))[1]
    if "logit_scale" in fields:
        value = fields["logit_scale"][1]
        scale = 1 / value if fields["logit_divides"] else value / WIDTH if fields["logit_by_width"] else value
    expected = scale * plain if cap is None else cap * (scale * plain / cap).tanh()
    if not torch.allclose(logits, expected, rtol=1e-6):
        raise refuse_class(name, "its logits are not the product of the head, with a factor or a cap that has a key")
    return fields


def _read_logits(
    kind: Kind, changes: Changes, backbone: str
) -> tuple[Float[torch.Tensor, "1 tokens vocabulary"], Float[torch.Tensor, "1 tokens vocabulary"]]:
    """The product of the head's input and weight, and the logits of the class."""
    model = make_twin(kind, changes)
    seen: list[torch.Tensor] = []
    part: Any = getattr(model, backbone)
    part.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    logits, _ = run_watched(model, WHOLE)
    head: Any = model.get_output_embeddings()
    if head.bias is not None:
        raise refuse_class(kind.__name__, "its head has a bias")
    return seen[0] @ head.weight.T, logits
