"""The call of an installed scan kernel: packed segments with a state before each, and what it returns."""

from dataclasses import dataclass
from importlib import import_module

from jaxtyping import Float, Int64
from torch import Tensor

States = Float[Tensor, "segments heads key_dim _"]


@dataclass(frozen=True, slots=True)
class PackedVectors:
    """Tokens of some segments, one segment after the other; ``starts`` has where each begins, and the end of all."""

    query: Float[Tensor, "tokens key_heads key_dim"]
    key: Float[Tensor, "tokens key_heads key_dim"]
    value: Float[Tensor, "tokens heads value_dim"]
    decay: Float[Tensor, "tokens heads"] | Float[Tensor, "tokens heads key_dim"]
    beta: Float[Tensor, "tokens heads"] | None
    starts: Int64[Tensor, "starts"]
    host_starts: Int64[Tensor, "starts"]
    """The same on the host, so that a kernel does not wait for the device."""


@dataclass(frozen=True, slots=True)
class ScanKernel:
    """``function`` of ``module`` runs the recurrences of a kind."""

    package: str
    module: str
    function: str
    repeats_keys: bool = False
    """Whether it wants queries and keys for every head."""

    def run(self, vectors: PackedVectors, before: States) -> tuple[Float[Tensor, "tokens heads _"], States]:
        """Outputs of all tokens, and the state after each segment, given the states before them in float32."""
        query, key, given = vectors.query, vectors.key, {}
        if self.repeats_keys:
            repeat = vectors.value.shape[1] // key.shape[1]
            query, key = (each.repeat_interleave(repeat, dim=1) for each in (query, key))
        if vectors.beta is not None:
            given["beta"] = vectors.beta[None]
        # [tokens, ...] -> [1, tokens, ...]
        outputs, after = getattr(import_module(self.module), self.function)(
            query[None],
            key[None],
            vectors.value[None],
            g=vectors.decay[None].float(),
            **given,
            scale=1.0,
            initial_state=before.contiguous(),
            output_final_state=True,
            cu_seqlens=vectors.starts,
            cu_seqlens_cpu=vectors.host_starts,
        )
        return outputs[0], after
