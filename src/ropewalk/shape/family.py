"""What one architecture is, as data: its differences from Llama, the keys of its config.json, the paths of its modules.

Adding a family is one value of ``Family`` in families.py and a run of the conformance suite (tests/conformance).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Bias = bool | tuple[str, bool]
"""Whether matrices have biases: fixed by the class, or a key of config.json with its default."""
Norm = Literal["scale", "scale_bias", "none"]
"""The trained parameters of a norm; a LayerNorm without bias has those of an RMSNorm."""
QkNorm = Literal["none", "head", "all_heads", "each_head"]
MLP_ALONE = ("mlp", "moe")
"""The words for a layer that is an MLP, or a mixture of experts, and nothing else."""
CosSin = Literal["halves", "doubled", "single", "complex"]


@dataclass(frozen=True, slots=True)
class Parts:
    """Paths of a class's modules: of the backbone in the model, of the rest in the backbone or in a block."""

    backbone: str = "model"
    layers: str = "layers"
    rotary: str = "rotary_emb"
    norm: str = "norm"
    attention: str = "self_attn"
    mlp: str = "mlp"
    recurrent: str = ""
    """Of a recurrent layer in a block that has no attention."""
    recurrent_mark: str = ""
    """A module or parameter that a recurrent layer has and attention lacks, where both have one path."""
    attention_mark: str = ""
    """The same of attention, where a block may have neither."""
    embedding: str = "embed_tokens"


@dataclass(frozen=True, slots=True)
class ExpertKeys:
    """The keys of a mixture of experts: ``count`` experts of ``width``, of which a token uses ``per_token``.

    ``count`` has all names that the class reads.

    ``dense`` tells which layers have a plain MLP instead: none, the first ones (``first_k_dense_replace``), all but
    every n-th (``decoder_sparse_step`` and ``mlp_only_layers``), those outside of a range (ERNIE), those that
    ``mlp_layer_types`` names, or all layers but those that are a mixture and nothing else. ``shared`` is the number of
    experts that every token uses, as a key, or ``shared_width`` the key of their width together.
    ``router_bias`` and ``expert_bias``: whether the class has them.
    """

    count: tuple[str, ...] = ("num_experts",)
    per_token: str = "num_experts_per_tok"
    width: str = "moe_intermediate_size"
    dense: Literal["none", "first", "step", "range", "types", "kinds"] = "none"
    shared: str = ""
    shared_width: str = ""
    shared_gate: bool = False
    router_bias: bool = False
    expert_bias: bool = False
    gated: bool = True
    """Whether an expert has three matrices, as a gated MLP; else two."""
    balance_bias: Literal["none", "buffer", "parameter"] = "none"
    """The bias of V3's balancing (2408.15664): none, a buffer of the class, or a parameter without a gradient."""
    scores: Literal["softmax", "sigmoid", "given"] = "softmax"
    """How the router scores experts: all of a token's by one softmax, or each by a sigmoid; ``given``: by a softmax
    too, and the router returns these probabilities in place of its logits."""
    router: str = "gate"
    """Path of the router in the mixture."""
    beside: bool = False
    """Whether such a layer keeps its dense MLP: their outputs are added. Each has norms of its own, three more in a
    layer, and the router scales its input and the weight of each expert (Gemma 4)."""
    switch: str = ""
    """A key without which, or where it is false, no layer has experts."""
    per_layer: bool = False
    """Whether the class also takes a list, with a number for each layer, as ``per_token`` (Hunyuan-A13B)."""
    may_have_none: bool = False
    """Whether the class runs a count of 0 experts, as a model of dense layers. Others fail, or divide by it."""


@dataclass(frozen=True, slots=True)
class LatentKeys:
    """How a class with latent attention (MLA) reads its file; the keys of ranks and widths are DeepSeek's in all.

    ``value_of_width``: without ``v_head_dim`` the class takes width / heads. ``obeys_head_dim``: the class turns as
    many dimensions as ``head_dim`` says where a file has it; the others ignore it.
    """

    value_of_width: bool = False
    obeys_head_dim: bool = False


@dataclass(frozen=True, slots=True)
class RecurrentKeys:
    """The recurrences that a class has in place of attention in some layers, or beside it in each.

    ``kind`` is one of shape/recurrences.py, or ``convolution``. ``layout`` says how the class arranges the matrices of
    such a layer and names their sizes (shape/recurrent_sizes.py). ``word`` names such a layer in ``layer_types``; where
    a file lacks that key, ``attention_key`` lists the layers that have attention, or every ``every``-th layer has it,
    or the number in ``every_key``: the last of a period, or with ``attends_first`` the first. With ``ends_attending``
    the last layer has attention where no other would. ``word`` is empty for a class without ``layer_types``.
    """

    kind: str
    layout: str
    word: str = "linear_attention"
    every: int = 4
    every_key: str = ""
    attention_key: str = ""
    attends_first: bool = False
    ends_attending: bool = False
    beside: bool = False
    """Whether each layer has both, a recurrence and attention, whose outputs are added."""

    @property
    def words(self) -> tuple[str, ...]:
        """The words for such a layer in ``layer_types``: the class's own, and that of transformers for all kinds."""
        return (self.word, "linear_attention") if self.word else ()


BALANCED = ExpertKeys(
    ("n_routed_experts", "num_local_experts"),
    dense="first",
    shared="n_shared_experts",
    balance_bias="buffer",
    scores="sigmoid",
)
"""The mixture of DeepSeek V3 and of those who follow it."""


@dataclass(frozen=True, slots=True)
class Family:
    """The differences of an architecture from Llama, and the possible entries of its config.json.

    ``head_dim`` is the class's default, None where it is width / heads. ``needs_kv_heads``: the file must give the
    number, because the class has no default or another model's. ``needs_head_dim`` is the same for ``head_dim``,
    without which the class fails. ``rotary_key`` names the share of a head's dimensions that RoPE turns, or with
    ``rotary_counts`` their number; ``rotary_share`` is the default share. ``cos_sin`` is the layout in which the class
    passes cosines and sines to its blocks. ``methods``: the rope types that the class runs, None for all. ``windows``:
    which layers may have a window: none, all alike, or some of them by ``layer_types``; ``window_tokens`` is the
    default, and ``window_every`` the period of the layers without one where the file has no ``layer_types``, or
    ``window_every_key`` the key for it. ``nope``: layers that the class does not turn: those of ``no_rope_layers``, all
    without a window, or these only where others have one, or all unless ``position_embedding_type`` is rope, or all
    where theta is null, or all ``always``. ``ropes``: whether rotating layers share one RoPE or have one per layer
    type. For the latter, ``window_theta`` is the default of the windowed layers, and ``window_theta_key`` is
    their older key. ``logit_scale``: a key whose value multiplies the logits, with its default; with ``logit_divides``
    it divides them. ``logit_cap``: a key whose value caps them, c tanh(x / c). ``projections``: the class's names of
    matrices that are called otherwise in Llama; two with one name are one matrix. ``no_dropout`` are keys of dropout
    that published files of the family hold; the model is built and written with 0. ``kin`` run the same weights.
    """

    model_type: str
    qkv_bias: Bias = False
    output_bias: Bias = False
    mlp_bias: Bias = False
    qk_norm: QkNorm = "none"
    qk_norm_key: str = ""
    norm: Norm = "scale"
    block_norms: int = 2
    mlp: Literal["gated", "plain"] = "gated"
    projections: Mapping[str, str] = field(default_factory=dict)
    file_names: Mapping[str, str] = field(default_factory=dict)
    """Names of tensors in files that the class calls otherwise; one that ends in a dot is the beginning of names."""
    other_parameters: int = 0
    """Trained numbers of a block that belong to no matrix and no norm."""
    drops_arguments: bool = False
    """Whether the blocks of the class call their attention without the arguments that they were given."""
    sinks: bool = False
    needs_kv_heads: bool = False
    needs_head_dim: bool = False
    head_dim: int | None = None
    null_head_dim: bool = False
    """Whether null means width / heads, where no key means ``head_dim``. In other classes null is no key."""
    equal_heads: tuple[str, ...] = ()
    """Those of ``head_dim`` and ``num_key_value_heads`` that the class ignores, or fails at: its heads share the width
    evenly, or each has its own keys."""
    pad_id: int | None = None
    """The default of ``pad_token_id``, where the class has one; a smaller vocabulary must say another, or null."""
    tied: bool = False
    tied_key: str = ""
    """An older key for a tied head; where a file has it, the class does not read ``tie_word_embeddings``."""
    rotary_key: str = "partial_rotary_factor"
    rotary_counts: bool = False
    rotary_share: float = 1.0
    partial: bool = False
    """Whether the class turns a part of a head. Llama and its kin ignore the share."""
    cos_sin: CosSin = "halves"
    methods: tuple[str, ...] | None = None
    ntk_alpha: bool = False
    """Whether ``dynamic`` with ``alpha`` means a fixed theta x alpha^(d / (d - 2)), as in Hunyuan's class."""
    default_rope: Mapping[str, object] = field(default_factory=dict)
    """The rope block that the class runs where the file has none."""
    original_tokens: int | None = None
    """The default of ``original_max_position_embeddings`` beside the block; the class takes it, not one inside."""
    whole_ropes: bool = False
    """Whether the class, with a RoPE per layer type, adds nothing to a file's blocks and fails at ``rope_scaling``."""
    kept_rope_keys: tuple[str, ...] = ()
    """Keys of the rope block that the class uses for more than the RoPE of text; they are written back as they are."""
    windows: Literal["none", "all", "some"] = "none"
    window_switch: bool = False
    window_tokens: int | None = 4096
    window_every: int = 0
    window_every_key: str = ""
    window_rule: Literal["all", "later", "nope"] = "all"
    """Layers with a window where a file has neither layer_types nor a period: all, those from ``max_window_layers`` on,
    or those without RoPE."""
    score_cap: bool = False
    """Whether the class caps attention scores (``attn_logit_softcapping``)."""
    assumes_more: bool = False
    """Whether the class has other defaults than Llama for keys that a file may lack (layer_keys.py)."""
    nope: Literal["never", "switch", "full", "full_beside_windows", "embedding_type", "null_theta", "always"] = "never"
    ropes: Literal["one", "by_type"] = "one"
    theta: float = 10_000.0
    theta_key: str = "rope_theta"
    """The older key of theta beside the rope block; the class ignores any other."""
    window_theta: float = 10_000.0
    window_theta_key: str = "rope_theta"
    logit_scale: tuple[str, float] | None = None
    logit_divides: bool = False
    logit_by_width: bool = False
    """Whether the factor of the logits is the key's value over the model's width; null is then the width."""
    logit_cap: tuple[str, float | None] | None = None
    no_dropout: tuple[str, ...] = ()
    required: Mapping[str, object] = field(default_factory=dict)
    """Keys that a file must give with this value, because the class assumes another one where they are missing."""
    mlp_width_key: str = "intermediate_size"
    adjusts_mlp: bool = False
    """Whether the MLP has two thirds of the width in the file, rounded up, unless the file switches that off."""
    layer_word: str = ""
    """The word for a layer in ``layer_types``, for a class that needs the key and has a word of its own."""
    fixed: Mapping[str, object] = field(default_factory=dict)
    """Keys that must have one value, because the class computes something else with any other."""
    experts: ExpertKeys | None = None
    unequal: bool = False
    """Whether layers differ in size, as shape/unequal.py reads it."""
    own_names: Mapping[str, str] = field(default_factory=dict)
    """The class's own names of keys, with the usual ones; such a class has more of its own (shape/own_names.py)."""
    single: bool = False
    """Whether a layer is one of attention, a recurrence, an MLP or a mixture (shape/single_layers.py)."""
    latent: LatentKeys | None = None
    """Latent attention: queries, keys and values come from products of low rank (shape/latent.py)."""
    recurrent: RecurrentKeys | None = None
    query_gate: bool = False
    """Whether the matrix of queries also makes a gate, as wide, for the output of attention."""
    parts: Parts = Parts()
    kin: tuple[str, ...] = ()
