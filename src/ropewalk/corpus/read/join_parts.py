"""The place of a document in a join: its key, its order and its header, taken from a record's fields or a file's path.

Each document stays a document of its own here. It is joined after copies were dropped, by what this file notes of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.core.quantity import is_finite
from ropewalk.corpus.join_rules import DEPENDENCY, FOLDERS, PLACE, fill_header, header_fields
from ropewalk.corpus.read.bad_input import Found, Place, WholeText, check_text
from ropewalk.corpus.read.code_tree import Member, describe_file, group_files
from ropewalk.corpus.read.files import File
from ropewalk.corpus.read.imports import order_by_imports
from ropewalk.corpus.read.nested_keys import find_value
from ropewalk.corpus.read.pages import read_file
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.reject import Reject, spell_name

PART = "join"
"""The key of a document's metadata that holds ``{key, order, header, answers, in_circle}``."""
NO_PLACE = "no place in a join"
"""The reason of rejects."""
NO_FIELDS = f"it is a text without fields; texts are joined by {', '.join(FOLDERS)}"


def describe_part(record: Mapping[str, Any], source: Source, place: Place) -> dict[str, Any] | str:
    """The place of a record in a join, or why it has none."""
    rules = source.join
    assert rules is not None
    if not rules.order and rules.reply_to is None:
        return f"join.by is {', '.join(rules.by)}, and records need an order: fields, or `{PLACE}` as they stand"
    values: dict[str, str | int | float] = {}
    for field in (*rules.by, *rules.order, *(header_fields(rules.header) if rules.header else ())):
        value = place.id if field == PLACE and PLACE not in record else find_value(record, field)
        if isinstance(value, date):  # of Parquet; a datetime is one too
            value = value.isoformat()
        if not _is_value(value):
            told = f"keys {', '.join(map(str, record))}" if value is None else f"{value!r:.60}"
            return f"{field!r} must hold a text or a number; found {told}"
        values[field] = value
    made: dict[str, Any] = {
        "key": [str(values[field]) for field in rules.by],
        "order": [values[field] for field in rules.order],
    }
    if rules.header:
        header = fill_header(rules.header, {field: str(value) for field, value in values.items()})
        checked = check_text(header, source, place)
        if isinstance(checked, Reject):
            return f"the header: {checked.why}"
        made["header"] = checked
    if rules.reply_to is not None:
        answered = find_value(record, rules.reply_to)
        if answered is not None and not _is_value(answered):
            return f"{rules.reply_to!r} must hold the id of a record or nothing; found {answered!r:.60}"
        made["answers"] = None if answered is None else str(answered)
    return made


def read_joined(texts: Sequence[File], source: Source, root: Path) -> Iterator[Found]:
    """Yield the texts of files with their places in a join by folder, package or repository, folder by folder.

    Files are read together only where their order is that of their imports.
    """
    rules = source.join
    assert rules is not None
    by = rules.by[0]
    if by != "folder" and any(file.is_remote for file in texts):
        raise UserError(
            "files on the network cannot be joined by package or repository",
            where=f"source {source.name}: {source.path}",
            why=f"join.by is {by}, which looks at the folders around a file",
            fix="copy the tree to a folder on this machine, or set join.by: folder",
        )
    for id, members in group_files(texts, by, root):
        read: Iterator[tuple[Member, str | Reject]] = ((each, read_file(each.file, source)) for each in members)
        ranks = None
        if rules.order == (DEPENDENCY,):
            read = iter(held := [*read])
            ranks = iter(order_by_imports([(m.name, text) for m, text in held if isinstance(text, str)]))
            del held
        for member, text in read:
            if isinstance(text, Reject):
                yield text
                continue
            fields = describe_file(member, id)
            place = None if ranks is None else next(ranks)
            part: dict[str, Any] = {
                "key": [id],
                "order": [fields[field] for field in rules.order or ("path",)] if place is None else [place.rank],
            }
            if rules.path_header:
                part["header"] = fill_header(rules.path_header, fields)
            if place is not None and place.in_circle:
                part["in_circle"] = True
            yield Place.of(member.file), WholeText(text, part)


def _is_value(value: object) -> bool:
    """Whether a field's value can be a key or a place in an order."""
    if isinstance(value, str):
        return bool(value.strip()) and spell_name(value) == value  # half a surrogate pair is no text
    return type(value) is int or is_finite(value)
