"""The same bytes whatever makes them: one process, several, Ray, an array of jobs, in any order, killed or not."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from fork_server import serve_forks
from made_texts import han, sentence
from ropewalk.core import progress
from ropewalk.core.artifact import is_finished
from ropewalk.core.error import UserError
from ropewalk.core.translate import set_language
from ropewalk.corpus.dedup.decontaminate import read_prompts
from ropewalk.corpus.prepare import find_repeats, sources, workers
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.prepare.sources import tokenize_share
from ropewalk.corpus.prompt_rules import PromptRules
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.corpus.tokens.tokenizer import Tokenizer, load_tokenizer

SHARD_BYTES = 15_000
FRESH_PYTHON = sys.executable


def snapshot(folder: Path) -> dict[str, bytes]:
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in files.items() if not name.endswith(".lock")}


def prose(number: int) -> str:
    return "".join(f"{sentence(100 * number + line, 12)}.\n" for line in range(3000, 3030))


def write_records(folder: Path, name: str, records: list[dict[str, str]]) -> None:
    (folder / name).write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of many shards, one or none; a chapter that many documents share; texts; answers with a mask."""
    folder = tmp_path_factory.mktemp("texts")
    for name in ("web", "notes"):
        (folder / name).mkdir()
    write_records(folder / "web", "a.jsonl", [{"text": sentence(n, 100)} for n in range(150)])
    write_records(folder / "web", "b.jsonl", [])
    write_records(folder / "web", "c.jsonl", [*({"text": han(n, 300)} for n in range(20)), {"text": "short"}])
    write_records(folder / "web", "d.jsonl", [{"text": sentence(n, 100) + " again"} for n in range(0, 150, 9)])
    chapter, *own = (prose(n) for n in range(9))
    write_records(folder / "web", "e.jsonl", [{"text": a + chapter + b} for a, b in pairwise(own)])
    write_records(folder, "pairs.jsonl", [{"q": sentence(n, 12), "a": sentence(1000 + n, 5)} for n in range(150)])
    for n in range(15):
        (folder / "notes" / f"{n}.txt").write_text(sentence(2000 + n, 300))
    return folder


def write_spec(texts: Path, store: Path, **keys: Any) -> dict[str, Any]:
    pairs = {"prompt_key": "q", "answer_key": "a"}
    return {
        "store": str(store),
        "sources": [
            {"name": "web", "path": str(texts / "web"), "role": "general", "profile": "law"},
            {"name": "notes", "path": str(texts / "notes"), "role": "domain", "language": "en"},
            {"name": "pairs", "path": str(texts / "pairs.jsonl"), "role": "instruction", "options": pairs},
        ],
        "mix": {"general": 7, "domain": 2, "instruction": 1},
        "repeated_sections": 1000,
        **keys,
    }


def spec_of(texts: Path, store: Path, **keys: Any) -> CorpusSpec:
    return CorpusSpec.model_validate(write_spec(texts, store, **keys))


def make(texts: Path, folder: Path, tokenizer: Tokenizer, **keys: Any) -> dict[str, bytes]:
    """Build a corpus in ``folder``; all its files and its store's."""
    build(spec_of(texts, folder / "store", **keys), tokenizer=tokenizer, seed=0, folder=folder / "corpus")
    return snapshot(folder)


@pytest.fixture(scope="module")
def truth(texts: Path, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every source as one shard, one after the other, in this process."""
    return make(texts, tmp_path_factory.mktemp("truth"), tokenizer, worker_count=1)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch, truth: dict[str, bytes]) -> None:
    monkeypatch.setattr(sources, "SHARD_BYTES", SHARD_BYTES)


def test_the_texts_lose_something_at_every_step(truth: dict[str, bytes]) -> None:
    dropped = json.loads(truth["corpus/ledger.json"])["web"]["dropped"]
    assert {"too short", "repeated section", "near duplicate"} <= dropped.keys()
    assert any(name.endswith("rejects.jsonl") and data for name, data in truth.items())


def test_small_shards_give_the_same_bytes(
    texts: Path, tokenizer: Tokenizer, tmp_path: Path, truth: dict[str, bytes]
) -> None:
    left = tmp_path / "store" / ".shards" / ".tmp-0123.json-node7-21"  # by a process that was killed as it wrote it
    left.parent.mkdir(parents=True)
    left.write_text('{"source": ')
    assert make(texts, tmp_path, tokenizer, worker_count=1) == truth
    assert not left.parent.exists()


@pytest.fixture
def forked_workers(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers are forks of this process, so each saves the imports; fresh ones finish what was killed."""
    with serve_forks(tmp_path_factory.mktemp("forks")) as python:
        monkeypatch.setattr(sys, "executable", str(python))
        yield


@pytest.mark.usefixtures("forked_workers")
def test_processes_give_the_same_bytes(
    texts: Path, tokenizer: Tokenizer, tmp_path: Path, truth: dict[str, bytes]
) -> None:
    assert make(texts, tmp_path, tokenizer, worker_count=3) == truth


def test_ray_gives_the_same_bytes(texts: Path, tokenizer: Tokenizer, tmp_path: Path, truth: dict[str, bytes]) -> None:
    ray = pytest.importorskip("ray")
    before = signal.getsignal(signal.SIGTERM)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        assert make(texts, tmp_path, tokenizer, workers="ray") == truth
        broken = tmp_path / "broken.jsonl"
        broken.write_text('{"text": ')
        sources = [{"name": "web", "path": str(broken), "role": "general"}]
        with pytest.raises(UserError, match="broken JSON line"):
            make(texts, tmp_path / "broken", tokenizer, workers="ray", sources=sources, mix={"web": 1})
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)  # Ray's own would end the whole test run


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [3, 1, 4, 0, 3, 2]])
def test_an_array_of_jobs_gives_the_same_bytes(
    texts: Path, tokenizer: Tokenizer, tmp_path: Path, truth: dict[str, bytes], order: list[int]
) -> None:
    spec = spec_of(texts, tmp_path / "store")
    keys = {"tokenizer": tokenizer, "prompts": read_prompts(PromptRules()), "seed": 0, "shares": 5}
    surveys = {share: tokenize_share(spec, share=share, **keys) for share in order}  # type: ignore[arg-type]
    assert [share for share, done in surveys.items() if not done.waits] == [order[-1]]
    tasks = {share: tokenize_share(spec, share=share, **keys) for share in order}  # type: ignore[arg-type]
    assert len(tasks) == 5 and all(done.tasks and not done.waits for done in tasks.values())
    assert make(texts, tmp_path, tokenizer) == truth
    assert all(tokenize_share(spec, share=share, **keys) == (0, False) for share in order)  # type: ignore[arg-type]


def test_a_share_that_waited_for_the_comparison_takes_it(
    texts: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network file system, a name that was not there stays unknown until its folder is listed."""
    spec = spec_of(texts, tmp_path / "store")
    keys: dict[str, Any] = {"tokenizer": tokenizer, "prompts": read_prompts(PromptRules()), "seed": 0}
    tokenize_share(spec, share=0, shares=1, **keys)
    (made,) = (tmp_path / "store").glob("sections-*")
    listed: list[Path] = []
    really = Path.iterdir

    def list_folder(folder: Path) -> Iterator[Path]:
        listed.append(folder)
        return really(folder)

    monkeypatch.setattr(Path, "iterdir", list_folder)
    monkeypatch.setattr(find_repeats, "is_finished", lambda folder: made.parent in listed and is_finished(folder))
    monkeypatch.setattr(find_repeats, "find_spans", lambda *_, **__: pytest.fail("compared again"))
    assert not tokenize_share(spec, share=0, shares=1, **keys).waits


def test_after_the_array_nothing_is_tokenised(
    texts: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(texts, tmp_path / "store")
    for share in (0, 1, 0):  # share 1 finds all surveyed and goes on, share 0 had to wait
        tokenize_share(spec, tokenizer=tokenizer, prompts=read_prompts(PromptRules()), seed=0, share=share, shares=2)
    monkeypatch.setattr(Tokenizer, "encode_documents", lambda *_: pytest.fail("tokenised again"))
    make(texts, tmp_path, tokenizer, worker_count=1)


SCRIPT = """
import json, sys
from pathlib import Path
from ropewalk.corpus.prepare import sources
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.corpus.tokens.tokenizer import load_tokenizer
spec, sources.SHARD_BYTES = CorpusSpec.model_validate(json.loads(sys.argv[1])), int(sys.argv[2])
build(spec, tokenizer=load_tokenizer(Path(sys.argv[3])), seed=0, folder=Path(sys.argv[4]))
"""


def kill_build(texts: Path, folder: Path, tokenizer: Tokenizer, *, at: int) -> None:
    """Build with two workers; the process that started them is killed as soon as ``folder`` has ``at`` files."""
    keys = {"worker_count": 2}
    process = get_context("fork").Process(target=make, args=(texts, folder, tokenizer), kwargs=keys)
    process.start()
    while process.is_alive() and sum(len(files) for _, _, files in os.walk(folder)) < at:  # folders come and go
        time.sleep(0.02)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it came to its end before"


@pytest.mark.usefixtures("forked_workers")
def test_killed_anywhere_it_goes_on_to_the_same_bytes(
    texts: Path, tokenizer: Tokenizer, tokenizer_folder: Path, tmp_path: Path, truth: dict[str, bytes]
) -> None:
    """Three builds are killed, at the first files, at a quarter of all and at three quarters; the next is fresh."""
    made = tmp_path / "made"
    made.mkdir()
    for at in (3, 100, 300):
        kill_build(texts, made, tokenizer, at=at)
    spec = json.dumps(write_spec(texts, made / "store", worker_count=2))
    asked = [spec, str(SHARD_BYTES), str(tokenizer_folder), str(made / "corpus")]
    done = subprocess.run([FRESH_PYTHON, "-c", SCRIPT, *asked], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert snapshot(made) == truth


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize("count", [1, 3])
def test_a_fault_in_one_file_is_told_and_leaves_only_good_shards(
    texts: Path, tokenizer: Tokenizer, tmp_path: Path, count: int, write_jsonl: Callable[..., Path]
) -> None:
    folder = tmp_path / "web"
    folder.mkdir()
    for name in ("a", "c"):
        (folder / f"{name}.jsonl").write_bytes((texts / "web" / f"{name}.jsonl").read_bytes())
    (folder / "b.jsonl").write_text('{"text": "fine"}\n{"text": ')
    sources = [{"name": "web", "path": str(folder), "role": "general", "profile": "law"}]
    keys = {"sources": sources, "mix": {"web": 1}, "worker_count": count}
    with pytest.raises(UserError, match="broken JSON line") as caught:
        make(texts, tmp_path, tokenizer, **keys)
    assert "b.jsonl, line 2" in caught.value.where
    left = snapshot(tmp_path)
    assert not any(name.startswith(("corpus", "store/.tmp")) or name.endswith(".json.tmp") for name in left)
    assert all(name.startswith(("web/", "store/.shards/")) for name in left)
    (folder / "b.jsonl").write_text("")
    made = make(texts, tmp_path, tokenizer, **keys)
    assert not any(".shards" in name for name in made) and any(name.startswith("corpus/") for name in made)


def test_a_source_of_empty_files_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    for name in ("a", "b"):
        (tmp_path / "web" / f"{name}.jsonl").write_text("")
    sources = [{"name": "web", "path": str(tmp_path / "web"), "role": "general"}]
    with pytest.raises(UserError, match="source web has no document"):
        make(tmp_path, tmp_path, tokenizer, sources=sources, mix={"web": 1})
    assert not (tmp_path / "store").exists()


def test_two_sources_may_read_the_same_file(texts: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    web = {"role": "general", "profile": "law"}
    sources = [
        {"name": "all", "path": str(texts / "web"), **web},
        {"name": "some", "path": str(texts / "web" / "[ac].jsonl"), **web},
        {"name": "same", "path": str(texts / "web"), **web},
    ]
    made = make(texts, tmp_path, tokenizer, sources=sources, mix={"general": 1}, near_duplicates=None)
    assert len({name for name in made if name.startswith("store/") and name.endswith("signatures.npy")}) == 2
    ledger = json.loads(made["corpus/ledger.json"])
    assert ledger["all"]["stored"] == ledger["same"]["stored"] and "repeated section" in ledger["same"]["dropped"]
    assert ledger["same"]["train"]["documents"] == 0  # equal texts are cut alike, and so stay equal


def test_a_tokenizer_comes_back_from_json(tokenizer: Tokenizer, tokenizer_folder: Path) -> None:
    again = Tokenizer.from_json(tokenizer.to_json())
    assert again.digest == tokenizer.digest == load_tokenizer(tokenizer_folder).digest
    assert again.encode("river 天地").tolist() == tokenizer.encode("river 天地").tolist()


def test_a_worker_speaks_as_its_parent_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In its language, not beside ``--quiet``, and nothing of what the parent tells for all."""
    monkeypatch.setattr(progress, "_VOICE", progress._Voice())
    try:
        for quiet in (False, True):
            workers._speak_as("zh", quiet=quiet)
            progress.say("the corpus is not prepared")
            progress.say_once("another line")
    finally:
        set_language("en")
    assert capsys.readouterr().err == "语料尚未准备好\n"
