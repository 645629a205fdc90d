"""Lightning attention (Qin et al., 2401.04658) over packed documents, as MiniMax-Text-01 has it.

Each head's state decays by a constant, which the class computes from the numbers of heads and layers. The outputs of
all heads pass one norm, and a gate made of the layer's input.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from ropewalk.attention.differentiate_tiles import exact_dtype
from ropewalk.model.recurrent_layer import Hidden, PackedTokens, RecurrentLayer


class Lightning(RecurrentLayer):
    """The attributes are those of MiniMax's class."""

    slope_rate: Float[Tensor, "heads 1 1"]
    num_attention_heads: int
    head_dim: int

    def forward(self, *args: Any, **settings: Any) -> Any:
        """See ``RecurrentLayer``; the class returns a pair, as attention does."""
        found = super().forward(*args, **settings)
        return (found, None) if isinstance(found, Tensor) else found

    def mix(self, hidden: Hidden, tokens: PackedTokens) -> Hidden:
        this: Any = self
        rows = this.act_fn(this.qkv_proj(hidden)).unflatten(-1, (self.num_attention_heads, -1))
        # [local, heads, 3 head_dim] -> thrice [local, heads, head_dim]
        query, key, value = rows.split(self.head_dim, dim=-1)
        decay = -self.slope_rate.to(exact_dtype(hidden.dtype)).flatten()
        read = this.norm(tokens.scan(query, key, value, decay, kind="simple_decay").flatten(1))
        mixed: Tensor = this.out_proj(this.output_gate(hidden).sigmoid() * read)
        return mixed
