"""torch's varlen flash attention on tiles of unequal lengths, one launch for all; and which implementation runs.

The operators are those behind torch.nn.attention.varlen: FlashAttention 2 as torch ships it, or 3 and 4 where they are
installed and ``use_installed_flash`` has registered them in torch. Given the global output and log-sum-exp, the
backward returns gradients of tiles that sum to those of the whole.
"""

import importlib.util

import torch
from jaxtyping import Float, Int32
from torch import Tensor
from torch.nn import attention as torch_attention

from ropewalk.attention.schedule import BackwardInputs, KeyTokens, QueryTokens, Scores
from ropewalk.attention.varlen_schedule import VarlenTiles

DTYPES = (torch.float16, torch.bfloat16)
MOST_HEAD_DIM, CUDNN_HEAD_DIM = 256, 128
_TRIED_TOKENS = 4096
_INSTALLED = {"FA3": ("flash_attn_interface", (9,)), "FA4": ("flash_attn.cute", (9, 10))}
"""What torch can put in its kernel's place: the module that brings it, and the GPU generations that torch lets it run
on. The first that is installed and fits is taken."""


class FlashVarlenKernel:
    """See varlen_schedule.VarlenKernel."""

    def attend(
        self, query: QueryTokens, key: KeyTokens, value: KeyTokens, tiles: VarlenTiles, scores: Scores
    ) -> tuple[QueryTokens, Float[Tensor, "queries heads"]]:
        """See varlen_schedule.VarlenKernel."""
        causal, window = _sight(tiles)
        out, logsum, *_ = torch.ops.aten._flash_attention_forward(
            query, key, value, *_lengths(tiles), 0.0, causal, False, scale=scores.scale, **window
        )
        return out, logsum.T

    def differentiate(
        self, inputs: BackwardInputs, key: KeyTokens, value: KeyTokens, tiles: VarlenTiles, scores: Scores
    ) -> tuple[QueryTokens, KeyTokens, KeyTokens]:
        """See varlen_schedule.VarlenKernel."""
        causal, window = _sight(tiles)
        d_query, d_key, d_value = torch.ops.aten._flash_attention_backward(
            inputs.grad,
            inputs.query,
            key,
            value,
            inputs.out,
            inputs.logsum.T.contiguous(),
            *_lengths(tiles),
            0.0,
            causal,
            torch.zeros(2, dtype=torch.uint64, device=key.device),
            torch.empty(0, device=key.device),
            scale=scores.scale,
            **window,
        )
        return d_query, d_key, d_value


def use_installed_flash(device: torch.device) -> str | None:
    """Put FlashAttention 3 or 4 in place of torch's own, if it is installed and ``device`` is one it is for; its name.

    It does so for the whole process, so a training run calls it and a library does not.
    """
    if device.type != "cuda" or not hasattr(torch_attention, "activate_flash_attention_impl"):
        return None
    generation = torch.cuda.get_device_capability(device)[0]
    for name, (module, fitting) in _INSTALLED.items():
        if generation in fitting and name in torch_attention.list_flash_attention_impls() and _is_installed(module):
            torch_attention.activate_flash_attention_impl(name)
            return name
    return None


def settle_cudnn(device: torch.device, dtype: torch.dtype, head_dim: int) -> None:
    """Switch cuDNN's attention off for the whole process where torch itself would not call it on ``device``.

    Such a device is too old, or the cuDNN that torch has found is: the operator, which attention calls by name, would
    fail there.
    """
    wanted = device.type == "cuda" and dtype in DTYPES and allows_cudnn(head_dim)
    if wanted and not _takes_cudnn(device, dtype, head_dim):
        torch.backends.cuda.enable_cudnn_sdp(False)


def allows_cudnn(head_dim: int) -> bool:
    """Whether cuDNN's attention may run: no newer flash attention is in place, and runs may differ in last bits."""
    exact = torch.are_deterministic_algorithms_enabled()
    return (
        head_dim <= CUDNN_HEAD_DIM and torch.backends.cuda.cudnn_sdp_enabled() and _find_newer() is None and not exact
    )


def name_flash() -> str:
    """The version of FlashAttention that is in place."""
    return f"FlashAttention {(_find_newer() or 'FA2').removeprefix('FA')}"


def _find_newer() -> str | None:
    """The implementation that is in place of torch's own; None for that."""
    current: str | None = getattr(torch_attention, "current_flash_attention_impl", lambda: None)()
    return current


def _takes_cudnn(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether torch's own attention can take cuDNN's kernel."""
    rows = torch.empty(1, 1, _TRIED_TOKENS, head_dim, device=device, dtype=dtype)
    asked = torch.backends.cuda.SDPAParams(rows, rows, rows, None, 0.0, True, False)
    return bool(torch.backends.cuda.can_use_cudnn_attention(asked))


def _is_installed(module: str) -> bool:
    parent = module.partition(".")[0]
    return importlib.util.find_spec(parent) is not None and importlib.util.find_spec(module) is not None


def _sight(tiles: VarlenTiles) -> tuple[bool, dict[str, int]]:
    """The causal flag, which is aligned bottom right, and the window beside it."""
    if tiles.full:
        return False, {}
    window = tiles.find_window()
    return (True, {}) if window is None else (False, {"window_size_left": window - 1, "window_size_right": 0})


def _lengths(tiles: VarlenTiles) -> tuple[Int32[Tensor, "ends"], Int32[Tensor, "ends"], int, int]:
    return tiles.queries.tensor, tiles.keys.tensor, max(tiles.queries.lengths), max(tiles.keys.lengths)
