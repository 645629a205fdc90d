"""The supported architectures: differences from Llama, possible entries of config.json, and other classes that fit.

One set of weights can have several class names. Llama, Mistral, Ministral and SmolLM3 compute the same, and so do Olmo2
and Olmo3. They differ in the positions that their config.json can describe.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ropewalk.core.error import UserError

OWN_ARCHITECTURE, OWN_TYPE = "RopewalkForCausalLM", "ropewalk"
"""Names in folders whose layers no class of transformers can describe; ``OWN_TYPE`` is also the key with the layers."""


@dataclass(frozen=True, slots=True)
class Family:
    """The differences of an architecture from Llama, and the possible entries of its config.json.

    ``head_dim`` is the class's default, None where it is width / heads. ``needs_kv_heads``: the file must give the
    number, because the default of the class is another model's. ``biases`` are the keys that the class obeys.
    ``windows``: which layers may have a window: none, all alike, or some of them by ``layer_types``; ``window_tokens``
    is the default. ``ropes``: whether rotating layers share one RoPE or have one per layer type. For the latter,
    ``window_theta`` is the default of the windowed layers, and ``window_theta_key`` is their older key. ``kin`` run the
    same weights.
    """

    model_type: str
    biases: tuple[str, ...] = ()
    qkv_bias: bool = False
    qk_norm: Literal["none", "head", "all_heads"] = "none"
    block_norms: int = 2
    needs_kv_heads: bool = False
    head_dim: int | None = None
    tied: bool = False
    windows: Literal["none", "all", "some"] = "none"
    window_switch: bool = False
    window_tokens: int | None = 4096
    skips_rope: bool = False
    ropes: Literal["one", "by_type"] = "one"
    theta: float = 10_000.0
    window_theta: float = 10_000.0
    window_theta_key: str = "rope_theta"
    kin: tuple[str, ...] = ()


SUPPORTED: Mapping[str, Family] = {
    "LlamaForCausalLM": Family(
        "llama",
        biases=("attention_bias", "mlp_bias"),
        kin=("MistralForCausalLM", "MinistralForCausalLM", "SmolLM3ForCausalLM"),
    ),
    "MistralForCausalLM": Family(
        "mistral", needs_kv_heads=True, windows="all", kin=("MinistralForCausalLM", "SmolLM3ForCausalLM")
    ),
    "MinistralForCausalLM": Family("ministral", needs_kv_heads=True, windows="some", kin=("SmolLM3ForCausalLM",)),
    "SmolLM3ForCausalLM": Family(
        "smollm3",
        biases=("attention_bias", "mlp_bias"),
        needs_kv_heads=True,
        tied=True,
        windows="some",
        window_switch=True,
        window_tokens=None,
        skips_rope=True,
        theta=2_000_000.0,
    ),
    "Qwen2ForCausalLM": Family("qwen2", qkv_bias=True, needs_kv_heads=True, windows="some", window_switch=True),
    "Qwen3ForCausalLM": Family(
        "qwen3",
        biases=("attention_bias",),
        qk_norm="head",
        needs_kv_heads=True,
        head_dim=128,
        windows="some",
        window_switch=True,
    ),
    "Olmo2ForCausalLM": Family("olmo2", biases=("attention_bias",), qk_norm="all_heads", kin=("Olmo3ForCausalLM",)),
    "Olmo3ForCausalLM": Family(
        "olmo3",
        biases=("attention_bias",),
        qk_norm="all_heads",
        windows="some",
        ropes="by_type",
        theta=500_000.0,
        window_theta=500_000.0,
    ),
    "Gemma3ForCausalLM": Family(
        "gemma3_text",
        biases=("attention_bias",),
        qk_norm="head",
        block_norms=4,
        needs_kv_heads=True,
        head_dim=256,
        tied=True,
        windows="some",
        ropes="by_type",
        theta=1_000_000.0,
        window_theta_key="rope_local_base_freq",
    ),
}

_MISSING = (
    (("modernbert", "eurobert"), "a causal mask: it is an encoder, whose queries attend to later tokens"),
    (("gptneox", "gptj"), "RoPE over a part of each head, and parallel blocks"),
    (("granitefor",), "Granite's multipliers of embeddings, scores, residuals and logits"),
    (("moe", "mixtral", "jamba", "gptoss", "dbrx"), "mixture of experts"),
    (("deepseek", "kimi", "minicpm3"), "latent attention (MLA)"),
    (("llama4",), "attention in chunks, and mixture of experts"),
    (("cohere", "exaone4"), "a check of its norms and its layers without RoPE"),
    (("gemma2",), "softcapping of attention scores, which our kernels cannot do"),
    (("mamba", "rwkv", "recurrent", "next", "lfm", "falconh1", "zamba", "bamba"), "linear or recurrent attention"),
    (("gpt2", "gptneofor", "opt", "bloom", "mpt", "bert"), "RoPE: its positions are learned, absolute or biases"),
    (("vl", "vision", "audio", "conditionalgeneration", "omni"), "inputs other than text"),
)
_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts")
_NOT_OURS = {
    "use_bidirectional_attention": "its queries attend to later tokens",
    "attn_logit_softcapping": "its attention scores are capped",
    "final_logit_softcapping": "its logits are capped, which the chunked loss does not support",
}


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
    spelled = name.lower()
    if "granitemoe" in spelled and not any(config.get(key) for key in _EXPERT_KEYS):
        spelled = "granitefor"  # Granite 4 uses this name for dense models, with 0 experts
    missing = next((reason for words, reason in _MISSING if any(word in spelled for word in words)), None)
    if "kv_lora_rank" in config:
        missing = "latent attention (MLA)"
    if any(config.get(key) for key in _EXPERT_KEYS):
        missing = "mixture of experts"
    if config.get("quantization_config"):
        missing = "training of quantized weights"
    if missing is None and name in SUPPORTED:
        _refuse_other_arithmetic(config, where)
        return name, SUPPORTED[name]
    raise UserError(
        f"{name} is not supported",
        where=f"{where}: architectures",
        why=f"ropewalk does not support {missing or 'its shape and its positions'}",
        fix=f"choose a base of one of {', '.join(SUPPORTED)}",
    )


def _name_architecture(config: Mapping[str, Any], where: str) -> str:
    """The class in a config.json. Raises UserError where it has none, with the class of its model_type as a hint."""
    names = config.get("architectures")
    first = names[0] if isinstance(names, list) and names else names
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
        else f"add the class that the model was trained with; supported are {', '.join(SUPPORTED)}",
    )


def _refuse_other_arithmetic(config: Mapping[str, Any], where: str) -> None:
    for key, why in _NOT_OURS.items():
        if config.get(key):
            raise UserError(
                f"{key} is not supported",
                where=f"{where}: {key}",
                why=f"it is {config[key]!r}: {why}",
                fix="choose another base",
            )
