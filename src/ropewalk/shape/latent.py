"""Latent attention (MLA): the ranks and widths of its matrices, read from a config.json.

A token's keys and values of all heads are one product of a latent vector of ``rank`` numbers; one rotary key of
``rotary_dim`` numbers is shared by all heads (DeepSeek V2, 2405.04434). Queries may come from a latent as well. RoPE
turns the last ``rotary_dim`` dimensions of a query and of a key; values have a width of their own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.rope.layers import LayerPosition
from ropewalk.rope.scaling import Nope
from ropewalk.rope.yarn import Yarn
from ropewalk.shape.family import Family


@dataclass(frozen=True, slots=True)
class Latent:
    """The widths of one layer's latent attention. ``query_rank`` is None where queries have no latent."""

    query_rank: int | None
    rank: int
    plain_dim: int
    """Dimensions of a query's or a key's head that RoPE does not turn."""
    rotary_dim: int
    value_dim: int

    @property
    def head_dim(self) -> int:
        """Dimensions of a query's or a key's head."""
        return self.plain_dim + self.rotary_dim

    @property
    def sent_width(self) -> int:
        """Numbers of one token from which any rank makes its keys and values: the latent and the rotary key."""
        return self.rank + self.rotary_dim

    @property
    def norm_parameters(self) -> int:
        """Parameters of the norms of the latents."""
        return self.rank + (self.query_rank or 0)

    @property
    def bias_width(self) -> int:
        """Output width of the matrices before the latents, the only ones of queries and keys with biases."""
        return self.sent_width + (self.query_rank or 0)

    @property
    def projections(self) -> dict[str, str]:
        """The class's names of the matrices that are called otherwise in Llama."""
        return name_latent(self.query_rank)

    def matrices(self, width: int, heads: int) -> dict[str, tuple[int, int]]:
        """Input and output width of each matrix: by Llama's names where it has one, else by the class's own."""
        first = {} if self.query_rank is None else {"q_a_proj": (width, self.query_rank)}
        return first | {
            "q_proj": (self.query_rank or width, heads * self.head_dim),
            "kv_a_proj_with_mqa": (width, self.sent_width),
            "k_proj": (self.rank, heads * self.plain_dim),
            "v_proj": (self.rank, heads * self.value_dim),
            "o_proj": (heads * self.value_dim, width),
        }


def name_latent(query_rank: int | None) -> dict[str, str]:
    """The class's names of the matrices of a latent attention; one matrix makes keys and values."""
    last = {} if query_rank is None else {"q_proj": "q_b_proj"}
    return last | {"k_proj": "kv_b_proj", "v_proj": "kv_b_proj"}


def read_latent(config: Mapping[str, Any], family: Family, *, count: Callable[[str], int], where: str) -> Latent | None:
    """The latent attention of a config.json; None for a family without it. ``count`` reads a whole number by its key.

    Raises UserError for numbers that the class ignores or that do not fit each other.
    """
    if family.latent is None:
        return None
    if "q_lora_rank" not in config:
        raise UserError(
            "q_lora_rank is missing",
            where=f"{where}: q_lora_rank",
            why="it must be a number, or null where queries have no latent; the default of the class belongs to "
            "another model",
            fix="correct config.json",
        )
    heads = count("num_attention_heads")
    of_width = family.latent.value_of_width and config.get("v_head_dim") is None
    latent = Latent(
        query_rank=None if config["q_lora_rank"] is None else count("q_lora_rank"),
        rank=count("kv_lora_rank"),
        plain_dim=count("qk_nope_head_dim"),
        rotary_dim=count("qk_rope_head_dim"),
        value_dim=count("hidden_size") // heads if of_width else count("v_head_dim"),
    )
    _check_heads(config, family, latent, heads=heads, where=where)
    return latent


def _check_heads(config: Mapping[str, Any], family: Family, latent: Latent, *, heads: int, where: str) -> None:
    assert family.latent is not None
    told = {"num_key_value_heads": (heads,), "head_dim": (latent.rotary_dim, latent.head_dim)}
    if family.latent.obeys_head_dim:
        told["head_dim"] = (latent.rotary_dim,)
    for key, fitting in told.items():
        if config.get(key) is not None and config[key] not in fitting:
            raise UserError(
                f"{key} does not fit latent attention",
                where=f"{where}: {key}",
                why=f"it is {config[key]!r:.60}; each of {heads} heads has its own keys of {latent.plain_dim} + "
                f"{latent.rotary_dim} dimensions, of which RoPE turns {latent.rotary_dim}",
                fix=f"remove it, or write {fitting[0]}",
            )
    if latent.value_dim > latent.head_dim:
        raise UserError(
            "values that are wider than keys are not supported",
            where=f"{where}: v_head_dim",
            why=f"it is {latent.value_dim}, and keys have {latent.head_dim} dimensions",
            fix="choose another base",
        )


def score_factor(positions: Sequence[LayerPosition]) -> float:
    """The factor by which a class with latent attention multiplies all scores: that of its yarn, else 1."""
    return max((layer.rope.score_factor for layer in positions if isinstance(layer.rope, Yarn)), default=1.0)


def require_score_factor(before: Sequence[LayerPosition], after: Sequence[LayerPosition]) -> None:
    """Raise UserError where new positions would lose a factor of all scores: the base's, or their own.

    Only a class of transformers has the factor, and such a class has one position method for all layers.
    """
    old, new, first = score_factor(before), score_factor(after), after[0]
    alike = all(layer == first for layer in after)
    native = alike and not (isinstance(first.rope, Nope) or first.window_tokens or first.log_n_tokens or first.bias)
    if new >= old and (native or new == 1):
        return
    kind = next((layer.rope.kind for layer in after if getattr(layer.rope, "score_factor", 1.0) < old), "yarn")
    raise UserError(
        f"{kind if native else 'a pattern of layers'} would change the scale of this model's scores",
        where="rope.kind" if native else "layers",
        why=f"its class multiplies all scores by {max(old, new):.6g}, from mscale_all_dim of its yarn, and has no key "
        "for that with other positions",
        fix="use kind: yarn with the base's mscale and mscale_all_dim, and no pattern of layers",
    )
