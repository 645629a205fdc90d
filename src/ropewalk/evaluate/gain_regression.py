"""The gain of long documents from few sampled blocks and from what their tokens repeat (a small-area estimate).

A sample of a tenth has too few tokens to order documents: a document's gain spreads by 0.2 nats, one token's by 1.4.
But most of the gain comes from what stands far before and returns, and that is counted without a model. So the gains of
all sampled blocks are regressed on such counts (ridge), and the regression says what to expect of a whole document.
What its own blocks show beyond that counts by its reliability: the variance between documents over the variance of the
document's mean with it (Fay and Herriot 1979, J. Am. Stat. Assoc. 74). The error of a gain has the part of its own
blocks and that of the factors (Prasad and Rao 1990, J. Am. Stat. Assoc. 85), the latter from the sums of each document
(Liang and Zeger 1986, Biometrika 73), since blocks of one document are alike.

For a sampled block the counts reach back to the beginning of the stretch only, as the model's context did; for the
expectation they reach over the whole document. So the missing context of a stretch is made up for, too.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ropewalk.corpus.text.shingle import shingles

_RUNS = (1, 2, 3, 4)
"""Lengths of the runs of tokens that are looked for."""
_CONTEXTS = (1, 2, 3)
"""Lengths of the runs whose continuation is compared."""
_NEAR = 0.875
"""Of truncated context a token has 3/4 to all."""
_RIDGE = 3.0
_OF_ALL = 20
"""Windows of all sources that count beside a source's own for its variance."""
_APART = np.uint64(0x9E3779B97F4A7C15)
"""Parts the keys of equal runs in two sections."""


class _Earlier(NamedTuple):
    """Of the run of tokens that ends at each place: how often it stood before, whether near, whether far."""

    times: Float64[np.ndarray, "tokens"]
    near: Bool[np.ndarray, "tokens"]
    far: Bool[np.ndarray, "tokens"]


def _find_earlier(tokens: Int64[np.ndarray, "tokens"], length: int, reach: int, section_tokens: int) -> _Earlier:
    size = len(tokens)
    count, near, far = np.zeros(size), np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    if size < length:
        return _Earlier(count, near, far)
    keys, place = shingles(tokens.astype(np.uint64), length), np.arange(length - 1, size)
    section = place // section_tokens
    keys += section.astype(np.uint64) * _APART
    whole = (place - length + 1) // section_tokens == section  # a run over a border is none
    keys, place = keys[whole], place[whole]
    order = np.argsort(keys, kind="stable")
    same = np.append(False, keys[order][1:] == keys[order][:-1])[: len(order)]
    first = np.maximum.accumulate(np.where(same, 0, np.arange(len(keys))))  # index of the first of each group
    at = place[order]
    count[at] = np.arange(len(keys)) - first
    before = np.append(0, at[:-1])[: len(at)]
    near[at] = same & (at - before <= reach)
    far[at] = same & (at - at[first] > reach)
    return _Earlier(count, near, far)


def count_repeats(
    tokens: Int64[np.ndarray, "tokens"],
    *,
    truncated_tokens: int,
    rarity: Float64[np.ndarray, "vocabulary"],
    section_tokens: int | None = None,
) -> Float64[np.ndarray, "tokens features"]:
    """For each token what returns with it from far, from near or from both, and whether far places like this one went
    on in the same way. ``rarity``: minus the logarithm of each token's share of all text. ``section_tokens``: each
    section of this length is a text by itself."""
    reach, section = int(_NEAR * truncated_tokens), section_tokens or max(1, len(tokens))
    lengths = {*_RUNS, *(n + 1 for n in _CONTEXTS)}
    earlier = {length: _find_earlier(tokens, length, reach, section) for length in lengths}
    columns = []
    for length in _RUNS:
        run = earlier[length]
        only_far = run.far & ~run.near
        columns += [only_far, run.far & run.near, run.near & ~run.far, np.log1p(run.times) * only_far]
        if length < 3:
            columns.append(only_far * rarity[tokens])
    for length in _CONTEXTS:
        context, run = earlier[length], earlier[length + 1]
        seen, is_far = np.roll(context.times, 1), np.roll(context.far, 1)
        seen[::section] = is_far[::section] = 0
        goes_on = np.divide(run.times, seen, out=np.zeros(len(seen)), where=seen > 0)
        columns += [goes_on * is_far * ~run.near, (1 - goes_on) * is_far]
    columns.append(rarity[tokens])
    return np.stack([column.astype(np.float64) for column in columns], axis=1)


def find_rarity(texts: Sequence[Int64[np.ndarray, "_"]]) -> Float64[np.ndarray, "vocabulary"]:
    """Minus the logarithm of each token's share of ``texts``, up to the largest token in them."""
    counts = np.bincount(np.concatenate(texts))
    rarity: Float64[np.ndarray, vocabulary] = -np.log((counts + 1) / (counts.sum() + len(counts)))
    return rarity


class SampledBlocks(NamedTuple):
    """Sampled blocks of tokens: the document, the window and the number of tokens of each, its mean gain and its mean
    counts. The last count is 1 where truncated context was shorter than that of a whole reading, else 0."""

    document: Int64[np.ndarray, "blocks"]
    window: Int64[np.ndarray, "blocks"]
    tokens: Float64[np.ndarray, "blocks"]
    gain: Float64[np.ndarray, "blocks"]
    counts: Float64[np.ndarray, "blocks features"]


class Estimates(NamedTuple):
    """For each document its gain and the standard error of it, in nats."""

    gain: Float64[np.ndarray, "documents"]
    error: Float64[np.ndarray, "documents"]


def estimate_gains(
    blocks: SampledBlocks,
    whole: Float64[np.ndarray, "documents features"],
    tokens: Float64[np.ndarray, "documents"],
    source: Int64[np.ndarray, "documents"],
) -> Estimates:
    """The gain of each document from the sampled blocks of all of them. ``whole``: mean counts of the ``tokens`` tokens
    that a whole reading counts; ``source``: a number for each source, which has a level of its own."""
    documents = len(whole)
    known, of_whole = _make_columns(blocks, whole, source)
    weight = blocks.tokens / blocks.tokens.mean()
    inverse = np.linalg.inv((known * weight[:, None]).T @ known + _RIDGE * np.eye(known.shape[1]))
    factors = inverse @ ((known * weight[:, None]).T @ blocks.gain)
    rest = blocks.gain - known @ factors
    read = np.bincount(blocks.document, weights=blocks.tokens, minlength=documents)
    mean = np.bincount(blocks.document, weights=blocks.tokens * rest, minlength=documents) / read
    left = np.maximum(0.0, 1 - read / tokens)  # what was read is known
    variance = _spread_within(blocks, rest, mean, source) / read * left
    between = max(0.0, float(np.mean(mean**2 - variance)))
    trust = between / np.maximum(between + variance, 1e-12)
    # Of few documents ``between`` is often estimated as 0, which says nothing of the truth: its own standard error
    # (of a mean of squares of normal values) bounds it from below, where the error of a gain is concerned.
    possible = max(between, math.sqrt(2 / documents) * float(np.mean(between + variance)))
    wide = possible * variance / np.maximum(possible + variance, 1e-12)
    # The factors are estimated too: a gain moves with them as its counts do, less what its own blocks take back.
    own = _sum_by_document(blocks, known * blocks.tokens[:, None], documents) / read[:, None]
    moved = (of_whole - trust[:, None] * own) @ inverse
    scores = _sum_by_document(blocks, known * (weight * rest)[:, None], documents)
    return Estimates(of_whole @ factors + trust * mean, np.sqrt(wide + np.square(moved @ scores.T).sum(axis=1)))


def _make_columns(
    blocks: SampledBlocks, whole: Float64[np.ndarray, "documents features"], source: Int64[np.ndarray, "documents"]
) -> tuple[Float64[np.ndarray, "blocks columns"], Float64[np.ndarray, "documents columns"]]:
    """What the regression knows of each block and of each whole document: counts in units of their spread, the source,
    and both once more for blocks whose truncated context is shorter. How much the missing context costs depends on what
    returns, so one number for all blocks would be wrong for every source."""
    level, spread = blocks.counts[:, :-1].mean(axis=0), blocks.counts[:, :-1].std(axis=0) + 1e-9
    sources = np.eye(int(source.max()) + 1)[source]
    plain = np.concatenate([(blocks.counts[:, :-1] - level) / spread, sources[blocks.document]], axis=1)
    of_whole = np.concatenate([(whole[:, :-1] - level) / spread, sources], axis=1)
    shorter, shorter_whole = plain * blocks.counts[:, -1:], of_whole * whole[:, -1:]
    return np.concatenate([plain, shorter], axis=1), np.concatenate([of_whole, shorter_whole], axis=1)


def _sum_by_document(
    blocks: SampledBlocks, values: Float64[np.ndarray, "blocks columns"], documents: int
) -> Float64[np.ndarray, "documents columns"]:
    sums = np.zeros((documents, values.shape[1]))
    np.add.at(sums, blocks.document, values)
    return sums


def _spread_within(
    blocks: SampledBlocks,
    rest: Float64[np.ndarray, "blocks"],
    mean: Float64[np.ndarray, "documents"],
    source: Int64[np.ndarray, "documents"],
) -> Float64[np.ndarray, "documents"]:
    """The variance of a token within the documents of its source, as the windows of a document differ, which are of
    unlike parts; as the blocks do, where documents have one window each. A source of few windows has mostly the
    variance of all."""
    documents, windows = len(mean), int(blocks.window.max()) + 1
    unit = blocks.window if windows >= 1.5 * documents else np.arange(len(rest))
    tokens = np.bincount(unit, weights=blocks.tokens)
    own = np.bincount(unit, weights=blocks.tokens * rest) / tokens
    document = np.zeros(len(tokens), dtype=np.int64)
    document[unit] = blocks.document
    sources = int(source.max()) + 1
    squares = np.bincount(source[document], weights=tokens * (own - mean[document]) ** 2, minlength=sources)
    free = np.maximum(0, np.bincount(source[document], minlength=sources) - np.bincount(source))
    of_all = squares.sum() / max(1, len(tokens) - documents)
    spread: Float64[np.ndarray, documents] = ((squares + _OF_ALL * of_all) / (free + _OF_ALL))[source]
    return spread
