"""What the advice says about cases whose answer is known."""

from ropewalk.rope.advise import PRACTICE, advise
from ropewalk.rope.method import BaseRope
from ropewalk.rope.scaling import Linear, Proportional, Theta, Unchanged

LLAMA2 = BaseRope(theta=1e4, head_dim=128, context_tokens=4096)


def test_codellama_is_in_order() -> None:
    advice = advise(LLAMA2, method=Theta(theta=1e6).complete(LLAMA2, 16384), context_tokens=16384)
    assert (advice.warnings, advice.new_angle_pairs, advice.whole_turn_pairs) == ((), 0, 37)
    assert advice.first_negative_tokens is None


def test_unchanged_is_warned_about_twice() -> None:
    advice = advise(LLAMA2, method=Unchanged(), context_tokens=16384)
    assert advice.first_negative_tokens == 1707
    assert advice.new_angle_pairs == 64 - 46, "every pair without a whole turn at 4Ki"
    assert "1707" in advice.warnings[0] and "500000" in advice.warnings[0]
    assert "4Ki" in advice.warnings[1]


def test_no_warning_at_the_length_of_the_base() -> None:
    assert advise(LLAMA2, method=Unchanged(), context_tokens=4096).warnings == ()


def test_interpolation_shows_no_new_angles() -> None:
    assert advise(LLAMA2, method=Linear().complete(LLAMA2, 16384), context_tokens=16384).new_angle_pairs == 0


def test_standing_pairs_have_no_wavelength() -> None:
    advice = advise(LLAMA2, method=Proportional(share=0.5), context_tokens=16384)
    assert advice.longest_wavelength_tokens < 4096
    assert advice.first_negative_tokens is None, "32 pairs at frequency 0 outweigh 32 cosines"


def test_practice_is_sorted_by_length() -> None:
    assert [entry.context_tokens for entry in PRACTICE] == sorted(entry.context_tokens for entry in PRACTICE)
