"""A training step keeps a GPU's queue full: the host waits for it at few places, none of them in a layer or a chunk."""

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from count_waits import CountReads, CountWaits
from emulated_gpu import EmulatedGPU
from ropewalk.attention import choose_kernel, exchange
from ropewalk.parallel.launch import run_ranks
from ropewalk.train import loop
from ropewalk.train.stage import train_stage
from tiny_run import make_recipe

MOST_WAITS = 3


def train(prepared: tuple[Path, Path], run: Path, collect: Any, **changes: Any) -> list[Any]:
    """Five steps on two ranks; what ``collect`` returns on each of them."""
    (run / "stages" / "0").mkdir(parents=True)
    (run / "stages" / "0" / "extended").symlink_to(prepared[0] / "stages" / "0" / "extended")
    parallel = {"loss_chunk_tokens": 16, "recompute": "save_attention", "mlp_tile_tokens": 16}
    recipe = make_recipe(
        micro_batch_size=1, tokens=5 * 4 * 64, checkpoint_steps=5, log_steps=5, parallel=parallel, **changes
    )

    def on_rank() -> Any:
        train_stage(recipe, stage=0, run=run, corpus=prepared[1])
        return collect()

    return run_ranks(on_rank, 2, threads=1)


@pytest.mark.parametrize("long_ce", [None, {"truncated_tokens": 16}], ids=["plain", "LongCE"])
def test_a_step_waits_at_most_three_times(
    prepared: tuple[Path, Path],
    tmp_path: Path,
    gpu: EmulatedGPU,
    small_tiles: None,
    monkeypatch: pytest.MonkeyPatch,
    long_ce: dict[str, int] | None,
) -> None:
    """Forward and backward, several micro-batches, several chunks of the loss; also what torch itself reads."""
    steps: list[tuple[Counter[str], Counter[str]]] = []
    original = loop.train_step

    def watched(*args: Any, **kwargs: Any) -> Any:
        with CountWaits() as waits, CountReads(waits) as reads:
            result = original(*args, **kwargs)
        steps.append((waits.waits, reads.reads))
        return result

    monkeypatch.setattr(loop, "train_step", watched)
    for rank in train(prepared, tmp_path / "run", lambda: steps, long_ce=long_ce):
        assert len(rank) == 5
        for waits, reads in rank:
            assert waits and waits.total() <= MOST_WAITS, waits
            assert reads.total() <= MOST_WAITS, reads


def test_schedules_are_made_ahead(
    prepared: tuple[Path, Path], tmp_path: Path, gpu: EmulatedGPU, small_tiles: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first steps make them in a layer's call: the thread that reads ahead knows then what layers ask."""
    made: Counter[tuple[bool, str]] = Counter()
    makers = dict(choose_kernel.KERNELS)

    def note(name: str, make: Any) -> Any:
        def noted(*args: Any) -> Any:
            made[threading.current_thread().name.startswith("ThreadPoolExecutor"), name] += 1
            return make(*args)

        return noted

    monkeypatch.setattr(choose_kernel, "KERNELS", {**makers, "flash": note("flash", makers["flash"])})
    monkeypatch.setattr(exchange, "_plan_traffic", note("traffic", exchange._plan_traffic))
    for counts in train(prepared, tmp_path / "run", lambda: made):
        for name in ("flash", "traffic"):
            in_step, ahead = counts[False, name], counts[True, name]
            # Two steps of two micro-batches at most are read before the first layer has asked.
            assert ahead >= 6 and in_step <= 4 + 4, (name, in_step, ahead)


def test_the_count_sees_each_kind_of_wait() -> None:
    """Else the tests above would show nothing."""
    there = torch.zeros(4, device=torch.device("cpu"))
    with CountWaits() as counted:
        assert there.sum().item() == 0
        there.tolist(), there.cpu(), float(there[0]), there[there > 1], torch.nonzero(there)
        there[0] = 3.0
        torch.tensor([1.0], device=there.device), torch.zeros(3).to(there.device), there.new_tensor([2.0])
    assert counted.waits.total() == 10, counted.waits
    with CountWaits() as none:
        here = there.cpu()
        none.waits.clear()
        here.tolist(), float(here[0]), here[here > 1], torch.zeros(3).tolist()
        there.add_(1).mul_(here.sum().item())
    assert not none.waits, none.waits
