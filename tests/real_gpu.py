"""Whether this machine has a GPU, asked of its driver's library: CUDA stays untouched, so ranks can still be forked."""

import ctypes


def has_gpu() -> bool:
    """Asked while tests are collected; ``torch.cuda.is_available`` would begin CUDA in the parent of all ranks."""
    try:
        driver = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    count = ctypes.c_uint(0)
    return driver.nvmlInit_v2() == 0 and driver.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0 and count.value > 0
