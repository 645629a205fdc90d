"""Methods on bases that are scaled already: counted on from the original, or refused, never twice in silence."""

import math

import numpy as np
import pytest
from pydantic import ValidationError

from ropewalk.core.error import UserError
from ropewalk.rope.dynamic import Dynamic, LongRope
from ropewalk.rope.frequency import plain_inv_freq
from ropewalk.rope.method import BaseRope, Method, describe
from ropewalk.rope.resonance import Resonance
from ropewalk.rope.scaling import read_method
from ropewalk.rope.uniform import Linear, Nope, Ntk, Proportional, Theta, Unchanged
from ropewalk.rope.yarn import Llama3, NtkByParts, Yarn

LLAMA31 = BaseRope(5e5, 128, 131072, Llama3(theta=5e5, factor=8, original_tokens=8192))
QWEN = BaseRope(1e6, 128, 32768, Yarn(theta=1e6, factor=4, original_tokens=32768, beta_fast=24))
DIVIDED = BaseRope(1e4, 128, 16384, Linear(theta=1e4, factor=4, original_tokens=4096))
OLMO3_BLOCK = {
    "rope_type": "yarn",
    "rope_theta": 5e5,
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "beta_fast": 32.0,
}
PARTIAL = BaseRope(1e4, 128, 4096, Proportional(theta=1e4, share=0.5, factor=2))


@pytest.mark.parametrize(
    ("method", "base", "context", "expected", "words"),
    [
        (
            Llama3(),
            LLAMA31,
            262144,
            Llama3(theta=5e5, factor=32, original_tokens=8192),
            "llama3 factor 8 -> 32 over the original 8Ki",
        ),
        (
            Yarn(),
            QWEN,
            262144,
            Yarn(theta=1e6, factor=8, original_tokens=32768, beta_fast=24),
            "yarn factor 4 -> 8 over the original 32Ki, beta_fast 24 as before",
        ),
        (Yarn(beta_fast=32, factor=16), QWEN, 65536, Yarn(theta=1e6, factor=16, original_tokens=32768), None),
        (Yarn(), QWEN, 65536, QWEN.running, "yarn factor 4 over the original 32Ki, beta_fast 24 as before"),
        (
            Linear(),
            DIVIDED,
            65536,
            Linear(theta=1e4, factor=16, original_tokens=4096),
            "linear factor 4 -> 16 over the original 4Ki",
        ),
        (
            Linear(factor=8),
            DIVIDED,
            65536,
            Linear(theta=1e4, factor=8, original_tokens=4096),
            "linear factor 4 -> 8 over the original 4Ki",
        ),
        (Proportional(share=0.25), PARTIAL, 8192, Proportional(theta=1e4, share=0.25, factor=2), None),
        (
            Theta(theta=2e6),
            LLAMA31,
            262144,
            Llama3(theta=2e6, factor=8, original_tokens=8192),
            "llama3 factor 8 theta 500000 -> 2e+06 over the original 8Ki",
        ),
        (Unchanged(), LLAMA31, 262144, LLAMA31.running, "llama3 factor 8 over the original 8Ki"),
    ],
)
def test_what_goes_together(method: Method, base: BaseRope, context: int, expected: Method, words: str | None) -> None:
    composed = method.complete(base, context)
    assert composed == expected
    assert composed.complete(base, context) == composed, "completing twice changes nothing"
    if words is not None:
        assert describe(base, composed) == words


def test_a_line_for_a_plain_base_too() -> None:
    base = BaseRope(1e4, 128, 4096)
    assert describe(base, Theta(theta=1e6).complete(base, 16384)) == "theta 10000 -> 1e+06"
    assert describe(base, Theta(theta=base.theta).complete(base, 16384)) == "theta 10000 as before"
    assert describe(base, Yarn().complete(base, 16384)) == "yarn factor 4 over the original 4Ki"
    assert describe(base, Unchanged()) == "unchanged"


def test_composed_frequencies_are_scaled_once() -> None:
    slowest = Llama3().complete(LLAMA31, 262144).inv_freq(5e5, 128)[-1]
    assert plain_inv_freq(5e5, 128)[-1] / slowest == pytest.approx(32), "not 8 times 32, and not 8 times 2"
    assert np.array_equal(Linear().complete(DIVIDED, 65536).inv_freq(1e4, 128), plain_inv_freq(1e4, 128) / 16)


ALL = [
    Theta(theta=1e9),
    Linear(),
    Ntk(),
    Dynamic(),
    NtkByParts(),
    Yarn(),
    Llama3(),
    LongRope(long_factor=(2.0,) * 64),
    Resonance(of=Linear()),
    Resonance(of=Yarn()),
    Proportional(share=0.5),
]
RUNNING = [
    Linear(theta=1e4, factor=4, original_tokens=4096),
    Dynamic(theta=1e4, original_tokens=4096),
    NtkByParts(theta=1e4, factor=4, original_tokens=4096),
    Yarn(theta=1e4, factor=4, original_tokens=4096),
    Llama3(theta=1e4, factor=4, original_tokens=4096),
    LongRope(theta=1e4, short_factor=(1.0,) * 64, long_factor=(3.0,) * 64, original_tokens=4096, factor=4),
    Proportional(theta=1e4, share=0.5),
    Nope(),
]


@pytest.mark.parametrize("running", RUNNING, ids=lambda method: method.kind)
@pytest.mark.parametrize("method", ALL, ids=lambda method: method.kind)
def test_every_pair_of_methods_composes_or_is_refused(method: Method, running: Method) -> None:
    base = running.as_base(1e4, head_dim=128, context_tokens=16384)
    inner = method.of if isinstance(method, Resonance) else method
    same = type(inner) is type(running) and isinstance(running, Linear | Yarn | Llama3 | NtkByParts | Proportional)
    if isinstance(method, Resonance):
        allowed = same
    else:
        allowed = type(method) is type(running) or (isinstance(method, Theta) and not isinstance(running, Nope))
    if allowed:
        assert method.complete(base, 32768).kind in {method.kind, running.kind}
        return
    with pytest.raises(UserError, match=f"cannot be applied on top of {running.kind}") as caught:
        method.complete(base, 32768)
    assert running.kind in caught.value.why and "kind: unchanged" in caught.value.fix


@pytest.mark.parametrize(
    ("method", "base", "words"),
    [
        (Theta(theta="auto"), LLAMA31, ("supports only plain RoPE", "above 500000")),
        (Theta(theta=1e5), LLAMA31, ("theta must not decrease", "100000 is below the base's 500000")),
        (Llama3(factor=4), LLAMA31, ("the factor must not decrease", "4 is below the base's own 8")),
        (Llama3(original_tokens=4096), LLAMA31, ("the base's original length is 8Ki, and 4Ki was given",)),
        (Proportional(share=0.75), PARTIAL, ("the share must not increase", "0.75 is above the base's 0.5")),
        (Yarn(), LLAMA31, ("use kind: llama3", "a theta above 500000")),
    ],
)
def test_refusals_of_scaled_bases(method: Method, base: BaseRope, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        method.complete(base, 262144)
    for word in words:
        assert word in str(caught.value)


def test_auto_takes_the_least_round_theta() -> None:
    base = BaseRope(1e4, 128, 4096)
    assert Theta(theta="auto").complete(base, 16384) == Theta(theta=5e5)
    assert Theta(theta="auto").complete(base, 32768) == Theta(theta=2e6)
    assert Theta(theta=1e6).complete(base, 16384) == Theta(theta=1e6)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"rope_type": "proportional", "rope_theta": 1e4, "partial_rotary_factor": 0.0}, Nope()),
        ({"rope_type": "proportional", "rope_theta": 1e4}, Proportional(theta=1e4, share=1)),
        (
            {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4, "original_max_position_embeddings": 4096}
            | {"attention_factor": 1.0, "partial_rotary_factor": 1.0},
            NtkByParts(theta=1e4, factor=4, original_tokens=4096),
        ),
        (
            {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 4096},
            Dynamic(theta=1e4, factor=2, original_tokens=4096),
        ),
    ],
)
def test_reading(parameters: dict[str, object], expected: Method) -> None:
    assert read_method(parameters, where="test") == expected


@pytest.mark.parametrize("running", RUNNING, ids=lambda method: method.kind)
def test_lengths_are_written_as_whole_numbers(running: Method) -> None:
    parameters = running.to_hf(1e4)
    for key, value in parameters.items():
        whole = key == "original_max_position_embeddings"
        assert not whole or type(value) is int
        assert whole or isinstance(value, str | bool | float | list), key


@pytest.mark.parametrize("written", [1.2079441541679836, 1.20794, 1.208])
def test_a_factor_that_equals_its_formula_is_computed_anew(written: float) -> None:
    # OLMo 3 writes 0.1 ln 8 + 1 out; others round it.
    running = read_method({**OLMO3_BLOCK, "attention_factor": written}, where="test")
    base = BaseRope(5e5, 128, 65536, running)
    assert running.attention_factor == pytest.approx(written, rel=1e-12), "what runs now stays"
    assert Unchanged().complete(base, 262144).attention_factor == running.attention_factor
    stretched = Yarn().complete(base, 262144)
    assert stretched.attention_factor == pytest.approx(0.1 * math.log(32) + 1, rel=1e-12)
    assert describe(base, stretched) == "yarn factor 8 -> 32 over the original 8Ki"


def test_a_factor_of_ones_own_is_kept_and_told() -> None:
    base = BaseRope(5e5, 128, 65536, read_method({**OLMO3_BLOCK, "attention_factor": 1.5}, where="test"))
    stretched = Yarn().complete(base, 262144)
    assert stretched.attention_factor == 1.5
    assert describe(base, stretched).endswith("over the original 8Ki, attention_factor 1.5 as before")
    assert Yarn(fixed_attention_factor=1.2).complete(base, 262144).attention_factor == 1.2


def test_every_attention_factor_follows_its_formula_to_the_new_length() -> None:
    weights = {"mscale": 1.0, "mscale_all_dim": 0.5}
    quotient = (0.1 * math.log(8) + 1) / (0.05 * math.log(8) + 1)
    deepseek = BaseRope(
        5e5, 128, 65536, read_method({**OLMO3_BLOCK, **weights, "attention_factor": quotient}, where="")
    )
    assert Yarn().complete(deepseek, 262144).attention_factor == pytest.approx(
        (0.1 * math.log(32) + 1) / (0.05 * math.log(32) + 1)
    )
    plain = BaseRope(5e5, 128, 8192, read_method({**OLMO3_BLOCK, "factor": 1.0, "attention_factor": 1.0}, where=""))
    assert Yarn().complete(plain, 65536).attention_factor == pytest.approx(0.1 * math.log(8) + 1)
    lists = {"short_factor": [1.0] * 64, "long_factor": [3.0] * 64, "original_max_position_embeddings": 4096}
    for written in (1.1180339887498949, 1.118):
        longrope = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 8.0, **lists, "attention_factor": written}
        base = BaseRope(1e4, 128, 32768, read_method(longrope, where="test"))
        stretched = LongRope(long_factor=(4.0,) * 64).complete(base, 131072)
        assert stretched.attention_factor == pytest.approx(math.sqrt(1 + math.log(32) / math.log(4096)))


def test_what_a_llama3_counts_by_is_handed_on() -> None:
    base = BaseRope(5e5, 128, 131072, Llama3(theta=5e5, factor=8, original_tokens=8192, low_freq_factor=2))
    stretched = Llama3().complete(base, 262144)
    assert isinstance(stretched, Llama3) and stretched.low_freq_factor == 2
    assert describe(base, stretched) == "llama3 factor 8 -> 32 over the original 8Ki, low_freq_factor 2 as before"


UNCLEAR = BaseRope(1e4, 128, 16384, Linear(theta=1e4, factor=4))


def test_a_division_of_which_nobody_knows_the_start_is_asked_about() -> None:
    with pytest.raises(UserError) as caught:
        Linear().complete(UNCLEAR, 131072)
    for words in ("the original is 4Ki, and 128Ki needs a factor of 32", "it reads 64Ki already, and 128Ki needs 8"):
        assert words in caught.value.why
    assert "rope.original_tokens=4096 or rope.original_tokens=16384" in caught.value.fix
    for original, factor in ((4096, 32), (16384, 8)):
        stretched = Linear(original_tokens=original).complete(UNCLEAR, 131072)
        assert stretched == Linear(theta=1e4, factor=factor, original_tokens=original)
    assert Linear(factor=16).complete(UNCLEAR, 65536) == Linear(theta=1e4, factor=16), "a factor counts from there"
    with pytest.raises(UserError, match="shorter than the base's context"):
        Linear(original_tokens=16384).complete(UNCLEAR, 32768)


@pytest.mark.parametrize("context", [1 << 25, 10**18])
@pytest.mark.parametrize("method", [Unchanged(), Nope(), Linear(), Theta(theta=1e9)], ids=lambda method: method.kind)
def test_lengths_that_float32_cannot_count_are_refused(method: Method, context: int) -> None:
    with pytest.raises(UserError, match="too long"):
        method.complete(BaseRope(1e4, 128, 4096), context)


@pytest.mark.parametrize("value", [1e31, 1e300, math.inf, math.nan])
def test_figures_that_float32_cannot_hold_are_refused(value: float) -> None:
    for kind, key in ((Theta, "theta"), (Yarn, "factor"), (Linear, "factor"), (Dynamic, "factor")):
        with pytest.raises(ValidationError):
            kind.model_validate({key: value})
