"""Values that are narrower than keys, as in latent attention: kernels and exchanges want one width.

Zeros at the end of a value give zeros at the end of the output, which are cut off again; their gradients are dropped.
DeepSeek's values have 128 of the keys' 192 dimensions, so this costs a fifth of attention's arithmetic. Values that are
wider than keys belong to no supported class.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad


def widen(value: Float[Tensor, "... value_dim"], head_dim: int) -> Float[Tensor, "... head_dim"]:
    """``value`` with zeros up to ``head_dim``; itself where it is as wide."""
    missing = head_dim - value.shape[-1]
    assert missing >= 0, "values are not wider than keys"
    # [..., value_dim] -> [..., head_dim]
    return pad(value, (0, missing)) if missing else value
