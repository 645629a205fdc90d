"""Every method against golden values, against transformers, and against what it must refuse."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from ropewalk.core.error import UserError
from ropewalk.rope.method import BaseRope, Method
from ropewalk.rope.scaling import (
    Dynamic,
    Linear,
    LongRope,
    Nope,
    Ntk,
    Proportional,
    Resonance,
    Rope,
    Theta,
    Unchanged,
    legacy_hf,
    read_method,
)
from ropewalk.rope.yarn import Llama3, NtkByParts, Ramp, Yarn
from shared_folder import SHARED

GOLDEN = SHARED / "reference" / "golden_rope.json"
LLAMA2 = BaseRope(theta=1e4, head_dim=128, context_tokens=4096)

# Float64, computed from the formulas by a separate program; transformers 5.23 agrees to 4e-7.
YARN_16 = {
    20: 0.05623413252,
    21: 0.04694086000,
    30: 0.008526843773,
    32: 0.005673076923,
    45: 1.517716047e-4,
    46: 8.334508951e-5,
    63: 7.217387404e-6,
}
YARN_4 = {21: 0.04729203850, 30: 0.009488517883, 32: 0.006538461538, 45: 4.294025890e-4, 63: 2.886954962e-5}
LLAMA3_RATIOS = {28: 1, 29: 0.828168, 30: 0.643743, 31: 0.493507, 32: 0.371122, 33: 0.271425, 34: 0.190211, 35: 0.125}


@pytest.mark.parametrize(("factor", "expected"), [(16, YARN_16), (4, YARN_4)])
def test_yarn_frequencies(factor: int, expected: dict[int, float]) -> None:
    method = Yarn().complete(LLAMA2, factor * 4096)
    inv_freq = method.inv_freq(1e4, 128)
    assert {pair: inv_freq[pair] for pair in expected} == pytest.approx(expected, rel=1e-9)
    assert method.ramp_ends(1e4, 128) == (20, 46)


def test_yarn_ramps_over_indices_not_over_turns() -> None:
    # Eq. 18 of the paper, taken literally; at a factor of 32 it differs from what everybody runs by 296 %.
    plain = Unchanged().inv_freq(1e4, 128)
    kept = np.clip((4096 * plain / (2 * math.pi) - 1) / 31, 0, 1)
    literal = plain / 32 * (1 - kept) + plain * kept
    ours = Yarn().complete(LLAMA2, 32 * 4096).inv_freq(1e4, 128)
    assert (np.maximum(ours, literal) / np.minimum(ours, literal)).max() - 1 == pytest.approx(2.955, abs=1e-3)


@pytest.mark.parametrize(
    ("factor", "expected"), [(2, 1.0693147181), (4, 1.1386294361), (16, 1.2772588722), (128, 1.4852030264)]
)
def test_yarn_attention_factor(factor: int, expected: float) -> None:
    assert Yarn(factor=factor).attention_factor == pytest.approx(expected, rel=1e-10)
    assert NtkByParts(factor=factor).attention_factor == 1
    assert Yarn(factor=factor, fixed_attention_factor=1.5).attention_factor == 1.5
    assert Yarn(factor=factor, mscale=0.7, mscale_all_dim=0.7).attention_factor == 1


def test_llama3_blend() -> None:
    method = Llama3(factor=8).complete(BaseRope(5e5, 128, 8192), 131072)
    ratio = method.inv_freq(5e5, 128) / Unchanged().inv_freq(5e5, 128)
    assert {pair: ratio[pair] for pair in LLAMA3_RATIOS} == pytest.approx(LLAMA3_RATIOS, abs=1e-6)


def test_proportional_keeps_the_highest_frequencies() -> None:
    inv_freq = Proportional(share=0.5).inv_freq(1e4, 16)
    assert inv_freq.tolist() == pytest.approx([1, 10**-0.5, 0.1, 10**-1.5, 0, 0, 0, 0])


@pytest.mark.skipif(not GOLDEN.exists(), reason="the reference file is not on this machine")
def test_golden_file() -> None:
    for case in json.loads(GOLDEN.read_text())["cases"]:
        method = read_method(case["rope_parameters"], where=case["name"])
        inv_freq = method.inv_freq(1.5, case["head_dim"])  # a completed method carries its own theta
        expected = {int(pair): value for pair, value in case["inv_freq_fp64"].items()}
        assert {pair: inv_freq[pair] for pair in expected} == pytest.approx(expected, rel=1e-6), case["name"]
        assert method.attention_factor == pytest.approx(case["attention_scaling"])
        if "low" in case:
            assert isinstance(method, Ramp)
            assert method.ramp_ends(method.final_theta(1.5), case["head_dim"]) == (case["low"], case["high"])


bases = st.builds(
    BaseRope,
    theta=st.floats(1e3, 1e8),
    head_dim=st.integers(2, 128).map(lambda half: 2 * half),
    context_tokens=st.integers(64, 65536),
)
ramps = {
    "beta_fast": st.floats(8, 64),
    "beta_slow": st.floats(0.25, 4),
    "truncate": st.booleans(),
}
methods = st.one_of(
    st.just(Unchanged()),
    st.builds(Theta, theta=st.floats(1e8, 1e10)),
    st.just(Linear()),
    st.builds(Linear, factor=st.floats(1, 64)),
    st.just(Ntk()),
    st.builds(NtkByParts, **ramps),
    st.builds(Yarn, **ramps),
    st.builds(Yarn, theta=st.floats(1e8, 1e10), fixed_attention_factor=st.floats(0.5, 2)),
    st.builds(Yarn, mscale=st.floats(0.1, 2), mscale_all_dim=st.floats(0.1, 2)),
    st.builds(Llama3, low_freq_factor=st.floats(0.5, 2), high_freq_factor=st.floats(2.5, 8)),
    st.builds(Proportional, share=st.floats(0.1, 1), factor=st.floats(1, 8)),
    st.just(Nope()),
    st.builds(Dynamic, factor=st.floats(1, 8)),
    st.builds(Resonance, of=st.sampled_from([Unchanged(), Linear(), Ntk(), Yarn(), Llama3(), Theta(theta=1e9)])),
    st.builds(
        lambda seed, fixed: SeededLongRope(long_factor=(1.0,), theta=1e9, fixed_attention_factor=fixed, seed=seed),
        seed=st.integers(0, 99),
        fixed=st.none() | st.floats(0.5, 2),
    ),
)


class SeededLongRope(LongRope):
    """A longrope that draws its lists when it meets a head, as many factors as that has pairs."""

    seed: int

    def complete(self, base: BaseRope, context_tokens: int) -> Method:
        lists = np.random.default_rng(self.seed).uniform(0.5, 64, (2, base.head_dim // 2)).tolist()
        values = self.model_dump(exclude={"seed"}) | {"short_factor": lists[0], "long_factor": lists[1]}
        return LongRope.model_validate(values).complete(base, context_tokens)


def their_config(parameters: dict[str, Any], head_dim: int, config_tokens: int) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        head_dim=head_dim,
        max_position_embeddings=config_tokens,
        rope_parameters=dict(parameters),
    )


def ask_transformers(config: LlamaConfig, tokens: int | None = None) -> tuple[np.ndarray, float]:
    """Their frequencies for a sequence of ``tokens``; as a model is built where that is None."""
    rope_type = config.rope_parameters["rope_type"]
    if rope_type == "default":
        inv_freq, attention_factor = LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    else:
        inv_freq, attention_factor = ROPE_INIT_FUNCTIONS[rope_type](config, seq_len=tokens)
    return inv_freq.double().numpy(), attention_factor


@given(base=bases, method=methods, times=st.floats(1, 64))
@settings(max_examples=250, deadline=None)
def test_transformers_agrees(base: BaseRope, method: Method, times: float) -> None:
    context_tokens = int(times * base.context_tokens)
    method = method.complete(base, context_tokens)
    parameters = method.to_hf(base.theta)
    config = their_config(parameters, base.head_dim, method.config_tokens(context_tokens))
    theirs, attention_factor = ask_transformers(config)
    # transformers computes in float32: at theta 1e10 its exponent alone is off by 23 * 6e-8, a ramp adds rounding,
    # and a llama3 whose blend is narrow most of all (1.02e-5 between 1.95 and 2.5 turns).
    np.testing.assert_allclose(method.inv_freq(base.theta, base.head_dim), theirs, rtol=2e-5, atol=1e-12)
    assert method.attention_factor == pytest.approx(attention_factor, rel=1e-12)
    for tokens in (1, base.context_tokens, base.context_tokens + 1, context_tokens, 3 * context_tokens):
        theirs, _ = ask_transformers(config, tokens)
        ours = method.inv_freq_at(tokens, base.theta, base.head_dim)
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-12, err_msg=str(tokens))
    assert parameters["rope_theta"] == method.final_theta(base.theta)
    assert np.array_equal(
        method.inv_freq(method.final_theta(base.theta), base.head_dim), method.inv_freq(base.theta, base.head_dim)
    )


@given(base=bases, method=methods)
@settings(max_examples=100, deadline=None)
def test_both_dialects_say_the_same(base: BaseRope, method: Method) -> None:
    method = method.complete(base, 4 * base.context_tokens)
    parameters = method.to_hf(base.theta)
    # What readers of a folder know besides: where a dynamic begins to move.
    known = {"original_max_position_embeddings": base.context_tokens} if method.kind == "dynamic" else {}
    again = read_method(parameters | known, where="test")
    assert read_method(json.loads(json.dumps(parameters)) | known, where="test") == again
    for tokens in (base.context_tokens, 4 * base.context_tokens):
        theirs = again.inv_freq_at(tokens, 1.5, base.head_dim)
        ours = method.inv_freq_at(tokens, base.theta, base.head_dim)
        np.testing.assert_allclose(theirs, ours, rtol=1e-14, atol=1e-12)
    assert again.attention_factor == method.attention_factor
    legacy = legacy_hf(parameters)
    config = LlamaConfig(head_dim=base.head_dim, max_position_embeddings=4 * base.context_tokens, **legacy)
    assert {key: config.rope_parameters[key] for key in parameters} == parameters
    assert ("rope_scaling" in legacy) == (parameters["rope_type"] != "default")


def test_complete_fills_what_is_open_and_keeps_what_is_given() -> None:
    assert Yarn().complete(LLAMA2, 16384) == Yarn(theta=1e4, factor=4, original_tokens=4096)
    assert Yarn(factor=8, original_tokens=2048).complete(LLAMA2, 16384).factor == 8
    assert Llama3(original_tokens=2048).complete(LLAMA2, 16384).factor == 8
    assert Ntk(factor=16).complete(LLAMA2, 8192).theta == pytest.approx(167_198.74)
    assert Theta(theta=1e6).complete(LLAMA2, 16384).final_theta(1e4) == 1e6
    completed = Ntk().complete(LLAMA2, 16384)
    assert completed.complete(LLAMA2, 16384) == completed


def test_unchanged_runs_what_the_base_runs() -> None:
    assert Unchanged().complete(LLAMA2, 1024) == Unchanged()
    running = Llama3(theta=5e5, factor=8, original_tokens=8192)
    assert Unchanged().complete(BaseRope(5e5, 128, 131072, running), 131072) == running


def test_a_recipe_names_a_method_by_kind() -> None:
    adapter: TypeAdapter[Rope] = TypeAdapter(Rope)
    assert adapter.validate_python({"kind": "theta", "theta": 1e6}) == Theta(theta=1e6)
    assert adapter.validate_python({"kind": "yarn", "original_tokens": "4Ki"}) == Yarn(original_tokens=4096)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"kind": "theta"}, "theta"),
        ({"kind": "theta", "theta": math.inf}, "finite"),
        ({"kind": "theta", "theta": math.nan}, "finite"),
        ({"kind": "theta", "theta": 0.5}, "greater than 1"),
        ({"kind": "linear", "factor": 0.5}, "greater than or equal to 1"),
        ({"kind": "yarn", "beta_fast": 1, "beta_slow": 2}, "beta_fast (1) must not be less than beta_slow (2)"),
        ({"kind": "yarn", "mscale": 0.7}, "go together"),
        ({"kind": "llama3", "low_freq_factor": 4}, "high_freq_factor (4) must be larger"),
        ({"kind": "proportional", "share": 0}, "greater than 0"),
        ({"kind": "unchanged", "theta": 1e6}, "Extra inputs"),
        ({"kind": "dynamic", "factor": 0.5}, "greater than or equal to 1"),
        ({"kind": "longrope"}, "give long_factor, or search: {}"),
        ({"kind": "longrope", "long_factor": [1, -2]}, "-2"),
        ({"kind": "longrope", "long_factor": [1, 2], "short_factor": [1]}, "1 short factor and 2 long factors"),
        ({"kind": "longrope", "search": {"population": 4, "parents": 8}}, "8 parents cannot be chosen"),
        ({"kind": "resonance", "of": {"kind": "dynamic"}}, "dynamic"),
        ({"kind": "axial"}, "axial"),
    ],
)
def test_a_recipe_cannot_say(values: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Rope).validate_python(values)
    assert word in str(caught.value)


@pytest.mark.parametrize(
    ("method", "base", "context", "words"),
    [
        (Theta(theta=5e3), LLAMA2, 16384, ("5000", "10000")),
        (Yarn(theta=5e3), LLAMA2, 16384, ("5000", "10000")),
        (Linear(), LLAMA2, 2048, ("2Ki", "4Ki")),
        (Linear(), BaseRope(1e4, 5, 4096), 16384, ("head_dim is 5",)),
        (Unchanged(), BaseRope(1e4, 5, 4096), 16384, ("head_dim is 5",)),
        (Ntk(), BaseRope(1e4, 2, 4096), 16384, ("head_dim is 2",)),
        (Ntk(theta=1e6), LLAMA2, 16384, ("1e+06", "40889.942")),
    ],
)
def test_refusals_name_their_figures(method: Method, base: BaseRope, context: int, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        method.complete(base, context)
    for word in words:
        assert word in str(caught.value)
