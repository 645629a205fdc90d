"""``parallel.deterministic``: ranks are set up so that a GPU computes the same bits again; a CPU does so anyhow."""

import os
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._inductor import config as compiler  # imported here once, and not in each rank
from torch.library import Library

from packs import pack
from ropewalk.attention import attend, gpu_kernels, use_kernel
from ropewalk.parallel import launch
from ropewalk.parallel.launch import run_ranks
from ropewalk.partition import partition_tokens
from ropewalk.plan.rank_setup import RankSetup

DETERMINISTIC = RankSetup("cpu", deterministic=True)


def look() -> dict[str, Any]:
    return {
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "only warned": torch.is_deterministic_algorithms_warn_only_enabled(),
        "products": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "cudnn attention": torch.backends.cuda.cudnn_sdp_enabled(),
        "compiler": compiler.deterministic,
    }


def test_ranks_are_set_up_and_their_parent_is_not() -> None:
    found = {
        "algorithms": True,
        "only warned": False,
        "products": ":4096:8",
        "cudnn attention": False,
        "compiler": True,
    }
    assert run_ranks(look, 2, setup=DETERMINISTIC) == [found, found]
    plain = {**found, "algorithms": False, "products": None, "cudnn attention": True, "compiler": False}
    assert [look()] == run_ranks(look, 1) == [plain]


def test_the_users_own_buffer_for_products_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    assert run_ranks(lambda: look()["products"], 1, setup=DETERMINISTIC) == [":16:8"]


def test_cudnn_has_no_part_in_it() -> None:
    def allows() -> bool:
        return gpu_kernels.allows_cudnn(128)

    assert run_ranks(allows, 1) == [True], "else the test is empty"
    assert run_ranks(allows, 1, setup=DETERMINISTIC) == [False]

    def ask_torch() -> bool:
        torch.use_deterministic_algorithms(True)  # as a user of the library does
        return torch.backends.cuda.cudnn_sdp_enabled() and allows()

    assert run_ranks(ask_torch, 1) == [False]


def test_torchruns_ranks_are_set_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, bool]] = []

    def set_up(kind: str, index: int, deterministic: bool) -> torch.device:
        told.append((kind, index, deterministic))
        return torch.device("cpu")

    for name in ("_init_group", "take_place"):
        monkeypatch.setattr(launch, name, lambda *_, **__: None)
    monkeypatch.setattr(launch, "_set_up_rank", set_up)
    monkeypatch.setattr(launch, "open_torchrun_store", torch.distributed.HashStore)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    launch._join_torchrun(DETERMINISTIC)
    assert told == [("cpu", 0, True)]


def record_flash(modes: list[tuple[str, bool]]) -> Library:
    """Stand-ins for torch's flash operators on a CPU: each writes down whether it would be asked to repeat its bits.

    torch reads the mode where its backward is launched, so a mode that is on there is what decides.
    """
    library = Library("aten", "IMPL", "CPU")

    def forward(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **more: Any) -> tuple[Tensor, ...]:
        modes.append(("forward", torch.are_deterministic_algorithms_enabled()))
        nothing = torch.empty(0)
        return query.clone(), torch.zeros(query.shape[1], len(query)), nothing.to(torch.uint64), nothing, nothing

    def backward(
        grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **more: Any
    ) -> tuple[Tensor, ...]:
        modes.append(("backward", torch.are_deterministic_algorithms_enabled()))
        return torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)

    library.impl("_flash_attention_forward", forward)
    library.impl("_flash_attention_backward", backward)
    return library


def test_flash_attention_runs_in_that_mode_forward_and_backward() -> None:
    def run() -> list[tuple[str, bool]]:
        modes: list[tuple[str, bool]] = []
        library = record_flash(modes)
        partition = partition_tokens(pack([40, 24], 64), ranks=1)
        query, key, value = (
            torch.zeros(64, heads, 16, dtype=torch.bfloat16, requires_grad=True) for heads in (4, 2, 2)
        )
        with use_kernel("varlen"):
            attend(query, key, value, partition=partition, group=None).float().sum().backward()
        del library
        return sorted(set(modes))

    assert run_ranks(run, 1, setup=DETERMINISTIC) == [[("backward", True), ("forward", True)]]
    assert run_ranks(run, 1) == [[("backward", False), ("forward", False)]]


def test_training_in_that_mode_comes_to_the_bits_of_the_plain_mode_on_a_cpu() -> None:
    """So none of our steps meets an operation that torch refuses there, and nothing else changes."""

    def step() -> list[Tensor]:
        torch.manual_seed(0)
        partition = partition_tokens(pack([40, 24], 64), ranks=1)
        leaves = [torch.randn(64, heads, 16, requires_grad=True) for heads in (4, 2, 2)]
        out = attend(*leaves, partition=partition, group=None)
        return [out.detach(), *torch.autograd.grad(out.square().sum(), leaves)]

    (plain,), (repeated,) = run_ranks(step, 1), run_ranks(step, 1, setup=DETERMINISTIC)
    assert all(torch.equal(one, other) for one, other in zip(plain, repeated, strict=True))
