"""Kernels of other packages for recurrent layers: made-up ones with the real names and signatures, against the truth.

The made-up scan goes token after token from a state before each segment, as FLA's kernels promise, in float64.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from packs import pack
from recurrence_cases import KINDS, Case, Share, find_scan_errors, run_shares
from ropewalk.core.error import UserError
from ropewalk.parallel.launch import run_ranks
from ropewalk.recurrence import installed_kernels
from ropewalk.recurrence.installed_kernels import (
    SCAN_KERNELS,
    choose_convolution,
    choose_scan_kernel,
    describe_recurrent_kernels,
    use_recurrent_kernels,
)
from ropewalk.recurrence.try_kernel import find_convolution_fault, find_fault
from ropewalk.shape.recurrences import find_recurrence
from ropewalk.shape.recurrent import RecurrentLayers

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
CALLS: list[str] = []
FAULTS: dict[str, str] = {}
"""What a trial on a GPU would find, by module."""


def walk(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor | None, before: Tensor, starts: Tensor) -> Any:
    outputs, after, repeat = [], [], v.shape[2] // k.shape[2]
    for segment, (start, stop) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
        state = before[segment].to(v.dtype)
        for t in range(start, stop):
            query, key = (each[0, t].repeat_interleave(repeat, dim=0) for each in (q, k))
            decay = g[0, t].to(v.dtype).exp()
            state = (decay[:, None, None] if decay.ndim == 1 else decay[..., None]) * state
            added = v[0, t]
            if beta is not None:
                added = beta[0, t][:, None] * (added - torch.einsum("hk,hkv->hv", key, state))
            state = state + key[..., None] * added[:, None]
            outputs.append(torch.einsum("hk,hkv->hv", query, state))
        after.append(state)
    return torch.stack(outputs)[None], torch.stack(after).float()  # as FLA: states in float32


def chunk_gated_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float | None = None,
    initial_state: Tensor | None = None, output_final_state: bool = False, use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None, cu_seqlens_cpu: Tensor | None = None,
) -> Any:  # fmt: skip
    assert scale == 1.0 and output_final_state and not use_qk_l2norm_in_kernel and len(q) == 1
    assert initial_state is not None and cu_seqlens is not None and len(initial_state) == len(cu_seqlens) - 1
    CALLS.append("delta")
    return walk(q, k, v, g, beta, initial_state, cu_seqlens)


def chunk_simple_gla(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor | None = None, g_gamma: Tensor | None = None,
    scale: float | None = None, initial_state: Tensor | None = None, output_final_state: bool = False,
    cu_seqlens: Tensor | None = None, cu_seqlens_cpu: Tensor | None = None,
) -> Any:  # fmt: skip
    assert scale == 1.0 and output_final_state and g is not None and q.shape[2] == v.shape[2]
    assert initial_state is not None and cu_seqlens is not None
    CALLS.append("simple_gla")
    return walk(q, k, v, g, None, initial_state, cu_seqlens)


def causal_conv1d_fn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    assert x.ndim == 3 and x.stride(1) == 1
    CALLS.append("conv")
    padded = torch.nn.functional.pad(x, (weight.shape[1] - 1, 0))
    return torch.nn.functional.conv1d(padded, weight[:, None], bias, groups=x.shape[1])


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """FLA and causal-conv1d, as modules that hold the made-up functions."""
    for name, functions in {
        "fla.ops.gated_delta_rule": {"chunk_gated_delta_rule": chunk_gated_delta_rule},
        "fla.ops.kda": {"chunk_kda": chunk_gated_delta_rule},
        "fla.ops.simple_gla": {"chunk_simple_gla": chunk_simple_gla},
        "causal_conv1d": {"causal_conv1d_fn": causal_conv1d_fn},
    }.items():
        module = ModuleType(name)
        vars(module).update(functions)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(installed_kernels, "is_installed", lambda module: True)
    monkeypatch.setattr(installed_kernels, "find_fault", lambda *args: FAULTS.get(args[0].module, ""))
    monkeypatch.setattr(installed_kernels, "find_convolution_fault", lambda *args: FAULTS.get(args[1], ""))
    CALLS.clear()
    FAULTS.clear()
    yield


def test_documents_are_exact_with_installed_kernels(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank, and four with inner segments: outputs and all gradients."""
    monkeypatch.setattr(installed_kernels, "_HALF", (torch.float64,))
    monkeypatch.setattr(installed_kernels, "_CHANNELS", 1)
    document = pack([2, 21, 1], 24)
    cases = [Case(kind, document, "contiguous") for kind in (*KINDS, "convolution")]
    for ranks in (1, 4):
        for case, errors in zip(cases, find_scan_errors(cases, ranks, run_installed), strict=True):
            assert max(errors) <= 1e-5, (case.kind, ranks, errors)
    calls = run_ranks(lambda: (run_installed(cases), CALLS)[1], 4)
    assert calls[1] == ["delta", "delta", "simple_gla", "simple_gla", "conv"], (
        "its inner segment runs once in each kind"
    )


def run_installed(cases: list[Case]) -> list[Share]:
    with use_recurrent_kernels("installed"):
        return run_shares(cases)


def test_they_run_on_a_gpu_where_they_fit(installed: None) -> None:
    delta = find_recurrence("gated_delta")
    kernel = choose_scan_kernel(delta, dtype=torch.bfloat16, key_dim=128, device=CUDA)
    assert kernel is not None and kernel.package == "FLA"
    assert choose_scan_kernel(delta, dtype=torch.bfloat16, key_dim=128, device=CPU) is None
    assert choose_scan_kernel(delta, dtype=torch.float32, key_dim=128, device=CUDA) is None
    assert choose_scan_kernel(delta, dtype=torch.bfloat16, key_dim=320, device=CUDA) is None
    with use_recurrent_kernels("torch"):
        assert choose_scan_kernel(delta, dtype=torch.bfloat16, key_dim=128, device=CUDA) is None
    assert choose_convolution(dtype=torch.bfloat16, channels=64, taps=4, device=CUDA) is causal_conv1d_fn
    assert choose_convolution(dtype=torch.bfloat16, channels=60, taps=4, device=CUDA) is None
    assert choose_convolution(dtype=torch.bfloat16, channels=64, taps=5, device=CUDA) is None


def test_one_that_computes_something_else_is_told_and_not_chosen(installed: None) -> None:
    delta = find_recurrence("gated_delta")
    FAULTS["fla.ops.gated_delta_rule"] = "FLA differs"
    with pytest.warns(UserWarning, match="gated_delta: FLA differs. Recurrent layers run torch code"):
        assert choose_scan_kernel(delta, dtype=torch.bfloat16, key_dim=128, device=CUDA) is None
    FAULTS["causal_conv1d"] = "causal-conv1d differs"
    with pytest.warns(UserWarning, match="convolution of 4 tokens: causal-conv1d differs. It runs as torch code"):
        assert choose_convolution(dtype=torch.bfloat16, channels=64, taps=4, device=CUDA) is None
    layers = RecurrentLayers("gated_delta", "qwen3_next", (0,), (), 0, 64, 4, 2, 8, 8)
    told = describe_recurrent_kernels(layers, torch.bfloat16, CUDA) or ""
    assert "torch code in chunks (FLA differs)" in told and "convolutions run torch code" in told


def of_wrong_heads(q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Any:
    """Without key heads of its own: head h reads the vectors of key head h modulo their number, and raises nothing."""
    repeat = v.shape[2] // k.shape[2]
    return chunk_gated_delta_rule(q.repeat(1, 1, repeat, 1), k.repeat(1, 1, repeat, 1), v, **settings)


def of_wrong_gradient(q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Any:
    """What a kernel without a gradient for the states before its segments returns."""
    before = settings.pop("initial_state")
    return chunk_gated_delta_rule(q, k, v, initial_state=before.detach() + 0.0 * before, **settings)


def of_an_older_version(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float) -> Any:
    raise AssertionError("not called")


def of_too_little_room(q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Any:
    """What Triton says where a block does not fit into a multiprocessor."""
    raise RuntimeError("out of resource: shared memory")


def test_a_trial_finds_a_kernel_that_computes_something_else(installed: None) -> None:
    """On the CPU in bfloat16, where the made-up kernels are right but for rounding."""
    for name, kernel in SCAN_KERNELS.items():
        assert find_fault(kernel, find_recurrence(name), torch.bfloat16, 16, CPU) == ""
    for function, fault in (
        (of_wrong_heads, "differs from the recurrence"),
        (of_wrong_gradient, "differs from the recurrence by 1 "),
        (of_an_older_version, "takes other arguments"),
        (of_too_little_room, "on this device: out of resource"),
    ):
        vars(sys.modules["fla.ops.gated_delta_rule"])[function.__name__] = function
        kernel = replace(SCAN_KERNELS["gated_delta"], function=function.__name__)
        assert fault in find_fault(kernel, find_recurrence("gated_delta"), torch.bfloat16, 16, CPU)


def of_acausal_taps(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The first of the taps belongs to the token itself, as in some other packages."""
    return causal_conv1d_fn(x, weight.flip(1), bias)


def of_ignored_bias(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return causal_conv1d_fn(x, weight) + (0.0 if bias is None else 0.0 * bias.sum())


def of_other_arguments(x: Tensor, weight: Tensor) -> Tensor:
    raise AssertionError("not called")


def test_a_trial_finds_a_convolution_that_computes_something_else(
    installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, (function, fault) in enumerate(
        (
            (causal_conv1d_fn, ""),
            (of_acausal_taps, "causal-conv1d differs from the convolution"),
            (of_ignored_bias, "causal-conv1d differs from the convolution"),
            (of_other_arguments, "takes other arguments"),
            (None, "takes other arguments"),
        )
    ):
        module = ModuleType(f"convolution_{number}")
        if function is not None:
            vars(module)["causal_conv1d_fn"] = function
        monkeypatch.setitem(sys.modules, module.__name__, module)
        found = find_convolution_fault("causal-conv1d", module.__name__, torch.bfloat16, 4, CPU)
        assert fault in found and bool(fault) == bool(found), (number, found)


def test_a_trial_within_a_checkpoint_is_not_part_of_it(installed: None) -> None:
    """The first forward would save the trial's tensors, and the one that runs again would not."""
    leaf = torch.ones(3, requires_grad=True)
    find_fault.cache_clear()

    def block(rows: Tensor) -> Tensor:
        assert find_fault(SCAN_KERNELS["ssd"], find_recurrence("ssd"), torch.bfloat16, 16, CPU) == ""
        return rows.sin()

    checkpoint(block, leaf, use_reentrant=False).sum().backward()
    assert leaf.grad is not None and leaf.grad.equal(torch.ones(3).cos())
    with torch.inference_mode():
        find_fault.cache_clear()
        assert block(leaf).equal(leaf.sin())


def test_what_they_cannot_run_is_refused_by_name(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    delta, half = find_recurrence("gated_delta"), torch.bfloat16
    with use_recurrent_kernels("installed"):
        with pytest.raises(UserError, match="256 key dimensions, and these have 320"):
            choose_scan_kernel(delta, dtype=half, key_dim=320, device=CUDA)
        with pytest.raises(UserError, match="multiples of 8, and the layer has 60"):
            choose_convolution(dtype=half, channels=60, taps=4, device=CUDA)
        monkeypatch.setattr(installed_kernels, "is_installed", lambda module: False)
        with pytest.raises(UserError, match="FLA is not installed"):
            choose_scan_kernel(delta, dtype=half, key_dim=128, device=CUDA)


def test_a_line_tells_what_runs(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def tell(key_dim: int = 128, device: torch.device = CUDA) -> str | None:
        layers = RecurrentLayers("ssd", "mamba2", (0,), (), 0, 64, 4, 2, key_dim, 8)
        return describe_recurrent_kernels(layers, torch.bfloat16, device)

    assert tell(device=CPU) is None
    assert tell() == "recurrences run FLA, convolutions run causal-conv1d"
    assert (tell(320) or "").startswith("recurrences run torch code in chunks (heads of 320 key dimensions)")
    monkeypatch.setattr(installed_kernels, "is_installed", lambda module: False)
    assert tell() == "recurrences run torch code in chunks (FLA is not installed), convolutions run torch code"
