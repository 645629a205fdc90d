"""Resonance: whole wavelengths over other methods, and how a config.json says them."""

import json

import numpy as np
import pytest

from ropewalk.core.error import UserError
from ropewalk.rope.dynamic import Dynamic, LongRope
from ropewalk.rope.frequency import wavelengths
from ropewalk.rope.method import BaseRope, Method
from ropewalk.rope.resonance import Resonance
from ropewalk.rope.scaling import read_method
from ropewalk.rope.uniform import Nope, Proportional, Theta, Unchanged
from ropewalk.rope.yarn import Yarn

LLAMA2 = BaseRope(theta=1e4, head_dim=128, context_tokens=4096)


@pytest.mark.parametrize("of", [Unchanged(), Theta(theta=1e6), Yarn()])
def test_wavelengths_are_those_of_the_other_method_rounded(of: Method) -> None:
    method = Resonance(of=of).complete(LLAMA2, 16384)
    exact = of.complete(LLAMA2, 16384)
    rounded = wavelengths(method.inv_freq(1e4, 128))
    assert rounded == pytest.approx(np.rint(rounded), rel=1e-14)
    assert np.abs(rounded - wavelengths(exact.inv_freq(1e4, 128))).max() <= 0.5 + 1e-9
    assert rounded[0] == 6, "2 pi tokens"
    assert method.attention_factor == exact.attention_factor
    assert method.final_theta(1e4) == exact.final_theta(1e4)


def test_angles_come_back_after_a_turn() -> None:
    inv_freq = Resonance().complete(LLAMA2, 16384).inv_freq(1e4, 128)
    turns = np.cos(inv_freq[:8] * np.rint(wavelengths(inv_freq[:8])) * 500)
    assert turns == pytest.approx(1, abs=1e-10)


def test_a_config_says_it_as_a_longrope_of_one_list() -> None:
    method = Resonance(of=Yarn()).complete(LLAMA2, 16384)
    parameters = json.loads(json.dumps(method.to_hf(1e4)))
    assert parameters["short_factor"] == parameters["long_factor"]
    assert parameters["original_max_position_embeddings"] == 16384
    assert parameters["attention_factor"] == pytest.approx(1.1386294361)
    again = read_method(parameters, where="test")
    assert isinstance(again, LongRope) and not again.depends_on_length
    assert again.inv_freq(1.5, 128) == pytest.approx(method.inv_freq(1e4, 128), rel=1e-14)
    assert again.attention_factor == method.attention_factor


@pytest.mark.parametrize("running", [Dynamic(theta=1e4, original_tokens=4096), Proportional(share=0.5), Nope()])
def test_what_has_no_whole_wavelengths_is_refused(running: Method) -> None:
    with pytest.raises(UserError, match=f"resonance cannot be applied on top of {running.kind}"):
        Resonance().complete(BaseRope(1e4, 128, 4096, running), 16384)


def test_nothing_goes_on_top_of_it() -> None:
    base = Resonance().complete(LLAMA2, 16384).as_base(1e4, head_dim=128, context_tokens=16384)
    for method in (Theta(theta=1e6), Yarn()):
        with pytest.raises(UserError, match="use kind: unchanged"):
            method.complete(base, 32768)
