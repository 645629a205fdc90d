"""Liger's fused kernels in a model of transformers: RMSNorm, the rotation of queries and keys, and SwiGLU.

Each of them makes one pass over memory where torch makes two to eight. A part is replaced only where the arithmetic of
its class is one that Liger's kernel computes. The class's own code decides this: transformers writes the same function
into the file of each family. So a family whose norm or MLP differs keeps torch's operations, and a new family that has
a known part gets the kernel. As in tiled_mlp.py, a module's class is replaced by a derived class, so names of weights
do not change; no class and no module of transformers is altered.

Liger is an optional package with Triton kernels, for a GPU only. Its in-place gradient of norms is not used: in blocks
with a norm after the MLP, that gradient is also the residual's.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from types import CodeType, FunctionType
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from transformers.activations import SiLUActivation
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm, rotate_half
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as rotate_as_llama
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from transformers.models.olmo2.modeling_olmo2 import apply_rotary_pos_emb as rotate_as_olmo

PARTS = ("norm", "mlp", "rotation")
"""What there are kernels for."""
_ROTATE = "apply_rotary_pos_emb"
"""The name under which an attention's forward finds the rotation, in the files of all families."""


class _NormKind(NamedTuple):
    """A norm of transformers, and Liger's options for it."""

    like: type[nn.Module]
    methods: tuple[str, ...]
    eps: str
    """The attribute that holds the small number under the root."""
    casting_mode: str
    """``llama`` rounds the normalised vector before the weight is multiplied, ``gemma`` after it."""
    offset: float


_NORMS = (
    _NormKind(LlamaRMSNorm, ("forward",), "variance_epsilon", "llama", 0.0),
    _NormKind(Olmo2RMSNorm, ("forward",), "variance_epsilon", "gemma", 0.0),
    _NormKind(Gemma3RMSNorm, ("forward", "_norm"), "eps", "gemma", 1.0),
)


def fuse_with_liger(model: nn.Module) -> Counter[str]:
    """Replace every part of ``model`` that Liger has a kernel for; return how many, by ``PARTS``.

    Call it before the MLPs are put in tiles. The kernels run on a GPU only, and so does the model from then on.
    """
    found: Counter[str] = Counter()
    for module in model.modules():
        for name, derived in _list_derived(module):
            module.__class__ = derived  # type: ignore[assignment]  # mypy takes it for a module
            found[name] += 1
    return found


def _list_derived(module: nn.Module) -> Iterator[tuple[str, type[nn.Module]]]:
    """What ``module`` is and the class that takes the place of its own; nothing where Liger has no kernel."""
    kind: Any = type(module)
    norm = next((each for each in _NORMS if _is_like(kind, each.like, each.methods)), None)
    if norm is not None:
        yield "norm", _derive_norm(kind, norm)
    elif _is_like(kind, LlamaMLP, ("forward",)) and isinstance(module.act_fn, (nn.SiLU, SiLUActivation)):
        yield "mlp", _derive(kind, _SwiGLU)
    elif (derived := _derive_rotating(kind)) is not None:
        yield "rotation", derived


class _Norm(nn.Module):
    """Base class that comes before a norm's own class."""

    weight: Float[Tensor, "width"]
    options: _NormKind

    def forward(self, hidden: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens width"]:
        from liger_kernel.ops import LigerRMSNormFunction

        eps, options, in_place = getattr(self, self.options.eps), self.options, False
        out: Tensor = LigerRMSNormFunction.apply(
            hidden, self.weight, eps, options.offset, options.casting_mode, in_place, None
        )
        return out


class _SwiGLU(nn.Module):
    """Base class that comes before an MLP's own class."""

    gate_proj: nn.Linear
    up_proj: nn.Linear
    down_proj: nn.Linear

    def forward(self, hidden: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens width"]:
        from liger_kernel.ops import LigerSiLUMulFunction

        out: Tensor = self.down_proj(LigerSiLUMulFunction.apply(self.gate_proj(hidden), self.up_proj(hidden)))
        return out


def _rotate(
    query: Float[Tensor, "rows heads tokens head_dim"],
    key: Float[Tensor, "rows kv_heads tokens head_dim"],
    cosine: Float[Tensor, "rows tokens rotary"],
    sine: Float[Tensor, "rows tokens rotary"],
    unsqueeze_dim: int = 1,
) -> tuple[Float[Tensor, "rows heads tokens head_dim"], Float[Tensor, "rows kv_heads tokens head_dim"]]:
    """The rotation in Liger's kernel, which writes over ``query`` and ``key``; nothing else reads them."""
    from liger_kernel.ops import LigerRopeFunction

    assert unsqueeze_dim == 1, "heads come before tokens"
    turned: tuple[Tensor, Tensor] = LigerRopeFunction.apply(query, key, cosine, sine)
    return turned


@cache
def _derive(kind: type[nn.Module], base: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (base, kind), {})


@cache
def _derive_norm(kind: type[nn.Module], options: _NormKind) -> type[nn.Module]:
    return type(kind.__name__, (_Norm, kind), {"options": options})


@cache
def _derive_rotating(kind: type[nn.Module]) -> type[nn.Module] | None:
    """The attention class ``kind`` with Liger's rotation; None where it does not rotate as Llama does.

    Its forward reads the rotation as a global name of its file. The derived class has a forward with the same code, for
    which this one name means Liger's rotation.
    """
    forward = kind.forward
    if not isinstance(forward, FunctionType) or _ROTATE not in forward.__code__.co_names:
        return None
    rotate: Any = forward.__globals__.get(_ROTATE)
    if not any(_is_same_code(rotate, each) for each in (rotate_as_llama, rotate_as_olmo)):
        return None
    if not _is_same_code(rotate.__globals__.get("rotate_half"), rotate_half):  # neighbours, or first and second half
        return None
    names = {**forward.__globals__, _ROTATE: _rotate}
    fused = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
    fused.__kwdefaults__ = forward.__kwdefaults__
    return type(kind.__name__, (kind,), {"forward": fused})


def _is_like(kind: type[nn.Module], like: type[nn.Module], methods: tuple[str, ...]) -> bool:
    return all(_is_same_code(getattr(kind, name, None), getattr(like, name)) for name in methods)


def _is_same_code(ours: Any, theirs: Callable[..., Any]) -> bool:
    """Whether two functions have the same instructions, names and numbers; their texts may differ."""
    if not isinstance(ours, FunctionType) or not isinstance(theirs, FunctionType):
        return False
    return _describe(ours.__code__) == _describe(theirs.__code__)


def _describe(code: CodeType) -> tuple[Any, ...]:
    numbers = tuple(each for each in code.co_consts if not isinstance(each, (str, CodeType)))
    return code.co_code, code.co_names, code.co_argcount, numbers
