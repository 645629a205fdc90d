"""One document as large as a library passes: no step holds its text more often than needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import made_texts


def test_a_book_with_an_emoji_is_held_twice_at_most(tokenizer_folder: Path, tmp_path: Path) -> None:
    """Four bytes a character then: as it is, and in pieces that take one; also where what stands in it twice is cut."""
    program = Path(__file__).with_name("book_memory.py")
    paths = [str(Path(made_texts.__file__).parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path), str(tokenizer_folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    copies = json.loads(done.stdout.splitlines()[-1])
    assert all(1 < held < 2.1 for held in copies.values()), copies
