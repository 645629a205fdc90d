"""The text part of a multimodal config.json as the config of a text model, and the way back.

A multimodal class holds a text model beside a vision tower and a projector. ropewalk trains the text model, which is
one of the supported classes, and changes nothing else. ``read_text_config`` gives the text model's config, which all
other code reads; ``write_text_config`` puts a changed one back. Each difference between classes is in ``WRAPPERS``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.shape.families import OWN_ARCHITECTURE, SUPPORTED
from ropewalk.shape.family import Family

_ROPE_BLOCKS = ("rope_parameters", "rope_scaling")
_AXIS_KEYS = ("mrope_section", "mrope_interleaved")
_WINDOW_KEYS = ("layer_types", "sliding_window", "use_sliding_window")
_OUTSIDE = ("architectures", "model_type", "vision_config", "audio_config", "text_config")
_BORROWED = ("bos_token_id", "eos_token_id", "pad_token_id", "quantization_config", "dtype", "torch_dtype")
_TIED = "tie_word_embeddings"


@dataclass(frozen=True, slots=True)
class Wrapper:
    """A multimodal class. ``text`` is the model_type of its text part where the file names none.

    ``runs`` are text parts with a model_type of their own and the class that computes the same; others are the class of
    that model_type. ``assumed`` are defaults of the text config of ``text`` where the text class has others, or none.
    ``always`` are values that the class computes with, whatever its file says, where the text class reads a key.
    ``axes``: positions have three axes (M-RoPE), which are equal for text. ``flat``: old files have the text's keys at
    the top. ``windows``: the text config has keys for windows. ``text_ties``: a text config that ties its head wins.
    ``obeys_rules``: it scales and caps logits as its text class does. ``turned_experts``: published files have the
    experts' matrices transposed.
    """

    text: str
    runs: Mapping[str, str] = field(default_factory=dict)
    assumed: Mapping[str, Any] = field(default_factory=dict)
    always: Mapping[str, Any] = field(default_factory=dict)
    axes: bool = False
    flat: bool = False
    windows: bool = True
    text_ties: bool = False
    obeys_rules: bool = False
    turned_experts: bool = False


_GEMMA3 = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131_072,
}
_LLAMA = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
"""Sizes that files of LLaVA 1.5 and Idefics3 leave out."""
_QWEN2 = {"rope_theta": 1_000_000.0, "rms_norm_eps": 1e-5, "hidden_act": "silu"}

WRAPPERS: Mapping[str, Wrapper] = {
    "Gemma3ForConditionalGeneration": Wrapper("gemma3_text", assumed=_GEMMA3),
    "Gemma4ForConditionalGeneration": Wrapper("gemma4_text", obeys_rules=True),
    "Mistral3ForConditionalGeneration": Wrapper("mistral"),
    "Qwen2VLForConditionalGeneration": Wrapper(
        "qwen2_vl_text",
        runs={"qwen2_vl_text": "Qwen2ForCausalLM"},
        assumed=_QWEN2,
        axes=True,
        flat=True,
        text_ties=True,
    ),
    "Qwen2_5_VLForConditionalGeneration": Wrapper(
        "qwen2_5_vl_text",
        runs={"qwen2_5_vl_text": "Qwen2ForCausalLM"},
        assumed=_QWEN2,
        axes=True,
        flat=True,
        text_ties=True,
    ),
    "Qwen3VLForConditionalGeneration": Wrapper(
        "qwen3_vl_text",
        runs={"qwen3_vl_text": "Qwen3ForCausalLM"},
        assumed={"rope_theta": 500_000.0},
        axes=True,
        windows=False,
    ),
    "Qwen3VLMoeForConditionalGeneration": Wrapper(
        "qwen3_vl_moe_text",
        runs={"qwen3_vl_moe_text": "Qwen3MoeForCausalLM"},
        assumed={
            "rope_theta": 500_000.0,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1408,
        },
        always={"norm_topk_prob": True},
        axes=True,
        turned_experts=True,
    ),
    "Qwen3_5ForConditionalGeneration": Wrapper("qwen3_5_text"),
    "Qwen3_5MoeForConditionalGeneration": Wrapper("qwen3_5_moe_text"),
    "AyaVisionForConditionalGeneration": Wrapper("cohere2"),
    "InternVLForConditionalGeneration": Wrapper("qwen2"),
    "LlavaForConditionalGeneration": Wrapper("llama", assumed=_LLAMA, text_ties=True),
    "SmolVLMForConditionalGeneration": Wrapper("llama", assumed=_LLAMA),
    "Idefics3ForConditionalGeneration": Wrapper("llama", assumed=_LLAMA),
}
"""The multimodal classes whose text part is extended and trained, by the class name in config.json."""


def find_wrapper(config: Mapping[str, Any]) -> str | None:
    """The multimodal class that a config.json names, None where it is a text model or unknown."""
    names = config.get("architectures")
    first = names[0] if isinstance(names, list) and names else names
    return first if isinstance(first, str) and first in WRAPPERS else None


def read_text_config(config: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The config of the text model in ``config``, as its own config.json would be; ``config`` itself for a text model.

    The class, whether the head is tied, and token ids are those of the whole. Raises UserError, which names the file
    ``where``, for a text part that is missing.
    """
    name = find_wrapper(config)
    if name is None:
        return config
    row, raw = WRAPPERS[name], _find_raw(config, name, where)
    found = {key: value for key, value in raw.items() if value is not None or key not in _BORROWED}
    borrowed = {key: config[key] for key in _BORROWED if key in config and key not in found}
    text = {**found, **borrowed, _TIED: _find_tied(config, raw, row)}
    for key in _ROPE_BLOCKS:
        if row.axes and isinstance(text.get(key), Mapping):
            text[key] = _drop_axes(text[key])
    kind = _find_kind(raw, row)
    for key, value in row.assumed.items() if kind == row.text else ():
        if text.get(key) is None and not (key == "rope_theta" and _has_theta(text)):
            text[key] = value
    text |= row.always
    architecture = _find_class(kind, row)
    family = SUPPORTED.get(architecture)
    if family is not None and not row.obeys_rules:
        _refuse_logit_rules(text, family, architecture, name, where)
    return {**text, "architectures": [architecture], "model_type": family.model_type if family else kind}


def list_marks(config: Mapping[str, Any]) -> list[int]:
    """The ids of tokens that stand for pictures, videos or sound, ascending; none for a text model.

    A multimodal class may read another embedding there (Gemma 4), even where no picture is given.
    """
    if find_wrapper(config) is None:
        return []
    named = {key: value for key, value in config.items() if key.endswith(("_token_id", "_token_index"))}
    return sorted({value for key, value in named.items() if type(value) is int and key not in _BORROWED})


def write_text_config(config: Mapping[str, Any], text: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``config`` with the positions of ``text``, a changed ``read_text_config(config)``; every other key stays.

    A copy of a changed key at the top of the file changes too. Raises UserError for positions that the class of the
    text part cannot run, since the multimodal class has no other.
    """
    name = find_wrapper(config)
    if name is None:
        return dict(text)
    row, before, raw = WRAPPERS[name], read_text_config(config, where), _find_raw(config, name, where)
    _refuse_other_class(before, text, row, name, where)
    apart = {"architectures", "model_type"} if text["architectures"] == before["architectures"] else {"architectures"}
    apart |= set() if row.windows else {key for key in _WINDOW_KEYS if key not in raw}
    changed = {key: value for key, value in text.items() if key not in apart and before.get(key, ...) != value}
    gone = before.keys() - text.keys()
    if raw.get("rope_theta") is None and text.get("rope_theta") is not None:
        changed["rope_theta"] = text["rope_theta"]  # the class's default, which older readers do not share
    if row.axes:
        changed |= _add_axes(raw, text)
    told = {_TIED: text[_TIED]} if _TIED in raw else {}
    inner = {key: value for key, value in raw.items() if key not in gone} | changed | told
    if "text_config" not in config:
        return {**{key: config[key] for key in _OUTSIDE if key in config}, **inner, _TIED: text[_TIED]}
    copies = {key: value for key, value in changed.items() if key in config and key not in _OUTSIDE}
    outer = {key: value for key, value in config.items() if key not in gone or key in _BORROWED}
    return {**outer, **copies, "text_config": inner, _TIED: text[_TIED]}


def _refuse_logit_rules(text: Mapping[str, Any], family: Family, architecture: str, name: str, where: str) -> None:
    """Refuse a text part whose logits are not the head's product: with the other tensors it would run without that."""
    for rule, neutral in ((family.logit_scale, 1), (family.logit_cap, None)):
        if rule is not None and (value := text.get(*rule)) != neutral:
            raise UserError(
                f"{name} computes other logits than its text part",
                where=f"{where}: text_config.{rule[0]}",
                why=f"it is {value}, which {architecture} obeys and {name} in transformers ignores",
                fix="choose another base; a model that is trained with one would be run with the other",
            )


def _find_raw(config: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    """The keys of the text part as the file has them."""
    raw = config.get("text_config")
    if raw is None and WRAPPERS[name].flat:
        return {key: value for key, value in config.items() if key not in _OUTSIDE}
    if not isinstance(raw, Mapping):
        raise UserError(
            "this multimodal model has no text part",
            where=f"{where}: text_config",
            why=f"{name} describes its text model there, and the key is "
            + ("missing" if raw is None else f"{raw!r:.60}"),
            fix="download config.json again",
        )
    if isinstance(raw.get("text_config"), Mapping):
        raise UserError(
            "the text part has a text part of its own",
            where=f"{where}: text_config.text_config",
            why=f"{name} reads the keys of its text model in text_config, and would take defaults for all of them",
            fix="move the inner text_config's keys into the outer one",
        )
    return raw


def _find_kind(raw: Mapping[str, Any], row: Wrapper) -> str:
    kind = raw.get("model_type")
    return kind if isinstance(kind, str) and kind else row.text


def _find_class(kind: str, row: Wrapper) -> str:
    """The text class of a model_type; for one that is not supported a name that ``find_family`` refuses."""
    known = (name for name, family in SUPPORTED.items() if family.model_type == kind)
    return row.runs.get(kind) or next(known, f"the text part {kind}")


def _find_tied(config: Mapping[str, Any], raw: Mapping[str, Any], row: Wrapper) -> Any:
    """Whether the head is the embedding. transformers asks the top of the file, and files often have it only there."""
    family = SUPPORTED.get(_find_class(_find_kind(raw, row), row))
    if row.text_ties and raw.get(_TIED, family is not None and family.tied):
        return True
    for level in (config, raw):
        if level.get(_TIED) is not None:
            return level[_TIED]
    return family is not None and family.tied


def _drop_axes(block: Mapping[str, Any]) -> dict[str, Any] | None:
    """A block of RoPE without the division into axes; None where nothing else was in it."""
    left = {key: value for key, value in block.items() if key not in _AXIS_KEYS}
    left |= {key: "default" for key in ("type", "rope_type") if left.get(key) == "mrope"}
    return left or None


def _add_axes(raw: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
    """The blocks of RoPE of ``text`` with the division into axes of ``raw``: both, since readers ask either for it."""
    blocks = [raw[key] for key in _ROPE_BLOCKS if isinstance(raw.get(key), Mapping)]
    axes = {key: block[key] for block in blocks for key in _AXIS_KEYS if key in block}
    if not axes:
        return {}
    plain = {"rope_type": "default"}
    return {
        key: {**(text.get(key) or plain), **axes} for key in _ROPE_BLOCKS if text.get(key) or key != "rope_parameters"
    }


def _has_theta(text: Mapping[str, Any]) -> bool:
    return any(isinstance(text.get(key), Mapping) and "rope_theta" in text[key] for key in _ROPE_BLOCKS)


def _refuse_other_class(
    before: Mapping[str, Any], text: Mapping[str, Any], row: Wrapper, name: str, where: str
) -> None:
    asked, own = text["architectures"][0], before["architectures"][0]
    windows = not row.windows and any(kind != "full_attention" for kind in text.get("layer_types") or ())
    if asked == own and not windows:
        return
    if asked not in (OWN_ARCHITECTURE, own) and not row.runs:
        return  # such a class holds any text model of transformers
    raise UserError(
        f"{name} cannot have these positions",
        where=f"{where}: text_config",
        why="no class of transformers has them, and ropewalk's own format holds text models only"
        if asked == OWN_ARCHITECTURE
        else f"its text part has no {'windows' if windows else 'such layers'}, which need {asked}",
        fix="choose a method without layer rules, such as theta or yarn",
    )
