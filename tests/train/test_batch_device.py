"""Batches are made in a thread ahead of the step, and each of their tensors lies on the device of the mesh."""

import threading
from contextlib import closing
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from place import Place
from ropewalk.core.run_folder import StageFolder
from ropewalk.corpus.mix.dataset import open_dataset
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.partition.choose import make_sharing
from ropewalk.partition.cost import Heads
from ropewalk.plan.savings import Savings
from ropewalk.shape.read import read_shape
from ropewalk.train import loop
from ropewalk.train.stage_context import StageContext
from tiny_run import CONTEXT_TOKENS, make_recipe

SHARING = make_sharing(Heads(4, 2, 8), device="cpu", element_bytes=4)


LONG_CE = {"truncated_tokens": 16, "most": 1.2, "readings": 2}


def tensors_of(value: Any) -> list[Tensor]:
    """Every tensor in a value, at any depth."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple | list):
        return [tensor for each in value for tensor in tensors_of(each)]
    if is_dataclass(value) and not isinstance(value, type):
        return [tensor for field in fields(value) for tensor in tensors_of(getattr(value, field.name))]
    return []


@pytest.mark.parametrize("changes", [{}, {"long_ce": LONG_CE}, {"pose": {"reach": 1024, "chunks": 3}}])
def test_every_tensor_of_a_batch_lies_on_the_device_of_the_mesh(
    prepared: tuple[Path, Path], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe, began = make_recipe(**changes), []
    monkeypatch.setattr(loop, "use_device", lambda device: began.append((device, threading.current_thread())))
    dataset = open_dataset(
        open_corpus(prepared[1]),
        mix=recipe.corpus.mix,
        context_tokens=CONTEXT_TOKENS,
        sequences=16,
        seed=3,
        stage=0,
        max_repeats=100,
    )
    mesh = Place(context_ranks=2, context_rank=1, device=torch.device("meta"))
    context = StageContext(
        number=0,
        spec=recipe.stages[0],
        parallel=recipe.parallel,
        mesh=mesh,
        precision="float32",
        savings=Savings(),
        sharing=SHARING,
        shape=read_shape(prepared[0] / "stages" / "0" / "extended"),
        folder=StageFolder(tmp_path),
        metrics=tmp_path / "metrics.jsonl",
        seed=3,
        settings_digest="",
        moments=None,
        moments_misfit=None,
    )
    with closing(loop._look_ahead(context, dataset, 0)) as stream:
        found = [tensor for batches in (next(stream), next(stream)) for tensor in tensors_of(batches)]
    assert len(found) >= 2 * 6 and {tensor.device.type for tensor in found} == {"meta"}
    assert [device for device, _ in began] == [mesh.device] and began[0][1] is not threading.current_thread()
