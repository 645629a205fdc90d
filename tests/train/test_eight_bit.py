"""Moments in 8 bits: as near as the method's own library comes, sharded like their weights, saved to the bit."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode

from ropewalk.checkpoint.convert_moments import zeros_by_row
from ropewalk.checkpoint.eight_bit import decode_moments, encode_moments, find_nearest
from ropewalk.checkpoint.load import load_checkpoint, newest
from ropewalk.checkpoint.save import save_checkpoint
from ropewalk.checkpoint.state import TrainState
from ropewalk.parallel.fsdp import shard_model
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.mesh import make_mesh
from ropewalk.train.eight_bit import EightBitAdamW
from ropewalk.train.optimizer import make_optimizer, set_learning_rate
from small_state import describe

WIDTH, INNER = 300, 130  # a row is a block and a short one; 130 rows make uneven shards


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, INNER)
        self.norm = nn.RMSNorm(INNER)
        self.outer = nn.Linear(INNER, 2, bias=False)  # too small for blocks
        self.blocks = [self.inner]

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.outer(self.norm(self.inner(rows).tanh())).square().sum()


def make_state(*, eight_bit: bool = True) -> TrainState:
    torch.manual_seed(0)
    model = Wide()
    shard_model(model, make_mesh(torch.distributed.get_world_size(), 1), precision="float32", whole_bytes=0)
    optimizer = make_optimizer(model, weight_decay=0.1, betas=(0.9, 0.95), eight_bit=eight_bit)
    return TrainState(model, optimizer, stage=0, inputs={"data": "d1"})


def train(state: TrainState, steps: int) -> TrainState:
    for _ in range(steps):
        rows = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(state.step))
        state.model(rows).backward()
        set_learning_rate(state.optimizer, 0.01)
        state.optimizer.step()
        state.optimizer.zero_grad()
        state = dataclasses.replace(state, step=state.step + 1, updates=state.updates + 1)
    return state


def test_numbers_are_those_of_the_paper() -> None:
    """In each decade twice as many as in the one below (Dettmers et al., 2110.02861, section 2)."""
    for signed, bits in ((True, 7), (False, 8)):
        codes = torch.arange(256, dtype=torch.uint8)[None]
        numbers = decode_moments(codes, torch.ones(1, 1), signed=signed).flatten()
        positive = numbers[(numbers > 0) & (numbers < 1)]
        counts = [int(((positive > low) & (positive < 10 * low)).sum()) for low in 10.0 ** -torch.arange(1.0, 8.0)]
        assert counts == [2 ** (bits - power) for power in range(1, 8)]


@pytest.mark.parametrize("signed", [True, False])
def test_bytes_are_those_that_a_search_finds(signed: bool) -> None:
    numbers = decode_moments(torch.arange(256, dtype=torch.uint8)[None], torch.ones(1, 1), signed=signed).flatten()
    borders = (numbers[:-1] + numbers[1:]) / 2
    random = torch.rand(200_000, generator=torch.Generator().manual_seed(1))
    values = torch.cat(
        [random, random**9, numbers, *(borders.nextafter(torch.tensor(to)) for to in (-2.0, 2.0)), borders]
    )
    values = torch.cat([values, -values]) if signed else values.abs()
    assert torch.equal(find_nearest(values, signed=signed).long(), torch.bucketize(values, borders, right=True))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("width", [512, 100])
def test_numbers_are_those_of_torchao(signed: bool, width: int) -> None:
    """Where it is installed: transformers then imports it everywhere, so the suite does not ask for it."""
    torchao = pytest.importorskip("torchao.optim.quant_utils")
    values = torch.randn(7, width, generator=torch.Generator().manual_seed(1)) ** 5
    values = values if signed else values.square() + 1e-5
    codes, scale = encode_moments(values, signed=signed)
    block, numbers = min(width, 256), torch.tensor(torchao.create_dynamic_map(signed))
    unit, theirs_scale = torchao.scale_tensor(values, block)
    theirs = torchao.quantize_8bit_with_qmap(unit, numbers)
    if not signed:
        theirs = theirs.clamp(min=1)
    assert torch.equal(codes, theirs) and torch.equal(scale.flatten(), theirs_scale)
    assert torch.equal(
        decode_moments(codes, scale, signed=signed), torchao.dequant_with_qmap(theirs, numbers, theirs_scale)
    )


def test_what_adam_divides_by_never_vanishes() -> None:
    values = torch.tensor([[1.0, 1e-12, 0.0]])
    codes, scale = encode_moments(values, signed=False)
    assert (decode_moments(codes, scale, signed=False) > 0).all()
    tiny = torch.full((1, 8), 1e-30)
    assert torch.allclose(decode_moments(*encode_moments(tiny, signed=False), signed=False), tiny)
    assert not decode_moments(*encode_moments(torch.zeros(1, 8), signed=False), signed=False).any()


def test_what_is_small_is_moved_as_by_torch() -> None:
    def move() -> dict[str, torch.Tensor]:
        found = {}
        for eight_bit in (True, False):
            model = train(make_state(eight_bit=eight_bit), 1).model
            found |= {f"{name} {eight_bit}": each.full_tensor().detach() for name, each in model.named_parameters()}
        return found

    found = run_ranks(move, 2, threads=1)[0]
    for name in ("inner.weight", "inner.bias", "norm.weight", "outer.weight"):
        assert torch.equal(found[f"{name} True"], found[f"{name} False"]), "in the first step nothing was rounded yet"


def test_bytes_are_sharded_like_their_weight() -> None:
    def look() -> dict[str, Any]:
        state = make_state()
        moments = state.optimizer.state[dict(state.model.named_parameters())["inner.weight"]]
        assert all(isinstance(value, DTensor) for name, value in moments.items() if name != "step")
        return {name: (value.dtype, value.to_local().shape) for name, value in moments.items() if name != "step"}

    for rank, found in enumerate(run_ranks(look, 3, threads=1)):
        rows = (44, 44, 42)[rank]
        assert found == {
            **dict.fromkeys(("exp_avg", "exp_avg_sq"), (torch.uint8, (rows, WIDTH))),
            **dict.fromkeys(("exp_avg_scale", "exp_avg_sq_scale"), (torch.float32, (rows, 2))),
        }


def test_scales_lie_where_the_bytes_lie() -> None:
    """Beside a GPU the states may be on the host; here a shard without memory stands for one that is not on a GPU."""

    def look() -> list[tuple[str, int, tuple[int, ...], torch.dtype, bool]]:
        with torch.device("meta"):
            model = Wide()
        shard_model(model, make_mesh(2, 1), precision="float32", whole_bytes=0)
        found = []
        for matrix in (model.inner.weight, model.inner.weight.unflatten(1, (3, 100))):
            with CommDebugMode() as messages:
                scales = zeros_by_row(matrix, (INNER, 2))
            own = scales.to_local()
            found.append(
                (own.device.type, messages.get_total_counts(), tuple(own.shape), own.dtype, own.is_contiguous())
            )
        return found

    assert run_ranks(look, 2, threads=1) == [[("meta", 0, (INNER // 2, 2), torch.float32, True)] * 2] * 2


def test_no_rank_gathers_a_matrix_to_make_its_moments() -> None:
    def count() -> int:
        state = make_state(eight_bit=False)
        with CommDebugMode() as messages:
            make_optimizer(state.model, weight_decay=0.1, betas=(0.9, 0.95), eight_bit=True)
        return messages.get_total_counts()

    assert run_ranks(count, 2, threads=1) == [0, 0], "a whole matrix may not fit into the memory of a device"


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_saved_on_2_loads_on_any_to_the_bit(tmp_path: Path, ranks: int) -> None:
    def begin() -> dict[str, Any]:
        state = train(make_state(), 3)
        save_checkpoint(state, tmp_path)
        return describe(state)

    def resume(more: int) -> dict[str, Any]:
        found = newest(tmp_path)
        assert found is not None
        return describe(train(load_checkpoint(make_state(), found), more))

    before = run_ranks(begin, 2, threads=1)[0]
    assert run_ranks(resume, ranks, 0, threads=1) == [before] * ranks
    if ranks == 2:  # of fewer, longer shards torch's kernel rounds other elements at its vectors' ends
        straight = run_ranks(lambda: describe(train(make_state(), 6)), 2, threads=1)[0]
        assert run_ranks(resume, ranks, 3, threads=1) == [straight] * ranks


@pytest.mark.parametrize("eight_bit", [True, False])
def test_a_checkpoint_of_the_other_form_is_converted(tmp_path: Path, eight_bit: bool) -> None:
    """Whatever the ranks: the moments are what encode and decode make of those that were saved, all else is equal."""

    def begin() -> dict[str, torch.Tensor]:
        state = train(make_state(eight_bit=not eight_bit), 3)
        save_checkpoint(state, tmp_path)
        return moments_of(state)

    def resume() -> dict[str, torch.Tensor]:
        found = newest(tmp_path)
        assert found is not None
        state = load_checkpoint(make_state(eight_bit=eight_bit), found)
        assert (state.step, state.updates) == (3, 3)
        return moments_of(state)

    before, after = run_ranks(begin, 2, threads=1)[0], run_ranks(resume, 3, threads=1)[0]
    for name, signed in (("exp_avg", True), ("exp_avg_sq", False)):
        codes, scale = encode_moments(before[f"{name}/inner.weight"], signed=signed) if eight_bit else ("", "")
        if eight_bit:
            assert torch.equal(after[f"{name}/inner.weight"], codes)
            assert torch.equal(after[f"{name}_scale/inner.weight"], scale)
        else:
            codes, scale = before[f"{name}/inner.weight"], before[f"{name}_scale/inner.weight"]
            assert torch.equal(after[f"{name}/inner.weight"], decode_moments(codes, scale, signed=signed))
        for small in ("inner.bias", "norm.weight", "outer.weight"):
            assert torch.equal(after[f"{name}/{small}"], before[f"{name}/{small}"])


def moments_of(state: TrainState) -> dict[str, torch.Tensor]:
    """All moments, whole."""
    return {
        f"{moment}/{name}": (value.full_tensor() if isinstance(value, DTensor) else value).clone()
        for name, parameter in state.model.named_parameters()
        for moment, value in (state.optimizer.state[parameter] or {}).items()
    }


def test_it_learns_as_float32_does() -> None:
    """150 steps towards a fixed map: the weights at the end lie about as near."""

    def fit(eight_bit: bool) -> float:
        random = torch.Generator().manual_seed(0)
        goal, model = torch.randn(64, 96, generator=random) / 10, nn.Linear(96, 64, bias=False)
        nn.init.zeros_(model.weight)
        optimizer = make_optimizer(model, weight_decay=0.0, betas=(0.9, 0.95), eight_bit=eight_bit)
        for step in range(150):
            set_learning_rate(optimizer, 0.01 * (1 - step / 150))
            rows = torch.randn(32, 96, generator=random)
            (model(rows) - rows @ goal.T).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return float((model.weight - goal).norm() / goal.norm())

    exact, rounded = run_ranks(lambda: [fit(False), fit(True)], 1, threads=1)[0]
    assert exact < 0.05 and rounded < 1.3 * exact


def test_slices_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def move() -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Linear(WIDTH, INNER, bias=False)
        optimizer = EightBitAdamW([{"params": list(model.parameters()), "rate_factor": 1.0}], betas=(0.9, 0.95))
        set_learning_rate(optimizer, 0.01)
        for _ in range(3):
            model(torch.randn(4, WIDTH)).square().sum().backward()
            optimizer.step()
        return model.weight.detach()

    whole = run_ranks(move, 1, threads=1)[0]
    monkeypatch.setattr("ropewalk.train.eight_bit._SLICE_ELEMENTS", 8 * WIDTH)  # whole vectors
    assert torch.equal(run_ranks(move, 1, threads=1)[0], whole)
