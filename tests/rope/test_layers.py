"""Layer patterns: how they spread over a base's layers, and which ones are refused."""

from typing import Any

import pytest

from ropewalk.core.error import UserError
from ropewalk.rope.layers import LayerPosition, LayerRule, choose_stretched, describe_layers, stretch_layers
from ropewalk.rope.scaling import Nope, Theta, Unchanged

PLAIN = LayerPosition(rope=Unchanged(), theta=1e4)
RNOPE = (LayerRule(window="4Ki", rope="unchanged"),) * 3 + (LayerRule(rope="nope"),)


def stretch(base: tuple[LayerPosition, ...], pattern: tuple[LayerRule, ...], **changes: Any) -> tuple[Any, ...]:
    wish = {"rope": Theta(theta=1e6), "head_dim": 64, "base_tokens": 4096, "context_tokens": 16384} | changes
    return stretch_layers(base, pattern, **wish)


def test_a_pattern_repeats_over_the_layers_and_says_everything() -> None:
    layers = stretch((PLAIN,) * 8, RNOPE)
    assert [layer.window_tokens for layer in layers] == [4096, 4096, 4096, None] * 2
    assert [layer.rope for layer in layers[:4]] == [Unchanged()] * 3 + [Nope()]


def test_what_a_rule_leaves_out_is_the_stages() -> None:
    window, full = stretch((PLAIN,) * 2, (LayerRule(window=512), LayerRule(temperature="log_n")))
    assert window.rope == full.rope == Theta(theta=1e6)
    assert full.log_n_tokens == 4096 and window.log_n_tokens is None


def test_a_later_stage_sharpens_from_where_the_first_one_did() -> None:
    (sharpened,) = stretch((PLAIN.model_copy(update={"log_n_tokens": 1024}),), (LayerRule(temperature="log_n"),))
    assert sharpened.log_n_tokens == 1024


def test_without_a_pattern_only_full_layers_that_turn_are_stretched() -> None:
    base = (PLAIN.model_copy(update={"window_tokens": 4096}), PLAIN.model_copy(update={"rope": Nope()}), PLAIN)
    assert stretch(base, ()) == (*base[:2], LayerPosition(rope=Theta(theta=1e6), theta=1e4))


def test_each_layer_is_stretched_from_its_own_theta() -> None:
    other = LayerPosition(rope=Unchanged(), theta=5e4)
    layers = stretch((PLAIN, other), (LayerRule(rope={"kind": "linear"}),))
    assert [layer.rope.theta for layer in layers] == [1e4, 5e4]


@pytest.mark.parametrize(
    ("base", "pattern", "words"),
    [
        ((PLAIN,) * 6, RNOPE, "the pattern has 4 lines, and the model 6 layers"),
        ((PLAIN,) * 2, (LayerRule(window="32Ki"),), "32Ki tokens do not fit into 16Ki"),
        ((PLAIN.model_copy(update={"window_tokens": 64}),), (), "every layer has a window"),
    ],
)
def test_patterns_that_cannot_be(base: tuple[LayerPosition, ...], pattern: tuple[LayerRule, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        stretch(base, pattern)


def test_a_window_that_never_cut_anything_does_not_keep_a_layer_from_being_stretched() -> None:
    """Phi-3.5 and Phi-4-mini: a window of 256Ki in every layer, and a context of 128Ki."""
    idle = PLAIN.model_copy(update={"window_tokens": 4096})
    wide = PLAIN.model_copy(update={"window_tokens": 16384})
    still = PLAIN.model_copy(update={"window_tokens": 4096, "rope": Nope()})
    assert stretch((idle, still), ()) == (LayerPosition(rope=Theta(theta=1e6), theta=1e4), still)
    assert stretch((wide,), ()) == (wide.model_copy(update={"rope": Theta(theta=1e6)}),), "the window holds the target"
    assert stretch((idle, PLAIN), ())[0] == idle, "beside full layers a window of the base's context is meant"
    assert choose_stretched((wide, still), 16385) == [False, False]
    told = describe_layers((idle, wide), stretch((idle, wide), ()), head_dim=64, base_tokens=4096)
    assert "without the window of 4Ki" in told[0] and "window 16Ki" in told[1]


@pytest.mark.parametrize(
    ("windows", "told"),
    [
        ([4096, None] * 12, ["0, 2, ..., 22", "1, 3, ..., 23"]),
        (([4096] * 5 + [None]) * 5 + [4096] * 4, ["0-4, 6-10, 12-16, 18-22, 24-28, 30-33", "5, 11, ..., 29"]),
        ([4096, None, 4096, None], ["0, 2", "1, 3"]),
        ([None, 4096, 4096, None, None, 4096, None, 4096, 4096, None], ["0, 3-4, 6, 9", "1-2, 5, 7-8"]),
        ([None] * 3, ["0-2"]),
    ],
)
def test_equal_layers_are_one_line(windows: list[int | None], told: list[str]) -> None:
    """gpt-oss alternates: 24 lines said what two say."""
    base = tuple(PLAIN.model_copy(update={"window_tokens": window}) for window in windows)
    lines = describe_layers(base, base, head_dim=64, base_tokens=8192)
    assert [line.partition(": ")[0] for line in lines] == told
