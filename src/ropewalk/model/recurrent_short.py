"""Short convolutions of LFM2 over packed documents: a causal convolution between two gates, and no state."""

from typing import Any

from torch import Tensor

from ropewalk.model.recurrent_layer import Hidden, PackedTokens, RecurrentLayer


class ShortConvolution(RecurrentLayer):
    """The layer of LFM2."""

    def mix(self, hidden: Hidden, tokens: PackedTokens) -> Hidden:
        this: Any = self
        before, after, rows = this.in_proj(hidden).chunk(3, dim=-1)  # [local, 3 width] -> thrice [local, width]
        mixed: Tensor = this.out_proj(after * tokens.convolve(before * rows, this.conv))
        return mixed
