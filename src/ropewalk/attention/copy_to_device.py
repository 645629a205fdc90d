"""Copy an array to a rank's device, without a wait of the host for the device.

A copy from ordinary host memory to a GPU waits until the GPU has done all its work so far. A copy from pinned memory
only joins the queue.
"""

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor


def copy_to_device(
    array: Shaped[np.ndarray, "..."] | Shaped[Tensor, "..."], device: torch.device
) -> Shaped[Tensor, "..."]:
    """The array as a tensor on ``device``, ready for whatever is queued there later."""
    tensor = array if isinstance(array, Tensor) else torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)  # torch keeps the pinned memory until it has been read
