"""What autograd keeps of a block, by class: how many tensors of each width, in the type of the products and in float32.

The rows were counted on tiny models (tests/conformance/count_kept.py), and a test compares each with torch's own saved
tensors. Norms of some classes keep more than Llama's, plain MLPs keep less, a mixture keeps the rows of its experts.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

Counts = tuple[float, float] | tuple[float, float, float]
"""Tensors in the type of the products, and tensors that are float32 in any type; in the mean over layers. The third are
copies in float32, which a model in float32 does not have; below 0 are those that it has besides."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Tensors that one layer keeps of each token, by their width.

    The widths are those of the model, of a dense MLP, of all query heads, of all key heads, and of the dimensions of a
    head that RoPE turns, where a layer keeps its own cosines. In a mixture: ``mixed`` have the width of the model,
    ``routed`` have it for each expert that a token uses, ``inner`` the width of such an expert's MLP, and ``shared``
    that of the MLP that every token uses besides. ``beside`` have the width of the model, for the norms around experts
    that stand beside a dense MLP.
    Latent attention is counted in plan/saved_tensors.py.
    """

    width: Counts = (4, 2)
    mlp: Counts = (4, 0)
    query: Counts = (2, 0)
    key: Counts = (2, 0)
    angles: Counts = (0, 0)
    mixed: Counts = (0, 0)
    routed: Counts = (2, 0)
    inner: Counts = (4, 0)
    shared: Counts = (4, 0)
    beside: Counts = (0, 0)


_HEAD_NORMS = Kept(query=(3, 1), key=(3, 1))
_POST_NORMS = Kept(width=(2, 4), query=(2, 2), key=(2, 2))
_LAYER_NORMS = Kept(width=(4, 0), mlp=(2, 0))
_QUERY_GATE = Kept(width=(2, 4), query=(5, 3, -1), key=(2, 2))
_FLOAT_ROUTER = Kept(mixed=(0, 0, 1))
"""Its input is made float32, and kept so."""

KEPT: Mapping[str, Kept] = {
    "ArceeForCausalLM": Kept(mlp=(2, 0)),
    "HeliumForCausalLM": Kept(width=(2, 4), angles=(2, 0)),
    "Qwen3ForCausalLM": _HEAD_NORMS,
    "OlmoForCausalLM": Kept(width=(2, 2), query=(3, 0), key=(4, 0)),
    "Olmo2ForCausalLM": _POST_NORMS,
    "Olmo3ForCausalLM": _POST_NORMS,
    "GemmaForCausalLM": Kept(width=(2, 4)),
    "Gemma2ForCausalLM": Kept(width=(2, 8)),
    "Gemma3ForCausalLM": Kept(width=(2, 8), query=(2, 2), key=(2, 2)),
    "Gemma4ForCausalLM": Kept(width=(3, 10), query=(2, 2), key=(2, 3), mixed=(2, 0, 2), beside=(0, 5)),
    "GlmForCausalLM": Kept(query=(3, 0), angles=(2, 0)),
    "Glm4ForCausalLM": Kept(width=(6, 4), query=(3, 0), angles=(2, 0)),
    "Ernie4_5ForCausalLM": Kept(angles=(0, 2)),
    "CohereForCausalLM": Kept(width=(1, 3), query=(2, 3), key=(2, 3)),
    "Cohere2ForCausalLM": Kept(width=(1, 3)),
    "Phi3ForCausalLM": Kept(query=(3, 0), key=(3, 0)),
    "HunYuanDenseV1ForCausalLM": _HEAD_NORMS,
    "Starcoder2ForCausalLM": _LAYER_NORMS,
    "Exaone4ForCausalLM": _HEAD_NORMS,
    "ApertusForCausalLM": Kept(mlp=(6, 0), query=(3, 1), key=(3, 1)),
    "GPTNeoXForCausalLM": Kept(width=(5, 0), mlp=(2, 0), query=(3, 0)),
    "StableLmForCausalLM": Kept(width=(5, 0)),
    "NemotronForCausalLM": Kept(width=(4, 0), mlp=(2, 0), query=(3, 0)),
    "Jais2ForCausalLM": _LAYER_NORMS,
    "Qwen2MoeForCausalLM": Kept(mixed=(1, 0)),
    "Qwen3MoeForCausalLM": _HEAD_NORMS,
    "OlmoeForCausalLM": _HEAD_NORMS,
    "FlexOlmoForCausalLM": _POST_NORMS,
    "Glm4MoeForCausalLM": Kept(query=(4, 1), key=(3, 1), mixed=(0, 0, 1)),
    "Ernie4_5_MoeForCausalLM": Kept(mixed=(0, 0, 1), angles=(0, 2)),
    "HunYuanMoEV1ForCausalLM": _HEAD_NORMS,
    "GptOssForCausalLM": Kept(width=(2, 4), query=(2.5, 0), inner=(7, 0)),
    "MiniMaxM2ForCausalLM": Kept(query=(4, 1), key=(3, 1)),
    "Qwen3_5ForCausalLM": _QUERY_GATE,
    "Qwen3_5MoeForCausalLM": replace(_QUERY_GATE, mixed=(1, 0)),
    "Qwen3NextForCausalLM": replace(_QUERY_GATE, mixed=(1, 0)),
    "OlmoHybridForCausalLM": _POST_NORMS,
    "Lfm2ForCausalLM": _HEAD_NORMS,
    "BambaForCausalLM": Kept(query=(3, 0)),
    "FalconH1ForCausalLM": Kept(width=(5, 2)),
    "NemotronHForCausalLM": Kept(width=(1, 2), mlp=(2, 0), mixed=(0, 0, 1), inner=(2, 0), shared=(2, 0)),
    "Dots1ForCausalLM": Kept(query=(3, 1), key=(3, 1), mixed=(0, 0, 1)),
    "KimiLinearForCausalLM": _FLOAT_ROUTER,
    "DeepseekV2ForCausalLM": _FLOAT_ROUTER,
    "DeepseekV3ForCausalLM": _FLOAT_ROUTER,
    "Glm4MoeLiteForCausalLM": _FLOAT_ROUTER,
}
"""By the class in config.json; a class that is not here keeps what Llama does."""


@functools.cache  # a search asks for it a hundred thousand times
def row_of_kept(architecture: str, *, qk_norm: bool, block_norms: int) -> Kept:
    """The row of a class; for one that was read off its class, what Llama's norms keep."""
    if architecture in KEPT:
        return KEPT[architecture]
    around = Kept() if not qk_norm else _HEAD_NORMS
    return replace(around, width=(2 * block_norms, block_norms))


def weigh_kept(counts: Counts, width: float, element_bytes: int) -> float:
    """Bytes of tensors of one width, in a model whose products have numbers of ``element_bytes``."""
    low, wide = counts[:2]
    copies = counts[2] if len(counts) > 2 else 0.0
    return width * (low * element_bytes + (wide + (copies if element_bytes < 4 else 0)) * 4)
