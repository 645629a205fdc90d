"""Where a document comes from: its address, licence and date, as fields of its record, kept to the store.

The recipe names the fields, because no two collections name them alike.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from ropewalk.core.quantity import format_count
from ropewalk.corpus.read.nested_keys import find_value
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.reject import spell_name

ORIGIN = "origin"
"""Key of a document's metadata, and of its line in ``documents.jsonl``: ``{address, license, date}``, what is known."""


def find_provenance(record: Any, source: Source) -> dict[str, str]:
    """The address, licence and date of a record, as texts: those that both the recipe and the record have."""
    asked = source.provenance
    if asked is None or not isinstance(record, Mapping):
        return {}
    values = {name: find_value(record, key) for name, key in asked.model_dump().items() if key is not None}
    return {name: spell_name(str(value)) for name, value in values.items() if value not in (None, "")}


def describe_unseen_fields(records: Iterable[Mapping[str, Any]], source: Source) -> Iterator[str]:
    """A warning for each field of ``provenance`` that none of the first stored ``records`` has: a wrong name."""
    if source.provenance is None:
        return
    origins = [record.get(ORIGIN) or {} for record in islice(records, _LOOKED_AT)]
    for name, key in source.provenance.model_dump().items():
        if origins and key is not None and not any(name in origin for origin in origins):
            yield (
                f"warning: source {source.name}: provenance.{name}: none of {format_count(len(origins), 'document')} "
                f"has {key!r}"
            )


_LOOKED_AT = 1000
"""Documents of a source that are looked at."""
