"""FlexAttention on a CPU, for tests."""

from collections.abc import Iterator

import pytest
import torch
from torch.nn.attention import flex_attention as flex

from type_checks import no_checks


@pytest.fixture
def plain_flex(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """FlexAttention with gradients on a CPU; it cannot trace functions that check their arguments' types."""
    monkeypatch.setattr(flex, "_validate_device", lambda *_: None)
    torch._dynamo.reset()  # tracing with shapes or numbers of a test before it fails
    with no_checks():
        yield
