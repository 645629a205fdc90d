"""What text a run reads, and in which proportions.

A source is one body of text of one role. The mix counts tokens, never documents or rows: sampling a 7:2:1 of documents
from sources of unlike lengths gives 12:87:0.4 in tokens.
"""

import codecs
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails

from ropewalk.core.quantity import Count, PositiveCount
from ropewalk.core.record import ROLES, Role
from ropewalk.core.spec import Spec
from ropewalk.corpus.profile import PROFILES, Profile, ProfileName

Faults = Literal["error", "skip", "replace"]
PROBES = "probes"
"""In ``decontaminate``: the prompts that the recipe's own probes ask."""


class RecordOptions(Spec):
    """How a record becomes a document, where one text field is not all."""

    prompt_key: str | None = None
    """With ``answer_key``: the document is the prompt, a line break and the answer; only the answer is trained on."""
    answer_key: str | None = None
    messages_key: str | None = None
    """The document is a conversation: a list of ``{role, content}`` or ``{from, value}``, or one as a JSON string."""
    template: Literal["plain", "chat"] = "plain"
    """How a conversation (or prompt and answer) is written: ``chat`` is the model's own chat template."""
    loss: Literal["responses", "last", "all"] = "responses"
    """What of a conversation is trained on: its answers, the last of them, or everything."""
    ignore_fields: tuple[str, ...] = ()
    """Fields of records and messages that are left out on purpose: names, or patterns (``score_*``) of unknown ones."""

    @property
    def is_chat(self) -> bool:
        """Whether records are conversations that are laid out when they are tokenised."""
        return self.messages_key is not None or self.template == "chat"

    @model_validator(mode="after")
    def _check_pair(self) -> "RecordOptions":
        if (self.prompt_key is None) != (self.answer_key is None):
            raise ValueError("prompt_key and answer_key come together")
        if self.messages_key is not None and self.prompt_key is not None:
            raise ValueError("messages_key and prompt_key exclude each other")
        if self.template == "chat" and self.messages_key is None and self.prompt_key is None:
            raise ValueError("template: chat needs messages_key, or prompt_key and answer_key")
        if (self.loss != "responses" or self.ignore_fields) and self.messages_key is None and self.prompt_key is None:
            raise ValueError("loss and ignore_fields are of conversations: messages_key, or prompt_key and answer_key")
        return self


class FileOptions(RecordOptions):
    """Options of a source with a ``path``."""

    join: Literal["file", "folder", "package", "repository"] = "file"
    """What a document of a code tree or a text folder is. A repository is a folder right below the path; a package the
    nearest folder with a pyproject.toml, package.json, Cargo.toml, go.mod or the like."""
    order: Literal["path", "dependency"] = "path"
    """How the files of a document follow: by path, or after those that they import."""
    path_headers: bool = True
    """Whether each file of a package or repository begins with a comment that says its path."""
    encoding: str = "utf-8"
    """Of text files and JSON lines, such as ``gb18030``; a byte-order mark says more."""
    split: str = "train"
    """Which part of a dataset that `datasets` saved to disk."""

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, given: str) -> str:
        try:
            return codecs.lookup(given).name
        except LookupError:
            raise ValueError(f"{given!r} is no encoding that Python knows") from None


class HubOptions(RecordOptions):
    """Options of a source on the hub."""

    config: str | None = None
    split: str = "train"
    revision: str | None = None
    """A commit, so that the same recipe reads the same text."""


class Selection(Spec):
    """Which of a source's long documents are trained on, by a column: one of a ``scores`` file, or of the measures."""

    column: str
    """``gain`` of `ropewalk corpus score`, ``coherence``, ``vocabulary_growth``, ``repeated_passages`` ..."""
    at_least: float | None = None
    at_most: float | None = None
    weigh: bool = False
    """Keep a document with a probability in proportion to its value, 1 from the 95th percentile up."""
    from_tokens: Count = 8192
    """Shorter documents are left as they are, and so are those without a value."""

    @model_validator(mode="after")
    def _check_use(self) -> "Selection":
        if self.at_least is None and self.at_most is None and not self.weigh:
            raise ValueError(f"select {self.column}: give at_least, at_most or weigh")
        return self


class Source(Spec):
    """One body of text: files, a hub dataset, or text that ropewalk makes itself; exactly one of the three."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    path: str | None = None
    """A file, a folder or a glob: .jsonl, .json, .txt, .md (also .zst, .gz, .bz2, .xz), .parquet, .html, .pdf;
    a dataset saved to disk; a code tree where the profile is ``code``."""
    hub: str | None = None
    """``owner/dataset`` on the Hugging Face hub; ``options``: config, split, revision."""
    embedded: str | None = None
    """A generator's name: docs/corpus.md lists them; ``options`` are its own."""
    role: Role
    language: str | None = None
    """Of all documents, such as ``en``, ``zh``, ``code``; None: judged for each by its script."""
    tokens: Literal["megatron", "datatrove", "olmo", "datasets"] | None = None
    """``path`` holds ids of this model's tokenizer, in files of that kind, instead of text."""
    profile: ProfileName | Profile | None = None
    """What counts as clean: a name, or values that differ from a named one (``{like: law, min_characters: 200}``);
    None: by role and language."""
    text_key: str = "text"
    size_bytes: Count | None = None
    """Read (or make) whole documents until this many bytes of text; None: all, or the generator's own size."""
    faults: Faults = "error"
    """What to do with a broken line or invalid text: stop, drop it and count it, or (for text) replace what is bad."""
    scores: str | None = None
    """A file of columns: JSON lines with ``id`` and any number of values, as `ropewalk corpus score` writes them."""
    select: tuple[Selection, ...] = ()
    """What long documents must be like; a decision on indices, so that nothing is tokenised again."""
    license: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_origin(self) -> "Source":
        given = [key for key in ("path", "hub", "embedded") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"source {self.name} needs exactly one of path, hub, embedded; it has {given or 'none'}")
        if self.tokens is not None and self.path is None:
            raise ValueError(f"source {self.name} has tokens: {self.tokens} and no path to them")
        if self.embedded is None:
            _ = self.record_options
        return self

    @property
    def record_options(self) -> FileOptions | HubOptions:
        """The options of a source that is read, not generated."""
        try:
            return (HubOptions if self.hub is not None else FileOptions).model_validate(self.options)
        except ValidationError as error:  # told with the key that the options stand under
            faults = [
                InitErrorDetails(
                    type=fault["type"], loc=("options", *fault["loc"]), input=fault["input"], ctx=fault.get("ctx", {})
                )
                for fault in error.errors()
            ]
            raise ValidationError.from_exception_data(error.title, faults) from None

    def cleaning(self, language: str | None = None) -> Profile:
        """The profile for a document of ``language``: the one given, else the one that fits role and language.

        Of text that ropewalk makes itself no line and no letter is taken: which documents a base was not trained on is
        known by their digests.
        """
        if isinstance(self.profile, Profile):
            return self.profile
        known = self.language or language
        if self.profile is not None:
            name = self.profile
        elif self.role == "instruction":
            name = "instruction"
        else:
            name = "code" if known == "code" else "prose_zh" if known == "zh" else "prose_en"
        return PROFILES[name] if self.embedded is None else PROFILES[name].only_judging

    @property
    def is_code(self) -> bool:
        """Whether the source is read as programs."""
        named = self.profile.like if isinstance(self.profile, Profile) else self.profile
        return named == "code" or (named is None and self.language == "code" and self.role != "instruction")


OTHER = "other"
"""The key of ``languages`` that means all those it does not name."""


class MixRules(Spec):
    """How the text behind each weight of a mix is dealt out; the defaults leave it in its natural proportions."""

    languages: dict[str, float] = Field(default_factory=dict)
    """Weights in tokens, within every weight of the mix: ``{zh: 2, en: 1, other: 0}``."""
    lengths: dict[Count, float] = Field(default_factory=dict)
    """Weights in tokens, within every source, of documents from this many tokens up: ``{0: 4, 64Ki: 6}``."""
    when_dry: Literal["stop", "spread"] = "stop"
    """Where text would be read more than ``max_repeats`` times: stop before the first step, or let others give more."""
    packing: Literal["fit", "chunk"] = "fit"
    """Whole documents by best fit, or all of them in a line that is cut at every row's end."""

    @model_validator(mode="after")
    def _check_weights(self) -> "MixRules":
        check_strand_weights(self.languages, self.lengths)
        return self

    @property
    def parts_sources(self) -> bool:
        """Whether a source's documents are told apart at all."""
        return bool(self.languages or self.lengths)


def check_strand_weights(languages: Mapping[str, float], lengths: Mapping[int, float]) -> None:
    """Raise ValueError unless every weight is one, some are above 0, and documents of every length have one."""
    for key, weights in (("languages", languages), ("lengths", lengths)):
        for name, weight in weights.items():
            if not math.isfinite(weight) or weight < 0:
                raise ValueError(f"{key}.{name} is {weight:g}; a weight is a number from 0 up")
        if weights and not any(weights.values()):
            raise ValueError(f"{key} has no weight above 0")
    if lengths and 0 not in lengths:
        raise ValueError(f"lengths says nothing of documents below {min(lengths)} tokens: add 0: WEIGHT")


class CorpusSpec(MixRules):
    """All sources of a run, how they are mixed, and what is kept of them."""

    store: str = "store"
    """Folder of the token store, shared by runs."""
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    mix: dict[str, float]
    """Weights in tokens, by role or by source name; a role's weight is spread over its sources by their size."""
    max_repeats: float = Field(default=4.0, gt=0)
    """How often a source may be read; 4 epochs are nearly as good as new text (2305.16264)."""
    held_out: float = Field(default=0.02, ge=0, lt=1)
    """Share of each source's documents kept from training, at least 8 of them or a tenth."""
    repeated_sections: Count | None = 4096
    """Characters from which a run of lines that stood in another document, or before in its own, is cut; None: none.
    Not looked for in instructions, in token ids and in text that ropewalk makes."""
    near_duplicates: float | None = Field(default=0.8, gt=0, le=1)
    """Jaccard similarity of shingles from which one of two documents is dropped; None keeps them."""
    long_documents: Literal["split", "truncate", "drop"] = "split"
    """What happens to a document that is longer than a row: cut into rows, only its first row read, or left out."""
    decontaminate: tuple[str, ...] = ()
    """Files of evaluation prompts, and ``probes`` for the recipe's own; a document that shares 13 words in a row with a
    prompt is dropped."""
    workers: Literal["processes", "ray"] = "processes"
    """What the text is cleaned and tokenised on; the bytes are the same whatever it is."""
    worker_count: PositiveCount | None = None
    """How many at once; None: a process for each core, or each of the Ray cluster's."""
    seed: int | None = None
    """Draws generated text and what is held out; None: the run's. Runs that differ in seed can so share a corpus."""

    @property
    def content(self) -> dict[str, Any]:
        """All that decides what a corpus folder holds; how its rows are dealt out and who made it does not."""
        return self.model_dump(
            mode="json", exclude={"store", "mix", "max_repeats", "workers", "worker_count", *MixRules.model_fields}
        )

    @model_validator(mode="after")
    def _check_names(self) -> "CorpusSpec":
        names = [source.name for source in self.sources]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"two sources are named {', '.join(repeated)}")
        if clash := sorted(set(names) & set(ROLES)):
            raise ValueError(f"a source cannot have a role's name: {', '.join(clash)}")
        check_mix(self.mix, {source.name: source.role for source in self.sources})
        return self


def check_mix(mix: dict[str, float], roles: dict[str, Role]) -> None:
    """Raise ValueError unless each key of ``mix`` names a role or source that exists and the weights make sense."""
    for key, weight in mix.items():
        if not math.isfinite(weight) or weight < 0:
            raise ValueError(f"mix.{key} is {weight:g}; a weight is a number from 0 up")
        if key not in roles and not any(role == key and name not in mix for name, role in roles.items()):
            raise ValueError(f"mix.{key} names no source, nor a role with a source of its own: {', '.join(roles)}")
    if not any(weight > 0 for weight in mix.values()):
        raise ValueError("mix has no weight above 0")
