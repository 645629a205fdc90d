"""Reads the documents of a source of any kind: records, texts and pages, a code tree, a dataset, our own generators.

records.py, pages.py and code_tree.py read the formats; bad_input.py handles wrong data.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.core.owned import Owned
from ropewalk.core.quantity import format_count
from ropewalk.core.record import Document
from ropewalk.corpus.embedded import embedded_documents
from ropewalk.corpus.read.bad_input import Found, Place, WholeText, check_text, reject
from ropewalk.corpus.read.chat import MESSAGES, UNTRAINED
from ropewalk.corpus.read.conversation import Conversation, beyond_pair, find_conversation, join_contents, map_strings
from ropewalk.corpus.read.files import File
from ropewalk.corpus.read.find_files import FoundFiles as Files
from ropewalk.corpus.read.find_files import find_all, find_files, is_saved_dataset
from ropewalk.corpus.read.join_parts import NO_FIELDS, NO_PLACE, PART, describe_part, read_joined
from ropewalk.corpus.read.nested_keys import find_value, offer_text_key
from ropewalk.corpus.read.pages import read_file
from ropewalk.corpus.read.provenance import ORIGIN, find_provenance
from ropewalk.corpus.read.records import read_hub, read_records, read_saved
from ropewalk.corpus.read.remote import content_bytes_of, digest_content, find_remote_files, is_remote, local_copy
from ropewalk.corpus.read.turn import NO_CONVERSATION, UnreadError
from ropewalk.corpus.read_options import FileOptions, RecordOptions
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.language import judge_language
from ropewalk.corpus.text.reject import Reject as Reject
from ropewalk.corpus.text.reject import spell_name, text_bytes

_SURROGATES = re.compile("[\ud800-\udfff]")


def read_source(source: Source, *, seed: int) -> Iterator[Document | Reject]:
    """Yield all documents and rejects of a source in a fixed order, at most ``source.size_bytes`` of text.

    Raises UserError for a fault where the source has ``faults: error``, and for a source without any document.
    """
    size, documents, reasons = 0, 0, set[str]()
    for item in read_items(source, seed):
        documents += isinstance(item, Document)
        if source.size_bytes is not None:
            size += len(item.text.encode()) if isinstance(item, Document) else item.size_bytes
        if isinstance(item, Reject):
            reasons.add(item.reason)
        owned = Owned(item)
        del item  # a document can be a book: it must not be held here while the next one is read
        yield owned.take()
        if source.size_bytes is not None and size >= source.size_bytes:
            break
    if documents == 0:
        raise without_document(source, reasons)


def without_document(source: Source, reasons: Collection[str]) -> UserError:
    """The error for a source without any document. It has only rejects, for the given ``reasons``."""
    return UserError(
        f"source {source.name} has no document",
        where=str(source.path or source.hub or source.embedded),
        why=f"all of it was rejected: {', '.join(sorted(reasons))}" if reasons else "the files are empty",
        fix="correct the path or text_key, or remove the source",
    )


def source_files(source: Source) -> Files:
    """The files that a ``path`` source reads, and the files beside them that it does not read."""
    assert source.path is not None
    where = f"source {source.name}"
    if is_remote(source.path) and source.tokens is None:
        return find_remote_files(source.path, code=source.is_code, where=where)
    if source.tokens is None and is_saved_dataset(source.path):
        return find_all(source.path, kind="saved", where=where)
    return find_files(source.path, code=source.is_code, where=where)


def digest_files(source: Source) -> dict[str, str]:
    """The digests of a ``path`` source's files, by their names inside the source. They do not depend on the folder in
    which the files lie."""
    return {file.name: digest_content(file) for file in source_files(source).files}


def source_megabytes(source: Source, file: File | None = None) -> float | None:
    """The approximate size in MB of a source's text, or of one file of it, for a progress line; None if unknown."""
    read = () if source.path is None or file is not None else source_files(source).files
    held = [content_bytes_of(each) for each in (read if file is None else [file])]
    sizes = [size for size in (source.size_bytes, sum(held) if held else None) if size is not None]
    return min(sizes) / 1e6 if sizes else None


def read_items(source: Source, seed: int, file: File | None = None) -> Iterator[Document | Reject]:
    """Yield all documents and rejects of a source or of one ``file`` of it. The size limit of the source is not
    applied, and a source without any document is no error."""
    if source.embedded is not None:
        made = embedded_documents(source.embedded, seed=seed, size_bytes=source.size_bytes, options=source.options)
        for document in made:
            language = source.language or document.language
            yield replace(document, source=source.name, role=source.role, language=language)
        return
    options = source.record_options  # made of the source anew, so not for each record
    for found in read_found(source, file):
        owned = Owned(found)
        del found
        yield _make_item(owned.take(), source, options)


def read_found(source: Source, file: File | None = None) -> Iterator[Found]:
    """Yield the records and whole texts of a source's files (or of one ``file``) or dataset, each with its place."""
    if source.hub is not None:
        yield from read_hub(source)
    elif is_saved_dataset(str(source.path)):
        yield from read_saved(source)
    else:
        yield from _read_files(source, file)


def _read_files(source: Source, file: File | None) -> Iterator[Found]:
    # A source may have a hundred thousand files: they are not listed again for each of them.
    found = source_files(source) if file is None else Files(file.path.parent, (file,))
    files = found.files
    options = source.record_options
    assert isinstance(options, FileOptions)
    records = [each for each in files if each.is_record and each.kind not in ("tar", "zip")]
    if source.join is not None and source.join.by_folder and records:
        raise UserError(
            "records are not joined by the folder of their file",
            where=f"source {source.name}: {records[0].shown or records[0].path}",
            why=f"join.by is {source.join.by[0]}, and each record of this file is a document",
            fix="give fields of the records as join.by, or the files of records a source of their own",
        )
    by_record = [each for each in files if each.is_record or (source.reads_lines and each.kind == "text")]
    for each in by_record:
        with local_copy(each) as here:
            yield from read_records(here, source)
    known = {*by_record}
    texts = [each for each in files if each not in known]
    if source.reads_lines and texts:
        raise UserError(
            "a file has no lines of text",
            where=f"source {source.name}: {texts[0].path}",
            why=f"options.document is line, and the file is a {texts[0].kind}",
            fix="give text files, or set options.document: file",
        )
    by_folder = source.join is not None and source.join.by_folder
    yield from read_joined(texts, source, found.root) if by_folder else _read_alone(texts, source)


def _read_alone(texts: Sequence[File], source: Source) -> Iterator[Found]:
    for file in texts:
        text = read_file(file, source)
        if isinstance(text, Reject):
            yield text
        else:
            made = Owned(WholeText(text))
            del text
            yield Place(str(file.path), file.name), made.take()


def _make_item(found: Found, source: Source, options: RecordOptions) -> Document | Reject:
    if isinstance(found, Reject):
        return found
    place, record = found
    del found
    if isinstance(record, WholeText):
        part = record.part if record.part or not source.notes_parts else NO_FIELDS
        if isinstance(part, str):
            return reject(source, place, NO_PLACE, part, size_bytes=_size_of(record), text=record.text)
        made = _document(record.text, source, id=place.name, place=place)
        return made if part is None else replace(made, metadata={**made.metadata, PART: part})
    noted: dict[str, Any] = {}
    if source.notes_parts and isinstance(record, Mapping):
        part = describe_part(record, source, place)
        if isinstance(part, str):
            return reject(source, place, NO_PLACE, part, size_bytes=_size_of(record), text=repr(record)[:1000])
        noted[PART] = part
    if origin := find_provenance(record, source):
        noted[ORIGIN] = origin
    owned = Owned(record)
    del record
    item = _make_document(owned.take(), source, place, options)
    if not noted or isinstance(item, Reject):
        return item
    return replace(item, metadata={**item.metadata, **noted})


def _make_document(record: object, source: Source, place: Place, options: RecordOptions) -> Document | Reject:
    if not isinstance(record, Mapping):
        why = f"it is a {type(record).__name__}, not an object with keys"
        return reject(source, place, "not a record", why, size_bytes=0, text=str(record)[:1000])
    size = _size_of(record)
    if options.is_chat or options.prompt_key:
        return _make_conversation(record, source, place, size, options)
    value = find_value(record, source.text_key)
    if not isinstance(value, str):
        is_null = value is None and source.text_key in record
        found = f"keys {', '.join(map(str, record))}" if value is None else f"a {type(value).__name__}"
        why = f"{source.text_key!r} must contain the text; found {'null' if is_null else found}"
        offer = "" if is_null else offer_text_key(record)
        return reject(source, place, "no text", why, size_bytes=size, text=repr(record)[:1000], offer=offer)
    text = check_text(value, source, place)
    if isinstance(text, Reject):
        return text
    spans = record.get("loss_spans")
    if spans is not None and not _are_spans(spans, len(text)):
        why = f"{spans!r:.80} are not ranges within {format_count(len(text), 'character')}"
        return reject(source, place, "bad loss spans", why, size_bytes=size, text=text)
    made = _document(text, source, id=_id_of(record, place), place=place)
    return made if spans is None else replace(made, loss_spans=tuple((int(a), int(b)) for a, b in spans))


def _make_conversation(
    record: Mapping[str, object], source: Source, place: Place, size: int, options: RecordOptions
) -> Document | Reject:
    """A document of the contents of a conversation, which decide its language. The conversation is laid out later,
    where the model's template is available."""
    is_chat = options.is_chat
    try:
        found = find_conversation(record, options)
    except UnreadError as error:
        reason = "no text" if error.reason == NO_CONVERSATION and not is_chat else error.reason
        return reject(source, place, reason, str(error), size_bytes=size, text=repr(record)[:1000])
    checked = _check_strings(found, source, place, options)
    if isinstance(checked, Reject):
        return checked
    if is_chat:
        said = _document(join_contents(checked), source, id=_id_of(record, place), place=place)
        return replace(said, metadata={**said.metadata, MESSAGES: checked})
    if checked["weight"] == 0:
        return Reject(_id_of(record, place), UNTRAINED, size, "its loss_weight is 0", str(place))
    if more := beyond_pair(checked):
        why = f"template: plain writes only a prompt and its answer, but this record has more: {', '.join(more)}"
        fix = "; use template: chat, or list these fields in options.ignore_fields"
        return reject(source, place, "more than a prompt", why + fix, size_bytes=size, text=repr(record)[:1000])
    prompt, answer = (message["content"] for message in checked["messages"])
    made = _document(f"{prompt}\n{answer}", source, id=_id_of(record, place), place=place)
    start = 0 if options.loss == "all" else len(prompt) + 1
    return replace(made, loss_spans=((start, len(made.text)),))


def _check_strings(
    conversation: Conversation, source: Source, place: Place, options: RecordOptions
) -> Conversation | Reject:
    """A conversation in which all strings are valid text, or a reject for the first fault."""
    faults: list[Reject] = []

    def check(text: str) -> str:
        if faults:
            return text
        if options.is_chat and source.faults != "replace" and _SURROGATES.search(text):
            why = "a message contains half a surrogate pair"
            faults.append(reject(source, place, NO_CONVERSATION, why, size_bytes=len(text), text=text))
            return text
        checked = check_text(text, source, place)
        if isinstance(checked, Reject):
            faults.append(checked)
            return text
        return checked

    checked: Conversation = map_strings(conversation, check)
    return faults[0] if faults else checked


def _size_of(record: Mapping[str, object] | WholeText) -> int:
    """The size of the texts of a record in UTF-8, in bytes. They are not checked yet."""
    texts = [record.text] if isinstance(record, WholeText) else [v for v in record.values() if isinstance(v, str)]
    return sum(map(text_bytes, texts))


def _id_of(record: Mapping[str, object], place: Place) -> str:
    id = record.get("id")
    return place.id if id in (None, "") else spell_name(str(id))


def _are_spans(spans: object, characters: int) -> bool:
    if not isinstance(spans, list) or not all(isinstance(s, list | tuple) and len(s) == 2 for s in spans):
        return False
    borders = [border for span in spans for border in span]
    return all(isinstance(b, int) and 0 <= b <= characters for b in borders) and borders == sorted(borders)


def _document(text: str, source: Source, *, id: str, place: Place) -> Document:
    language = source.language or ("code" if source.is_code else judge_language(text))
    metadata = {"place": place.inside}
    return Document(text=text, source=source.name, role=source.role, language=language, id=id, metadata=metadata)
