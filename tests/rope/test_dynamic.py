"""Dynamic NTK and LongRoPE: which length decides, against figures of the papers and of other programs."""

import numpy as np
import pytest

from ropewalk.core.error import UserError
from ropewalk.rope.dynamic import Dynamic, LongRope, longrope_attention
from ropewalk.rope.frequency import ntk_theta, plain_inv_freq
from ropewalk.rope.longrope_search import Search
from ropewalk.rope.method import BaseRope

LLAMA2 = BaseRope(theta=1e4, head_dim=128, context_tokens=4096)
SMALL = BaseRope(theta=1e4, head_dim=4, context_tokens=4096)


def test_dynamic_moves_with_the_document_and_only_beyond_the_original() -> None:
    method = Dynamic().complete(LLAMA2, 16384)
    assert method == Dynamic(theta=1e4, original_tokens=4096)
    plain = plain_inv_freq(1e4, 128)
    for tokens in (1, 4095, 4096):
        assert np.array_equal(method.inv_freq_at(tokens, 1e4, 128), plain)
    assert np.array_equal(method.inv_freq(1e4, 128), plain)
    for times in (2, 4, 8):  # a factor of 1 is NTK-aware interpolation of just that length
        expected = plain_inv_freq(ntk_theta(1e4, 128, times), 128)
        assert method.inv_freq_at(times * 4096, 1e4, 128) == pytest.approx(expected, rel=1e-14)


def test_dynamic_factor() -> None:
    # By hand: 2 * 8192 / 4096 - 1 = 3, so the slowest pair turns 3 times slower.
    method = Dynamic(factor=2).complete(LLAMA2, 8192)
    slowest = method.inv_freq_at(8192, 1e4, 128)[-1]
    assert plain_inv_freq(1e4, 128)[-1] / slowest == pytest.approx(3)


def test_a_dynamic_folder_keeps_the_length_of_its_base() -> None:
    method = Dynamic().complete(LLAMA2, 16384)
    assert method.config_tokens(16384) == 4096
    following = method.as_base(1e4, head_dim=128, context_tokens=16384)
    assert following == BaseRope(1e4, 128, 4096, method)
    assert Dynamic().complete(following, 32768) == method, "what it does at 32Ki it would have done before"


@pytest.mark.parametrize(
    ("original", "factor", "expected"),
    [(2048, 4, 1.0871146), (4096, 4, 1.0801234), (4096, 8, 1.1180340), (4096, 32, 1.1902381), (8192, 16, 1.1435437)],
)
def test_longrope_attention(original: int, factor: int, expected: float) -> None:
    assert longrope_attention(factor, original) == pytest.approx(expected, abs=5e-8)
    method = LongRope(long_factor=(2.0, 4.0)).complete(BaseRope(1e4, 4, original), factor * original)
    assert method.attention_factor == longrope_attention(factor, original)
    assert longrope_attention(1.0, original) == 1


def test_longrope_divides_pairs_by_the_list_of_the_length() -> None:
    method = LongRope(short_factor=(1.0, 2.0), long_factor=(1.5, 8.0)).complete(SMALL, 16384)
    assert method.depends_on_length
    assert method.inv_freq(1e4, 4).tolist() == pytest.approx([1, 0.01 / 2])
    assert method.inv_freq_at(4096, 1e4, 4).tolist() == pytest.approx([1, 0.01 / 2])
    assert method.inv_freq_at(4097, 1e4, 4).tolist() == pytest.approx([1 / 1.5, 0.01 / 8])
    assert not LongRope(short_factor=(1.0, 2.0), long_factor=(1.0, 2.0)).depends_on_length


def test_longrope_leaves_short_documents_alone_unless_told() -> None:
    method = LongRope(long_factor=(1.5, 8.0)).complete(SMALL, 16384)
    assert method == LongRope(
        theta=1e4, short_factor=(1.0, 1.0), long_factor=(1.5, 8.0), original_tokens=4096, factor=4
    )


def test_longrope_counts_on_from_the_original() -> None:
    base = LongRope(short_factor=(1.1, 1.2), long_factor=(1.5, 8.0)).complete(SMALL, 16384)
    following = base.as_base(1e4, head_dim=4, context_tokens=16384)
    method = LongRope(long_factor=(2.0, 16.0)).complete(following, 32768)
    assert method == LongRope(
        theta=1e4, short_factor=(1.1, 1.2), long_factor=(2.0, 16.0), original_tokens=4096, factor=8
    )


@pytest.mark.parametrize(
    ("method", "base", "words"),
    [
        (LongRope(long_factor=(1.0, 2.0, 3.0)), SMALL, ("rope.long_factor", "there are 3", "2 pairs")),
        (LongRope(long_factor=(1.0, 2.0), short_factor=(1.0, 1.0)), LLAMA2, ("rope.short_factor", "64 pairs")),
        (LongRope(search=Search(population=8)), SMALL, ("no factors yet", "104 evaluations", "ropewalk run")),
        (Dynamic(), BaseRope(1e4, 2, 4096), ("dynamic needs two pairs", "head_dim is 2")),
    ],
)
def test_refusals(method: Dynamic | LongRope, base: BaseRope, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        method.complete(base, 16384)
    for word in words:
        assert word in str(caught.value)
