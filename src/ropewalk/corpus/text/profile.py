"""Cleaning profiles: for each kind of text, one value that defines how a text is normalized and which measure drops it.

Stock web filters keep no code and no Chinese, and drop books because of their length. Here no text is too long. A user
can start from a profile by name and change single values: ``profile: {like: law, min_characters: 200}``.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from ropewalk.core.quantity import Count
from ropewalk.core.spec import Spec

ProfileName = Literal["prose_en", "prose_zh", "code", "law", "instruction", "markup"]
Boilerplate = Literal["chapter_markers", "site_adverts", "navigation", "ebook_notices", "page_numbers", "comments"]
Personal = Literal["email", "ip", "mobile", "identity", "key"]
ALL_BOILERPLATE: tuple[Boilerplate, ...] = get_args(Boilerplate)
ALL_PERSONAL: tuple[Personal, ...] = get_args(Personal)


class Profile(Spec):
    """How one kind of text is normalized and judged. Shares are of characters unless a name says lines."""

    like: ProfileName | None = None
    """The profile that gives every value that is not given here."""
    min_characters: Count = 0
    """A shorter document is dropped."""
    min_letters: float = Field(default=0.0, ge=0, le=1)
    """Letters among what is not white space; C4 and Gopher ask for words, which code and Chinese have not."""
    min_han: float = Field(default=0.0, ge=0, le=1)
    """Han among the letters."""
    max_line_characters: Count | None = None
    """Mean length of a line: minified code and data blobs have few breaks."""
    max_replaced: float = Field(default=0.001, ge=0, le=1)
    """U+FFFD: text that was decoded wrongly once."""
    max_mojibake: float = Field(default=0.002, ge=0, le=1)
    """Pairs of characters that only wrong decoding writes, left after repair."""
    min_ended_lines: float = Field(default=0.0, ge=0, le=1)
    """Of lines of 12 characters or more, those that end a sentence; menus end none. From ten such lines on."""
    max_repeated_lines: float = Field(default=1.0, ge=0, le=1)
    """In lines that stood before in the window; Gopher drops at 0.2 to 0.3 of a web page."""
    max_repeated_passages: float = Field(default=1.0, ge=0, le=1)
    """In runs of 32 characters that stood before in the window."""
    joins_repeats: bool = False
    """Whether four equal lines in a row become one; cells and refrains of fewer than 12 letters do not."""
    white_space: Literal["trim", "keep"] = "trim"
    """``trim``: no white space at line ends, at most two empty lines in a row. ``keep``: all within a text stays."""
    mojibake: Literal["repair", "keep"] = "repair"
    """What happens to text that was decoded wrongly and can be told to be."""
    width: Literal["keep", "letters", "all"] = "keep"
    """Which full-width forms become half-width: letters and digits; ``all`` also makes punctuation fit its script."""
    script: Literal["keep", "simplified", "traditional"] = "keep"
    """Which Chinese script to convert to (pip install 'ropewalk[chinese]')."""
    boilerplate: tuple[Boilerplate, ...] = ()
    """What is removed of pages and e-books: whole lines only, so running text is never touched."""
    remove_lines: tuple[str, ...] = ()
    """Regular expressions of further lines to remove, each for a whole line."""
    mask: tuple[Personal, ...] = ()
    """Personal data that is replaced by placeholders."""

    @property
    def only_judging(self) -> "Profile":
        """The same thresholds, for a text that keeps all its lines and letters. The text is trimmed, since it is
        identified by its digest after a trim."""
        kept = {"width": "keep", "script": "keep", "boilerplate": (), "remove_lines": (), "mask": ()}
        kept |= {"white_space": "trim"}
        return self.model_copy(update=kept)

    @model_validator(mode="before")
    @classmethod
    def _take_from_named(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or given.get("like") not in PROFILES:
            return given
        return {**PROFILES[given["like"]].model_dump(exclude={"like"}), **given}

    @field_validator("remove_lines")
    @classmethod
    def _check_expressions(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for expression in given:
            try:
                re.compile(expression)
            except re.error as error:
                raise ValueError(f"{expression!r} is not a regular expression: {error}") from None
        return given


PROFILES: Mapping[str, Profile] = MappingProxyType({})  # the validator reads it while the profiles below are built
PROFILES = MappingProxyType(
    {
        "prose_en": Profile(
            min_characters=100,
            min_letters=0.6,
            min_ended_lines=0.03,
            max_repeated_lines=0.3,
            max_repeated_passages=0.4,
            joins_repeats=True,
            white_space="keep",
            boilerplate=ALL_BOILERPLATE,
            mask=ALL_PERSONAL,
        ),
        "prose_zh": Profile(
            min_characters=20,  # a poem of four lines is a document
            min_letters=0.5,
            min_han=0.5,
            min_ended_lines=0.1,
            max_repeated_lines=0.3,
            max_repeated_passages=0.4,
            joins_repeats=True,
            white_space="keep",
            width="letters",
            boilerplate=ALL_BOILERPLATE,
            mask=ALL_PERSONAL,
        ),
        "code": Profile(
            min_characters=50,
            min_letters=0.25,  # as in The Stack
            max_line_characters=200,
            max_repeated_lines=0.6,  # licence heads and boilerplate repeat between a package's files
            max_repeated_passages=0.8,
            mask=("key",),
        ),
        "law": Profile(
            min_characters=50,
            min_letters=0.4,
            max_repeated_lines=0.5,  # law consists of tables, numbered lists and set phrases
            max_repeated_passages=0.7,
            joins_repeats=True,
            white_space="keep",
            width="letters",
            boilerplate=("page_numbers", "comments", "navigation"),
            mask=("mobile", "identity", "key"),
        ),
        # Retrieval prompts repeat on purpose; the answer may be one word. A mask would change the answer.
        "instruction": Profile(min_characters=10, min_letters=0.2),
        "markup": Profile(
            min_characters=50,
            min_letters=0.35,  # tables, links and marks make up a third of a page
            max_line_characters=4000,
            max_repeated_lines=0.5,
            max_repeated_passages=0.7,
            joins_repeats=True,
            boilerplate=ALL_BOILERPLATE,
            mask=ALL_PERSONAL,
        ),
    }
)
