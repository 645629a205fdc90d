"""Kernels of other packages for recurrences and convolutions on CUDA: which are installed, and which can run a layer.

A kernel is data: the module that brings it, what it can run, and the call. ``choose_installed`` takes one whose module
is installed and that can run the layer; without one the torch code in chunks runs, which takes every size and type.
FLA (flash-linear-attention) has kernels for all kinds, with a state before and after each segment, and gradients for
both; causal-conv1d has one for convolutions. Their signatures were read in FLA 0.5.2 and causal-conv1d 1.6; they were
not run on a GPU here, so each is tried before it is chosen (try_kernel.py), and one that fails is told and not used.
mamba-ssm is not used: its scan returns no differentiable state after each segment.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ropewalk.core.error import UserError
from ropewalk.core.progress import is_untold
from ropewalk.recurrence.scan_kernel import ScanKernel
from ropewalk.recurrence.try_kernel import find_convolution_fault, find_fault
from ropewalk.shape.recurrences import Recurrence, find_recurrence
from ropewalk.shape.recurrent import RecurrentLayers

Convolution = Callable[..., Float[Tensor, "1 channels lines"]]
"""Of rows [1, channels, lines], taps [channels, taps] and a bias or None: each channel's causal convolution."""
_HALF = (torch.float16, torch.bfloat16)
_MOST_KEY_DIM, _MOST_TAPS, _CHANNELS = 256, 4, 8
TORCH = "torch"
"""The name of the code that needs no other package."""
_named: ContextVar[str | None] = ContextVar("recurrent_kernel", default=None)


SCAN_KERNELS: Mapping[str, ScanKernel] = {
    "gated_delta": ScanKernel("FLA", "fla.ops.gated_delta_rule", "chunk_gated_delta_rule"),
    "kda": ScanKernel("FLA", "fla.ops.kda", "chunk_kda"),
    "ssd": ScanKernel("FLA", "fla.ops.simple_gla", "chunk_simple_gla", repeats_keys=True),
    "simple_decay": ScanKernel("FLA", "fla.ops.simple_gla", "chunk_simple_gla", repeats_keys=True),
}
"""By the kind of recurrence."""
CONVOLUTION_PACKAGE, _CONVOLUTION_MODULE = "causal-conv1d", "causal_conv1d"


@contextmanager
def use_recurrent_kernels(name: str) -> Iterator[None]:
    """Inside, recurrent layers run these kernels: ``torch``, or ``installed``, also where they would not be chosen.

    With ``installed`` a layer that they cannot run raises UserError.
    """
    assert name in (TORCH, "installed"), name
    token = _named.set(name)
    try:
        yield
    finally:
        _named.reset(token)


def choose_scan_kernel(
    kind: Recurrence, *, dtype: torch.dtype, key_dim: int, device: torch.device
) -> ScanKernel | None:
    """The installed kernel that runs this scan; None for the torch code. ``dtype`` is that of the products.

    One that is not named is tried first; where it computes something else, a warning says so and the torch code runs.
    Raises UserError inside ``use_recurrent_kernels("installed")`` where there is none, with the reason.
    """
    kernel = SCAN_KERNELS[kind.name]
    reason = None
    if key_dim > _MOST_KEY_DIM:
        reason = f"{kernel.package} takes heads of at most {_MOST_KEY_DIM} key dimensions, and these have {key_dim}"
    elif dtype not in _HALF:
        reason = f"{kernel.package} computes in float16 and bfloat16, and the layer in {_word(dtype)}"
    if not _decide(kernel.package, kernel.module, reason, device):
        return None
    if _named.get() is None and (fault := find_fault(kernel, kind, dtype, key_dim, device)):
        _warn(f"{kind.name}: {fault}. Recurrent layers run torch code in chunks, which is slower")
        return None
    return kernel


def choose_convolution(*, dtype: torch.dtype, channels: int, taps: int, device: torch.device) -> Convolution | None:
    """The installed function for a causal convolution; None for the torch code. Raises as ``choose_scan_kernel``."""
    reason = None
    if not 2 <= taps <= _MOST_TAPS:
        reason = f"{CONVOLUTION_PACKAGE} takes 2 to {_MOST_TAPS} taps, and the layer has {taps}"
    elif channels % _CHANNELS:
        reason = f"{CONVOLUTION_PACKAGE} takes channels in multiples of {_CHANNELS}, and the layer has {channels}"
    elif dtype not in (*_HALF, torch.float32):
        reason = f"{CONVOLUTION_PACKAGE} computes in float16, bfloat16 and float32, and the layer in {_word(dtype)}"
    if not _decide(CONVOLUTION_PACKAGE, _CONVOLUTION_MODULE, reason, device):
        return None
    if _named.get() is None:
        fault = find_convolution_fault(CONVOLUTION_PACKAGE, _CONVOLUTION_MODULE, dtype, taps, device)
        if fault:
            _warn(f"convolution of {taps} tokens: {fault}. It runs as torch code")
            return None
    found: Convolution = import_module(_CONVOLUTION_MODULE).causal_conv1d_fn
    return found


def describe_recurrent_kernels(layers: RecurrentLayers, dtype: torch.dtype, device: torch.device) -> str | None:
    """What runs the recurrent layers of a model on ``device``, in words; None on a CPU."""
    if device.type != "cuda":
        return None
    parts = []
    if layers.heads:
        kind, key_dim = find_recurrence(layers.kind), layers.key_dim
        kernel = choose_scan_kernel(kind, dtype=dtype, key_dim=key_dim, device=device)
        why = "" if kernel else f" ({_why_not(kind, key_dim, dtype, device)})"
        parts.append(f"recurrences run {kernel.package if kernel else 'torch code in chunks'}{why}")
    if not layers.channels:
        return parts[0]
    found = choose_convolution(dtype=dtype, channels=layers.channels, taps=layers.taps, device=device)
    return ", ".join([*parts, f"convolutions run {CONVOLUTION_PACKAGE if found else 'torch code'}"])


def _why_not(kind: Recurrence, key_dim: int, dtype: torch.dtype, device: torch.device) -> str:
    kernel = SCAN_KERNELS[kind.name]
    if not is_installed(kernel.module):
        return f"{kernel.package} is not installed"
    if torch.are_deterministic_algorithms_enabled():
        return "deterministic algorithms"
    if key_dim > _MOST_KEY_DIM:
        return f"heads of {key_dim} key dimensions"
    if dtype not in _HALF:
        return f"computes in {_word(dtype)}"
    return find_fault(kernel, kind, dtype, key_dim, device)


def _warn(text: str) -> None:
    """Once, however many layers ask."""
    if is_untold(text):
        warnings.warn(text, stacklevel=2)


def _decide(package: str, module: str, reason: str | None, device: torch.device) -> bool:
    """Whether an installed kernel runs; ``reason`` is why it cannot."""
    named = _named.get()
    if named == "installed":
        if reason is None and not is_installed(module):
            reason = f"{package} is not installed"
        if reason is not None:
            raise UserError(
                "an installed kernel cannot run this recurrent layer",
                where="use_recurrent_kernels",
                why=reason,
                fix=f"take the {TORCH} kernels",
            )
        return True
    if named == TORCH or device.type != "cuda" or torch.are_deterministic_algorithms_enabled():
        return False  # that their sums always have the same order was not checked
    return reason is None and is_installed(module)


@cache
def _find(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


def is_installed(module: str) -> bool:
    """Whether a module can be imported; it is not imported."""
    return _find(module)


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def narrowest(*tensors: Any) -> torch.dtype:
    """The type of the products of a layer: that of its narrowest tensor."""
    found: torch.dtype = min((each.dtype for each in tensors), key=lambda dtype: dtype.itemsize)
    return found
