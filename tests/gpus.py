"""The skip of tests that need a GPU: by the driver, so that the test process can still fork ranks that use it."""

import pytest

from ropewalk.parallel.device import count_gpus

needs_gpu = pytest.mark.skipif(not count_gpus(), reason="needs a GPU")
