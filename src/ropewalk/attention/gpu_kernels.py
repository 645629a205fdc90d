"""GPU kernels on tiles of unequal lengths: torch's varlen flash attention (one launch for all tiles) and cuDNN (one
each).

The flash operators are those behind torch.nn.attention.varlen: FlashAttention 2 as torch ships it, or 3 and 4 where
they are installed and ``use_installed_flash`` has registered them in torch. cuDNN is faster on Hopper for long tiles
(LongCA-bench: 1.5 times FlashAttention 2 at 32Ki) and takes one shape at a time. Given the global output and
log-sum-exp, both backwards return gradients of tiles that sum to those of the whole.
"""

import importlib.util
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import attention as torch_attention

from ropewalk.attention.schedule import BackwardInputs, KeyRows, QueryRows, Scores
from ropewalk.attention.varlen_schedule import VarlenTiles

DTYPES = (torch.float16, torch.bfloat16)
MOST_HEAD_DIM, CUDNN_HEAD_DIM = 256, 128
CUDNN_TOKENS = 4096
"""Tiles from this length on are worth a launch each; shorter ones go end to end into one."""

_INSTALLED = {"FA3": ("flash_attn_interface", 9), "FA4": ("flash_attn.cute", 10)}
"""What torch can put in its kernel's place: the module that brings it, and the GPU generation it is written for."""


class FlashVarlenKernel:
    """See varlen_schedule.VarlenKernel."""

    def attend(
        self, query: QueryRows, key: KeyRows, value: KeyRows, tiles: VarlenTiles, scores: Scores
    ) -> tuple[Tensor, Tensor]:
        """See varlen_schedule.VarlenKernel."""
        causal, window = _sight(tiles)
        out, logsum, *_ = torch.ops.aten._flash_attention_forward(
            query, key, value, *_lengths(tiles), 0.0, causal, False, scale=scores.scale, **window
        )
        return out, logsum.T

    def differentiate(
        self, inputs: BackwardInputs, key: KeyRows, value: KeyRows, tiles: VarlenTiles, scores: Scores
    ) -> tuple[Tensor, Tensor, Tensor]:
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


class CudnnKernel:
    """See varlen_schedule.VarlenKernel. It knows no grouped heads, so keys are repeated and their gradients summed."""

    def attend(
        self, query: QueryRows, key: KeyRows, value: KeyRows, tiles: VarlenTiles, scores: Scores
    ) -> tuple[Tensor, Tensor]:
        """See varlen_schedule.VarlenKernel."""
        outs, logsums = [], []
        for of_query, of_key, of_value in _split(tiles, (query,), (key, value)):
            taken = (_one(each, query) for each in (of_query, of_key, of_value))
            found = torch.ops.aten._scaled_dot_product_cudnn_attention(
                *taken, None, True, 0.0, _is_causal(tiles), False, scale=scores.scale
            )
            outs.append(found[0].squeeze(0).transpose(0, 1))
            logsums.append(found[1].reshape(query.shape[1], -1).T)
        return torch.cat(outs), torch.cat(logsums)

    def differentiate(
        self, inputs: BackwardInputs, key: KeyRows, value: KeyRows, tiles: VarlenTiles, scores: Scores
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See varlen_schedule.VarlenKernel."""
        seed = torch.zeros((), dtype=torch.int64, device=key.device)  # nothing is dropped
        parts = []
        rows = inputs.query, inputs.grad, inputs.out, inputs.logsum
        for *of_queries, logsum, of_key, of_value in _split(tiles, rows, (key, value)):
            query, grad, out = (_one(each, inputs.query) for each in of_queries)
            found = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
                grad,
                query,
                _one(of_key, inputs.query),
                _one(of_value, inputs.query),
                out,
                logsum.T.unsqueeze(0).unsqueeze(-1).contiguous(),
                seed,
                seed,
                *(None, None, None),  # no bias, no ragged rows
                len(logsum),
                len(of_key),
                0.0,
                _is_causal(tiles),
                scale=scores.scale,
            )
            parts.append([each.squeeze(0).transpose(0, 1) for each in found])
        d_query, d_key, d_value = (torch.cat(each) for each in zip(*parts, strict=True))
        return d_query, *(each.unflatten(1, (key.shape[1], -1)).sum(2) for each in (d_key, d_value))


def use_installed_flash(device: torch.device) -> str | None:
    """Put FlashAttention 3 or 4 in place of torch's own, if it is installed and ``device`` is one it is for; its name.

    It does so for the whole process, so a training run calls it and a library does not.
    """
    if device.type != "cuda" or not hasattr(torch_attention, "activate_flash_attention_impl"):
        return None
    generation = torch.cuda.get_device_capability(device)[0]
    for name, (module, wanted) in _INSTALLED.items():
        if generation == wanted and name in torch_attention.list_flash_attention_impls() and _is_installed(module):
            torch_attention.activate_flash_attention_impl(name)
            return name
    return None


def prefers_cudnn(tiles: VarlenTiles, head_dim: int) -> bool:
    """Whether all tiles are so long that cuDNN's kernel pays, and no newer flash attention is in place."""
    current = getattr(torch_attention, "current_flash_attention_impl", lambda: None)
    shortest = min(tiles.queries.lengths)
    fits = head_dim <= CUDNN_HEAD_DIM and torch.backends.cuda.cudnn_sdp_enabled()
    return fits and current() is None and shortest >= CUDNN_TOKENS


def _is_installed(module: str) -> bool:
    parent = module.partition(".")[0]
    return importlib.util.find_spec(parent) is not None and importlib.util.find_spec(module) is not None


def _sight(tiles: VarlenTiles) -> tuple[bool, dict[str, int]]:
    """The causal flag, which is aligned bottom right, and the window beside it."""
    if tiles.full:
        return False, {}
    window = tiles.find_window()
    return (True, {}) if window is None else (False, {"window_size_left": window - 1, "window_size_right": 0})


def _is_causal(tiles: VarlenTiles) -> bool:
    """cuDNN's causal flag is aligned top left, so it is for triangles."""
    if tiles.full:
        return False
    assert tiles.find_window() is None and tiles.queries.lengths == tiles.keys.lengths
    return True


def _lengths(tiles: VarlenTiles) -> tuple[Tensor, Tensor, int, int]:
    return tiles.queries.tensor, tiles.keys.tensor, max(tiles.queries.lengths), max(tiles.keys.lengths)


def _split(tiles: VarlenTiles, rows: tuple[Tensor, ...], keys: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    """Tile by tile."""
    of_rows = (each.split(tiles.queries.lengths) for each in rows)
    of_keys = (each.split(tiles.keys.lengths) for each in keys)
    return zip(*of_rows, *of_keys, strict=True)


def _one(rows: Tensor, query: Tensor) -> Tensor:
    """[1, heads, rows, head_dim], as many heads as the query has."""
    return rows.repeat_interleave(query.shape[1] // rows.shape[1], dim=1).transpose(0, 1).unsqueeze(0)
