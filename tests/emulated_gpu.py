"""torch's attention operators for GPUs, computed on a CPU with the checks that their C++ code makes.

With them the code that runs on a GPU runs in a test: its choice of kernels, its calls, its merges. An operator refuses
here what it refuses there: another type of offsets, offsets that do not cover all rows, a last dimension with gaps, a
log-sum-exp in another layout. Each launch is recorded. Results are in float32 or better; with ``any_dtype`` float32
and float64 are also taken, so that a test can compare exactly.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Launch:
    """One call of an operator: its name, and the (queries, keys, causal) of each of its sequences."""

    operator: str
    sequences: tuple[tuple[int, int, bool], ...]
    kv_heads: int
    key_strides: tuple[int, ...]


@dataclass
class EmulatedGPU:
    """The operators, and the ``launches`` so far in this process."""

    any_dtype: bool = False
    launches: list[Launch] = field(default_factory=list)

    def count(self, operator: str) -> int:
        return sum(launch.operator == operator for launch in self.launches)

    def flash_forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        query_ends: Tensor,
        key_ends: Tensor,
        most_queries: int,
        most_keys: int,
        dropout: float,
        causal: bool,
        debug: bool,
        *,
        scale: float | None = None,
        window_size_left: int | None = None,
        window_size_right: int | None = None,
        **unused: Any,
    ) -> tuple[Tensor, ...]:
        """Varlen flash attention: output [queries, heads, head_dim], log-sum-exp [heads, queries]."""
        assert not dropout and not debug and scale is not None
        assert all(each is None for each in unused.values()), unused
        runs = self._check_ragged(query, key, value, query_ends, key_ends, most_queries, most_keys)
        self._note("flash", runs, causal, key)
        out = torch.full_like(query, torch.nan)
        logsum = torch.full((query.shape[1], len(query)), torch.nan, dtype=_exact(query).dtype)
        for rows, keys in runs:
            seen = _see(rows, keys, causal, window_size_left, window_size_right)
            part, sums = _attend(query[rows], key[keys], value[keys], seen, scale)
            out[rows], logsum[:, rows] = part.to(out.dtype), sums.masked_fill(sums == -torch.inf, torch.inf)
        return out, logsum, torch.zeros(2, dtype=torch.uint64), torch.empty((), dtype=torch.uint64), query.new_empty(0)

    def flash_backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        logsum: Tensor,
        query_ends: Tensor,
        key_ends: Tensor,
        most_queries: int,
        most_keys: int,
        dropout: float,
        causal: bool,
        seed: Tensor,
        unused: Tensor,
        *,
        scale: float | None = None,
        window_size_left: int | None = None,
        window_size_right: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of varlen flash attention."""
        assert not dropout and scale is not None and grad.dtype == query.dtype == out.dtype
        runs = self._check_ragged(query, key, value, query_ends, key_ends, most_queries, most_keys)
        assert logsum.shape == (query.shape[1], len(query)) and logsum.is_contiguous(), "[heads, queries], contiguous"
        assert logsum.dtype == _exact(query).dtype
        self._note("flash_backward", runs, causal, key)
        d_query, d_key, d_value = (torch.zeros_like(_exact(each)) for each in (query, key, value))
        for rows, keys in runs:
            seen = _see(rows, keys, causal, window_size_left, window_size_right)
            inputs = grad[rows], query[rows], key[keys], value[keys], out[rows], logsum[:, rows]
            d_query[rows], d_key[keys], d_value[keys] = _differentiate(*inputs, seen, scale)
        return d_query.to(query.dtype), d_key.to(key.dtype), d_value.to(value.dtype)

    def cudnn_forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None,
        wants_logsum: bool,
        dropout: float = 0.0,
        causal: bool = False,
        debug: bool = False,
        *,
        scale: float | None = None,
    ) -> tuple[Any, ...]:
        """cuDNN on one sequence, [1, heads, rows, head_dim]; its causal flag is aligned top left."""
        assert bias is None and wants_logsum and not dropout and not debug and scale is not None
        self._check_dense(query, key, value)
        rows, keys = (slice(0, each.shape[2]) for each in (query, key))
        self._note("cudnn", [(rows, keys)], causal, key)
        out, logsum = _attend(*(_rows(each) for each in (query, key, value)), _see_corner(rows, keys, causal), scale)
        found = torch.empty_like(query).copy_(out.transpose(0, 1)[None])
        none, zero = torch.empty(0), torch.zeros((), dtype=torch.int64)
        return found, logsum[None, ..., None], none, none, query.shape[2], key.shape[2], zero, zero, none

    def cudnn_backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        logsum: Tensor,
        seed: Tensor,
        offset: Tensor,
        bias: Tensor | None,
        query_ends: Tensor | None,
        key_ends: Tensor | None,
        most_queries: int,
        most_keys: int,
        dropout: float,
        causal: bool,
        *,
        scale: float | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of cuDNN's attention on one sequence."""
        assert not dropout and scale is not None and grad.shape == query.shape == out.shape
        self._check_dense(query, key, value)
        assert logsum.shape == (*query.shape[:3], 1) and logsum.is_contiguous()
        assert (most_queries, most_keys) == (query.shape[2], key.shape[2])
        rows, keys = (slice(0, each.shape[2]) for each in (query, key))
        self._note("cudnn_backward", [(rows, keys)], causal, key)
        inputs = (_rows(each) for each in (grad, query, key, value, out))
        found = _differentiate(*inputs, logsum[0, ..., 0], _see_corner(rows, keys, causal), scale)
        d_query, d_key, d_value = (
            torch.empty_like(like).copy_(each.transpose(0, 1)[None])
            for like, each in zip((query, key, value), found, strict=True)
        )
        return d_query, d_key, d_value

    def _check_ragged(
        self, query: Tensor, key: Tensor, value: Tensor, query_ends: Tensor, key_ends: Tensor, *most: int
    ) -> list[tuple[slice, slice]]:
        self._check_heads(query, key, value, dims=3, most_head_dim=256)
        listed = []
        for rows, ends, longest in zip((query, key), (query_ends, key_ends), most, strict=True):
            assert ends.dtype == torch.int32 and ends.dim() == 1 and ends.is_contiguous(), "offsets are int32"
            plain = ends.tolist()
            assert len(plain) > 1 and plain[0] == 0 and plain[-1] == len(rows), (plain, len(rows))
            assert longest == max(stop - start for start, stop in pairwise(plain)), "the longest sequence"
            listed.append([slice(*each) for each in pairwise(plain)])
        return list(zip(*listed, strict=True))

    def _check_dense(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        self._check_heads(*(each[0].transpose(0, 1) for each in (query, key, value)), dims=3, most_head_dim=128)
        assert len(query) == len(key) == 1 and key.shape[2] > 1, "cuDNN takes no single key"
        for each in (query, key, value):
            assert each.transpose(1, 2).is_contiguous(), "rows, heads and head_dim lie without gaps"

    def _check_heads(self, query: Tensor, key: Tensor, value: Tensor, *, dims: int, most_head_dim: int) -> None:
        assert query.dtype == key.dtype == value.dtype and (self.any_dtype or query.dtype in HALVES), query.dtype
        assert query.dim() == key.dim() == dims and key.shape == value.shape
        assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1, "the last dimension has no gaps"
        assert query.shape[2] == key.shape[2] <= most_head_dim and query.shape[2] % 8 == 0
        assert query.shape[1] % key.shape[1] == 0, "query heads are shared evenly"

    def _note(self, operator: str, runs: list[tuple[slice, slice]], causal: bool, key: Tensor) -> None:
        sizes = tuple((rows.stop - rows.start, keys.stop - keys.start, causal) for rows, keys in runs)
        self.launches.append(Launch(operator, sizes, key.shape[1], key.stride()))


@contextmanager
def emulate(*, any_dtype: bool = False) -> Iterator[EmulatedGPU]:
    """In the block, torch's operators for GPUs take tensors of a CPU, also in ranks that are forked there."""
    gpu = EmulatedGPU(any_dtype)
    library = Library("aten", "IMPL", "CPU")  # the registrations end with it; one block may stand in another
    library.impl("_flash_attention_forward", gpu.flash_forward, allow_override=True)
    library.impl("_flash_attention_backward", gpu.flash_backward, allow_override=True)
    library.impl("_scaled_dot_product_cudnn_attention", gpu.cudnn_forward, allow_override=True)
    library.impl("_scaled_dot_product_cudnn_attention_backward", gpu.cudnn_backward, allow_override=True)
    library.impl("addmm.dtype_out", _add_product_widely, allow_override=True)
    try:
        yield gpu
    finally:
        library._destroy()


def _add_product_widely(
    total: Tensor, left: Tensor, right: Tensor, dtype: torch.dtype, *, beta: float = 1, alpha: float = 1, out: Tensor
) -> Tensor:
    """A product of 16-bit matrices, added to a float32 one without being rounded."""
    assert left.dtype == right.dtype in HALVES and total.dtype == out.dtype == dtype == torch.float32
    assert beta == alpha == 1
    return out.copy_(total + left.to(dtype) @ right.to(dtype))


def _attend(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """[queries, heads, head_dim] and [heads, queries]; a query that sees nothing gets zeros and minus infinity."""
    wide, keys, values = _exact(query), _spread(key, query), _spread(value, query)
    scores = torch.einsum("qhd,khd->hqk", wide, keys).mul(scale).masked_fill(~seen, -torch.inf)
    logsum = scores.logsumexp(-1)
    shares = (scores - logsum[..., None]).exp().nan_to_num(0)
    return torch.einsum("hqk,khd->qhd", shares, values), logsum


def _differentiate(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, logsum: Tensor, seen: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    wide, d_out, keys, values = _exact(query), _exact(grad), _spread(key, query), _spread(value, query)
    scores = torch.einsum("qhd,khd->hqk", wide, keys).mul(scale).masked_fill(~seen, -torch.inf)
    shares = (scores - logsum[..., None]).exp()
    d_shares = torch.einsum("qhd,khd->hqk", d_out, values)
    d_scores = shares * (d_shares - (d_out * _exact(out)).sum(-1).T[..., None]) * scale
    d_key, d_value = torch.einsum("hqk,qhd->khd", d_scores, wide), torch.einsum("hqk,qhd->khd", shares, d_out)
    grouped = (each.unflatten(1, (key.shape[1], -1)).sum(2) for each in (d_key, d_value))
    return torch.einsum("hqk,khd->qhd", d_scores, keys), *grouped


def _see(rows: slice, keys: slice, causal: bool, left: int | None, right: int | None) -> Tensor:
    """Which pairs are seen: flash attention aligns both bounds at the last query and the last key."""
    queries, many = rows.stop - rows.start, keys.stop - keys.start
    back = torch.arange(queries)[:, None] + (many - queries) - torch.arange(many)
    seen = torch.ones_like(back, dtype=torch.bool)
    right = 0 if causal else right
    if right is not None and right >= 0:
        seen &= back >= -right
    if left is not None and left >= 0:
        seen &= back <= left
    return seen


def _see_corner(rows: slice, keys: slice, causal: bool) -> Tensor:
    """cuDNN aligns its bound at the first query and the first key."""
    seen = torch.ones(rows.stop, keys.stop, dtype=torch.bool)
    return seen.tril() if causal else seen


def _rows(dense: Tensor) -> Tensor:
    return dense[0].transpose(0, 1)


def _spread(key: Tensor, query: Tensor) -> Tensor:
    return _exact(key).repeat_interleave(query.shape[1] // key.shape[1], dim=1)


def _exact(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
