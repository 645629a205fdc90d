"""A sample of the damaged files of benchmarks/malformed.py, which tries all of them: an error, or counted rejects."""

from pathlib import Path

import pytest

from programs import load_program
from ropewalk.corpus.tokens.tokenizer import Tokenizer

NEW = ["csv.gz", "tar", "stored.zip", "warc", "wet.gz", "parquet"]


def test_damaged_files_of_the_new_formats(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = load_program("malformed", monkeypatch)
    found = program.run(NEW, tokenizer, tmp_path, every=25)
    assert found["error: error"] > 1 and found.total() == 2 * (26 * len(NEW) // 25)
