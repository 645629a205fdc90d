"""How index tensors reach a GPU: from pinned memory, in its queue, without a wait of the host."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ropewalk.attention.copy_to_device import copy_to_device


class Watched(Tensor):
    """Notes what is asked of it, and stays on the host."""

    asked: list[Any] = []  # noqa: RUF012 - of the test

    def pin_memory(self, *_: Any) -> "Watched":
        self.asked.append("pinned")
        return self

    def to(self, device: torch.device, non_blocking: bool = False) -> "Watched":  # type: ignore[override]
        self.asked.append((device, non_blocking))
        return self


def test_a_gpu_gets_a_copy_from_pinned_memory_without_a_wait() -> None:
    Watched.asked.clear()
    copy_to_device(torch.zeros(3).as_subclass(Watched), torch.device("cuda", 5))
    assert Watched.asked == ["pinned", (torch.device("cuda", 5), True)]


def test_a_cpu_shares_the_array() -> None:
    array = np.zeros(3)
    copy_to_device(array, torch.device("cpu"))[1] = 7
    assert array.tolist() == [0, 7, 0]
