"""In which type the weights of a model are held that is only read."""

import pytest
import torch

from ropewalk.model import open_model as room
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.shape.find import TINY_BASE


def held(dtype: room.Dtype) -> torch.dtype:
    (found,) = {each.dtype for each in room.open_model(ModelWithLoss, TINY_BASE, dtype=dtype).parameters()}
    return found


@pytest.mark.parametrize(
    ("multiplies", "host_bytes", "expected"),
    [(True, 1e12, torch.bfloat16), (False, 1e12, torch.float32), (False, 1e7, torch.bfloat16)],
)
def test_bfloat16_is_held_in_float32_where_it_is_slow_and_the_host_has_room(
    multiplies: bool,
    host_bytes: float,
    expected: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(room, "multiplies_bfloat16", lambda: multiplies)
    monkeypatch.setattr(room, "count_host_bytes", lambda: host_bytes)
    monkeypatch.setattr(room, "rank_device", lambda: torch.device("cpu"))
    assert held("bfloat16") == expected
    assert ("this CPU multiplies no bfloat16" in capsys.readouterr().err) == (expected == torch.float32)
    assert held("float32") == torch.float32 and not capsys.readouterr().err
