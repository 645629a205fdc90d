"""What is recorded of each document of a source (scores, origin), and which are trained on by such columns."""

from typing import Any

from pydantic import Field, model_validator

from ropewalk.core.quantity import Count
from ropewalk.core.spec import Spec

SCORES = "gzip", "fasttext", "kenlm", "callable"
"""The columns that ``score`` can make, each named as its key."""


class ScoreRules(Spec):
    """Scores of each document, made from its clean text before it is tokenised. ``score: gzip`` is short for
    ``score: {gzip: true}``. Each score is a column of its name, for ``select``."""

    gzip: bool = False
    """Column ``gzip``: how many times zlib makes the text smaller, the mean of at most 16 windows of 4 KiB. So it does
    not depend on the length."""
    fasttext: str | None = None
    """Column ``fasttext``: the probability of ``label`` by this model file (`pip install 'ropewalk[fasttext]'`)."""
    label: str | None = None
    """The label of the fastText model, such as ``__label__hq``."""
    kenlm: str | None = None
    """Column ``kenlm``: perplexity by this model file, of characters for Han and kana, else of words (`pip install
    'ropewalk[kenlm]'`)."""
    callable: str | None = None
    """Column ``callable``: a number that your function ``module:function`` returns for a text and the document's
    metadata. The module is found from the working folder or is installed."""
    version: str = ""
    """Of what ``callable`` depends on beside its own file. Another version scores the text again."""

    @model_validator(mode="after")
    def _check_use(self) -> "ScoreRules":
        if not self.columns:
            raise ValueError("score: give gzip, fasttext, kenlm or callable")
        if (self.fasttext is None) != (self.label is None):
            raise ValueError("score: fasttext and label must be given together")
        if self.callable is not None and self.callable.count(":") != 1:
            raise ValueError(f"score: callable is {self.callable!r}, not `module:function`")
        if self.version and self.callable is None:
            raise ValueError("score: version belongs to callable")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(name for name in SCORES if getattr(self, name))


def expand_score(given: Any) -> Any:
    """``gzip`` as the rules it is short for."""
    return {"gzip": True} if given == "gzip" else given


class Provenance(Spec):
    """Which fields of a record say where its document comes from. A key with dots names a field in a field."""

    address: str | None = None
    """Field of the address, such as ``url``."""
    license: str | None = None
    """Field of the licence."""
    date: str | None = None
    """Field of the date."""


class Selection(Spec):
    """Which of a source's long documents are trained on, by a column: one of a ``scores`` file, of ``score``, or of the
    measures."""

    column: str
    """``gain`` of `ropewalk corpus score`, ``gzip``, ``coherence``, ``vocabulary_growth``, ``repeated_passages`` ..."""
    at_least: float | None = None
    """Least value of the column."""
    at_most: float | None = None
    """Largest value of the column."""
    band: tuple[float, float] | None = None
    """Keep the values between two percentiles, such as ``[20, 80]``, of the documents of the same language and length
    (from one power of two of tokens to the next)."""
    weigh: bool = False
    """Keep a document with a probability in proportion to its value, 1 from the 95th percentile up."""
    from_tokens: Count = 8192
    """Shorter documents are left as they are, and so are those without a value."""
    to_tokens: Count | None = None
    """Documents of so many tokens or more are left as they are; None: no limit."""
    language: str | None = Field(default=None)
    """Only documents of this language are judged; None: of any."""

    @model_validator(mode="after")
    def _check_use(self) -> "Selection":
        if self.at_least is None and self.at_most is None and self.band is None and not self.weigh:
            raise ValueError(f"select {self.column}: give at_least, at_most, band or weigh")
        if self.band is not None and not 0 <= self.band[0] < self.band[1] <= 100:
            raise ValueError(f"select {self.column}: a band is two percentiles, the lower one first, such as [20, 80]")
        if self.to_tokens is not None and self.to_tokens <= self.from_tokens:
            raise ValueError(f"select {self.column}: to_tokens must be above from_tokens")
        return self
