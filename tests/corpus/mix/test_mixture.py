"""The mix holds in tokens, within one row, at every prefix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plain_mix import source_shares
from ropewalk.core.error import UserError
from ropewalk.corpus.mix.mixture import schedule_sequences


@given(
    weights=st.lists(st.floats(0.001, 100), min_size=1, max_size=9),
    shortest=st.integers(1, 1000),
    seed=st.integers(0, 10),
)
@settings(max_examples=200, deadline=None)
def test_every_prefix_is_within_one_row(weights: list[float], shortest: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    shares = np.array(weights) / sum(weights)
    source, tokens = schedule_sequences(
        shares.tolist(),
        sequences=200,
        context_tokens=1000,
        next_sequence=lambda _: int(random.integers(shortest, 1001)),
    )
    given_tokens = np.zeros((200, len(shares)))
    given_tokens[np.arange(200), source] = tokens
    given_tokens = given_tokens.cumsum(axis=0)
    ideal = shares * given_tokens.sum(axis=1, keepdims=True)
    assert np.abs(given_tokens - ideal).max() < 1000


def test_a_longer_plan_begins_like_a_shorter_one() -> None:
    plans = [
        schedule_sequences([0.7, 0.2, 0.1], sequences=sequences, context_tokens=8, next_sequence=lambda _: 8)[0]
        for sequences in (50, 80)
    ]
    assert np.array_equal(plans[0], plans[1][:50])
    assert np.bincount(plans[0]).tolist() == [35, 10, 5]


def test_a_dry_source_ends_the_schedule() -> None:
    left = [100, 2]

    def next_sequence(source: int) -> int:
        left[source] -= 1
        return 8 if left[source] >= 0 else 0

    source, tokens = schedule_sequences([0.5, 0.5], sequences=50, context_tokens=8, next_sequence=next_sequence)
    assert source[-1] == 1 and tokens[-1] == 0 and (tokens[:-1] == 8).all() and (source[:-1] == 1).sum() == 2


def test_a_roles_weight_is_spread_by_size_unless_named() -> None:
    roles = {"web": "general", "books": "general", "law": "domain", "extra": "domain"}
    tokens = {"web": 300, "books": 100, "law": 50, "extra": 10}
    shares = source_shares({"general": 8, "domain": 1, "extra": 1}, roles=roles, tokens=tokens)
    assert shares == pytest.approx({"web": 0.6, "books": 0.2, "law": 0.1, "extra": 0.1})
    assert list(source_shares({"law": 1, "general": 0}, roles=roles, tokens=tokens)) == ["law"]


@pytest.mark.parametrize("mix", [{"poetry": 1.0}, {"instruction": 1.0}, {"empty": 1.0}])
def test_a_weight_without_text_is_refused(mix: dict[str, float]) -> None:
    with pytest.raises(UserError, match="text that is not there") as caught:
        source_shares(mix, roles={"web": "general", "empty": "domain"}, tokens={"web": 1, "empty": 0})
    assert "corpus inspect" in caught.value.fix and "empty" not in caught.value.fix, "it has been named already"
