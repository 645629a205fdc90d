"""Counts of what returns, against a search of every place, and estimates against gains that are known."""

import math

import numpy as np
import pytest

from ropewalk.evaluate.gain_regression import SampledBlocks, count_repeats, estimate_gains, find_rarity


def count_slowly(tokens: list[int], near: int, rarity: np.ndarray) -> list[list[float]]:
    rows = []
    for at in range(len(tokens)):

        def before(length: int, at: int = at) -> list[int]:
            """How far back the run that ends at ``at`` stood before."""
            if at - length + 1 < 0:
                return []
            run = tokens[at - length + 1 : at + 1]
            return [at - end for end in range(length - 1, at) if tokens[end - length + 1 : end + 1] == run]

        row: list[float] = []
        for length in (1, 2, 3, 4):
            back = before(length)
            far, close = any(each > near for each in back), any(each <= near for each in back)
            row += [far and not close, far and close, close and not far, math.log(1 + len(back)) * (far and not close)]
            if length < 3:
                row.append((far and not close) * rarity[tokens[at]])
        for length in (1, 2, 3):
            context = before(length, at - 1) if at else []
            run, is_far = before(length + 1), any(each > near for each in context)
            share = len(run) / len(context) if context else 0
            row += [share * (is_far and not any(each <= near for each in run)), (1 - share) * is_far]
        rows.append([*map(float, row), float(rarity[tokens[at]])])
    return rows


@pytest.mark.parametrize("length", [1, 3, 120])
def test_what_returns_is_counted_as_by_a_search_of_every_place(length: int) -> None:
    random = np.random.default_rng(length)
    tokens = np.concatenate([random.integers(0, 7, length), random.integers(0, 7, length)[: length // 2]])
    tokens = np.concatenate([tokens, tokens[: length // 2]])
    rarity = find_rarity([tokens, np.array([9])])
    assert len(rarity) == 10 and rarity.argmin() == np.bincount(tokens).argmax()
    found = count_repeats(tokens, truncated_tokens=16, rarity=rarity)
    assert np.allclose(found, count_slowly(tokens.tolist(), 14, rarity))


@pytest.mark.parametrize(("length", "section"), [(60, 20), (65, 20), (7, 3), (9, 1), (4, 9), (0, 5)])
def test_sections_are_counted_as_texts_by_themselves(length: int, section: int) -> None:
    tokens = np.random.default_rng(length).integers(0, 3, length)
    known = {"truncated_tokens": 4, "rarity": find_rarity([np.arange(3)])}
    found = count_repeats(tokens, section_tokens=section, **known)
    parts = [count_repeats(tokens[at : at + section], **known) for at in range(0, length, section)]
    assert np.array_equal(found, np.concatenate([np.empty((0, found.shape[1])), *parts]))
    assert length < 60 or not np.array_equal(found, count_repeats(tokens, **known))


def add_flag(counts: np.ndarray, shorter: np.ndarray | float = 0.0) -> np.ndarray:
    """Counts with a last one that says whether truncated context was shorter."""
    return np.concatenate([counts, np.broadcast_to(shorter, len(counts))[:, None]], axis=1)


def test_estimates_order_documents_better_than_their_few_blocks() -> None:
    """A gain that follows one count, a rest of each document's own, and much noise within it."""
    random, documents, windows, size = np.random.default_rng(5), 200, 4, 8
    whole, source = random.normal(0, 1, (documents, 3)), random.integers(0, 2, documents)
    truth = 0.3 * whole[:, 0] + 0.4 * source + random.normal(0, 0.1, documents)
    window = np.repeat(np.arange(documents * windows), 4)
    document = window // windows
    counts = whole[document] + random.normal(0, 1, (len(window), 3))
    own = truth[document] + 0.3 * (counts - whole[document])[:, 0]
    drift = random.normal(0, 0.2, documents * windows)[window]
    gain = own + drift + random.normal(0, 0.8, len(window))
    blocks = SampledBlocks(document, window, np.full(len(window), float(size)), gain, add_flag(counts))
    found = estimate_gains(blocks, add_flag(whole), np.full(documents, 4000.0), source)
    plain = np.bincount(document, weights=gain) / np.bincount(document)
    closer = [float(np.corrcoef(each, truth)[0, 1]) for each in (found.gain, plain)]
    assert closer[0] > 0.95 and closer[1] < closer[0] - 0.05
    inside = np.abs(found.gain - truth) <= 1.96 * found.error
    assert 0.75 < inside.mean() < 0.99


def test_few_documents_have_intervals_that_hold_the_truth() -> None:
    """Of ten documents with one window each the variance between them is estimated as 0 in most draws."""
    inside, widths = [], []
    for seed in range(40):
        random, documents = np.random.default_rng(seed), 10
        whole, document = random.normal(0, 1, (documents, 2)), np.repeat(np.arange(documents), 4)
        truth = 0.1 * whole[:, 0] + random.normal(0, 0.1, documents)
        gain = truth[document] + random.normal(0, 0.5, len(document))
        blocks = SampledBlocks(document, document, np.full(len(document), 8.0), gain, add_flag(whole[document]))
        found = estimate_gains(blocks, add_flag(whole), np.full(documents, 4000.0), np.zeros(documents, dtype=np.int64))
        inside.append(np.abs(found.gain - truth) <= 1.96 * found.error)
        widths.append(found.error.min())
    assert min(widths) > 0 and np.mean(inside) > 0.85


def test_blocks_with_shorter_context_shift_no_source() -> None:
    """What shorter context adds is 0.4 nats in one source, nothing in the other, and depends on a count."""
    bias, inside = [], []
    for seed in range(20):
        random, documents, windows = np.random.default_rng(seed), 40, 12
        whole, source = random.normal(0, 0.3, (documents, 2)), np.arange(documents) % 2
        truth = 0.2 * whole[:, 0] + 0.1 * source + random.normal(0, 0.03, documents)
        window = np.repeat(np.arange(documents * windows), 4)
        document, shorter = window // windows, np.tile([1.0, 1.0, 0.0, 0.0], documents * windows)
        counts = whole[document] + random.normal(0, 1, (len(window), 2))
        gain = truth[document] + 0.2 * (counts - whole[document])[:, 0] + random.normal(0, 0.4, len(window))
        gain += shorter * (0.4 * source[document] + 0.2 * counts[:, 1])
        blocks = SampledBlocks(document, window, np.full(len(window), 8.0), gain, add_flag(counts, shorter))
        found = estimate_gains(blocks, add_flag(whole), np.full(documents, 4000.0), source)
        bias.append([(found.gain - truth)[source == number].mean() for number in (0, 1)])
        inside.append(np.abs(found.gain - truth) <= 1.96 * found.error)
    assert np.abs(np.mean(bias, axis=0)).max() < 0.01 and 0.92 < np.mean(inside) < 0.98


def test_an_error_has_the_part_of_the_regression() -> None:
    """Documents differ by their counts alone, and by more than blocks show: the error is that of the factors, without
    whose part 58 % of the intervals hold the gain."""
    inside = []
    for seed in range(40):
        random, documents, features = np.random.default_rng(seed), 24, 12
        whole, document = random.normal(0, 1, (documents, features)), np.repeat(np.arange(documents), 8)
        factors = random.normal(0, 0.1, features)
        counts = 0.3 * whole[document] + random.normal(0, 0.5, (len(document), features))
        gain = counts @ factors + random.normal(0, 0.5, len(document))
        window = np.arange(len(document)) // 4
        blocks = SampledBlocks(document, window, np.full(len(document), 8.0), gain, add_flag(counts))
        found = estimate_gains(blocks, add_flag(whole), np.full(documents, 4000.0), np.zeros(documents, dtype=np.int64))
        inside.append(np.abs(found.gain - whole @ factors) <= 1.96 * found.error)
    assert np.mean(inside) > 0.9


def test_a_document_that_was_read_whole_keeps_its_gain() -> None:
    random = np.random.default_rng(6)
    document = np.repeat(np.arange(20), 8)
    gain = random.normal(0, 1, 160)
    counts = add_flag(random.normal(0, 1, (160, 2)))
    blocks = SampledBlocks(document, np.arange(160) // 4, np.full(160, 8.0), gain, counts)
    counts = counts.reshape(20, 8, 3).mean(axis=1)
    found = estimate_gains(blocks, counts, np.full(20, 64.0), np.zeros(20, dtype=np.int64))
    assert np.allclose(found.gain, gain.reshape(20, 8).mean(axis=1)) and found.error.max() < 1e-12
