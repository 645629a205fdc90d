"""Cuts the work on a source into shards. Any process can make them, in any order, on any machine, with equal bytes.

A stream is read as a whole: one file of records, or a whole source where its documents span files. A shard is a run of
a stream's documents of about 64 MB. Finished shards are kept under ``store/.shards/`` until the source is assembled, so
a kill costs at most one shard a worker. Every worker reads a long stream completely but makes only every n-th shard of
it, because reading is forty times faster than cleaning and tokenising. Where surveys of the stream exist, its shards
are made of their clean text, and the stream is not read again.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from ropewalk.core.artifact import is_finished, new_folder, write_whole
from ropewalk.core.digest import digest_value
from ropewalk.core.error import UserError
from ropewalk.core.owned import Owned
from ropewalk.core.record import Document
from ropewalk.core.strict_json import spell_json
from ropewalk.corpus.dedup.decontaminate import Prompts
from ropewalk.corpus.prepare.filters import Cuts, Filters, Judged, cut_repeats
from ropewalk.corpus.prepare.pretokenized import read_imported, write_imported
from ropewalk.corpus.prepare.score_text import make_scorer
from ropewalk.corpus.prepare.survey import read_survey, write_survey
from ropewalk.corpus.prepare.tokenized import Gathered, write_documents
from ropewalk.corpus.read.chat import MESSAGES, ChatTemplate, lay_out
from ropewalk.corpus.read.files import File
from ropewalk.corpus.read.source import read_items, read_source, source_files, source_megabytes
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.reject import Reject, item_bytes
from ropewalk.corpus.tokens.tokenizer import Tokenizer

SHARD_BYTES = 1 << 26
FOLDER = ".shards"
_END = "stream.json"
Advance = Callable[[float], None]
"""Called with the number of bytes of text that were just processed."""


@dataclass(frozen=True)
class Job:
    """One source to clean and tokenise. ``inputs`` is all that determines its bytes; the store is named by it.

    A job without ``cuts`` runs first: its shards are surveys, from which the cuts of all sources are computed.
    """

    source: Source
    prompts: Prompts
    cuts: Cuts | None
    seed: int
    tokenizer: Tokenizer
    inputs: dict[str, Any]
    store: Path
    shard_bytes: int
    working_folder: Path
    """Relative paths of the source start here."""
    survey: dict[str, Any] | None = None
    """``inputs`` of the survey of the same text; None where there is none."""

    @property
    def folder(self) -> Path:
        """The folder of the source in the store."""
        return self.store / digest_value(self.inputs)

    @cached_property
    def streams(self) -> list[File | None]:
        """The separately read parts of the source, in order: files, or one None for the whole source."""
        if self.source.path is None or self.source.size_bytes is not None or self.source.tokens:
            return [None]
        files = source_files(self.source).files
        if {file.name for file in files} != {*self.inputs["origin"]}:
            raise UserError(
                "the files of a source are others than a moment ago",
                where=f"source {self.source.name}: {self.source.path}",
                why="files were added or removed while the corpus was prepared",
                fix="start again when all files are there; what was made of the others is kept",
            )
        return [*files] if all(file.is_record for file in files) else [None]

    @cached_property
    def filters(self) -> Filters:
        """The filters for a document. They treat each document alone, so the result does not depend on the worker."""
        return Filters(self.source, self.prompts, make_scorer(self.source))

    @cached_property
    def chat(self) -> ChatTemplate:
        """The template for conversations. Raises UserError where the model has no template."""
        return self.tokenizer.chat(plain=self.source.record_options.template == "plain")

    @cached_property
    def folders(self) -> list[Path]:
        """The shard folder of each stream, named by its inputs, so that shards of other files stay valid."""
        return self._name_folders(self.inputs)

    @cached_property
    def _survey_folders(self) -> list[Path] | None:
        return None if self.survey is None else self._name_folders(self.survey)

    def _name_folders(self, inputs: dict[str, Any]) -> list[Path]:
        """The digests of files are those in ``inputs``: to read them here would read the whole source in each worker,
        and for each file again."""
        folders = []
        for stream in self.streams:
            made_of = inputs if stream is None else {**inputs, "origin": {stream.name: inputs["origin"][stream.name]}}
            folders.append(self.store / FOLDER / digest_value([made_of, self.shard_bytes]))
        return folders

    def tasks(self, workers: int) -> list[dict[str, int]]:
        """All tasks for ``workers`` workers. A task is every ``of``-th shard of a stream, starting with ``residue``."""
        tasks = []
        for number, stream in enumerate(self.streams):
            size = 0 if self.source.tokens else round(1e6 * (source_megabytes(self.source, stream) or 0.0))
            of = min(workers, max(1, -(-size // self.shard_bytes)))
            tasks += [{"stream": number, "residue": at, "of": of, "bytes": size // of} for at in range(of)]
        return tasks

    def is_made(self, stream: int) -> bool:
        """Whether all shards of a stream exist."""
        return missing_shards(self.folders[stream]) == []

    def parts(self) -> list[Path]:
        """All shards, in the order of the source."""
        counts = [(part, _count_shards(part)) for part in self.folders]
        return [part / f"{number:05d}" for part, count in counts for number in range(count)]

    def find_surveys(self, stream: int) -> list[Path] | None:
        """The surveys of all shards of a stream, in order; None unless all of them exist."""
        if self._survey_folders is None:
            return None
        folder = self._survey_folders[stream]
        if missing_shards(folder) != []:
            return None
        return [folder / f"{number:05d}" for number in range(_count_shards(folder))]

    def discard(self) -> None:
        """Remove the shards. The folder of the source holds all their data."""
        for folder in self.folders:
            if folder.exists():
                shutil.rmtree(folder)

    def write(self) -> Path:
        """Write the job to a file, for workers that share nothing else with this process. Returns the file."""
        path = self.store / FOLDER / f"{digest_value([self.inputs, self.shard_bytes])}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "source": self.source.model_dump(mode="json"),
            "prompts": self.prompts.to_json(),
            "cuts": None if self.cuts is None else self.cuts.to_json(),
            "seed": self.seed,
            "tokenizer": self.tokenizer.to_json(),
            "inputs": self.inputs,
            "store": str(self.store.resolve()),
            "shard_bytes": self.shard_bytes,
            "working_folder": str(self.working_folder),
            "survey": self.survey,
        }
        write_whole(path, spell_json(content, ensure_ascii=False))
        return path


@lru_cache(maxsize=4)
def read_job(path: Path) -> Job:
    """Read a job from a file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return Job(
        **{
            **content,
            "source": Source.model_validate(content["source"]),
            "prompts": Prompts.from_json(content["prompts"]),
            "cuts": None if content["cuts"] is None else Cuts.from_json(content["cuts"]),
            "tokenizer": Tokenizer.from_json(content["tokenizer"]),
            "store": Path(content["store"]),
            "working_folder": Path(content["working_folder"]),
        }
    )


def work(job: Job, task: dict[str, int], advance: Advance) -> None:
    """Make the missing shards of one task. Raises UserError where text cannot be read."""
    stream, folder = job.streams[task["stream"]], job.folders[task["stream"]]
    if job.source.tokens:
        _import(job, folder)
        return
    surveys = job.find_surveys(task["stream"])
    if surveys is not None:
        for number in range(task["residue"], len(surveys), task["of"]):
            if not is_finished(folder / f"{number:05d}"):
                _write_shard(job, read_survey(surveys[number], job.source), folder / f"{number:05d}", advance)
        _end_stream(folder, len(surveys))
        return
    # With many files, one of them may be empty.
    many = len(job.streams) > 1
    items = read_items(job.source, job.seed, stream) if many else read_source(job.source, seed=job.seed)
    shards = 0
    for number, members in groupby(items, key=_number_shards(job.shard_bytes)):
        shards = number + 1
        if number % task["of"] == task["residue"] and not is_finished(folder / f"{number:05d}"):
            _write_shard(job, _judge(job, members), folder / f"{number:05d}", advance)
    _end_stream(folder, shards)


def _end_stream(folder: Path, shards: int) -> None:
    """Record that a stream has ``shards`` shards."""
    if not (folder / _END).exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / _END, spell_json({"shards": shards}))


def _count_shards(folder: Path) -> int:
    return int(json.loads((folder / _END).read_text())["shards"])


def missing_shards(folder: Path) -> list[int] | None:
    """Numbers of the missing shards of a stream; None where no worker has read the stream to its end."""
    try:
        shards = _count_shards(folder)
    except FileNotFoundError:  # no test before reading: another share may remove its assembled shards in between
        return None
    return [n for n in range(shards) if not is_finished(folder / f"{n:05d}")]


def _import(job: Job, folder: Path) -> None:
    """Make the one shard of a source of token ids. The ids are only copied."""
    if not is_finished(folder / "00000"):
        gathered = Gathered()
        with new_folder(folder / "00000", kind="shard", inputs={}, facts=gathered.facts) as work_folder:
            documents = read_imported(job.source, job.tokenizer)
            write_imported(documents, job.filters, tokenizer=job.tokenizer, gathered=gathered, folder=work_folder)
    write_whole(folder / _END, spell_json({"shards": 1}))


def _judge(job: Job, items: Iterable[Document | Reject]) -> Iterator[Judged]:
    """Lay out the conversations among ``items`` of a source, then filter all."""

    def laid_out() -> Iterator[Document | Reject]:
        for item in items:
            if isinstance(item, Document) and MESSAGES in item.metadata:
                item = lay_out(item, job.chat, job.source)
            owned = Owned(item)
            del item
            yield owned.take()

    return job.filters.judge_all(laid_out())


def _write_shard(job: Job, judged: Iterable[Judged], folder: Path, advance: Advance) -> None:
    def watched() -> Iterator[Judged]:
        for each in judged:
            size, owned = each.read_bytes, Owned(each)
            del each
            yield owned.take()
            advance(size)

    gathered = Gathered()
    if job.cuts is None:
        with new_folder(folder, kind="survey", inputs={}, facts=gathered.facts) as work_folder:
            write_survey(watched(), job.source, ledger=gathered.ledger, folder=work_folder)
    else:
        with new_folder(folder, kind="shard", inputs={}, facts=gathered.facts) as work_folder:
            cut = cut_repeats(watched(), job.cuts, job.source)
            write_documents(cut, tokenizer=job.tokenizer, gathered=gathered, folder=work_folder)


def _number_shards(shard_bytes: int) -> Callable[[Document | Reject], int]:
    """A function that returns the shard number of each item of a stream, called in order."""
    number, size = 0, 0

    def give(item: Document | Reject) -> int:
        nonlocal number, size
        if size >= shard_bytes:
            number, size = number + 1, 0
        size += item_bytes(item)
        return number

    return give
