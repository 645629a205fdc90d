"""The numbers of a model that all other parts compute with: widths, counts, positions. No weights, no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from statistics import fmean
from typing import Any

from ropewalk.rope.layers import FIRE_UNITS, MLP, LayerPosition, LayerRule, find_stretched, stretch_layers
from ropewalk.rope.method import BaseRope
from ropewalk.rope.scaling import Rope, Unchanged
from ropewalk.shape.alike import group_layers
from ropewalk.shape.latent import require_score_factor, score_factor
from ropewalk.shape.mixers import Mixers, find_mixers
from ropewalk.shape.model_fields import ModelFields
from ropewalk.shape.unequal import refuse_pattern


@dataclass(frozen=True)  # no slots: a search asks for the sums below a hundred thousand times, so they are kept
class ModelShape(ModelFields):
    """A decoder of blocks with attention and an MLP, or one of both. Made by shape/read."""

    @property
    def rotary_dim(self) -> int:
        """Dimensions of a head that RoPE turns."""
        return self.latent.rotary_dim if self.latent else int(self.head_dim * self.rotary_share)

    @property
    def rotary_dims(self) -> tuple[int, ...]:
        """The same for each layer, first to last."""
        return tuple(self.heads_of(layer)[1] if self.unequal else self.rotary_dim for layer in range(self.layers))

    def heads_of(self, layer: int) -> tuple[int, int]:
        """Key heads of a layer, and the width of a head."""
        if self.unequal is not None and self.positions[layer].window_tokens is not None:
            return self.unequal.window_kv_heads, self.unequal.window_head_dim
        return self.kv_heads, self.head_dim

    def shares_keys(self, layer: int) -> bool:
        """Whether a layer uses the keys and values of another one."""
        return self.unequal is not None and layer >= self.layers - self.unequal.sharing

    def mlp_factor(self, layer: int) -> int:
        """By how much the MLP of a layer is wider than ``mlp_width``."""
        return 2 if self.unequal is not None and self.unequal.wide_mlp and self.shares_keys(layer) else 1

    @cached_property
    def alike(self) -> tuple[tuple[int, ...], ...]:
        """The layers in groups of equal sizes, each from first to last."""
        return group_layers(self)

    @cached_property
    def sums(self) -> dict[tuple[object, ...], Any]:
        """What plan/layer_sums.py keeps of this object: shapes take long to compare, so it is no key of a cache."""
        return {}

    @property
    def score_scale(self) -> float:
        """The usual scale of scores, with the factor that a class with latent attention takes from its yarn."""
        return float(self.head_dim**-0.5) * (score_factor(self.positions) if self.latent else 1.0)

    @cached_property
    def layers(self) -> int:
        return len(self.positions)

    @cached_property
    def mixers(self) -> tuple[Mixers, ...]:
        """What mixes the tokens in each layer, first to last."""
        return find_mixers(self.positions, self.recurrent)

    @cached_property
    def attending(self) -> tuple[int, ...]:
        """Entry n is the number of layers with attention, alone or beside a recurrence, among the first n."""
        return tuple(accumulate((each.attends for each in self.mixers), initial=0))

    @cached_property
    def recurring(self) -> tuple[int, ...]:
        """The same of layers with a recurrence."""
        return tuple(accumulate((each.recurs for each in self.mixers), initial=0))

    @property
    def attention_layers(self) -> int:
        """The layers that have attention, alone or beside a recurrence."""
        return self.attending[-1]

    @cached_property
    def query_width(self) -> int:
        """Width of all query heads together, in the mean over layers; not always equal to ``width``."""
        return round(fmean(self.heads * self.heads_of(layer)[1] for layer in range(self.layers)))

    @cached_property
    def kv_width(self) -> int:
        """Width of all key heads together, and of all value heads where those are as wide; the mean over layers."""
        return round(fmean(math.prod(self.heads_of(layer)) for layer in range(self.layers)))

    @property
    def value_dim(self) -> int:
        """Width of a value's head."""
        return self.latent.value_dim if self.latent else self.head_dim

    @property
    def output_width(self) -> int:
        """Width of the output of all heads together, in the mean over layers."""
        return self.query_width if self.unequal else self.heads * self.value_dim

    @property
    def sent_width(self) -> int:
        """Numbers of one token and layer that other context ranks need for its keys and values."""
        return self.latent.sent_width if self.latent else 2 * self.kv_width

    def attention_matrices_of(self, layer: int) -> dict[str, tuple[int, int]]:
        """``attention_matrices`` of one layer, where they differ."""
        if self.unequal is None:
            return self.attention_matrices
        kv_heads, head_dim = self.heads_of(layer)
        full, shares = self.positions[layer].window_tokens is None, self.shares_keys(layer)
        queries, keys = self.heads * head_dim, kv_heads * head_dim
        return self.unequal.matrices(self.width, queries=queries, keys=keys, full=full, shares=shares)

    @property
    def attention_products(self) -> int:
        """Multiplications of a token by the matrices of attention in all layers."""
        if self.unequal is None:
            return self.attention_layers * sum(into * out for into, out in self.attention_matrices.values())
        layers = [self.attention_matrices_of(layer).values() for layer in range(self.layers)]
        return sum(into * out for matrices in layers for into, out in matrices)

    @property
    def attention_matrices(self) -> dict[str, tuple[int, int]]:
        """Input and output width of each matrix of a layer's attention, by the names of Llama where it has them."""
        if self.latent is not None:
            return self.latent.matrices(self.width, self.heads)
        return {
            "q_proj": (self.width, self.query_width * (1 + self.query_gate)),
            "k_proj": (self.width, self.kv_width),
            "v_proj": (self.width, self.kv_width),
            "o_proj": (self.query_width, self.width),
        }

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Input and output width of each matrix of a layer with a dense MLP, by the names of Llama."""
        attention = self.attention_matrices
        gate = {"gate_proj": (self.width, self.mlp_width)} if self.mlp == "gated" else {}
        return attention | gate | {"up_proj": (self.width, self.mlp_width), "down_proj": (self.mlp_width, self.width)}

    @property
    def qk_norm_parameters(self) -> int:
        """Parameters of the norms of queries and keys of one layer, or of their latents."""
        if self.latent is not None:
            return self.latent.norm_parameters
        both = {"none": 0, "head": 2 * self.head_dim}
        return both.get(self.qk_norm, self.query_width + self.kv_width)

    @property
    def norm_parameters(self) -> int:
        """Parameters of one other norm."""
        return self.width * {"scale": 1, "scale_bias": 2, "none": 0}[self.norm]

    @property
    def mixtures(self) -> int:
        """The number of layers with a mixture of experts."""
        return len(self.experts.layers) if self.experts else 0

    @cached_property
    def lone_mlps(self) -> int:
        """The number of layers that are an MLP or a mixture alone."""
        return sum(layer.mixer == MLP for layer in self.positions)

    @property
    def dense_mlps(self) -> int:
        """The number of layers with a dense MLP."""
        if self.single:
            return self.lone_mlps - self.mixtures
        return self.layers if self.experts and self.experts.beside else self.layers - self.mixtures

    def has_mlp(self, layer: int) -> bool:
        """Whether a layer has an MLP or a mixture of experts: all have one, except where a layer is one thing."""
        return not self.single or self.positions[layer].mixer == MLP

    def _mlp_parameters_of(self, layer: int) -> int:
        """Parameters of a layer's dense MLP and of its mixture, whichever it has."""
        if not self.has_mlp(layer):
            return 0
        dense = self.mlp_parameters * self.mlp_factor(layer)
        if self.experts is None or layer not in self.experts.layers:
            return dense
        return self.experts.parameters(self.width) + dense * self.experts.beside

    def _unequal_parameters(self, layer: int) -> int:
        """Parameters of one layer of a model whose layers differ, exactly."""
        assert self.unequal is not None
        matrices, shares = self.attention_matrices_of(layer), self.shares_keys(layer)
        biased = {name: self.output_bias if name == "o_proj" else self.qkv_bias for name in matrices}
        attention = sum(out * (into + biased[name]) for name, (into, out) in matrices.items())
        norms = self.heads_of(layer)[1] * (1 if shares else 2) * (self.qk_norm == "head")
        norms += (self.block_norms + (self.unequal.input_width > 0)) * self.norm_parameters
        inputs = 2 * self.width * self.unequal.input_width
        return attention + norms + inputs + self._mlp_parameters_of(layer)

    @cached_property
    def attention_parameters(self) -> int:
        """Parameters of one layer with attention outside of its MLP, exactly."""
        gated = 1 + self.query_gate
        biased = self.latent.bias_width if self.latent else gated * self.query_width + 2 * self.kv_width
        biases = self.qkv_bias * biased + self.output_bias * self.width
        norms = self.block_norms * self.norm_parameters + self.qk_norm_parameters
        matrices = sum(into * out for into, out in self.attention_matrices.values())
        return matrices + biases + norms + self.other_parameters

    @cached_property
    def mlp_parameters(self) -> int:
        """Parameters of one dense MLP, exactly."""
        wide = 2 if self.mlp == "gated" else 1
        return (wide + 1) * self.width * self.mlp_width + self.mlp_bias * (wide * self.mlp_width + self.width)

    def layer_parameters(self, layer: int) -> int:
        """Parameters of one layer, exactly: of its attention, its recurrence, its MLP and its norms."""
        if self.unequal is not None:
            return self._unequal_parameters(layer)
        attends, recurs = self.mixers[layer]
        own = self.attention_parameters if attends else self.block_norms * self.norm_parameters
        return own + (self.recurrent.parameters if self.recurrent and recurs else 0) + self._mlp_parameters_of(layer)

    @cached_property
    def block_parameters(self) -> int:
        """Parameters of the largest layer, exactly; of any layer where all are alike."""
        return max(map(self.layer_parameters, range(self.layers)))

    @cached_property
    def parameters(self) -> int:
        """Parameters of the whole model, exactly; a tied head is counted once."""
        embeddings = self.vocabulary * self.width * (1 if self.tied else 2)
        fires = sum(layer.bias == "fire" for layer in self.positions) * (2 + 2 * FIRE_UNITS + FIRE_UNITS * self.heads)
        inputs = self.unequal.input_parameters(self.width, self.layers) if self.unequal else 0
        return embeddings + inputs + sum(map(self.layer_parameters, range(self.layers))) + self.norm_parameters + fires

    @cached_property
    def mean_mlp_width(self) -> float:
        """The inner width of the MLP that a token passes, in the mean over layers: of a mixture the experts it uses."""
        active = self.mixtures * self.experts.active_width() if self.experts else 0
        return active / self.layers + self.dense_mlp_width

    @property
    def dense_mlp_width(self) -> float:
        """The inner width of the dense MLP, in the mean over all layers, also those without one."""
        wide = self.unequal.sharing if self.unequal is not None and self.unequal.wide_mlp else 0
        return self.mlp_width * (self.dense_mlps + wide) / self.layers

    @property
    def stretched(self) -> LayerPosition:
        """The first of the layers that a longer context affects."""
        return find_stretched(self.positions)

    @property
    def theta(self) -> float:
        """Theta of the layers that get stretched."""
        return self.stretched.theta

    @property
    def rope(self) -> Mapping[str, Any] | None:
        """``rope_parameters`` of the layers that get stretched, None where they are plain."""
        layer = self.stretched
        return None if isinstance(layer.rope, Unchanged) else layer.rope.to_hf(layer.theta)

    @property
    def base_rope(self) -> BaseRope:
        """The current position method of the layers that get stretched."""
        return self.stretched.as_base(head_dim=self.rotary_dim, context_tokens=self.context_tokens)

    def stretch(self, pattern: tuple[LayerRule, ...], *, rope: Rope, context_tokens: int) -> "ModelShape":
        """The model that ``rope/layers.stretch_layers`` makes of this one; raises UserError as that function does."""
        if pattern and self.unequal is not None:
            raise refuse_pattern()
        sizes = {"head_dim": self.rotary_dim, "base_tokens": self.context_tokens, "context_tokens": context_tokens}
        positions = stretch_layers(self.positions, pattern, rope=rope, **sizes)
        if self.latent is not None:
            require_score_factor(self.positions, positions)
        tokens = min(layer.rope.config_tokens(context_tokens) for layer in positions)
        return replace(self, positions=positions, context_tokens=tokens)
