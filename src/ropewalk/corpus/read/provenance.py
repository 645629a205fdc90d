"""Where a document comes from: its address, licence and date, as fields of its record, kept to the store.

The recipe names the fields, because no two collections name them alike.
"""

from collections.abc import Mapping
from typing import Any

from ropewalk.corpus.read.nested_keys import find_value
from ropewalk.corpus.spec import Source

ORIGIN = "origin"
"""Key of a document's metadata, and of its line in ``documents.jsonl``: ``{address, license, date}``, what is known."""


def find_provenance(record: Any, source: Source) -> dict[str, str]:
    """The address, licence and date of a record, as texts: those that both the recipe and the record have."""
    asked = source.provenance
    if asked is None or not isinstance(record, Mapping):
        return {}
    values = {name: find_value(record, key) for name, key in asked.model_dump().items() if key is not None}
    return {name: str(value) for name, value in values.items() if value not in (None, "")}
