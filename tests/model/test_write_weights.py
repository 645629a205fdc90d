"""Weights that are written one by one make the files that are made from all of them at once."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from ropewalk.core.error import UserError
from ropewalk.model.lazy_weights import LazyWeights, merge_weights
from ropewalk.model.weights import Dtype
from ropewalk.model.write_weights import write_weights


def make_weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    wide = {f"layers.{index}.weight": torch.randn(3 + index, 5) for index in range(12)}
    return wide | {"norm.weight": torch.randn(7), 'é"\\': torch.randn(2, 1), "embed": torch.randn(9, 5).T}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("file_bytes", [300, 5 * 10**9])
def test_files_are_those_of_huggingface_hub_byte_for_byte(tmp_path: Path, dtype: Dtype, file_bytes: int) -> None:
    weights, (ours, theirs) = make_weights(), (tmp_path / "ours", tmp_path / "theirs")
    ours.mkdir()
    write_weights(weights, ours, dtype=dtype, where=ours, file_bytes=file_bytes)
    converted = {name: tensor.to(getattr(torch, dtype)).contiguous() for name, tensor in weights.items()}
    theirs.mkdir()
    save_torch_state_dict(converted, theirs, max_shard_size=file_bytes, metadata={"format": "pt"})
    names = sorted(path.name for path in theirs.iterdir())
    assert names == sorted(path.name for path in ours.iterdir()) and (len(names) > 2) == (file_bytes == 300)
    assert all((ours / name).read_bytes() == (theirs / name).read_bytes() for name in names)


def test_weights_are_asked_for_when_they_are_written(tmp_path: Path) -> None:
    weights, asked = make_weights(), list[str]()

    def read(name: str) -> Tensor:
        asked.append(name)
        return weights[name]

    lazy = LazyWeights({name: tuple(tensor.shape) for name, tensor in weights.items()}, read)
    between = merge_weights(lazy, {"norm.weight": torch.zeros(7)}, share=0.25)
    assert torch.equal(between["norm.weight"], torch.lerp(torch.zeros(7), weights["norm.weight"], 0.25))
    asked.clear()
    write_weights(lazy, tmp_path, dtype="float32", where=tmp_path, file_bytes=300)
    assert set(asked) == set(weights)  # the check of types in tests asks for some of them once more
    with pytest.raises(KeyError):
        lazy["other"]


def test_what_is_not_finite_is_not_written(tmp_path: Path) -> None:
    weights = make_weights()
    weights["norm.weight"][2] = 1e6
    with pytest.raises(UserError, match=r"norm\.weight is not finite") as caught:
        write_weights(weights, tmp_path, dtype="float16", where=Path("elsewhere"))
    assert caught.value.where == "elsewhere"
