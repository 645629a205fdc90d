"""All candidates for a base at a target, against figures that are published or follow from a definition."""

import dataclasses
import json
import math

import numpy as np
import pytest

from ropewalk.core.error import UserError
from ropewalk.rope.advise import advise, practice_at, trained_inv_freq
from ropewalk.rope.bounds import least_theta, similarity
from ropewalk.rope.candidates import ASKED, Survey, format_theta, survey_candidates
from ropewalk.rope.frequency import plain_inv_freq, wavelengths
from ropewalk.rope.method import BaseRope
from ropewalk.rope.scaling import Linear, Llama3, Ntk, Proportional, Theta, Yarn

LLAMA2 = BaseRope(theta=1e4, head_dim=128, context_tokens=4096)
LLAMA31 = BaseRope(5e5, 128, 131072, Llama3(theta=5e5, factor=8, original_tokens=8192))


@pytest.fixture(scope="module")
def at_16ki() -> Survey:
    return survey_candidates(LLAMA2, 16384)


def test_llama_2_gets_what_codellama_took(at_16ki: Survey) -> None:
    assert at_16ki.recommended == "theta 1e6"
    assert (at_16ki.known_pairs, at_16ki.pairs) == (46, 64), "critical dimension 92"
    assert at_16ki.least_theta == pytest.approx(231_665, rel=2e-4)
    chosen = at_16ki.find("theta 1e6").advice
    assert chosen.reach_tokens == pytest.approx(129_027, rel=1e-5)
    assert (chosen.first_negative_tokens, chosen.new_angle_pairs) == (None, 0)
    assert any("CodeLlama" in reason for reason in at_16ki.reasons)
    assert not any("a stage at" in reason for reason in at_16ki.reasons)


def test_every_candidate_stands_beside_the_others(at_16ki: Survey) -> None:
    names = [each.name for each in at_16ki.candidates]
    assert names == ["unchanged", "theta 5e5", "theta 1e6", "ntk", "linear", "yarn", "ntk_by_parts", "llama3"]
    assert at_16ki.refused == {}
    found = {each.name: each.advice for each in at_16ki.candidates}
    assert set(found["linear"].scales) == {4.0} and set(found["unchanged"].scales) == {1.0}
    for name in ("yarn", "ntk_by_parts", "llama3"):
        assert (found[name].scales[0], found[name].scales[-1]) == pytest.approx((1, 4))
    assert found["ntk"].scales[0] == 1 and found["ntk"].scales[-1] == pytest.approx(4)
    assert found["theta 1e6"].scales == pytest.approx([100 ** (2 * pair / 128) for pair in range(64)])


def test_attraction_is_the_mean_of_b_over_the_last_quarters(at_16ki: Survey) -> None:
    for each in at_16ki.candidates:
        inv_freq = each.method.inv_freq(1e4, 128)
        near = similarity(inv_freq, np.arange(3072, 4096)).mean() / 64
        far = similarity(inv_freq, np.arange(12288, 16384)).mean() / 64
        assert (each.advice.near_attraction, each.advice.far_attraction) == pytest.approx((near, far))


def test_prolong_breaks_the_bound_where_it_is_known_to() -> None:
    found = survey_candidates(BaseRope(5e5, 128, 8192), 65536)
    assert found.find("theta 8e6").advice.first_negative_tokens == 61_936
    assert found.find("theta 5e6").advice.first_negative_tokens is None
    assert found.recommended == "theta 5e7", (
        "both hold or break Men et al., but neither reaches 64Ki from 70 dimensions"
    )
    assert any(
        "intermediate stage" in reason for reason in survey_candidates(BaseRope(1e4, 64, 1024), 32768).reasons
    ), "32 times"


def test_a_base_that_is_scaled_already_composes_or_refuses() -> None:
    found = survey_candidates(LLAMA31, 524288)
    assert [each.name for each in found.candidates] == ["unchanged", "theta 1.28e8", "llama3"]
    assert set(found.refused) == {"ntk", "linear", "yarn", "ntk_by_parts"}
    assert all("scaled already (llama3)" in why for why in found.refused.values())
    assert found.recommended == "llama3" and found.least_theta is None
    assert found.reasons[0].endswith("llama3 factor 8 -> 64 over the original 8Ki")
    assert trained_inv_freq(LLAMA31)[-1] == pytest.approx(plain_inv_freq(5e5, 128)[-1] / 8)
    nearer = survey_candidates(LLAMA31, 262144)
    assert nearer.find("llama3").advice.first_negative_tokens == 241_522
    assert nearer.recommended == "theta 1e7" and "theta 500000 -> 1e+07" in nearer.reasons[0]
    assert found.find("llama3").advice.scales[-1] == pytest.approx(8), "against what runs now, not plain RoPE"


def test_what_is_asked_for_stands_beside_the_rest() -> None:
    found = survey_candidates(LLAMA2, 16384, asked=Yarn(factor=16))
    assert found.find(ASKED).advice.attention_factor == pytest.approx(1.2772588722)
    with pytest.raises(UserError, match="theta must not decrease"):
        survey_candidates(LLAMA2, 16384, asked=Theta(theta=5e3))
    with pytest.raises(UserError, match="linear cannot be applied on top of llama3"):
        survey_candidates(LLAMA31, 524288, asked=Linear())


@pytest.mark.parametrize("context_tokens", [2048, 4096])
def test_a_target_that_is_not_longer_is_refused(context_tokens: int) -> None:
    with pytest.raises(UserError, match="the target is not longer"):
        survey_candidates(LLAMA2, context_tokens)


def test_a_block_that_serves_alone_is_no_training() -> None:
    # Qwen's documentation: factor 4 over 32Ki in a model of 32Ki. Its weights know plain RoPE.
    plain = BaseRope(1e6, 128, 32768)
    served = dataclasses.replace(plain, running=Yarn(theta=1e6, factor=4, original_tokens=32768))
    found, expected = survey_candidates(served, 131072), survey_candidates(plain, 131072)
    assert found.untrained == served.running
    assert dataclasses.replace(found, untrained=None) == expected and expected.untrained is None
    assert found.to_json()["base_untrained"]["factor"] == 4
    trained = dataclasses.replace(served, context_tokens=131072)
    assert survey_candidates(trained, 262144).base == trained, (
        "one that was trained at its own length counts from there"
    )


def test_advice_asks_how_far_a_divided_base_reads() -> None:
    base = BaseRope(1e4, 128, 16384, Linear(theta=1e4, factor=4))
    with pytest.raises(UserError, match="the context length of this base is ambiguous"):
        survey_candidates(base, 65536)
    found = survey_candidates(base, 65536, asked=Linear(original_tokens=4096))
    assert found.base.context_tokens == 16384 and found.find("linear").method.model_dump()["factor"] == 16
    with pytest.raises(UserError, match="already reads 64Ki tokens"):
        survey_candidates(base, 65536, asked=Linear(original_tokens=16384))


@pytest.mark.parametrize("head_dim", [128, 256])
def test_a_base_of_a_few_tokens_has_no_theta_and_is_told_why(head_dim: int) -> None:
    """Its least theta is above the largest, for `theta: auto`, `ntk` and advice; at 256 dimensions it is infinite."""
    tiny = BaseRope(theta=1e6, head_dim=head_dim, context_tokens=1)
    found = survey_candidates(tiny, 131072)
    assert "the largest theta is 1e+30" in found.refused["theta"]
    with pytest.raises(UserError, match="no theta is large enough"):
        Theta(theta=None).complete(tiny, 131072)
    with pytest.raises(UserError, match="no theta is large enough"):
        Ntk().complete(BaseRope(theta=1e26, head_dim=4, context_tokens=64), 131072)


def test_heads_of_few_pairs_end() -> None:
    assert least_theta(2, 4096) == math.inf
    assert survey_candidates(BaseRope(1e4, 4, 128), 256).least_theta is not None


def test_json_holds_every_pair_and_no_infinity() -> None:
    found = survey_candidates(LLAMA2, 8192, asked=Proportional(share=0.5)).to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert len(found["pairs"]) == 64 and found["critical_dim"] == 92
    assert found["pairs"][0]["wavelength_tokens"] == pytest.approx(2 * math.pi)
    assert found["candidates"][-1]["scales"][-1] is None, "a pair that stands still"


def test_practice_is_that_of_the_length_or_the_next_one_known() -> None:
    assert [entry.theta for entry in practice_at(16384)] == [1e6]
    assert {entry.theta for entry in practice_at(20000)} == {5e5, 1e6, 2e6}
    assert [entry.context_tokens for entry in practice_at(1 << 24)] == [524288]


@pytest.mark.parametrize(
    ("theta", "turning"),  # pairs whose wavelength is at most 4Ki, 16Ki, 32Ki, 64Ki, 128Ki, for heads of 128
    [
        (1e4, (46, 55, 60, 64, 64)),
        (5e5, (32, 39, 42, 46, 49)),
        (1e6, (31, 37, 40, 43, 47)),
        (8e6, (27, 32, 35, 38, 41)),
    ],
)
def test_pairs_that_turn_within_a_length(theta: float, turning: tuple[int, ...]) -> None:
    lengths = (4096, 16384, 32768, 65536, 131072)
    method = Theta(theta=theta).complete(LLAMA2, 16384)
    assert tuple(advise(LLAMA2, method=method, context_tokens=length).whole_turn_pairs for length in lengths) == turning
    longest = {1e4: 54_410, 5e5: 2_559_196, 1e6: 5_063_256, 8e6: 39_211_104}[theta]
    assert wavelengths(method.inv_freq(1e4, 128))[-1] == pytest.approx(longest, rel=1e-5)


def test_thetas_are_written_as_people_write_them() -> None:
    found = [format_theta(theta) for theta in (1e4, 5e5, 1.28e8, 40889.94, 2e6)]
    assert found == ["1e4", "5e5", "1.28e8", "40,890", "2e6"]
