"""What a source of many files costs beside its text: each file is read once for its digest, and listed a few times."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from made_texts import sentence
from ropewalk.core.error import UserError
from ropewalk.corpus.inspect.sample import sample_source
from ropewalk.corpus.prepare import sources
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.read import remote, source
from ropewalk.corpus.read.files import File
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.corpus.tokens.tokenizer import Tokenizer


def write_files(folder: Path, files: int) -> CorpusSpec:
    (folder / "web").mkdir(parents=True)
    for number in range(files):
        records = [{"text": sentence(100 * number + each, 60)} for each in range(3)]
        (folder / "web" / f"{number}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    web = {"name": "web", "path": str(folder / "web"), "role": "general", "language": "en"}
    keys = {"store": str(folder / "store"), "sources": [web], "mix": {"general": 1}, "worker_count": 1}
    return CorpusSpec.model_validate({**keys, "repeated_sections": 1000})


def count_calls(monkeypatch: pytest.MonkeyPatch, folder: Path, tokenizer: Tokenizer, files: int) -> Counter[str]:
    """Build a corpus of so many files; how often a file was digested, and how often the files were listed."""
    calls = Counter[str]()

    def counted(module: Any, name: str) -> None:
        made = getattr(module, name)

        def call(*given: Any, **keys: Any) -> Any:
            calls[name] += 1
            return made(*given, **keys)

        monkeypatch.setattr(module, name, call)

    spec = write_files(folder, files)
    with monkeypatch.context() as patch:
        monkeypatch = patch
        counted(remote, "digest_file")
        counted(source, "find_files")
        build(spec, tokenizer=tokenizer, seed=0, folder=folder / "corpus")
    return calls


def test_a_file_is_digested_once_and_not_listed_for_each_other(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = (count_calls(monkeypatch, tmp_path / f"{files}", tokenizer, files) for files in (3, 9))
    assert (few["digest_file"], many["digest_file"]) == (3, 9)
    assert few["find_files"] == many["find_files"] > 0


def test_files_are_not_compared_with_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source of a hundred thousand files would take five milliards of comparisons."""
    (web,) = write_files(tmp_path, 3).sources
    (tmp_path / "web" / "a.txt").write_text(sentence(1, 60))
    (tmp_path / "web" / "b.txt").write_text(sentence(2, 60))

    def compare(*_: object) -> bool:
        raise AssertionError("two files were compared")

    monkeypatch.setattr(File, "__eq__", compare)
    assert len([*source.read_source(web, seed=0)]) == 3 * 3 + 2
    sample = sample_source(web, seed=0)
    assert sample is not None and sample.files == 5


def test_a_file_that_comes_meanwhile_is_told(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, run = write_files(tmp_path, 3), sources.plan_search

    def add_first(*given: Any) -> Any:
        (tmp_path / "web" / "00.jsonl").write_text("{}\n")
        return run(*given)

    monkeypatch.setattr(sources, "plan_search", add_first)
    with pytest.raises(UserError, match="others than a moment ago"):
        build(spec, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus")
    monkeypatch.undo()
    (tmp_path / "web" / "00.jsonl").unlink()
    build(spec, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus")
