"""Layer patterns: how they spread, and which ones are refused."""

import pytest

from ropewalk.core.error import UserError
from ropewalk.rope.layers import UNIFORM, LayerRule, require_uniform, spread_rules


def test_a_pattern_repeats_over_the_layers() -> None:
    window, full = LayerRule(window_tokens=4096), LayerRule(position="nope")
    assert spread_rules((window, window, full), 7) == (window, window, full, window, window, full, window)
    assert spread_rules((), 2) == (UNIFORM, UNIFORM)


@pytest.mark.parametrize(
    ("rule", "word"), [(LayerRule(window_tokens="4Ki"), "window of 4096"), (LayerRule(position="nope"), "no RoPE")]
)
def test_only_uniform_layers_pass(rule: LayerRule, word: str) -> None:
    require_uniform(())
    require_uniform((UNIFORM, UNIFORM))
    with pytest.raises(UserError, match=word) as caught:
        require_uniform((UNIFORM, rule))
    assert caught.value.where == "layers[1]"
