"""Joins the documents of a source in a corpus folder: those that are trained on, and those that are held out."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import xxhash
from jaxtyping import Bool, Int8

from ropewalk.core.digest import digest_value
from ropewalk.core.progress import warn
from ropewalk.core.quantity import format_count
from ropewalk.core.strict_json import spell_json
from ropewalk.corpus.join.arrange import arrange
from ropewalk.corpus.join.cut_places import TextCutter
from ropewalk.corpus.join.endpoint import Endpoint
from ropewalk.corpus.join.fill_in_middle import fill_in_middle, find_sentinels
from ropewalk.corpus.join.insert_tasks import insert_tasks
from ropewalk.corpus.join.places import Places, read_places, unplaced
from ropewalk.corpus.join.related import chain_related
from ropewalk.corpus.join.write_pieces import PieceTable, chain_groups, make_pieces, measure_parts
from ropewalk.corpus.join.written_questions import QuestionWriter
from ropewalk.corpus.prepare.hold_out_documents import HELD_OUT, TRAIN
from ropewalk.corpus.prepare.tokenized import Tokenized
from ropewalk.corpus.spec import Source
from ropewalk.corpus.task_rules import WrittenRules
from ropewalk.corpus.tokens.joined_documents import JoinedDocuments, open_joined
from ropewalk.corpus.tokens.store import StoredDocuments, all_documents, open_shards, write_shards
from ropewalk.corpus.tokens.tokenizer import Tokenizer

TASKS = "tasks.jsonl"
"""A file of a source's folder in a corpus: the tasks behind its documents."""
ANSWERS = "written-questions"
"""A folder of the store: the answers of models that write questions, by the digest of the request."""
_NO_ROOM = "beyond the share or most_tokens"
"""Why a question that was kept is behind no document."""


class Joined(NamedTuple):
    """A source's joined documents of one split, with their amounts."""

    documents: JoinedDocuments
    ledger: dict[str, int]
    written: dict[str, int]
    """What became of the questions that a model wrote."""

    @property
    def digest(self) -> str:
        """A digest of the tokens, where each document and part begins, and what is trained on; not of the store."""
        made = xxhash.xxh3_128()
        for document in range(len(self.documents)):
            ids, mask = self.documents.read(document)
            for column in (ids.astype(np.uint32), mask, self.documents.part_starts(document)):
                made.update(np.ascontiguousarray(column).data)
        return f"{made.hexdigest()} {self.documents.attend}"


def read_joins(source: Source, stored: Tokenized) -> Places | None:
    """The places of a source's documents in joins; None where they are not joined.

    Warns of a ``reply_to`` that no document has: each would begin a thread, as where the field's name is misspelt.
    """
    if not source.is_composed:
        return None
    if not source.notes_parts:
        return unplaced(stored.digests)
    places = read_places(stored.folder, stored.digests)
    if source.join is not None and source.join.reply_to is not None and len(places.group) and not places.answers:
        count, key = format_count(len(places.group), "document"), source.join.reply_to
        warn(
            f"warning: source {source.name}: join.reply_to: none of {count} has an id in {key!r}: each begins a thread"
        )
    return places


def check_tokens(source: Source, tokenizer: Tokenizer) -> None:
    """Raise UserError where the base lacks tokens that a source's rules need."""
    if source.fill_in_middle is not None:
        find_sentinels(source.fill_in_middle, tokenizer, where=f"source {source.name}")


def write_joins(
    source: Source,
    stored: Tokenized,
    places: Places,
    split: Int8[np.ndarray, "documents"],
    folder: Path,
    tokenizer: Tokenizer,
    seed: int,
) -> dict[str, Any]:
    """Join the documents of a source that are trained on, in ``folder``, and write the held-out ones, joined too.

    Texts are cut, middles moved and tasks added in text that is trained on only.

    Returns ``content`` (what the corpus's digest is made of), ``attend``, and more entries of ``ledger`` and ``facts``.
    """
    train = _compose(source, stored, places, split == TRAIN, folder, tokenizer, seed)
    with TemporaryDirectory() as scratch:
        held = _compose(source, stored, places, split == HELD_OUT, Path(scratch), tokenizer, None)
        copies = (held.documents.read(document) for document in range(len(held.documents)))
        shutil.rmtree(folder / "held_out")
        (folder / "held_out").mkdir()
        write_shards(
            ((tokens.astype(np.int64), mask) for tokens, mask in copies),
            folder / "held_out",
            vocabulary=tokenizer.vocabulary,
        )
    return {
        "attend": train.documents.attend,
        "content": [
            train.digest,
            digest_value([stored.languages[at] for at in stored.language[train.documents.chosen]]),
        ],
        "ledger": {
            "joins": {
                "train": train.ledger,
                "held_out": held.ledger,
                "in_circle": places.in_circle,
                "unanswerable": places.unanswerable,
                "asked": [key for key in ("join", "fill_in_middle", "tasks") if getattr(source, key) is not None],
                **({} if source.tasks is None else {"task_share": source.tasks.share}),
                **({"written": train.written} if train.written else {}),
            }
        },
        "facts": {
            "documents": train.ledger["documents"],
            "tokens": train.ledger["tokens_out"],
            "held_out_documents": held.ledger["documents"],
            "held_out_tokens": held.ledger["tokens_out"],
        },
    }


def _compose(
    source: Source,
    stored: Tokenized,
    places: Places,
    chosen: Bool[np.ndarray, "documents"],
    folder: Path,
    tokenizer: Tokenizer,
    seed: int | None,
) -> Joined:
    """``seed`` draws the middles that are moved and the tasks. None: neither is made, and no text is cut."""
    rules, fill = source.join, source.fill_in_middle
    shards = tuple(open_shards(stored.folder, vocabulary=tokenizer.vocabulary, manifest={}))
    documents = places.order[chosen[places.order]]
    tokens = stored.tokens[documents]
    separator = "" if rules is None else rules.separator
    keeps_ends = source.embedded is None and source.record_options.is_chat
    headers = [places.headers[number] for number in documents.tolist()]
    sizes = measure_parts(tokens, headers, separator, keeps_ends=keeps_ends, tokenizer=tokenizer)
    if rules is None or rules.related is None:
        most_tokens = None if rules is None else rules.most_tokens
        parts = chain_groups(documents, places.group[documents], sizes=sizes, most_tokens=most_tokens)
    else:
        mapped = np.load(stored.folder / "signatures.npy", mmap_mode="r", allow_pickle=False)
        signatures = np.asarray(mapped[documents])
        # Held-out text is read in its own order, so that its loss can be compared with that of other corpora.
        related = rules.related if seed is not None else rules.related.model_copy(update={"arrange": "chain"})
        parts = chain_related(StoredDocuments(shards, documents), sizes.max(axis=1), signatures, related)
        if related.arrange != "chain":
            parts = arrange(parts, all_documents(shards), related, TextCutter(tokenizer))
    made = make_pieces(
        parts,
        tokens=stored.tokens,
        headers=places.headers,
        separator=separator,
        keeps_ends=keeps_ends,
        trains_added=not any(shard.mask.strides != (0,) for shard in shards),
        tokenizer=tokenizer,
    )
    if fill is not None and seed is not None:
        sentinels = find_sentinels(fill, tokenizer, where=f"source {source.name}")
        every = all_documents(shards)
        made = fill_in_middle(made, every, stored.digests, fill, sentinels=sentinels, tokenizer=tokenizer, seed=seed)
    written: dict[str, int] = {}
    if source.tasks is not None and seed is not None:
        made, written = _add_tasks(source, stored, made, all_documents(shards), folder, tokenizer, seed)
    ledger = made.save(folder, vocabulary=tokenizer.vocabulary)
    attend = "document" if rules is None else rules.attend
    found = open_joined(folder, shards, vocabulary=tokenizer.vocabulary, attend=attend)
    return Joined(found, ledger.to_json(), written)


def _add_tasks(
    source: Source,
    stored: Tokenized,
    table: PieceTable,
    documents: StoredDocuments,
    folder: Path,
    tokenizer: Tokenizer,
    seed: int,
) -> tuple[PieceTable, dict[str, int]]:
    """The table with tasks, which are written down in ``folder``, and what became of the questions of a model."""
    assert source.tasks is not None
    writer = None
    if (rules := source.tasks.written) is not None:
        if rules.at_once > max(rules.sections, WrittenRules.model_fields["at_once"].default):
            warn(
                f"warning: source {source.name}: tasks.written.at_once is {rules.at_once}, but a document has "
                f"{format_count(rules.sections, 'request')} (sections), and the next document waits for them"
            )
        endpoint = Endpoint(rules, stored.folder.parent / ANSWERS, where=f"source {source.name}: tasks.written")
        writer = QuestionWriter(rules, endpoint)
    made, records = insert_tasks(
        table,
        documents,
        stored.digests,
        source.tasks,
        language_of=lambda number: stored.languages[stored.language[number]],
        tokenizer=tokenizer,
        seed=seed,
        writer=writer,
    )
    lines = (spell_json(record, ensure_ascii=False) + "\n" for record in records)
    (folder / TASKS).write_text("".join(lines), encoding="utf-8")
    if writer is None:
        return made, {}
    if unused := writer.counts["kept"] - sum(record["family"] == "written" for record in records):
        writer.counts["kept"] -= unused
        writer.counts[_NO_ROOM] = unused
    return made, dict(writer.counts)
