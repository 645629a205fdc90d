"""Frequencies on the way: both ends exactly, geometric in between, along a line where a pair stands still."""

import numpy as np
import pytest

from ropewalk.rope.interpolate import Between
from ropewalk.rope.layers import LayerPosition
from ropewalk.rope.method import BaseRope
from ropewalk.rope.scaling import Dynamic, Linear, Nope, Rope, Unchanged, Yarn

BASE = BaseRope(1e4, 16, 32)
PLAIN = LayerPosition(rope=Unchanged(), theta=1e4)


def position(rope: Rope) -> LayerPosition:
    return PLAIN.model_copy(update={"rope": rope.complete(BASE, 128)})


@pytest.mark.parametrize("rope", [Linear(), Yarn(), Dynamic(), Nope()], ids=lambda rope: rope.kind)
def test_the_ends_are_exact(rope: Rope) -> None:
    for share, layer in ((0.0, PLAIN), (1.0, position(rope))):
        between = Between(PLAIN, position(rope), share)
        assert np.array_equal(between.inv_freq_at(100, 16), layer.inv_freq_at(100, 16))
        assert between.attention_factor == layer.attention_factor


def test_half_way_is_the_geometric_mean_or_the_middle() -> None:
    plain = PLAIN.inv_freq(16)
    np.testing.assert_allclose(Between(PLAIN, position(Linear()), 0.5).inv_freq_at(1, 16), plain / 2, rtol=1e-12)
    np.testing.assert_allclose(Between(PLAIN, position(Nope()), 0.5).inv_freq_at(1, 16), plain / 2, rtol=1e-12)
    np.testing.assert_allclose(Between(position(Nope()), PLAIN, 0.25).inv_freq_at(1, 16), plain / 4, rtol=1e-12)
    yarn = position(Yarn())
    assert Between(PLAIN, yarn, 0.5).attention_factor == pytest.approx((1 + yarn.attention_factor) / 2)


def test_every_pair_goes_one_way() -> None:
    path = np.stack([Between(PLAIN, position(Yarn()), share / 8).inv_freq_at(1, 16) for share in range(9)])
    assert (np.diff(path, axis=0) <= 0).all() and (np.diff(path[:, -1]) < 0).all()


def test_the_length_matters_if_it_does_at_either_end() -> None:
    dynamic = position(Dynamic())
    assert Between(PLAIN, dynamic, 0.5).depends_on_length and Between(dynamic, PLAIN, 0.5).depends_on_length
    assert not Between(PLAIN, PLAIN, 0.5).depends_on_length
    assert Between(PLAIN, dynamic, 0.5).inv_freq_at(128, 16)[-1] < Between(PLAIN, dynamic, 0.5).inv_freq_at(32, 16)[-1]
