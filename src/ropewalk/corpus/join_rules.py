"""How documents of a source become one longer document: by keys, by folders, or because they are related.

A join is an index over the token store. It is made after copies were dropped and held-out documents chosen, so nothing
is tokenised again, and all rules here but those of ``stored`` can change without reading the text.
"""

from copy import deepcopy
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ropewalk.core.quantity import PositiveCount
from ropewalk.core.spec import Spec

FOLDERS = ("folder", "package", "repository")
"""What files are joined by, which have no fields; so these three are no names of fields."""
DEPENDENCY = "dependency"
PLACE = "place"
_FILE_FIELDS = ("path", "name", "folder", "comment")
_PATH_COMMENT = "{comment} {path}\n"


def _listed(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


Fields = Annotated[tuple[str, ...], BeforeValidator(_listed)]
"""One field or several; a key with dots names a field in a field."""


Arrangement = Literal["chain", "interleave", "negatives"]
"""How the texts of one document stand in it."""


_CHUNKS, _MOST_CHUNKS = 2, 16


class RelatedRules(Spec):
    """Documents of a source that share rare words, together in one document; each is used once."""

    target_tokens: PositiveCount
    """A document is closed before the text that would make it longer, and the next one begins with that text."""
    terms: PositiveCount = 32
    """How many of a text's most telling tokens and pairs of tokens are compared (TF-IDF)."""
    neighbours: PositiveCount = 16
    """How many of the texts that share two or more of them a text may be followed by."""
    at_most: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Similarity from which two texts never stand in one document (Jaccard, of MinHash; its error is 0.04): near copies
    in one context teach copying."""
    control: bool = False
    """Join texts drawn by chance, in documents of about the same lengths, to measure what relatedness gives."""
    arrange: Arrangement = "chain"
    """``chain``: one text after the other, each nearest to the one before. ``interleave``: every text is cut into
    ``chunks``; all first ones stand before all second ones (LongSkywork 2406.00605; with ``control`` of random texts).
    ``negatives``: a text is cut, and the texts nearest to it stand whole between its chunks (NExtLong 2501.12766)."""
    chunks: PositiveCount = _CHUNKS
    """Into how many pieces a text is cut, at ends of lines where there are any."""
    knots: bool = False
    """Number the chunks, without loss, and behind the last one of a text list the numbers of all its chunks, with loss
    (as in "untie the knots", 2409.04774, but in plain text, since new tokens would be untrained)."""

    @model_validator(mode="after")
    def _check_arrangement(self) -> "RelatedRules":
        if not 2 <= self.chunks <= _MOST_CHUNKS:
            raise ValueError(f"a text is cut into 2 to {_MOST_CHUNKS} chunks")
        if self.arrange == "chain" and (self.chunks != _CHUNKS or self.knots):
            raise ValueError("chunks and knots are for arrange: interleave or negatives; a chain has whole texts")
        if self.arrange == "negatives" and self.control:
            raise ValueError(
                "control is a random choice of texts, and negatives are the nearest ones: name one of them"
            )
        return self


class JoinRules(Spec):
    """Which documents of a source are joined, in which order, and what stands between them."""

    by: Fields = ()
    """Records with the same values of these fields are one document: ``book``, ``thread``, ``[court, case]``. For text
    files and programs: ``folder``, ``package`` (nearest folder with a pyproject.toml, package.json, Cargo.toml or the
    like) or ``repository`` (a folder right below the path)."""
    order: Fields = ()
    """Fields that the parts follow, compared naturally: 2 before 10, 第二章 before 第十章, dates by time; ``place`` is
    the file and line of a record. Files: ``path`` if nothing is given, or ``dependency``: after those that they
    import."""
    reply_to: str | None = None
    """Field with the id of the record that a record answers: a thread is read depth first."""
    header: str | None = None
    """Text before each part: ``"{title} ({date})\\n"`` with fields of the record; of a file ``{path}``, ``{name}``,
    ``{folder}`` and ``{comment}`` (the mark of a comment). Not given: a comment with the path in packages and
    repositories, else nothing."""
    related: RelatedRules | None = None
    """Instead of ``by``: join texts that share rare words, ``{target_tokens: 64Ki}``."""
    separator: str = "\n\n"
    """Text between two parts."""
    attend: Literal["document", "parts"] = "document"
    """Whether a joined document is one document to the attention mask, or each of its parts is one."""
    most_tokens: PositiveCount | None = None
    """A longer join is closed before the part that would exceed it, and continued in another document; the ledger
    counts these. Not given: as long as its parts are; the mix cuts at parts where they fit into a sequence."""

    @field_validator("header")
    @classmethod
    def _check_header(cls, given: str | None) -> str | None:
        if given is not None:
            _ = header_fields(given)
        return given

    @model_validator(mode="after")
    def _check_order(self) -> "JoinRules":
        if bool(self.by) == (self.related is not None):
            raise ValueError("a join needs either by (fields or folders) or related")
        if self.related is not None:
            given = [name for name in ("order", "reply_to", "header", "most_tokens") if getattr(self, name)]
            if given:
                raise ValueError(f"related texts have no {', '.join(given)}: that is for joins by fields or folders")
            if self.attend == "parts" and self.related.arrange != "chain":
                raise ValueError(
                    f"attend: parts hides the chunks of a text from each other, and arrange: {self.related.arrange} "
                    "trains to look for them: leave out one of the two"
                )
            return self
        if DEPENDENCY in self.order and (len(self.order) > 1 or not self.by_folder):
            raise ValueError("order: dependency stands alone, and is of files: by folder, package or repository")
        if self.by_folder:
            if len(self.by) > 1 or self.reply_to is not None:
                raise ValueError(f"by: {self.by[0]} is of files: it stands alone, and files have no field to reply_to")
            known = {*_FILE_FIELDS, DEPENDENCY}
            if unknown := [name for name in (*self.order, *header_fields(self.header or "")) if name not in known]:
                raise ValueError(f"files have no {', '.join(unknown)}; they have {', '.join(_FILE_FIELDS)}")
        elif not self.order and self.reply_to is None:
            raise ValueError(
                f"join.by is {', '.join(self.by)}, and records need an order: fields, or `{PLACE}` as they stand"
            )
        return self

    @property
    def by_folder(self) -> bool:
        """Whether files are joined, by where they lie."""
        return self.by[:1] != () and self.by[0] in FOLDERS

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of a record that are read; of a field in a field the outer one."""
        named = (*self.by, *self.order, *filter(None, [self.reply_to]), *header_fields(self.header or ""))
        return tuple(name.partition(".")[0] for name in named)

    @property
    def path_header(self) -> str:
        """The header of a file."""
        if self.header is not None:
            return self.header
        return "" if self.by[0] == "folder" else _PATH_COMMENT

    @property
    def stored(self) -> dict[str, Any]:
        """The rules that decide what the token store keeps of each document."""
        return self.model_dump(mode="json", include={"by", "order", "reply_to", "header"})


def header_fields(header: str) -> list[str]:
    """The fields that a header names. Raises ValueError where it has anything else in braces."""
    try:
        parts = [*Formatter().parse(header)]
    except ValueError as error:
        raise ValueError(f"header {header!r}: {error}; write {{{{ for a brace") from None
    for _, field, format_, conversion in parts:
        if field is not None and (not field or format_ or conversion):
            raise ValueError(f"header {header!r}: braces hold a field's name and nothing else, such as {{title}}")
    return [field for _, field, _, _ in parts if field is not None]


def fill_header(header: str, values: dict[str, str]) -> str:
    """The header with the values of its fields."""
    return "".join(
        literal + ("" if field is None else values[field]) for literal, field, _, _ in Formatter().parse(header)
    )


_OF_ARRANGEMENT = ("arrange", "chunks", "knots")
"""Keys of related joins that came after the first corpora with such joins; in a chain none of them decides anything."""


def drop_younger_keys(content: dict[str, Any]) -> dict[str, Any]:
    """``content`` (``CorpusSpec.content``, or what a folder says of itself) without keys that decide nothing in it.

    A folder of before has no such keys, and one of another day has them with their defaults: both are the same corpus.
    """
    sources = deepcopy(content["sources"])
    for source in sources:
        related = source.get("join", {}).get("related") or {}
        if related.get("arrange") == "chain":
            for key in _OF_ARRANGEMENT:
                related.pop(key, None)
    return {**content, "sources": sources}
