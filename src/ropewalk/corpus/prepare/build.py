"""Builds a corpus folder from a corpus spec: reads, cleans and tokenises each source once, then selects documents.

All expensive results are in the store, where the next run finds them. A run adds only indices, a few held-out tokens
and the ledger. A second run changes nothing. No unfinished result is ever visible.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int8

from ropewalk.core.artifact import hold, is_finished, new_folder, read_manifest, refuse_unfinished
from ropewalk.core.digest import digest_file, digest_value
from ropewalk.core.error import UserError
from ropewalk.core.progress import say, warn
from ropewalk.core.read_json import read_written
from ropewalk.core.record import Document, Role
from ropewalk.core.run_folder import CORPUS_CONTENT, LEDGER
from ropewalk.core.strict_json import spell_json
from ropewalk.corpus.clean.document import clean_document
from ropewalk.corpus.dedup.decontaminate import read_prompts
from ropewalk.corpus.dedup.external_sort import chunks, own_scratch
from ropewalk.corpus.embedded import EMBEDDED
from ropewalk.corpus.join.places import Places
from ropewalk.corpus.join_rules import drop_younger_keys
from ropewalk.corpus.mix.strata import Stratum, share_out
from ropewalk.corpus.mix_rules import OTHER, MixRules
from ropewalk.corpus.prepare.document_records import DocumentRecords
from ropewalk.corpus.prepare.document_scores import Picked, pick_documents
from ropewalk.corpus.prepare.fingerprint import find_origin
from ropewalk.corpus.prepare.hold_out_documents import HELD_OUT, TRAIN
from ropewalk.corpus.prepare.joined import check_tokens, read_joins, write_joins
from ropewalk.corpus.prepare.ledger import Amount, SourceLedger, format_ledger
from ropewalk.corpus.prepare.other_inputs import explain_other
from ropewalk.corpus.prepare.score_text import describe_score
from ropewalk.corpus.prepare.sources import tokenize_sources
from ropewalk.corpus.prepare.splits import REASONS, DocumentSplits, select_documents, write_dropped
from ropewalk.corpus.prepare.tokenized import Tokenized
from ropewalk.corpus.read.provenance import describe_unseen_fields
from ropewalk.corpus.read.source import read_source, source_files
from ropewalk.corpus.spec import CorpusSpec, Source
from ropewalk.corpus.tokens.array_file import save_array
from ropewalk.corpus.tokens.corpus_folder import KIND, Facts, content_digest, point_to, token_digest
from ropewalk.corpus.tokens.corpus_folder import open_corpus as open_corpus
from ropewalk.corpus.tokens.store import StoredDocuments, all_documents, open_shards, write_shards
from ropewalk.corpus.tokens.tokenizer import Tokenizer

SAMPLE_BYTES = 4 << 20
_SAMPLE_CHARACTERS = 1 << 16
_SCRATCH = ".splits"


def build(
    spec: CorpusSpec,
    *,
    tokenizer: Tokenizer,
    seed: int,
    folder: Path,
    probes: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Build the corpus ``folder``. If it was already built from the same inputs, do nothing. Returns ``folder``.

    ``probes`` holds the prompts of the recipe's own evaluation, by task, for ``decontaminate: [probes]``. Raises
    UserError where text cannot be read, or where the folder holds another corpus.
    """
    inputs = _describe_inputs(spec, tokenizer, seed)
    if is_finished(folder):
        held = read_manifest(folder)["inputs"]
        held = {**held, "corpus": drop_younger_keys(held["corpus"])}
        if held != inputs or not _holds_text(folder, spec, probes, seed=seed):
            raise UserError(
                "the folder holds another corpus",
                where=str(folder),
                why=explain_other(held, inputs),
                fix="name another folder, or remove it; the token store keeps the text that both use",
            )
        return folder
    refuse_unfinished(folder)  # now, and not after hours of preparation
    for source in spec.sources:
        check_tokens(source, tokenizer)
    store = Path(spec.store)
    with hold(store):
        prompts = read_prompts(spec.decontaminate, probes)
        sources = tokenize_sources(spec, tokenizer=tokenizer, prompts=prompts, seed=seed)
        asked = {"files": spec.decontaminate.files, "digest": prompts.digest, "too_short": prompts.too_short}
        made = {"places": spec.places, "prompts": asked}
        places = [read_joins(*each) for each in zip(spec.sources, sources, strict=True)]
        with own_scratch(store / _SCRATCH) as scratch:
            records = [
                DocumentRecords(stored.folder, len(stored.bytes), scratch / f"records-{number}")
                for number, stored in enumerate(sources)
            ]
            for source, known in zip(spec.sources, records, strict=True):
                for line in describe_unseen_fields(known, source):
                    warn(line)
            picked = [pick_documents(*each) for each in zip(spec.sources, sources, records, strict=True)]
            choices = select_documents(
                sources,
                [source.role for source in spec.sources],
                near_duplicates=[spec.near_duplicates_of(source) for source in spec.sources],
                held_out=spec.held_out,
                picked=picked,
                places=[joins if source.join else None for source, joins in zip(spec.sources, places, strict=True)],
                scratch=scratch,
            )
            parts = _Parts(spec, sources, choices, picked, records, places)
            ledger = _write_corpus(folder, parts, made=made, tokenizer=tokenizer, inputs=inputs)
    say(format_ledger(ledger))
    return folder


def _describe_inputs(spec: CorpusSpec, tokenizer: Tokenizer, seed: int) -> dict[str, Any]:
    """What a corpus folder says that it was made of. Raises UserError where a model to score with is not there."""
    inputs = {"corpus": spec.content, "tokenizer": tokenizer.digest, "seed": seed}
    if scores := {s.name: digest_file(Path(s.scores)) for s in spec.sources if s.scores and Path(s.scores).is_file()}:
        inputs["scores"] = scores
    if made_scores := {source.name: describe_score(source) for source in spec.sources if source.score}:
        inputs["score"] = made_scores
    return inputs


def read_tokenizer_texts(spec: CorpusSpec, *, seed: int, size_bytes: int = SAMPLE_BYTES) -> Iterator[str]:
    """Yield about ``size_bytes`` bytes of cleaned text in the proportions of the mix, to train a tokenizer on.

    Each source gives its first documents; of a long document only the first 64Ki characters are used.
    """
    shares = _guess_shares(spec)
    for source in spec.sources:
        left = shares.get(source.name, 0.0) * size_bytes
        for item in read_source(source, seed=seed):
            if left <= 0:
                break
            if isinstance(item, Document):
                item = clean_document(item, source.cleaning(item.language)).outcome
            if isinstance(item, Document):
                text = item.text[:_SAMPLE_CHARACTERS]
                left -= len(text.encode())
                yield text


def _guess_shares(spec: CorpusSpec) -> dict[str, float]:
    """Estimate each source's share before any text is read, by the rule of the dataset.

    Sizes and languages are those of the recipe. Lengths are not available yet. Languages count only where the recipe
    gives the language of every source.
    """
    named = {*spec.languages} if OTHER not in spec.languages else {source.language for source in spec.sources} - {None}
    told = spec.languages if all(source.language in named for source in spec.sources) else {}
    rules = MixRules(languages=told)
    strata = [
        Stratum(
            source.name,
            (source.language if source.language in told else OTHER) if told else None,
            None,
            StoredDocuments((), np.zeros(1, dtype=np.int64)),
            np.array([source.size_bytes or 1], dtype=np.int64),
        )
        for source in spec.sources
    ]
    roles: dict[str, Role] = {source.name: source.role for source in spec.sources}
    shared = share_out(strata, spec.mix, rules, roles=roles, most=[np.inf] * len(strata))
    return {stratum.source: stratum.share for stratum in shared}


def _holds_text(folder: Path, spec: CorpusSpec, probes: Mapping[str, Sequence[str]] | None, *, seed: int) -> bool:
    """Whether a finished corpus was built from the spec's prompts and text. Text at known paths is not read again."""
    asked, files = _read_content(folder)["prompts"], list(spec.decontaminate.files)
    if asked["files"] != files and asked["digest"] != list(read_prompts(spec.decontaminate, probes).digest):
        return False
    return holds_sources(folder, spec, seed=seed)


def holds_sources(folder: Path, spec: CorpusSpec, *, seed: int) -> bool:
    """Whether a finished corpus was built from the text of the spec's sources. Only text at new paths is read again."""
    content = _read_content(folder)
    return all(
        content["places"].get(source.name) == source.path
        or content["sources"][source.name]["origin"] == digest_value(find_origin(source, seed=seed))
        for source in spec.sources
    )


def _read_content(folder: Path) -> dict[str, Any]:
    return read_written(folder / CORPUS_CONTENT)


class _Parts(NamedTuple):
    """The spec of a corpus, and for each source its store, its splits, its selection, its records and its joins."""

    spec: CorpusSpec
    sources: Sequence[Tokenized]
    choices: Sequence[DocumentSplits]
    picked: Sequence[Picked]
    records: Sequence[DocumentRecords]
    places: Sequence[Places | None]


def _write_corpus(
    folder: Path, parts: _Parts, *, tokenizer: Tokenizer, inputs: Mapping[str, Any], made: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the corpus folder and return its ledger. ``made`` records the inputs: paths of sources, and prompts."""
    spec, sources, choices, picked, records, places = parts
    entries: dict[str, Any] = {}
    ledger: dict[str, Any] = {}
    with new_folder(folder, kind=KIND, inputs=inputs) as work:
        for source, stored, choice, joins in zip(spec.sources, sources, choices, places, strict=True):
            split = choice.split
            balance = _balance(stored, split)
            written = _write_choice(work / source.name, stored, choice, vocabulary=tokenizer.vocabulary)
            facts = _describe(source, stored, split, balance)
            joined: dict[str, Any] = {}
            if joins is not None:
                joined = write_joins(source, stored, joins, split, work / source.name, tokenizer, inputs["seed"])
            unread = [] if source.path is None or source.tokens else source_files(source).unread
            ledger[source.name] = {**balance.to_json(), "not_read": [asdict(each) for each in unread]}
            ledger[source.name] |= joined.pop("ledger", {})
            facts |= joined.pop("facts", {})
            entries[source.name] = {
                **written,
                **joined,
                "store": point_to(stored.folder, from_folder=folder),
                "long_documents": spec.long_documents_of(source),
                "origin": digest_value(read_manifest(stored.folder)["inputs"]["origin"]),
                "facts": facts,
            }
        write_dropped(work, sources, [source.name for source in spec.sources], choices, picked, records)
        content = {
            "digest": digest_value([[name, entry["content"]] for name, entry in entries.items()]),
            "vocabulary": tokenizer.vocabulary,
            "eos_id": tokenizer.eos_id,
            "long_documents": spec.long_documents,
            **made,
            "sources": entries,
        }
        _write_json(work / CORPUS_CONTENT, content)
        _write_json(work / LEDGER, ledger)
    return ledger


def _write_choice(folder: Path, stored: Tokenized, choice: DocumentSplits, *, vocabulary: int) -> dict[str, Any]:
    """Write the split of every document, the indices of the training documents, and the tokens of the held-out ones."""
    (folder / "held_out").mkdir(parents=True)
    split = choice.split
    np.save(folder / "train.npy", np.flatnonzero(split == TRAIN).astype(np.int64), allow_pickle=False)
    np.save(folder / "split.npy", split, allow_pickle=False)
    columns = choice.kept_source, choice.kept_document
    kept = (np.stack([column[first:last] for column in columns], axis=1) for first, last in chunks(0, len(split)))
    save_array(folder / "kept.npy", kept, dtype=np.dtype(np.int64), shape=(len(split), 2))
    every = all_documents(open_shards(stored.folder, vocabulary=vocabulary, manifest={}))
    held_out = StoredDocuments(every.shards, np.flatnonzero(split == HELD_OUT).astype(np.int64))
    copies = (held_out.read(document) for document in range(len(held_out)))
    write_shards(
        ((tokens.astype(np.int64), mask) for tokens, mask in copies), folder / "held_out", vocabulary=vocabulary
    )
    return {
        "store_digest": content_digest(stored.folder),
        "content": [token_digest(stored.folder), digest_file(folder / "train.npy")],
    }


def _balance(stored: Tokenized, split: Int8[np.ndarray, "documents"]) -> SourceLedger:
    ledger = stored.ledger
    ledger.train, ledger.held_out = _sum(stored, split == TRAIN), _sum(stored, split == HELD_OUT)
    for code, reason in REASONS.items():
        if (split == code).any():
            ledger.dropped[reason] = _sum(stored, split == code)
    ledger.check()
    return ledger


def _sum(stored: Tokenized, where: Bool[np.ndarray, "documents"]) -> Amount:
    return Amount(int(where.sum()), int(stored.bytes.sum(where=where)), int(stored.tokens.sum(where=where)))


def _describe(
    source: Source, stored: Tokenized, split: Int8[np.ndarray, "documents"], balance: SourceLedger
) -> dict[str, Any]:
    counts = np.bincount(stored.language[split <= HELD_OUT], minlength=len(stored.languages))
    facts = Facts(
        role=source.role,
        documents=balance.train.documents,
        tokens=balance.train.tokens,
        held_out_documents=balance.held_out.documents,
        held_out_tokens=balance.held_out.tokens,
        languages={name: int(count) for name, count in zip(stored.languages, counts, strict=True) if count},
        license=source.license or _own_license(source),
    )
    return asdict(facts)


def _own_license(source: Source) -> str | None:
    return EMBEDDED[source.embedded].licence if source.embedded is not None else None


def _write_json(path: Path, content: object) -> None:
    path.write_text(spell_json(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
