"""Makes longer documents of shorter ones: which are joined, in which order, and the tokens between them.

A joined document is a table of token ranges of the store, so nothing is tokenised again.
"""

from typing import TYPE_CHECKING

from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk.corpus.join.places import Places as Places
    from ropewalk.corpus.join.places import read_places as read_places
else:
    __all__, __getattr__, __dir__ = export_lazily(__name__, {"places": ("Places", "read_places")})
