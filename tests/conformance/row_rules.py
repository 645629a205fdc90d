"""Keys of a row that neither the tiny model's shape nor its loss needs: what it refuses, renames, switches or writes.

``FAMILIES`` has the rows as they are. So a check still knows what must hold when the mutation test has changed a row.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conformance.checks import build_empty
from conformance.tiny_families import FAMILIES, WINDOW_TOKENS, make_model, make_settings
from ropewalk.core.error import UserError
from ropewalk.model.architectures import blocks_of, class_of
from ropewalk.model.check_rope import check_positions
from ropewalk.model.file_names import sort_names
from ropewalk.model.null_entries import drop_nulls, takes_null
from ropewalk.model.read_rows import StoredTensor
from ropewalk.plan.trained import merge_projections
from ropewalk.rope.scaling import Nope
from ropewalk.shape.layer_keys import spell_layers
from ropewalk.shape.read import parse_shape

_BLOCKS: dict[str, dict[str, Any]] = {
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 2.0, "original_max_position_embeddings": 16},
    "llama3": {
        **{"factor": 2.0, "original_max_position_embeddings": 16},
        **{"low_freq_factor": 1.0, "high_freq_factor": 4.0},
    },
}

_TOLD = ("architectures", "layer_types", "sliding_window", "num_hidden_layers")
"""Keys that say with others which layers there are; each alone is tried in tests/shape."""


def check_refusals(architecture: str) -> None:
    """What the row fixes, requires or does not run is refused by the name of its key."""
    settings = make_settings(architecture)
    for key, wrong in list_wrong(architecture):
        given = {name: value for name, value in (settings | wrong).items() if value is not ...}
        try:
            parse_shape(given, "config.json")
        except UserError as refusal:
            assert key in f"{refusal.what} {refusal.where}", key
        else:
            raise AssertionError(f"{key} is not refused")  # pytest.raises would end the mutation test


def list_wrong(architecture: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each key of the row that refuses something: the key, and entries of a file that it refuses."""
    family = FAMILIES[architecture]
    for key, value in family.fixed.items():
        other = "gelu" if key == "hidden_act" else "other"  # a known activation
        if value is True:
            yield key, {key: None}
        yield key, {key: not value if isinstance(value, bool) else other if isinstance(value, str) else 2}
    for key in family.required:
        yield key, {key: ...}
    for key, value in {"head_dim": 24, "num_key_value_heads": 2}.items():
        if key in family.equal_heads:
            yield key, {key: value}
    for needed, key in ((family.needs_kv_heads, "num_key_value_heads"), (family.needs_head_dim, "head_dim")):
        if needed:
            yield key, {key: ...}
    if family.pad_id is not None:
        yield "pad_token_id", {"pad_token_id": ...}
    if "head_dim" in family.equal_heads and family.head_dim:
        yield "head_dim", {"head_dim": ...}
    if family.whole_ropes:
        yield "rope_parameters", {"rope_parameters": {}}
        yield "rope_scaling", {"rope_parameters": ..., "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    if family.original_tokens is not None:
        block = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 16}
        block |= {"short_factor": [1.0] * 6, "long_factor": [2.0] * 6}
        yield "config.json", {family.theta_key: ..., "rope_parameters": block}
    if family.latent and family.latent.obeys_head_dim:
        yield "head_dim", {"head_dim": 20}  # of a whole head, which other classes ignore
    if family.partial:
        share: dict[str, Any] = {"partial_rotary_factor": None}
        yield "partial_rotary_factor", {"rope_parameters": ..., **share}
        block = {"rope_type": "default", "rope_theta": 1e4, **share}
        yield "partial_rotary_factor", {family.theta_key: ..., "partial_rotary_factor": ..., "rope_parameters": block}
        if family.rotary_key not in share and not family.rotary_counts:
            yield family.rotary_key, {family.rotary_key: None}
    for other in family.experts.count[1:] if family.experts else ():
        yield other, {family.experts.count[0]: 4, other: 6}
    for kind in set(_BLOCKS) - set(family.methods or _BLOCKS):
        block = {"rope_type": kind, "rope_theta": 1e4, **_BLOCKS[kind]}
        yield "rope_type", {family.theta_key: ..., "rope_parameters": block}


def check_projections(architecture: str) -> None:
    """The names of a block's matrices are those of its modules."""
    if not FAMILIES[architecture].projections:
        return
    shape = parse_shape(make_settings(architecture), "config.json")
    modules = {path.rpartition(".")[2] for path, each in blocks_of(make_model(architecture)).named_modules()}
    assert set(merge_projections(shape)) <= modules | (
        {"gate_proj", "up_proj", "down_proj"} if shape.mixtures else set()
    )


def check_written(architecture: str) -> None:
    """What a new folder gets: no dropout, layers of another class beside its own defaults, names of the files."""
    family, settings = FAMILIES[architecture], make_settings(architecture)
    settings |= dict.fromkeys(family.no_dropout, 0.1)
    shape = parse_shape(settings, "config.json")
    spelled = spell_layers(settings, shape.positions, context_tokens=shape.context_tokens)
    assert not any(spelled.apply(settings)[key] for key in family.no_dropout)
    assert sum(each.numel() for each in build_empty(spelled.apply(settings)).parameters()) == shape.parameters
    if family.kin:
        plain = make_plain(architecture)
        layers, tokens = parse_shape(plain, "config.json").positions, shape.context_tokens
        others = ({"window_tokens": WINDOW_TOKENS}, {"rope": Nope()})
        patterns = [
            [layer.model_copy(update=other if i % 2 else {}) for i, layer in enumerate(layers)] for other in others
        ]
        found = [spell_layers(plain, pattern, context_tokens=tokens) for pattern in patterns]
        assert any(each.native and each.architecture in family.kin for each in found)
    names = {name: StoredTensor(Path(), (1,), "F32", 0) for name in (*family.file_names, "model.norm.weight")}
    renamed = sort_names({"architectures": [architecture]}, names, Path()).trained
    assert set(family.file_names.values()) <= set(renamed)


def make_plain(architecture: str) -> dict[str, Any]:
    """The settings without windows."""
    dropped = ("sliding_window", "layer_types", "use_sliding_window", "max_window_layers")
    settings = {key: value for key, value in make_settings(architecture).items() if key not in dropped}
    return settings | ({"sliding_window": None} if FAMILIES[architecture].windows == "all" else {})


def check_switches(architecture: str) -> None:
    """Each key that switches something, the other way round: parameters and positions are those of the class."""
    for changes in list_switches(architecture):
        settings = {key: value for key, value in (make_settings(architecture) | changes).items() if value is not ...}
        shape, model = parse_shape(settings, "config.json"), make_model(architecture, bare=settings)
        assert shape.parameters == sum(each.numel() for each in model.parameters())
        check_positions(model, shape.positions, head_dim=shape.rotary_dims, context_tokens=shape.context_tokens)


def list_switches(architecture: str) -> Iterator[dict[str, Any]]:
    """Entries of a file, ``...`` for a key that is left out, by which the class differs from the tiny model."""
    family, settings = FAMILIES[architecture], make_settings(architecture)
    if "tie_word_embeddings" not in family.fixed:
        yield {family.tied_key or "tie_word_embeddings": not settings["tie_word_embeddings"]}
    if family.null_head_dim:
        yield {"head_dim": None}
    if family.experts and family.experts.per_layer:
        yield {family.experts.per_token: [2] * 4}
    if family.qk_norm_key:
        yield {family.qk_norm_key: not settings.get(family.qk_norm_key, False)}
    if family.window_switch:
        yield {"use_sliding_window": False, "layer_types": ...}
    if family.window_every_key:
        yield {family.window_every_key: 3, "layer_types": ..., "num_hidden_layers": 6}
    if family.window_theta_key != "rope_theta":
        yield {"rope_parameters": ..., family.window_theta_key: 777.0}
    if family.rotary_key != "partial_rotary_factor":
        yield {family.rotary_key: 12 if family.rotary_counts else 0.75}
    if family.ntk_alpha:
        block = {"rope_type": "dynamic", "alpha": 100.0, "factor": 1.0}
        yield {"rope_parameters": ..., "rope_theta": 2e4, "rope_scaling": block}
    if family.experts and family.experts.switch:
        yield {family.experts.switch: False}
        yield {family.experts.switch: ...}
    if family.latent and family.latent.value_of_width:
        yield {"v_head_dim": ...}
    if family.recurrent and family.recurrent.every_key:
        yield {family.recurrent.every_key: 2, "layer_types": ..., "num_hidden_layers": 6}
    if family.recurrent and family.recurrent.attention_key and family.recurrent.word:
        yield {family.recurrent.attention_key: [0, 1], "layer_types": ...}
    if family.recurrent and family.recurrent.layout == "olmo_hybrid":
        yield {"layer_types": ..., "num_hidden_layers": 3}  # a period has four: the class lets the last one attend
    if family.recurrent and family.recurrent.layout == "falcon_h1":
        yield {"mamba_rms_norm": True}
        yield {"mamba_d_ssm": None, "mamba_d_head": "auto"}


def check_nulls(architecture: str) -> None:
    """Null at every key at which the class fails: shape and model are those of a file without these keys."""
    kind, settings = class_of(architecture).config_class, make_settings(architecture)
    assert kind is not None
    strict = [key for key in {**settings, **kind.__dataclass_fields__} if not takes_null(kind, key)]
    nulls = {"rope_scaling", "head_dim", *strict} - {*_TOLD, *_needed(settings), *FAMILIES[architecture].fixed}
    if architecture == "HeliumForCausalLM" or FAMILIES[architecture].null_head_dim:
        nulls.discard("head_dim")  # Helium's default is not width / heads, and the class fails at it
    heads = {"num_key_value_heads": settings["num_attention_heads"]}
    without = {key: value for key, value in settings.items() if key not in nulls} | heads
    null = settings | dict.fromkeys((*nulls, *heads))
    assert parse_shape(null, "config.json") == parse_shape(without, "config.json")
    model = make_model(architecture, bare=drop_nulls(null))
    assert sum(each.numel() for each in model.parameters()) == parse_shape(null, "config.json").parameters


def _needed(settings: dict[str, Any]) -> set[str]:
    """The keys of ``settings`` without which a shape cannot be read."""
    found = set()
    for key in settings:
        try:
            parse_shape({name: value for name, value in settings.items() if name != key}, "config.json")
        except UserError:
            found.add(key)
    return found


RULES = (check_refusals, check_projections, check_written, check_switches, check_nulls)
