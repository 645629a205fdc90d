"""Unknown classes with a long window: the trial is a tiny model's, and a class without one is not refused for that."""

import warnings
from typing import Any

import pytest
import transformers
from transformers import MistralForCausalLM

from ropewalk.core.error import UserError
from ropewalk.model.parallelize import parallelize
from ropewalk.model.twin import FEW_EXPERTS, make_config
from ropewalk.shape.families import SUPPORTED

LONG = {"sliding_window": 4096, "use_sliding_window": True}


class NamedForCausalLM(MistralForCausalLM):  # type: ignore[misc]
    """A class that cannot be built from a config alone."""

    def __init__(self, config: Any, name: str) -> None:
        super().__init__(config)
        self.name = name


class WideForCausalLM(MistralForCausalLM):  # type: ignore[misc]
    """Adds the token before, in a window's width only: nothing that a text of a few tokens shows."""

    def forward(self, *args: Any, **given: Any) -> Any:
        output = super().forward(*args, **given)
        far = self.config.sliding_window
        if output.logits.shape[1] > far:
            output.logits = output.logits + output.logits.roll(far, dims=1)
        return output


def build(kind: Any, *given: Any) -> Any:
    return kind(make_config(kind, {**FEW_EXPERTS, **LONG}), *given).eval()


@pytest.mark.parametrize("architecture", ["MellumForCausalLM", "AfmoeForCausalLM", "CwmForCausalLM"])
def test_windowed_classes_without_a_row_are_tried_and_taken(architecture: str) -> None:
    assert architecture not in SUPPORTED
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallelize(build(getattr(transformers, architecture)), None)


def test_a_class_without_a_tiny_model_is_told_and_taken() -> None:
    with pytest.warns(UserWarning, match=r"window of 4096 tokens.*TypeError.*'name'"):
        parallelize(build(NamedForCausalLM, "mine"), None)


def test_what_only_a_text_longer_than_the_window_shows_is_refused() -> None:
    with pytest.raises(UserError, match=r"two context ranks differ|two packed documents differ"):
        parallelize(build(WideForCausalLM), None)
