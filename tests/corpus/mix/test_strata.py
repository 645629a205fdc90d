"""Languages and lengths have the weights they were given, within every source, at every prefix."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from made_texts import han, sentence
from plain_mix import source_shares
from ropewalk.core.error import UserError
from ropewalk.core.record import Role
from ropewalk.corpus.mix.dataset import Dataset, open_dataset
from ropewalk.corpus.mix.strata import Stratum, share_out
from ropewalk.corpus.mix_rules import MixRules
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.store import StoredDocuments
from ropewalk.corpus.tokens.tokenizer import Tokenizer

CONTEXT = 512


def stratum(source: str, tokens: int, language: str | None = None, shortest: int | None = None) -> Stratum:
    documents = StoredDocuments((), np.zeros(1, dtype=np.int64))
    return Stratum(source, language, shortest, documents, np.array([tokens], dtype=np.int64))


def shares(
    strata: list[Stratum], mix: Mapping[str, float], rules: MixRules, roles: Mapping[str, Role], most: list[float]
) -> dict[str, float]:
    return {stratum.name: stratum.share for stratum in share_out(strata, mix, rules, roles=roles, most=most)}


@given(sizes=st.lists(st.integers(1, 10**9), min_size=3, max_size=3), weights=st.tuples(*[st.floats(0.01, 9)] * 2))
def test_without_rules_shares_are_the_old_ones_to_the_bit(sizes: list[int], weights: tuple[float, float]) -> None:
    roles: dict[str, Role] = {"web": "general", "books": "general", "law": "domain"}
    tokens = dict(zip(roles, sizes, strict=True))
    mix = dict(zip(("general", "domain"), weights, strict=True))
    found = shares([stratum(name, size) for name, size in tokens.items()], mix, MixRules(), roles, [1.0] * 3)
    assert found == source_shares(mix, roles=roles, tokens=tokens)


def test_shares_multiply_down_the_tree() -> None:
    roles: dict[str, Role] = {"web": "general", "books": "general"}
    strata = [
        stratum("web", 300, "zh", 0), stratum("web", 100, "zh", 1024), stratum("web", 50, "other", 0),
        stratum("books", 600, "zh", 1024),
    ]  # fmt: skip
    rules = MixRules(languages={"zh": 3, "other": 1}, lengths={0: 1, 1024: 4})
    found = shares(strata, {"general": 5}, rules, roles, [1.0] * 4)
    assert found == pytest.approx(
        {"web/zh/0": 0.75 * 0.4 * 0.2, "web/zh/1Ki": 0.75 * 0.4 * 0.8, "web/other/0": 0.25, "books/zh/1Ki": 0.75 * 0.6}
    )


def test_what_a_dry_strand_cannot_give_its_nearest_give() -> None:
    roles: dict[str, Role] = {"web": "general", "law": "domain", "cases": "domain"}
    strata = [stratum("web", 700), stratum("law", 100), stratum("cases", 100)]
    spread, mix = MixRules(when_dry="spread"), {"general": 7, "domain": 3}
    assert shares(strata, mix, spread, roles, [9, 0.05, 9]) == pytest.approx({"web": 0.7, "law": 0.05, "cases": 0.25})
    assert shares(strata, mix, spread, roles, [9, 0.05, 0.1]) == pytest.approx({"web": 0.85, "law": 0.05, "cases": 0.1})
    with pytest.raises(UserError, match="the whole corpus runs dry"):
        shares(strata, mix, spread, roles, [0.5, 0.2, 0.2])


def test_a_weight_that_leaves_nothing_is_refused() -> None:
    rules = MixRules(lengths={0: 0, 1024: 1})
    with pytest.raises(UserError, match="text that is not there"):
        shares([stratum("web", 10, None, 0)], {"general": 1}, rules, {"web": "general"}, [1.0])
    found = shares(
        [stratum("web", 10, None, 0), stratum("books", 10, None, 1024)],
        {"general": 1}, rules, {"web": "general", "books": "general"}, [1.0] * 2,
    )  # fmt: skip
    assert found == {"books/1Ki": 1.0}  # nothing of the share is lost


@pytest.fixture(scope="module")
def mixed(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return build_mixed(tokenizer, tmp_path_factory.mktemp("mixed"))


def build_mixed(tokenizer: Tokenizer, folder: Path) -> Corpus:
    """One source of two languages and many lengths, and one of short documents alone."""
    records = [sentence(n, 40 + 700 * (n % 5 == 0)) if n % 2 else han(n, 80 + 2500 * (n % 6 == 0)) for n in range(240)]
    (folder / "web").mkdir()
    for n, text in enumerate(records):
        (folder / "web" / f"{n:03}.txt").write_text(text)
    (folder / "notes.txt").write_text(sentence(1, 200))
    (folder / "notes2.txt").write_text(sentence(2, 200))
    spec = CorpusSpec.model_validate(
        {
            "store": str(folder / "store"),
            "sources": [
                {"name": "web", "path": str(folder / "web"), "role": "general", "profile": "law"},
                {"name": "notes", "path": str(folder / "notes*.txt"), "role": "domain"},
            ],
            "mix": {"general": 9, "domain": 1},
            "near_duplicates": None,
            "held_out": 0,
        }
    )
    return open_corpus(build(spec, tokenizer=tokenizer, seed=0, folder=folder / "corpus"))


def dataset(corpus: Corpus, *, sequences: int = 120, max_repeats: float = 99, **rules: Any) -> Dataset:
    return open_dataset(
        corpus,
        mix={"general": 9, "domain": 1},
        context_tokens=CONTEXT,
        sequences=sequences,
        seed=0,
        stage=0,
        max_repeats=max_repeats,
        rules=MixRules.model_validate(rules),
    )


def test_rows_do_not_depend_on_where_the_text_lies(mixed: Corpus, tokenizer: Tokenizer, tmp_path: Path) -> None:
    here, there = dataset(mixed), dataset(build_mixed(tokenizer, tmp_path))
    assert here.digest == there.digest
    assert np.array_equal(here.batch(0, 120).tokens, there.batch(0, 120).tokens)


def test_lengths_and_languages_hold_at_every_prefix(mixed: Corpus) -> None:
    planned = dataset(mixed, languages={"zh": 1, "other": 3}, lengths={"0": 1, "512": 4})
    uses = {use.name: use for use in planned.strata}
    assert set(uses) == {"web/zh/0", "web/zh/512", "web/other/0", "web/other/512", "notes/other/0"}
    names = list(uses)
    counts = np.zeros((planned.sequences, len(names)))
    for sequence in range(planned.sequences):
        segments = planned.describe_sequence(sequence)
        lengths = {int(documents.lengths[document]) for documents, document, _, _ in segments}
        long = {length >= 512 for length in lengths}
        assert len(long) == 1  # a row is of long or of short documents
        tokens = sum(tokens for *_, tokens in segments)
        found = [name for name in names if _is_from(planned, sequence, name)]
        assert len(found) == 1
        counts[sequence, names.index(found[0])] = tokens
    total = counts.cumsum(axis=0)
    share = np.array([uses[name].planned for name in names])
    off = np.abs(total - share * total.sum(axis=1, keepdims=True))
    assert off.max() <= 2 * CONTEXT  # one row between sources, one between the strata of a source
    assert total[-1].astype(int).tolist() == [uses[name].tokens for name in names]
    web = [number for number, name in enumerate(names) if name.startswith("web")]
    inside = share[web] / share[web].sum()
    given_tokens = total[:, web]
    assert np.abs(given_tokens - inside * given_tokens.sum(axis=1, keepdims=True)).max() <= CONTEXT
    realised = planned.realised(planned.sequences)
    assert realised["web"] / sum(realised.values()) == pytest.approx(0.9, abs=CONTEXT / sum(realised.values()))


def _is_from(planned: Dataset, sequence: int, name: str) -> bool:
    documents = planned.describe_sequence(sequence)[0][0]
    source = next(each for each in planned._sequences if each.name == planned.source_of(sequence))
    return any(each.stratum.name == name and each.stratum.documents is documents for each in source.strata)


def test_a_language_without_a_weight_is_named(mixed: Corpus) -> None:
    with pytest.raises(UserError, match="a language has no weight") as caught:
        dataset(mixed, languages={"zh": 1})
    assert caught.value.why == "documents without one: en 120"


def test_spreading_keeps_every_strand_within_its_repeats(mixed: Corpus) -> None:
    notes = mixed.facts("notes").tokens
    sequences = 12 * notes * 2 // CONTEXT  # a tenth of it is more than twice the notes
    with pytest.raises(UserError, match="source notes runs dry"):
        dataset(mixed, sequences=sequences * 2, max_repeats=2)
    planned = dataset(mixed, sequences=sequences * 2, max_repeats=2, when_dry="spread")
    assert planned.repeats["notes"] <= 2 + CONTEXT / notes
    assert sum(planned.planned.values()) == pytest.approx(1) and planned.planned["notes"] < 0.1


def test_a_line_has_no_padding_and_says_what_it_cuts(mixed: Corpus) -> None:
    fitted, chunked = dataset(mixed, sequences=60), dataset(mixed, sequences=60, packing="chunk")
    assert fitted.digest != chunked.digest

    def padded_rows(planned: Dataset) -> int:
        return sum(
            planned.source_of(sequence) == "web" and sum(planned.document_tokens(sequence)) < CONTEXT
            for sequence in range(60)
        )

    assert padded_rows(chunked) <= 1 < padded_rows(fitted)  # in 60 rows of 497 the line ends once at most
    assert sum(use.cut_documents for use in fitted.strata) == 0 < sum(use.cut_documents for use in chunked.strata)


def test_truncated_documents_are_counted(mixed: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    short = Corpus(**{**vars(mixed), "long_documents": dict.fromkeys(mixed.sources, "truncate")})
    planned = dataset(short, sequences=20)
    lengths = mixed.train("web").lengths
    assert planned.beyond_sequence["web"].tokens == int(np.maximum(lengths - CONTEXT, 0).sum()) > 0
    assert all(start == 0 for sequence in range(20) for _, _, start, _ in planned.describe_sequence(sequence))


@pytest.mark.parametrize(
    "rules",
    [{"lengths": {"8Ki": 1}}, {"lengths": {"0": -1, "8Ki": 1}}, {"languages": {"zh": 0}}, {"languages": {"zh": "nan"}}],
)
def test_rules_that_make_no_sense_are_refused(rules: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        MixRules.model_validate(rules)


@given(weights=st.tuples(*[st.floats(0.1, 9)] * 2), sequences=st.integers(1, 60))
@settings(max_examples=8, deadline=None)
def test_a_longer_plan_begins_with_the_shorter_one(mixed: Corpus, weights: tuple[float, float], sequences: int) -> None:
    rules = {"lengths": {0: weights[0], 512: weights[1]}}
    short, long = dataset(mixed, sequences=sequences, **rules), dataset(mixed, sequences=60, **rules)
    for sequence in range(sequences):
        assert [segment[1:] for segment in short.describe_sequence(sequence)] == [
            segment[1:] for segment in long.describe_sequence(sequence)
        ]
