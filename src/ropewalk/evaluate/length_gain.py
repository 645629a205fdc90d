"""The gain from a long document's context: the loss of its tokens with 4,096 tokens before them, minus that with all.

A text whose far parts help to predict it teaches a model to use far context; a text that is long by accident does not.
Any small model is enough, since only the order of documents matters. The result is a column file that corpus/ reads:
scoring needs torch, the selection does not.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from ropewalk.core.artifact import write_whole
from ropewalk.core.error import UserError
from ropewalk.core.progress import warn
from ropewalk.core.quantity import format_count
from ropewalk.core.strict_json import spell_json
from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.corpus.tokens.joined_documents import JoinedDocuments
from ropewalk.corpus.tokens.same_tokenizer import require_tokenizer
from ropewalk.corpus.tokens.tokenizer import load_tokenizer
from ropewalk.evaluate.gain_sample import choose_stretches, find_gains, sample_items
from ropewalk.evaluate.gain_sections import WINDOWS, count_whole, cut_sections
from ropewalk.evaluate.held_out import text_sources
from ropewalk.evaluate.items import Item, measure
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.open_model import open_model
from ropewalk.model.weights import Dtype
from ropewalk.parallel.collective import rank_and_ranks
from ropewalk.parallel.verify_folder import require_intact

_BATCH_TOKENS, _HEAD_TOKENS = 1 << 26, 60


@dataclass(frozen=True, slots=True)
class LongText:
    """A document to score."""

    source: str
    id: str
    tokens: Int64[np.ndarray, "tokens"]


def make_items(
    texts: Sequence[LongText], *, truncated_tokens: int, last_tokens: int | None = None, borders: Sequence[int] = (0,)
) -> list[Item]:
    """Each text twice: with full context (group 2i), and in windows of ``truncated_tokens`` (group 2i + 1).

    With ``borders``, each of these groups is divided by position: into as many as there are first positions.

    Of a window the last quarter counts.

    The same tokens count in both readings: those from ``truncated_tokens`` on, so truncated context is 3/4 to all of
    ``truncated_tokens``. With ``last_tokens``, only the text's last ``last_tokens`` of them count.
    """
    stride = truncated_tokens // WINDOWS
    items = []
    for number, text in enumerate(texts):
        length = len(text.tokens)
        bucket = np.searchsorted(borders, np.arange(length), side="right") - 1
        group = np.full(length, -1, dtype=np.int64)
        asked = truncated_tokens if last_tokens is None else max(truncated_tokens, length - last_tokens)
        group[asked:] = 2 * number * len(borders) + bucket[asked:]
        items.append(Item(text.tokens, group))
        for begin in range(asked, length, stride):
            end = min(length, begin + stride)
            first = end - truncated_tokens
            groups = np.full(truncated_tokens, -1, dtype=np.int64)
            groups[begin - first :] = (2 * number + 1) * len(borders) + bucket[begin:end]
            items.append(Item(text.tokens[first:end], groups))
    return items


def section_items(text: LongText, group: int, *, truncated_tokens: int, context_tokens: int) -> Iterator[Item]:
    """A document in its sections: with full context as ``group``, and in windows as ``group + 1``."""
    lengths = {"truncated_tokens": truncated_tokens, "context_tokens": context_tokens}
    for begin, end, first in cut_sections(len(text.tokens), **lengths):
        section = replace(text, tokens=text.tokens[begin:end])
        for item in make_items([section], truncated_tokens=truncated_tokens, last_tokens=end - first):
            yield Item(item.tokens, np.where(item.group >= 0, item.group + group, -1))


def long_texts(corpus: Corpus, *, truncated_tokens: int) -> Iterator[LongText]:
    """The training documents that have at least twice ``truncated_tokens``.

    A document that is joined of several parts is left out and told: ``select`` judges parts, by their ids.
    """
    for source in text_sources(corpus):
        documents = corpus.train(source)
        long, joined = np.flatnonzero(documents.lengths >= 2 * truncated_tokens), 0
        ids = corpus.ids(source, {*documents.chosen[long].tolist()})
        for number in long.tolist():
            if isinstance(documents, JoinedDocuments) and len(documents.part_starts(number)) > 1:
                joined += 1
                continue
            tokens = documents.read(number)[0].astype(np.int64)
            yield LongText(source, ids[int(documents.chosen[number])], tokens)
        if joined and rank_and_ranks()[0] == 0:
            warn(
                f"warning: source {source} has {format_count(joined, 'joined document')} without a score, because "
                "`select` judges their parts. To score the parts, run `corpus score` with a recipe without `join`"
            )


def score_lengths(
    model: Path,
    corpus: Corpus,
    *,
    truncated_tokens: int,
    context_tokens: int,
    precision: Dtype,
    out: Path,
    share: float = 1.0,
) -> dict[str, Any]:
    """Write ``id, source, gain`` of every long document to ``out``; every rank calls it.

    With a ``share`` below 1 only about this share of the tokens is read, and each line has the interval of its gain and
    what was read. Returns the number of documents, the share that was read, and the best and the worst of them. Raises
    UserError where no document is long enough, or the model has another tokenizer.
    """
    require_tokenizer(corpus, load_tokenizer(model), where=model)
    lengths = {"truncated_tokens": truncated_tokens, "context_tokens": context_tokens}
    batches = _in_batches(long_texts(corpus, truncated_tokens=truncated_tokens))
    if (first := next(batches, None)) is None:
        raise UserError(
            "no document is long enough to be scored",
            where=str(corpus.folder),
            why=f"no training document that is not joined of parts has {2 * truncated_tokens} tokens",
            fix="score with a smaller truncated context",
        )
    require_intact(model, together=True)
    learner = open_model(ModelWithLoss, model, dtype=precision)
    records: list[dict[str, Any]] = []
    heads: list[list[int]] = []
    whole = 0
    for texts in chain([first], batches):
        records += read_gains(learner, texts, share=share, **lengths)
        heads += [text.tokens[:_HEAD_TOKENS].tolist() for text in texts]
        whole += sum(count_whole(len(text.tokens), **lengths) for text in texts)
    if rank_and_ranks()[0] == 0:
        write_whole(out, "".join(spell_json(record, ensure_ascii=False) + "\n" for record in records))
    read = sum(record.get("tokens_read", 0) for record in records) / whole if share < 1 else 1.0
    return {
        "documents": len(records),
        "read": read,
        "best": _ends(records, heads, -1),
        "worst": _ends(records, heads, 1),
    }


def _in_batches(texts: Iterator[LongText]) -> Iterator[list[LongText]]:
    """Documents of about 64Mi tokens at a time: the long ones of a corpus may not fit into memory."""
    held, tokens = list[LongText](), 0
    for text in texts:
        held.append(text)
        tokens += len(text.tokens)
        if tokens >= _BATCH_TOKENS:
            yield held
            held, tokens = [], 0
    if held:
        yield held


def read_gains(
    learner: ModelWithLoss, texts: Sequence[LongText], *, truncated_tokens: int, context_tokens: int, share: float
) -> Iterator[dict[str, Any]]:
    """The line of each document: ``id, source, gain, loss, tokens``; of a sample also interval and what was read.

    A document of more than ``context_tokens`` is read in sections (gain_sections.py)."""
    lengths = {"truncated_tokens": truncated_tokens, "context_tokens": context_tokens}
    if share >= 1:
        items = [item for number, text in enumerate(texts) for item in section_items(text, 2 * number, **lengths)]
        sums = measure(learner, items, 2 * len(texts), name="gain of context")
        loss = (sums.nll / sums.count).reshape(-1, 2)
        for text, (full, truncated) in zip(texts, loss.tolist(), strict=True):
            yield _row(text, truncated - full, full)
        return
    chosen = [choose_stretches(len(text.tokens), share, text.source, text.id, **lengths) for text in texts]
    tokens, sources = [text.tokens for text in texts], [text.source for text in texts]
    items, firsts = sample_items(tokens, chosen, truncated_tokens=truncated_tokens)
    sums = measure(learner, items, firsts[-1], name="gain of context")
    gains = find_gains(tokens, chosen, sums, firsts, source=sources, **lengths)
    for text, stretches, found in zip(texts, chosen, gains, strict=True):
        yield {
            **_row(text, found.gain, found.loss),
            "low": found.low,
            "high": found.high,
            "of_windows": found.of_windows,
            "read": [[stretch.begin, stretch.end] for stretch in stretches],
            "windows": [begin for stretch in stretches for begin in stretch.windows],
            "tokens_read": sum(stretch.count_read(truncated_tokens) for stretch in stretches),
        }


def _row(text: LongText, gain: float, loss: float) -> dict[str, Any]:
    return {"id": text.id, "source": text.source, "gain": gain, "loss": loss, "tokens": len(text.tokens)}


def _ends(records: Sequence[Mapping[str, Any]], heads: Sequence[list[int]], sign: int) -> list[dict[str, Any]]:
    order = sorted(range(len(records)), key=lambda number: sign * records[number]["gain"])[:5]
    return [{**records[number], "first": heads[number]} for number in order]
