"""Methods on bases that are scaled already: counted on from the original, or refused, never twice in silence."""

import numpy as np
import pytest

from ropewalk.core.error import UserError
from ropewalk.rope.by_length import Dynamic, LongRope
from ropewalk.rope.by_parts import Llama3, NtkByParts, Yarn
from ropewalk.rope.frequency import plain_inv_freq
from ropewalk.rope.method import BaseRope, Method, describe
from ropewalk.rope.plain import Linear, Nope, Ntk, Proportional, Theta, Unchanged
from ropewalk.rope.resonance import Resonance
from ropewalk.rope.scaling import read_method

LLAMA31 = BaseRope(5e5, 128, 131072, Llama3(theta=5e5, factor=8, original_tokens=8192))
QWEN = BaseRope(1e6, 128, 32768, Yarn(theta=1e6, factor=4, original_tokens=32768, beta_fast=24))
DIVIDED = BaseRope(1e4, 128, 16384, Linear(theta=1e4, factor=4, original_tokens=4096))
OLMO3 = BaseRope(
    5e5, 128, 65536, Yarn(theta=5e5, factor=8, original_tokens=8192, fixed_attention_factor=1.2079441541679836)
)
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
    with pytest.raises(UserError, match=f"does not go on top of {running.kind}") as caught:
        method.complete(base, 32768)
    assert running.kind in caught.value.why and "kind: unchanged" in caught.value.fix


@pytest.mark.parametrize(
    ("method", "base", "words"),
    [
        (Theta(theta="auto"), LLAMA31, ("knows plain RoPE only", "above 500000")),
        (Theta(theta=1e5), LLAMA31, ("theta may only grow", "100000 is below the base's 500000")),
        (Llama3(factor=4), LLAMA31, ("the factor may only grow", "4 is below the base's own 8")),
        (Llama3(original_tokens=4096), LLAMA31, ("the base counts from 8Ki, and 4Ki was given",)),
        (Proportional(share=0.75), PARTIAL, ("the share may only shrink", "0.75 is above the base's 0.5")),
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
