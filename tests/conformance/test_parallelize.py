"""``parallelize`` takes every supported class, and a copy of such a model works by itself."""

import copy

import pytest
import torch

from conformance.tiny_families import make_model
from ropewalk import parallelize
from ropewalk.shape.families import SUPPORTED


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_a_supported_class_is_not_refused(architecture: str) -> None:
    model = make_model(architecture)
    batch = parallelize(model).cut(input_ids=torch.arange(3, 19)[None], labels=torch.arange(3, 19)[None])
    loss = model(**batch).loss
    assert loss.isfinite()
    torch.testing.assert_close(copy.deepcopy(model)(**batch).loss, loss)
