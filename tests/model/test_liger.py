"""Liger's kernels in place of torch's operators: which parts, with which result, and where they are refused."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from conformance.tiny_families import make_model
from emulated_liger import emulate_liger
from llama_kin import LLAMA_KIN
from ropewalk.core.error import UserError
from ropewalk.model import fusion
from ropewalk.model.attention_interface import NAME
from ropewalk.model.compiled import OLDEST_TORCH, _read_torch
from ropewalk.model.fusion import choose_fusion, describe_fusion
from ropewalk.model.liger import fuse_with_liger
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.tiled_mlp import tile_mlps
from ropewalk.parallel.recompute import set_recompute
from ropewalk.partition import partition_tokens
from ropewalk.recipe.parallel import Parallel
from ropewalk.rope.layers import plain_layers
from ropewalk.shape.experts import Experts
from ropewalk.shape.families import SUPPORTED
from ropewalk.shape.model_shape import ModelShape

Make = Callable[..., PreTrainedModel]
DENSE = ModelShape("LlamaForCausalLM", 32, 4, 2, 8, 48, 97, True, 32, plain_layers(2, 1e4))
NOTHING: Mapping[str, Any] = {}
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def liger() -> Iterator[None]:
    with emulate_liger():
        yield


def train_once(
    make: Make, *, fuses: bool, dtype: torch.dtype = torch.float32, savings: Mapping[str, Any] = NOTHING
) -> tuple[torch.Tensor, Any]:
    """Loss and gradients of two documents."""
    torch.manual_seed(0)
    model = make()
    model.set_attn_implementation(NAME)
    learner = ModelWithLoss(model).train()
    with torch.no_grad():  # norms are ones or zeros at first
        for weight in learner.parameters():
            if weight.dim() == 1:
                weight += 0.3 * torch.randn_like(weight)
    learner.to(dtype)
    if fuses:
        fuse_with_liger(learner.causal)
    if "mlp_tile_tokens" in savings:
        tile_mlps(learner.causal, savings["mlp_tile_tokens"])
    set_recompute(learner.causal, savings.get("recompute", "none"))
    document = np.repeat([[0, 1]], 12, axis=1).astype(np.int32)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(90, size=24))
    places = torch.arange(24) % 12
    loss = learner(tokens, places, tokens.roll(-1), torch.ones(24), partition=partition_tokens(document, ranks=1))[0]
    loss.backward()
    return loss.detach(), {name: weight.grad for name, weight in learner.named_parameters()}


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_equal_to_plain_in_float32(architecture: str, liger: None) -> None:
    """To the last bits, whichever parts of a family have a kernel."""
    make = partial(make_model, architecture)
    exact, slopes = train_once(make, fuses=False)
    found, mine = train_once(make, fuses=True)
    assert found.item() == pytest.approx(exact.item(), rel=1e-6) and mine.keys() == slopes.keys()
    for name, slope in slopes.items():
        assert slope is None or (mine[name] - slope).norm() <= 3e-5 * slope.norm() + 1e-5, (
            name
        )  # a bias of keys has none


@pytest.mark.parametrize("architecture", LLAMA_KIN)
def test_equal_to_plain_within_the_rounding_of_bfloat16(architecture: str, make_tiny: Make, liger: None) -> None:
    """No further from float32 than the plain blocks are."""
    make = partial(make_tiny, architecture, num_hidden_layers=2)
    exact, slopes = train_once(make, fuses=False)
    plain, fused = (train_once(make, fuses=fuses, dtype=torch.bfloat16) for fuses in (False, True))
    assert abs(fused[0] - exact) <= 2 * abs(plain[0] - exact) + 4e-3 * exact
    for name, slope in slopes.items():
        away = [(each[1][name].float() - slope).norm() for each in (plain, fused)]
        assert away[1] <= 1.5 * away[0] + 4e-3 * slope.norm(), name


@pytest.mark.parametrize("savings", [{"recompute": "full"}, {"recompute": "save_attention", "mlp_tile_tokens": 8}])
def test_with_memory_savings(savings: dict[str, Any], make_tiny: Make, liger: None) -> None:
    """The kernels write over their inputs, which a second run must have made anew."""
    make = partial(make_tiny, "Qwen3ForCausalLM", num_hidden_layers=2)
    exact, slopes = train_once(make, fuses=False)
    found, mine = train_once(make, fuses=True, savings=savings)
    assert found.item() == pytest.approx(exact.item(), rel=1e-6)
    assert all((mine[name] - slope).norm() <= 2e-5 * slope.norm() for name, slope in slopes.items())


@pytest.mark.parametrize("architecture", LLAMA_KIN)
def test_all_parts_are_found(architecture: str, make_tiny: Make) -> None:
    """transformers may change the code of a part; then this fails, and the part is compared anew."""
    model = make_tiny(architecture, num_hidden_layers=2)
    norms = sum(type(module).__name__.endswith("RMSNorm") for module in model.modules())
    mlps = {} if architecture == "Gemma3ForCausalLM" else {"mlp": 2}  # Gemma's has GELU
    assert fuse_with_liger(model) == {"norm": norms, "rotation": 2, **mlps}


def test_another_arithmetic_is_left_alone(make_tiny: Make) -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.variance_epsilon = nn.Parameter(torch.ones(4)), 1e-6

        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            input_dtype = hidden_states.dtype
            hidden_states = hidden_states.to(torch.float32)
            variance = hidden_states.pow(4).mean(-1, keepdim=True)
            hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
            return self.weight * hidden_states.to(input_dtype)

    assert not fuse_with_liger(nn.Sequential(Shifted()))
    assert fuse_with_liger(make_tiny("LlamaForCausalLM", num_hidden_layers=2, hidden_act="gelu"))["mlp"] == 0


@pytest.mark.parametrize(
    ("asked", "device", "installed", "expected"),
    [
        ({}, GPU, {"liger", "triton"}, "liger"),
        ({}, GPU, {"triton"}, "compiled"),
        ({}, GPU, set(), "none"),
        ({"kernels": "torch"}, GPU, {"liger", "triton"}, "compiled"),
        ({"kernels": "torch", "compile": "none"}, GPU, {"liger", "triton"}, "none"),
        ({"compile": "none"}, GPU, {"liger", "triton"}, "liger"),
        ({"compile": "blocks"}, GPU, {"liger", "triton"}, "compiled"),
        ({"kernels": "liger"}, GPU, {"liger", "triton"}, "liger"),
        ({"kernels": "liger"}, GPU, {"triton"}, "not installed"),
        ({"kernels": "liger"}, CPU, {"liger"}, "need a GPU"),
        ({}, CPU, {"liger", "triton"}, "none"),
    ],
)
def test_what_is_chosen(
    asked: dict[str, Any],
    device: torch.device,
    installed: set[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fusion, "has_triton", lambda: "triton" in installed)
    monkeypatch.setattr("ropewalk.model.compiled.has_triton", lambda: "triton" in installed)
    monkeypatch.setattr("ropewalk.model.compiled._read_torch", lambda: OLDEST_TORCH)
    with emulate_liger() if "liger" in installed else nullcontext():
        if " " not in expected:
            assert choose_fusion(Parallel(**asked), DENSE, device) == expected
            return
        with pytest.raises(UserError, match=rf"{expected}[\s\S]*|parallel\.kernels[\s\S]*{expected}"):
            choose_fusion(Parallel(**asked), DENSE, device)


def test_auto_compiles_no_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusion, "has_triton", lambda: True)
    monkeypatch.setattr("ropewalk.model.compiled.has_triton", lambda: True)
    monkeypatch.setattr("ropewalk.model.compiled._read_torch", lambda: OLDEST_TORCH)
    mixture = replace(DENSE, experts=Experts(count=4, per_token=2, width=24, layers=(0, 1)))
    assert choose_fusion(Parallel(), mixture, GPU) == "none"
    assert choose_fusion(Parallel(compile="blocks"), mixture, GPU) == "compiled"
    with emulate_liger():
        assert choose_fusion(Parallel(), mixture, GPU) == "liger"


def test_an_older_torch_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would build a program for each pack: ``auto`` leaves it out and says so, and ``blocks`` is refused."""
    monkeypatch.setattr(fusion, "has_triton", lambda: True)
    monkeypatch.setattr("ropewalk.model.compiled.has_triton", lambda: True)
    for version, found in (((2, 11), "none"), ((2, 12), "none"), ((2, 13), "compiled"), ((3, 0), "compiled")):
        monkeypatch.setattr("ropewalk.model.compiled._read_torch", lambda version=version: version)
        assert choose_fusion(Parallel(), DENSE, GPU) == found
        told = describe_fusion("none", GPU)
        assert told is not None and ("or torch 2.13, which compiles blocks" in told) == (found == "none")
        if found == "none":
            for device in (GPU, CPU):
                with pytest.raises(UserError, match=r"compiled blocks need torch 2\.13"):
                    choose_fusion(Parallel(compile="blocks"), DENSE, device)
    assert _read_torch() >= (2, 11)


def test_two_ways_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="same operations as kernels: liger"):
        Parallel(kernels="liger", compile="blocks")
