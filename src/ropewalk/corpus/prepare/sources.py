"""Cleans and tokenises each source of a corpus once into a folder of the store, or finds the folder there.

The shards of all sources form one pool of tasks, so a small source does not wait for a large one. The result does not
depend on the other sources of the corpus, on the workers, or on the point where an earlier attempt stopped.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ropewalk.core.artifact import is_finished
from ropewalk.core.digest import digest_value
from ropewalk.core.progress import say, watch
from ropewalk.core.quantity import format_count
from ropewalk.corpus.dedup.decontaminate import Prompts
from ropewalk.corpus.prepare.assemble_shards import assemble
from ropewalk.corpus.prepare.filters import Cuts
from ropewalk.corpus.prepare.find_repeats import RepeatSearch, plan_search
from ropewalk.corpus.prepare.fingerprint import describe_text, find_origin
from ropewalk.corpus.prepare.shards import FOLDER, SHARD_BYTES, Job, work
from ropewalk.corpus.prepare.tokenized import Tokenized, open_tokenized
from ropewalk.corpus.prepare.workers import count_workers, name_task, run_tasks
from ropewalk.corpus.read.chat import LAYOUT
from ropewalk.corpus.spec import CorpusSpec, Source
from ropewalk.corpus.tokens.tokenizer import Tokenizer

_FORMAT = 3
"""Format of a source's folder in the store. It is increased when the same inputs would give another folder.

3: the signature of a document with spans is made of its spans, and a file's name in the source replaces its path.
"""
_ALONE_MEGABYTES = 16
_NAMES_LETTERS = 60


class Share(NamedTuple):
    """The result of one job of an array. ``waits``: the job must be run again when all shares are surveyed."""

    tasks: int
    waits: bool


def tokenize_sources(spec: CorpusSpec, *, tokenizer: Tokenizer, prompts: Prompts, seed: int) -> list[Tokenized]:
    """Every source's folder in the store. Raises UserError where text cannot be read, or where a source is empty."""
    text = _describe_all(spec, tokenizer=tokenizer, prompts=prompts, seed=seed)
    try:
        search = plan_search(spec, text)
        if not search.is_surveyed:
            say("looking for repeated sections")
            _run(spec, search.surveys, part=", repeated sections")
        jobs = _list_jobs(text, search)
        waiting = {job.folder: job for job in jobs if not is_finished(job.folder)}
        for job in jobs:
            if job.folder not in waiting:
                say(f"{job.source.name}: found in {job.folder}")
        if waiting:
            _run(spec, list(waiting.values()))
        for job in waiting.values():
            assemble(job)
        for job in jobs:  # also found folders: a process may have been killed after it assembled them
            job.discard()
        search.discard()
    finally:
        _sweep(Path(spec.store) / FOLDER)
    return [open_tokenized(job.folder) for job in jobs]


def tokenize_share(
    spec: CorpusSpec, *, tokenizer: Tokenizer, prompts: Prompts, seed: int, share: int, shares: int
) -> Share:
    """Make the shards of share number ``share`` (from 0) of ``shares``, as one job of an array.

    No two shares have a shard in common. A later build finds all shards and assembles them.
    """
    text = _describe_all(spec, tokenizer=tokenizer, prompts=prompts, seed=seed)
    search, done = plan_search(spec, text), 0
    if not search.is_surveyed:
        done = _work_share(search.surveys, share, shares)
        if not search.is_surveyed:
            return Share(done, waits=True)
    jobs = [job for job in _list_jobs(text, search) if not is_finished(job.folder)]
    return Share(done + _work_share(jobs, share, shares), waits=False)


def _work_share(jobs: Sequence[Job], share: int, shares: int) -> int:
    mine = _list_tasks(jobs, shares)[share::shares]
    with watch(f"share {share} of {shares}", _megabytes(mine), unit="MB of text") as advance:
        for job, task in mine:
            if not job.is_made(task["stream"]):
                work(job, task, lambda size_bytes: advance(size_bytes / 1e6))
    return len(mine)


def _describe_all(spec: CorpusSpec, *, tokenizer: Tokenizer, prompts: Prompts, seed: int) -> list[Job]:
    """A job for each source without cuts, with all other inputs that determine its tokens."""
    return [
        Job(
            source=source,
            prompts=prompts,
            cuts=Cuts(),
            seed=seed,
            tokenizer=tokenizer,
            inputs=_describe(source, tokenizer, prompts, seed),
            store=Path(spec.store),
            shard_bytes=SHARD_BYTES,
            working_folder=Path.cwd(),
        )
        for source in spec.sources
    ]


def _list_jobs(text: Sequence[Job], search: RepeatSearch) -> list[Job]:
    """The jobs with their cuts, and with the surveys that hold their clean text."""
    cuts = search.find_cuts()
    return [
        replace(
            job,
            cuts=cuts[job.source.name],
            survey=search.survey_of(job.source.name),
            inputs={
                "format": _FORMAT,
                **job.inputs,
                "cuts": cuts[job.source.name].digest,
                "tokenizer": job.tokenizer.digest,
            },
        )
        for job in text
    ]


def _describe(source: Source, tokenizer: Tokenizer, prompts: Prompts, seed: int) -> dict[str, Any]:
    if not source.tokens:
        text = describe_text(source, prompts=prompts, seed=seed)
        return text if source.embedded is not None else {**text, **_describe_chat(source, tokenizer)}
    origin = find_origin(source, seed=seed)
    return {"tokens": source.tokens, "origin": origin, "language": source.language, "prompts": list(prompts.digest)}


def _describe_chat(source: Source, tokenizer: Tokenizer) -> dict[str, Any]:
    """The inputs that determine the layout of conversations."""
    options = source.record_options
    if options.template == "chat":
        return {"chat": digest_value([LAYOUT, tokenizer.chat_template, tokenizer.tool_template, tokenizer.names])}
    return {"chat": LAYOUT} if options.messages_key or options.prompt_key else {}


def _run(spec: CorpusSpec, jobs: Sequence[Job], part: str = "") -> None:
    """Make all missing shards. Little work is done in this process, since a worker takes time to start.

    ``part`` follows the sources' names in the line of progress: text is read twice, for two reasons.
    """
    whole = _megabytes(_list_tasks(jobs, 1))
    alone = spec.worker_count is None and spec.workers == "processes" and whole < _ALONE_MEGABYTES
    count = 1 if alone else count_workers(spec.workers, spec.worker_count)
    left = [(job, task) for job, task in _list_tasks(jobs, count) if not job.is_made(task["stream"])]
    names = ", ".join(job.source.name for job in jobs)
    if len(names) >= _NAMES_LETTERS:
        names = format_count(len(jobs), "source")
    with watch(f"{names}{part}", whole, unit="MB of text") as advance:
        advance(whole - _megabytes(left))
        files = {id(job): job.write() for job in jobs}
        lines = [name_task(files[id(job)], task) for job, task in left]
        if lines:
            if spec.workers == "ray" or count > 1:
                _ = jobs[0].tokenizer.fast  # chosen here first: workers, which choose too, tell nothing of it
            run_tasks(lines, workers=spec.workers, count=count, advance=lambda size_bytes: advance(size_bytes / 1e6))


def _list_tasks(jobs: Sequence[Job], workers: int) -> list[tuple[Job, dict[str, int]]]:
    """All tasks of all jobs, the largest first. Each stream occurs once, also where two sources read the same file."""
    found: dict[tuple[Path, int], tuple[Job, dict[str, int]]] = {}
    for job in jobs:
        for task in job.tasks(workers):
            found.setdefault((job.folders[task["stream"]], task["residue"]), (job, task))
    return sorted(found.values(), key=lambda each: -each[1]["bytes"])


def _megabytes(tasks: Sequence[tuple[Job, dict[str, int]]]) -> float:
    return sum(task["bytes"] for _, task in tasks) / 1e6


def _sweep(folder: Path) -> None:
    """Remove the job files, also one at which its writer was killed, and the folder of unfinished shards if empty."""
    for path in (*folder.glob("*.json"), *folder.glob(".tmp-*")):
        path.unlink()
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()
