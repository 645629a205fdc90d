"""The one way to spell JSON that other programs read: null stands for a number that JSON does not have.

Python writes ``Infinity`` and ``NaN``, which no standard knows: ``jq``, JavaScript, Go and Rust refuse the whole file.
What is null says why beside it: the interval of one sample has no ends, and a loss that is not finite has no value.
"""

import json
import math
from typing import Any


def spell_json(value: Any, **layout: Any) -> str:
    """``value`` as strict JSON, with null for each float that is not finite; ``layout`` is that of ``json.dumps``."""
    try:
        return json.dumps(value, allow_nan=False, **layout)
    except ValueError:  # the walk is slow, and needed by few values
        return json.dumps(drop_infinities(value), allow_nan=False, **layout)


def drop_infinities(value: Any) -> Any:
    """``value`` with null for each float that is not finite; keys as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): drop_infinities(each) for key, each in value.items()}
    return [drop_infinities(each) for each in value] if isinstance(value, list | tuple) else value


def read_float(value: float | None, *, null: float = math.nan) -> float:
    """A number as it was before it was spelled: ``null`` where JSON has null."""
    return null if value is None else value
