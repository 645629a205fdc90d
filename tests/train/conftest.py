"""What the tests of training start from: a run folder with extended models in place, and a corpus."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tiny_run import write_corpus, write_model


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(a run folder with extended models, a corpus folder), made once."""
    folder = tmp_path_factory.mktemp("prepared")
    write_model(folder / "run", folder / "tokenizer")
    return folder / "run", write_corpus(folder)


@pytest.fixture
def new_run(prepared: tuple[Path, Path], tmp_path: Path) -> Callable[[str], Path]:
    """``new_run(name)``: a fresh run folder with the extended models in place."""

    def make(name: str = "run") -> Path:
        for stage in ("0", "1"):
            (tmp_path / name / "stages" / stage).mkdir(parents=True)
            extended = prepared[0] / "stages" / stage / "extended"
            (tmp_path / name / "stages" / stage / "extended").symlink_to(extended)
        return tmp_path / name

    return make
