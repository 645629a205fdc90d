"""Rows are a pure function of the cursor, in proportion at every prefix, and every label is true."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ropewalk.core.error import UserError
from ropewalk.core.record import Batch
from ropewalk.corpus.mix import mixture
from ropewalk.corpus.mix import sequences as sequences_module
from ropewalk.corpus.mix.dataset import Dataset, open_dataset
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.long_documents import BeyondSequence
from ropewalk.corpus.tokens.tokenizer import Tokenizer

MIX = {"general": 7, "domain": 2, "instruction": 1}
CONTEXT = 512
FIELDS = Batch.__slots__


def dataset(corpus: Corpus, *, sequences: int = 100, seed: int = 0, stage: int = 0, **changes: object) -> Dataset:
    keys = {"mix": MIX, "context_tokens": CONTEXT, "max_repeats": 4, **changes}
    return open_dataset(corpus, sequences=sequences, seed=seed, stage=stage, **keys)  # type: ignore[arg-type]


def equal(first: Batch, second: Batch) -> bool:
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in FIELDS)


def test_batches_do_not_depend_on_how_a_run_is_cut(corpus: Corpus) -> None:
    whole = dataset(corpus).batch(0, 100)
    for sequences in (1, 3, 7, 50):
        again = dataset(corpus)
        parts = [again.batch(cursor, min(sequences, 100 - cursor)) for cursor in reversed(range(0, 100, sequences))][
            ::-1
        ]
        joined = Batch(*(np.concatenate([getattr(part, name) for part in parts]) for name in FIELDS))
        assert equal(whole, joined)


def test_a_longer_plan_has_the_same_rows(corpus: Corpus) -> None:
    short, long = dataset(corpus, sequences=40), dataset(corpus, sequences=100)
    assert equal(short.batch(0, 40), long.batch(0, 40)) and short.digest == long.digest


def test_seed_stage_and_length_change_the_rows(corpus: Corpus) -> None:
    plain = dataset(corpus)
    for other in (dataset(corpus, seed=1), dataset(corpus, stage=1)):
        assert not equal(plain.batch(0, 10), other.batch(0, 10)) and plain.digest != other.digest
    assert dataset(corpus, context_tokens=256).digest != plain.digest


def test_the_ratio_holds_at_every_prefix(corpus: Corpus) -> None:
    planned = dataset(corpus, sequences=200)
    batch = planned.batch(0, 200)
    shares = np.array([planned.planned[name] for name in planned.sources])
    assert shares == pytest.approx([0.7, 0.2, 0.1])
    counts = np.stack([(batch.source == number).sum(axis=1) for number in range(3)], axis=1)
    assert ((counts > 0).sum(axis=1) == 1).all()  # a row comes from one source
    given_tokens = counts.cumsum(axis=0)
    assert np.abs(given_tokens - shares * given_tokens.sum(axis=1, keepdims=True)).max() <= CONTEXT
    for cursor in (0, 1, 77, 200):
        realised = [0, 0, 0] if cursor == 0 else given_tokens[cursor - 1].tolist()
        assert list(planned.realised(cursor).values()) == realised
    assert planned.padding_tokens == (batch.document < 0).sum()


def test_rows_do_not_depend_on_the_blocks_in_which_they_are_held(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for block in (1 << 16, 2):
        monkeypatch.setattr(sequences_module, "_BLOCK_SEQUENCES", block)
        monkeypatch.setattr(mixture, "_BLOCK_SEQUENCES", block)
        planned = dataset(corpus)
        found.append(
            ([planned.describe_sequence(row)[0][1:] for row in range(planned.sequences)], planned.most_sequences_off)
        )
    assert found[0] == found[1]
    given = np.array([[*planned.realised(row).values()] for row in range(1, planned.sequences + 1)])
    ideal = np.array([planned.planned[name] for name in planned.sources]) * given.sum(axis=1, keepdims=True)
    assert planned.most_sequences_off == pytest.approx(np.abs(given - ideal).max() / CONTEXT)


def test_an_epoch_has_every_token_once(corpus: Corpus, tokenizer: Tokenizer) -> None:
    tokens = corpus.facts("prose").tokens
    planned = dataset(corpus, mix={"prose": 1}, sequences=2 * tokens // CONTEXT)
    batch = planned.batch(0, planned.sequences)
    ends = np.cumsum((batch.document >= 0).sum(axis=1))
    epoch = int(np.searchsorted(ends, tokens)) + 1
    assert ends[epoch - 1] == tokens
    segments = [
        batch.tokens[sequence][batch.document[sequence] == order]
        for sequence in range(epoch)
        for order in range(batch.document[sequence].max() + 1)
    ]
    expected = [ids[at : at + CONTEXT] for ids in corpus.train("prose") for at in range(0, len(ids), CONTEXT)]
    assert sorted(map(bytes, segments)) == sorted(ids.astype(np.int32).tobytes() for ids in expected)
    assert not np.array_equal(batch.tokens[:epoch], batch.tokens[epoch : 2 * epoch])  # reshuffled
    assert planned.repeats["prose"] == pytest.approx(2, abs=0.1)


def test_labels_weights_positions_and_documents_agree(corpus: Corpus, tokenizer: Tokenizer) -> None:
    planned = dataset(corpus, sequences=60)
    batch = planned.batch(0, 60)
    texts = {
        name: {ids.tobytes(): mask for ids, mask in map(corpus.train(name).read, range(len(corpus.train(name))))}
        for name in corpus.sources
    }
    for sequence in range(60):
        document = batch.document[sequence]
        padding = document < 0
        assert (batch.weights[sequence][padding] == 0).all() and (batch.source[sequence][padding] == -1).all()
        assert (np.diff(document[~padding]) >= 0).all() and not padding[: (~padding).sum()].any()
        for order in range(document.max() + 1):
            here = np.flatnonzero(document == order)
            assert (batch.positions[sequence][here] == np.arange(len(here))).all()
            assert (batch.labels[sequence][here[:-1]] == batch.tokens[sequence][here[1:]]).all()
            assert batch.weights[sequence][here[-1]] == 0  # what follows is another piece: its first token is no label
            ids = batch.tokens[sequence][here]
            mask = texts[planned.sources[batch.source[sequence][here[0]]]].get(ids.astype(np.uint16).tobytes())
            if mask is not None:  # a whole document
                assert (batch.weights[sequence][here[:-1]] == mask[1:]).all()


def test_only_answers_are_trained_on(corpus: Corpus, tokenizer: Tokenizer) -> None:
    batch = dataset(corpus, mix={"pairs": 1}, sequences=5).batch(0, 5)
    for sequence in range(5):
        first = batch.document[sequence] == 0
        answer = tokenizer.decode(batch.labels[sequence][first & (batch.weights[sequence] == 1)])
        question, expected = tokenizer.decode(batch.tokens[sequence][first]).split("\n")
        assert answer == expected and len(question.split(" ")) == 12


def test_long_documents_can_be_dropped_and_are_counted(spec: CorpusSpec, tokenizer: Tokenizer, tmp_path: Path) -> None:
    dropping = CorpusSpec.model_validate({**spec.model_dump(), "long_documents": "drop"})
    corpus = open_corpus(build(dropping, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus"))
    planned = dataset(corpus, mix={"domain": 1}, sequences=4, max_repeats=9)
    lengths = corpus.train("han").lengths
    long = lengths > CONTEXT
    assert planned.beyond_sequence == {"han": BeyondSequence(int(long.sum()), 0, int(lengths[long].sum()))}
    assert planned.beyond_sequence["han"].left_out > 0
    batch = planned.batch(0, 4)
    assert all(batch.tokens[sequence][batch.document[sequence] == 0][-1] == corpus.eos_id for sequence in range(4))


def test_a_source_that_runs_dry_is_named_with_the_cure(corpus: Corpus) -> None:
    with pytest.raises(UserError, match="source pairs runs dry") as caught:
        dataset(corpus, mix={"general": 1, "instruction": 1}, sequences=600, max_repeats=2)
    assert "2 times" in caught.value.why
    share = float(caught.value.fix.split("at most ")[1].split("%")[0]) / 100
    repeats = float(caught.value.fix.split(" ")[-1])
    dataset(corpus, mix={"general": 1 - share, "instruction": share}, sequences=600, max_repeats=9)
    dataset(corpus, mix={"general": 1, "instruction": 1}, sequences=600, max_repeats=repeats)


@given(weights=st.tuples(*[st.floats(0.05, 1)] * 3), context_tokens=st.sampled_from([64, 300, 2048]))
@settings(max_examples=10, deadline=None)
def test_any_mix_holds_at_any_length(corpus: Corpus, weights: tuple[float, ...], context_tokens: int) -> None:
    planned = dataset(
        corpus,
        mix=dict(zip(MIX, weights, strict=True)),
        sequences=50,
        context_tokens=context_tokens,
        max_repeats=1000,
    )
    for cursor in range(51):
        realised = planned.realised(cursor)
        total = sum(realised.values())
        assert all(abs(realised[name] - planned.planned[name] * total) <= context_tokens for name in realised)
