"""Properties of a single text: its language, its script, its blocks and shingles, its cleaning profile.

Everything here is a function of one text. The other folders of the corpus clean, compare and count with it.
"""

from typing import TYPE_CHECKING

from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk.corpus.text.language import judge_language as judge_language
    from ropewalk.corpus.text.language import language_kind as language_kind
    from ropewalk.corpus.text.profile import PROFILES as PROFILES
    from ropewalk.corpus.text.profile import Profile as Profile
    from ropewalk.corpus.text.reject import Reject as Reject
    from ropewalk.corpus.text.shingle import shingles as shingles
else:
    __all__, __getattr__, __dir__ = export_lazily(
        __name__,
        {
            "language": ("judge_language", "language_kind"),
            "profile": ("PROFILES", "Profile"),
            "reject": ("Reject",),
            "shingle": ("shingles",),
        },
    )
