"""The supported architectures, and the one in a config.json; what is not supported is refused with the true reason."""

import re
from collections.abc import Mapping
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.shape.dense_families import DENSE
from ropewalk.shape.expert_families import MIXTURES
from ropewalk.shape.family import Family
from ropewalk.shape.guessed import GUESSED, guess_row, is_own_class
from ropewalk.shape.hybrid_families import HYBRIDS
from ropewalk.shape.latent_families import LATENT
from ropewalk.shape.llama_families import LLAMA_KIN

OWN_ARCHITECTURE, OWN_TYPE = "RopewalkForCausalLM", "ropewalk"
"""Names in folders whose layers no class of transformers can describe; ``OWN_TYPE`` is also the key with the layers."""

SUPPORTED: Mapping[str, Family] = {**LLAMA_KIN, **DENSE, **MIXTURES, **LATENT, **HYBRIDS}
"""Every architecture by the name of its class in transformers."""

_RECURRENT, _RECURRENT_LAYERS = "linear or recurrent attention", ("mamba", "linear_attention", "conv", "recurrent")
_LATENT, _INDEXED = "latent attention (MLA)", "a sparse indexer (DSA) over latent attention"
_OTHER_INPUTS = "inputs other than text"
_REMOTE_CODE = "code that comes with a checkpoint, as no class of transformers runs it"
_MISSING = (
    (("modernbertdecoder", "phiforcausal", "persimmon"), "a bias of the head"),
    (("modernbert", "eurobert"), "a causal mask: it is an encoder, whose queries attend to later tokens"),
    (("gptj", "codegen"), "its parallel blocks"),
    (("phimoe",), "routing that is random in training"),
    (("bitnet",), "weights of three values"),
    (("diffllama",), "differential attention"),
    (("afmoe",), "gated attention"),
    (("dsa", "deepseekv32"), _INDEXED),
    (("deepseekv4",), "compressed attention with a sparse indexer"),
    (("minimaxm3",), "a sparse indexer that chooses blocks of keys, in layers of type minimax_m3_sparse"),
    (("deepseekforcausal", "minicpmforcausal", "mimoforcausal"), _REMOTE_CODE),
    (("baichuan", "internlm2", "orion", "chatglm", "qwenlm"), _REMOTE_CODE),
    (("deepseek", "kimi", "longcat", "mistral4", "mistrallarge4", "axk", "dots3", "hyv4"), _LATENT),
    (("mimov2",), "values that are wider than the keys"),
    (("llama4",), "attention in chunks"),
    (("gemma4", "gemma3n"), "heads of different sizes, and layers that share keys"),
    (("zamba",), f"{_RECURRENT} beside a block of attention that several layers share"),
    (("lfm2moe",), f"{_RECURRENT} with its mixture of experts"),
    (("minimaxm1",), f"{_RECURRENT} of this kind (lightning) in a model"),
    (("bailinghybrid",), f"{_LATENT} with a gate for each head, and KDA whose decays have a lower bound"),
    (("bailing",), _REMOTE_CODE),
    (("jamba", "falconmamba", "mambaforcausal"), f"{_RECURRENT} of this kind: there is no kernel for Mamba-1 here"),
    (("mamba",), f"{_RECURRENT} in all layers: a longer context changes no positions there"),
    (("xlstm",), f"{_RECURRENT} of this kind: the gates of an mLSTM are stabilised by a running maximum"),
    (("rwkv", "recurrent", "next", "lfm", "qwen35", "qwen3_5", "hybrid", "linear"), _RECURRENT),
    (
        ("gpt2", "gptneofor", "opt", "bloom", "mpt", "bert", "roberta", "camembert"),
        "RoPE: its positions are learned, absolute or biases",
    ),
    (("vl", "vision", "audio", "conditionalgeneration", "omni"), _OTHER_INPUTS),
)
_DEQUANTISERS = {"mxfp4": "Mxfp4Config", "fp8": "FineGrainedFP8Config"}
"""Methods of quantisation that transformers can undo, and the class that does it."""
_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts")
_NOT_OURS = {
    "use_bidirectional_attention": "its queries attend to later tokens",
    "attn_logit_softcapping": "its attention scores are capped",
    "final_logit_softcapping": "its logits are capped",
}
"""Keys that change the arithmetic of some classes, and why they are refused for the others."""


def row_of(architecture: str) -> Family | None:
    """The row of a class: of the package, or one that was read off the class; None for others."""
    return GUESSED.get(architecture) or SUPPORTED.get(architecture)


def require_row(architecture: str) -> Family:
    """The row of a class whose shape has been read."""
    family = row_of(architecture)
    assert family is not None, architecture
    return family


def find_family(config: Mapping[str, Any], where: str) -> tuple[str, Family]:
    """The architecture in a config.json; for our own format the inner one. Raises UserError if unsupported."""
    name = _name_architecture(config, where)
    if (name == OWN_ARCHITECTURE) != (OWN_TYPE in config):
        raise UserError(
            "the layers of this model are ambiguous",
            where=where,
            why=f"architectures says {name}, and the key {OWN_TYPE} is {'there' if OWN_TYPE in config else 'missing'}",
            fix="copy the folder again as ropewalk wrote it",
        )
    if name == OWN_ARCHITECTURE:
        inner = config[OWN_TYPE]
        name = str(inner.get("architecture")) if isinstance(inner, Mapping) else "(none)"
    family = row_of(name)
    missing = _find_missing(name, family, config)
    if name not in SUPPORTED and missing is None:
        family = guess_row(name, config, where)  # also where the row is known: each file's sizes are compared
    if family is not None and missing is None:
        _refuse_quantised(config, where)
        _refuse_other_arithmetic(config, family, where)
        _refuse_other_type(config, name, where)
        return name, family
    raise UserError(
        f"{name} is not supported",
        where=f"{where}: architectures",
        why=f"ropewalk does not support {missing}",
        fix="choose a base of a supported class (docs/models.md)",
    )


def _refuse_quantised(config: Mapping[str, Any], where: str) -> None:
    settings = config.get("quantization_config")
    if not settings:
        return
    method = str(settings.get("quant_method")) if isinstance(settings, Mapping) else "unknown"
    reader = _DEQUANTISERS.get(method)
    raise UserError(
        "the weights are quantised",
        where=f"{where}: quantization_config",
        why=f"their method is {method}, and training needs the numbers themselves",
        fix="write them in bfloat16 with transformers: AutoModelForCausalLM.from_pretrained(FOLDER, "
        f"quantization_config={reader}(dequantize=True), dtype='bfloat16').save_pretrained(NEW, "
        "save_original_format=False), and copy the tokenizer's files (docs/experts.md)"
        if reader
        else "take the base in bfloat16 or float32",
    )


def _find_missing(name: str, family: Family | None, config: Mapping[str, Any]) -> str | None:
    """What ropewalk does not support of a class or of its config.json; what no conversion can change comes first."""
    named = None if family or is_own_class(name) else _find_named(name)
    if named not in (None, _OTHER_INPUTS):
        return named
    text, kinds = config.get("text_config"), config.get("layer_types")
    known = family.recurrent.words if family and family.recurrent else ()
    if isinstance(kinds, list) and any(kind in _RECURRENT_LAYERS and kind not in known for kind in kinds):
        return _RECURRENT
    if config.get("index_topk"):
        return f"{_INDEXED}, which chooses {config['index_topk']} keys (index_topk)"
    of_text = isinstance(text, Mapping) and text.get("kv_lora_rank")
    if of_text or (config.get("kv_lora_rank") and (family is None or family.latent is None)):
        return _LATENT
    if any(config.get(key) for key in _EXPERT_KEYS) and family is not None and family.experts is None:
        return "its mixture of experts"
    return named


def _find_named(name: str) -> str | None:
    """The part of the class of this name that ropewalk does not support, where it is known.

    A word of ``_MISSING`` counts where it is whole: ``opt`` is in OPTForCausalLM, and not in OptimisedForCausalLM.
    """

    def has(word: str) -> bool:
        spans = (match.span() for match in re.finditer(re.escape(word), name.lower()))
        return any(not name[start].islower() and not name[stop : stop + 1].islower() for start, stop in spans)

    return next((reason for words, reason in _MISSING if any(map(has, words))), None)


def _name_architecture(config: Mapping[str, Any], where: str) -> str:
    """The class in a config.json. Raises UserError where it has none, with the class of its model_type as a hint."""
    names = config.get("architectures")
    first = names[0] if isinstance(names, list) and names else names
    if isinstance(names, list) and any(other != first for other in names):
        raise UserError(
            "config.json names several architectures",
            where=f"{where}: architectures",
            why=f"they are {', '.join(map(str, names)):.200}, and programs choose different ones",
            fix="leave the class that the model was trained with",
        )
    if isinstance(first, str) and first:
        return first
    kind = config.get("model_type")
    known = next((name for name, family in SUPPORTED.items() if family.model_type == kind), None)
    found = f"{names!r:.60}" if "architectures" in config else "missing"
    raise UserError(
        "config.json names no architecture",
        where=f"{where}: architectures",
        why=f"it is {found}, but it must name the class that runs the weights",
        fix=f'add "architectures": ["{known}"], the class for model_type {kind}'
        if known
        else "add the class that the model was trained with; docs/models.md lists those that are supported",
    )


def _refuse_other_type(config: Mapping[str, Any], name: str, where: str) -> None:
    """Raise UserError where ``model_type`` is that of another supported class: transformers would run that one."""
    kind, row = config.get("model_type"), SUPPORTED.get(name)
    other = next((each for each, family in SUPPORTED.items() if family.model_type == kind), None)
    if row is None or other is None or row.model_type == kind:
        return
    raise UserError(
        "architectures and model_type name different classes",
        where=f"{where}: model_type",
        why=f"architectures says {name}, whose type is {row.model_type}, and {kind} is the type of {other}",
        fix="correct the wrong one",
    )


def _refuse_other_arithmetic(config: Mapping[str, Any], family: Family, where: str) -> None:
    for key, value in family.required.items():
        if config.get(key) != value:
            raise UserError(
                f"{key} is not supported",
                where=f"{where}: {key}",
                why=f"it is {'missing' if key not in config else repr(config[key])[:60]}, and {family.model_type} is "
                f"supported with {value!r} only",
                fix="choose another base",
            )
    for key, value in family.fixed.items():
        if config.get(key, value) not in (value, None) or (value is True and config.get(key, value) is None):
            raise UserError(
                f"{key} is not supported",
                where=f"{where}: {key}",
                why=f"it is {config[key]!r:.60}, and {family.model_type} is supported with {value!r} only",
                fix="choose another base",
            )
    for key, why in _NOT_OURS.items():
        obeys = family.score_cap if key == "attn_logit_softcapping" else key in (family.logit_cap or ())
        obeys |= family.unequal and config.get(key) == "vision"  # Gemma 4: only the tokens of a picture
        if config.get(key) and not obeys:
            raise UserError(
                f"{key} is not supported",
                where=f"{where}: {key}",
                why=f"it is {config[key]!r}: {why}",
                fix="choose another base",
            )
