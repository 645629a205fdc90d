"""What text a run reads, and in which proportions.

A source is one body of text of one role. The mix counts tokens, never documents or rows: sampling a 7:2:1 of documents
from sources of unlike lengths gives 12:87:0.4 in tokens.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from ropewalk.core.quantity import Count, PositiveCount
from ropewalk.core.record import ROLES, Role
from ropewalk.core.spec import Spec
from ropewalk.corpus.fill_rules import FillRules
from ropewalk.corpus.join_rules import JoinRules, drop_younger_keys
from ropewalk.corpus.mix_rules import MixRules, check_mix
from ropewalk.corpus.prompt_rules import GivenRules, PromptRules
from ropewalk.corpus.read_options import FileOptions, HubOptions, check_language
from ropewalk.corpus.selection_rules import Provenance, ScoreRules, Selection, expand_score
from ropewalk.corpus.task_rules import TaskRules
from ropewalk.corpus.text.language import language_kind
from ropewalk.corpus.text.profile import PROFILES, Profile, ProfileName

Faults = Literal["error", "skip", "replace"]
LongDocuments = Literal["split", "truncate", "drop"]
BY_ROLE: Literal["by_role"] = "by_role"
"""Of a source's key: what its role says, else the corpus's key of the same name."""


_NO_FILE_OPTIONS, _NO_HUB_OPTIONS = FileOptions(), HubOptions()
"""Made once, because they are asked for at each record."""


class Source(Spec):
    """One body of text: files, a hub dataset, or text that ropewalk makes itself; exactly one of the three."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Names it in mixes, ledgers and folders."""
    path: str | None = None
    """A file, a folder or a glob: .jsonl, .ndjson, .jl, .json, .csv, .tsv, .txt, .md, .html (also with .zst, .gz, .bz2,
    .xz), .parquet, .pdf, .tar, .zip, .warc, .wet; a dataset saved to disk; a code tree where the profile is ``code``.
    It may be an address that fsspec knows (``s3://bucket/web``)."""
    hub: str | None = None
    """``owner/dataset`` on the Hugging Face hub; ``options``: config, split, revision."""
    embedded: str | None = None
    """A generator's name: docs/corpus.md lists them; ``options`` are its own."""
    role: Role
    """What it is for: its weight in a mix is its role's, unless it has its own."""
    language: Annotated[str, AfterValidator(check_language)] | None = None
    """Of all documents, such as ``en``, ``zh``, ``code``; None: judged for each by its script."""
    tokens: Literal["megatron", "datatrove", "olmo", "datasets"] | None = None
    """``path`` holds ids of this model's tokenizer, in files of that kind, instead of text."""
    profile: ProfileName | Profile | None = None
    """What counts as clean: a name, or values that differ from a named one (``{like: law, min_characters: 200}``);
    None: by role and language."""
    text_key: str = "text"
    """The field of a record that holds the text."""
    size_bytes: Count | None = None
    """Read (or make) whole documents until this many bytes of text; None: all, or the generator's own size."""
    faults: Faults = "error"
    """What to do with a broken line or invalid text: stop, drop it and count it, or (for text) replace what is bad."""
    scores: str | None = None
    """A file of columns: JSON lines with ``id`` and any number of values, as `ropewalk corpus score` writes them."""
    score: Annotated[ScoreRules, BeforeValidator(expand_score)] | None = None
    """Scores of the clean text for ``select``: ``gzip``, or ``{fasttext: FILE, label: NAME}``, ``{kenlm: FILE}``,
    ``{callable: module:function}``."""
    select: tuple[Selection, ...] = ()
    """What long documents must be like; a decision on indices, so that nothing is tokenised again."""
    license: str | None = None
    """Under which the text stands; shown in the report, never judged."""
    provenance: Provenance | None = None
    """Fields of records with the address, licence and date of a document, kept to the store and the data card."""
    near_duplicates: Annotated[float, Field(gt=0, le=1)] | Literal["by_role"] | None = BY_ROLE
    """Similarity from which a document of this source is dropped as a copy of another; None keeps all but exact copies.
    ``by_role``: None for instructions that are read, whose answers may be alike; the corpus's for all else."""
    long_documents: LongDocuments | Literal["by_role"] = BY_ROLE
    """What happens to a document that is longer than a sequence. ``by_role``: ``drop`` for instructions that are read,
    so that no sequence ends in the middle of an answer; the corpus's for all else."""
    join: JoinRules | None = None
    """Documents that are read as one: ``{by: book, order: chapter}``; docs/corpus-joins.md."""
    fill_in_middle: FillRules | None = None
    """Programs whose middle stands at the end, for bases that have tokens for it: ``{rate: 0.5}``."""
    tasks: TaskRules | None = None
    """Questions about long documents, made of their own content and put behind them: ``{share: 0.02}``;
    docs/corpus-tasks.md."""
    options: dict[str, Any] = Field(default_factory=dict)
    """How files, records or a generator are read; docs/corpus.md and docs/embedded.md have them."""

    @model_validator(mode="after")
    def _check_origin(self) -> "Source":
        given = [key for key in ("path", "hub", "embedded") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"source {self.name} needs exactly one of path, hub, embedded; given: {given or 'none'}")
        if self.tokens is not None and self.score is not None:
            raise ValueError(f"source {self.name} has tokens: {self.tokens}, but only text is scored: leave out score")
        if self.provenance is not None and (self.tokens is not None or self.embedded is not None):
            raise ValueError(f"source {self.name} has no records with fields: leave out provenance")
        if self.tokens and (unused := self.model_dump(include={*_OF_TEXT}, exclude_defaults=True)):
            raise ValueError(
                f"source {self.name} has tokens: {self.tokens}, which are all read as they are: leave out "
                f"{', '.join(unused)}"
            )
        if self.embedded and (unused := self.model_dump(include={*_OF_FILES}, exclude_defaults=True)):
            raise ValueError(
                f"source {self.name} is text that ropewalk makes, which has no fields and no faults: leave out "
                f"{', '.join(unused)}"
            )
        if self.tokens is not None and self.path is None:
            raise ValueError(f"source {self.name} has tokens: {self.tokens}, but no path")
        if self.role == "instruction" and (self.fill_in_middle or self.tasks):
            raise ValueError(f"source {self.name}: fill_in_middle and tasks are for text, not for instructions")
        if self.tasks is not None and (self.fill_in_middle or (self.join and self.join.attend == "parts")):
            raise ValueError(
                f"source {self.name}: tasks ask about the whole document in its order, so they exclude fill_in_middle "
                "and join.attend: parts"
            )
        cut = self.join is not None and self.join.related is not None and self.join.related.arrange != "chain"
        if cut and (self.role == "instruction" or self.fill_in_middle or self.tasks):
            raise ValueError(
                f"source {self.name}: join.related.arrange cuts texts, so it excludes role: instruction (an answer "
                "would be cut), fill_in_middle and tasks (which need whole texts)"
            )
        if self.notes_parts and (self.embedded is not None or self.tokens is not None):
            raise ValueError(f"source {self.name}: text that ropewalk makes, and token ids, have no fields to join by")
        if self.embedded is None:
            _ = self.record_options
        return self

    @property
    def record_options(self) -> FileOptions | HubOptions:
        """The options of a source that is read, not generated."""
        if not self.options and self.join is None:
            return _NO_HUB_OPTIONS if self.hub is not None else _NO_FILE_OPTIONS
        try:
            options = (HubOptions if self.hub is not None else FileOptions).model_validate(self.options)
        except ValidationError as error:  # told with the key that the options stand under
            faults = [
                InitErrorDetails(
                    type=fault["type"], loc=("options", *fault["loc"]), input=fault["input"], ctx=fault.get("ctx", {})
                )
                for fault in error.errors()
            ]
            raise ValidationError.from_exception_data(error.title, faults) from None
        if self.join is None:
            return options
        ignored = (*options.ignore_fields, *self.join.fields)  # they are read, if not as part of a conversation
        return options.model_copy(update={"ignore_fields": ignored})

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
            kind = language_kind(known or "none")
            name = "code" if kind == "code" else "prose_zh" if kind in ("zh", "han") else "prose_en"
        return PROFILES[name] if self.embedded is None else PROFILES[name].only_judging

    @property
    def notes_parts(self) -> bool:
        """Whether each document's place in a join is read with it: a key, an order, a header."""
        return self.join is not None and self.join.related is None

    @property
    def is_composed(self) -> bool:
        """Whether its documents are tables of pieces, not the stored ones as they are."""
        return any(each is not None for each in (self.join, self.fill_in_middle, self.tasks))

    @property
    def is_instruction(self) -> bool:
        """Whether its documents are prompts with answers that somebody else wrote: read, not made by ropewalk."""
        return self.role == "instruction" and self.embedded is None

    @property
    def reads_lines(self) -> bool:
        """Whether each line of its text files is a document."""
        options = self.record_options
        return isinstance(options, FileOptions) and options.document == "line"

    @property
    def is_code(self) -> bool:
        """Whether the source is read as programs."""
        named = self.profile.like if isinstance(self.profile, Profile) else self.profile
        return named == "code" or (named is None and self.language == "code" and self.role != "instruction")


_OF_TEXT = ("size_bytes", "text_key", "profile", "faults", "options")
"""Keys that a source of token ids has no use for."""
_OF_FILES = ("text_key", "faults")
"""Keys that a source of embedded text has no use for."""


class CorpusSpec(MixRules):
    """All sources of a run, how they are mixed, and what is kept of them."""

    store: str = "store"
    """Folder of the token store, shared by runs."""
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    """All bodies of text, in the order of the ledger."""
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
    long_documents: LongDocuments = "split"
    """What happens to a document that is longer than a sequence: cut into sequences, only its first sequence read (of a
    conversation, only its whole answers), or left out."""
    decontaminate: GivenRules = PromptRules()
    """Which evaluation prompts are kept out: ``{files: [exam.jsonl, probes], overlap: 0.5, action: cut}``."""
    workers: Literal["processes", "ray"] = "processes"
    """What the text is cleaned and tokenised on; the bytes are the same whatever it is."""
    worker_count: PositiveCount | None = None
    """How many at once; None: a process for each core, or each of the Ray cluster's."""
    seed: int | None = None
    """Draws generated text and what is held out; None: the run's. Runs that differ in seed can so share a corpus."""

    def near_duplicates_of(self, source: Source) -> float | None:
        """The similarity from which a document of ``source`` is dropped; None keeps all but exact copies."""
        if source.near_duplicates != BY_ROLE:
            return source.near_duplicates
        return None if source.is_instruction else self.near_duplicates

    def long_documents_of(self, source: Source) -> LongDocuments:
        """What happens to documents of ``source`` that are longer than a sequence."""
        if source.long_documents != BY_ROLE:
            return source.long_documents
        return "drop" if source.is_instruction else self.long_documents

    @property
    def content(self) -> dict[str, Any]:
        """All that decides what a corpus folder holds, but for its text, which files name by their bytes.

        How sequences are dealt out, who made it and where text lies (``places``) decides nothing.
        """
        content = self.model_dump(
            mode="json", exclude={"store", "mix", "max_repeats", "workers", "worker_count", *MixRules.model_fields}
        )
        for source in content["sources"]:
            del source["path"], source["scores"], source["score"]
            for key in ("join", "fill_in_middle", "tasks", "provenance"):
                if source[key] is None:  # as corpora say that were built before there were such keys
                    del source[key]
            related = source.get("join", {}).get("related") or {}
            if related:
                related["weights"] = 2  # by how often both texts have a term; corpora without it go by its rarity alone
            if related.get("control"):
                related["control"] = 2  # of the same lengths; corpora that say true have a control of any lengths
            tasks = source.get("tasks", {})
            if (written := tasks.pop("written", None)) is not None:  # where a model is asked decides nothing
                kept = ("model", "questions", "sections", "section_characters", "options")
                tasks["written"] = {key: written[key] for key in kept}
            if source["select"]:
                source["selects"] = 2  # copies in other sources stay; a band keeps its share of a small cell
            for rule in source["select"]:
                for key in ("band", "to_tokens", "language"):
                    if rule[key] is None:
                        del rule[key]
        del content["decontaminate"]["files"]
        return drop_younger_keys(content)

    @property
    def places(self) -> dict[str, str]:
        """Where the text of each source lies that has a path."""
        return {source.name: source.path for source in self.sources if source.path is not None}

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
