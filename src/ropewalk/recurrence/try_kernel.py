"""Is an installed kernel right here? It is tried once on a few tokens before it is chosen by itself.

Other versions take other arguments, and a scan without key heads of its own would read the queries of other heads and
raise nothing. The truth of a scan is the recurrence in float32, token after token on two segments, that of a
convolution the sum over its taps; both with the gradients of all inputs.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cache
from importlib import import_module

import torch
from jaxtyping import Float
from torch import Tensor

from ropewalk.recurrence.scan_kernel import PackedVectors, ScanKernel, States
from ropewalk.shape.recurrences import Recurrence

Grads = tuple[Float[Tensor, "tokens heads _"], States]
Results = list[Float[Tensor, "..."]]
"""Outputs, states and gradients."""
_LENGTHS = (70, 13)
"""One longer than a kernel's chunk, and one shorter."""
_HEADS, _KEY_HEADS, _CHANNELS = 4, 2, 16
_BAR = 0.05
"""Largest difference as a part of the norm; rounding to bfloat16 makes 0.01, another head's query about 1."""


@cache
def find_fault(kernel: ScanKernel, kind: Recurrence, dtype: torch.dtype, key_dim: int, device: torch.device) -> str:
    """Why this kernel must not run a kind of recurrence on ``device``; empty where it computes the recurrence.

    The trial has a thread of its own, because a layer may ask within a checkpoint, whose hooks would count its tensors,
    or without gradients; both are states of a thread, and so is the current device.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_try, kernel, kind, dtype, key_dim, device).result()


@cache
def find_convolution_fault(package: str, module: str, dtype: torch.dtype, taps: int, device: torch.device) -> str:
    """The same for ``module``'s causal convolution of ``taps`` tokens, with a bias and without."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_try_convolution, package, module, dtype, taps, device).result()


def _try(kernel: ScanKernel, kind: Recurrence, dtype: torch.dtype, key_dim: int, device: torch.device) -> str:
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        drawn, before, grads = _draw(kind, dtype, key_dim, device)
        truth = _differentiate(drawn, before, grads, kernel=None)
        return _judge(kernel.package, "recurrence", lambda: _differentiate(drawn, before, grads, kernel=kernel), truth)


def _try_convolution(package: str, module: str, dtype: torch.dtype, taps: int, device: torch.device) -> str:
    generator = torch.Generator().manual_seed(0)
    shapes = (1, _CHANNELS, _LENGTHS[0]), (_CHANNELS, taps), (_CHANNELS,)
    rows, weights, bias = (torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes)

    def run(*, found: bool, narrow: bool = True) -> Results:
        convolve = import_module(module).causal_conv1d_fn if found else _sum_taps
        results = []
        for given in ([rows, weights, bias], [rows, weights]):
            leaves = [(each if narrow else each.float()).clone().requires_grad_() for each in given]
            lines = leaves[0].transpose(1, 2).contiguous().transpose(1, 2)  # as a layer's rows lie in memory
            outputs = convolve(lines, leaves[1], leaves[2] if len(leaves) > 2 else None)
            results += [outputs.detach(), *torch.autograd.grad(outputs, leaves, rows.to(outputs.dtype))]
        return results

    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        truth = run(found=False, narrow=False)
        return _judge(package, "convolution", lambda: run(found=True), truth)


def _sum_taps(
    rows: Float[Tensor, "1 channels tokens"],
    taps: Float[Tensor, "channels taps"],
    bias: Float[Tensor, "channels"] | None,
) -> Float[Tensor, "1 channels tokens"]:
    tokens, count = rows.shape[2], taps.shape[1]
    laid = torch.nn.functional.pad(rows, (count - 1, 0))
    # [1, channels, tokens] of each tap -> [taps, 1, channels, tokens]
    found = torch.stack([taps[:, tap, None] * laid[:, :, tap : tap + tokens] for tap in range(count)]).sum(0)
    return found if bias is None else found + bias[:, None]


def _judge(package: str, what: str, run: Callable[[], Results], truth: Results) -> str:
    """Empty where ``run`` gives the ``truth``."""
    try:
        found = run()
    except (ImportError, AttributeError, TypeError) as error:
        return f"this version of {package} takes other arguments: {error}"
    except (RuntimeError, ValueError, AssertionError) as error:  # Triton's errors are RuntimeErrors
        return f"{package} cannot compute this {what} on this device: {error}"
    pairs = zip(found, truth, strict=True)
    # numbers -> [results]
    differences = torch.stack([(mine.float() - true).norm() / true.norm() for mine, true in pairs])
    if (differences <= _BAR).all():  # also False for a result that is not a number
        return ""
    return f"{package} differs from the {what} by {differences.max():.2g} of its norm on this device"


def _draw(
    kind: Recurrence, dtype: torch.dtype, key_dim: int, device: torch.device
) -> tuple[PackedVectors, States, Grads]:
    """Vectors, states before both segments, and gradients for the outputs and the states after them."""
    generator, tokens = torch.Generator().manual_seed(0), sum(_LENGTHS)

    def normal(*shape: int) -> Float[Tensor, "..."]:
        return torch.randn(*shape, generator=generator)

    decay = -0.1 * normal(tokens, _HEADS, *([key_dim] if kind.decay_per_key else [])).abs()
    query, key = (torch.nn.functional.normalize(normal(tokens, _KEY_HEADS, key_dim), dim=-1) for _ in range(2))
    value, beta = normal(tokens, _HEADS, key_dim), normal(tokens, _HEADS).sigmoid() if kind.erases else None
    starts = torch.tensor([0, _LENGTHS[0], tokens])
    query, key, value = (each.to(device, dtype) for each in (query, key, value))
    beta = None if beta is None else beta.to(device, dtype)
    vectors = PackedVectors(query, key, value, decay.to(device), beta, starts.to(device), starts)
    state = (len(_LENGTHS), _HEADS, key_dim, key_dim)
    grads = normal(tokens, _HEADS, key_dim).to(device, dtype), normal(*state).to(device)
    return vectors, normal(*state).to(device), grads


def _differentiate(drawn: PackedVectors, before: States, grads: Grads, *, kernel: ScanKernel | None) -> Results:
    """Outputs, states and all gradients, of ``kernel`` or of the recurrence in float32."""
    given = [drawn.query, drawn.key, drawn.value, drawn.decay, *([] if drawn.beta is None else [drawn.beta]), before]
    leaves = [(each if kernel else each.float()).clone().requires_grad_() for each in given]
    *vectors, state = leaves
    query, key, value, decay, *beta = vectors
    packed = PackedVectors(query, key, value, decay, beta[0] if beta else None, drawn.starts, drawn.host_starts)
    outputs, after = _walk(packed, state) if kernel is None else kernel.run(packed, state)
    found = torch.autograd.grad(
        [outputs, after], leaves, [each.to(out.dtype) for each, out in zip(grads, (outputs, after), strict=True)]
    )
    return [outputs.detach(), after.detach(), *found]


def _walk(vectors: PackedVectors, before: States) -> tuple[Float[Tensor, "tokens heads _"], States]:
    """Token after token."""
    repeat = vectors.value.shape[1] // vectors.key.shape[1]
    query, key = (each.repeat_interleave(repeat, dim=1) for each in (vectors.query, vectors.key))
    decay = vectors.decay if vectors.decay.ndim == 3 else vectors.decay[..., None]
    outputs, after, starts = [], [], vectors.host_starts.tolist()
    for state, start, stop in zip(before, starts, starts[1:], strict=False):
        for token in range(start, stop):
            state = decay[token].exp()[..., None] * state
            added = vectors.value[token]
            if vectors.beta is not None:
                added = vectors.beta[token][:, None] * (added - torch.einsum("hk,hkv->hv", key[token], state))
            state = state + key[token][..., None] * added[:, None]
            outputs.append(torch.einsum("hk,hkv->hv", query[token], state))
        after.append(state)
    # [heads, value_dim] of each token and [heads, key_dim, value_dim] of each segment
    return torch.stack(outputs), torch.stack(after)
