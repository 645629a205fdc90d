"""What the tests of training start from: a run folder with extended models in place, and a corpus."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from finished_saves import finish_saves
from ropewalk.parallel.launch import RankError
from ropewalk.train import loop
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


@pytest.fixture
def losing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[None]]:
    """``with losing(step):``: what trains there loses rank 1 to SIGKILL when it comes to that step."""

    @contextmanager
    def lose(step: int) -> Iterator[None]:
        original = loop.train_step

        def die(state: Any, *args: Any, **settings: Any) -> Any:
            if state.step == step and dist.get_rank() == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(state, *args, **settings)

        with monkeypatch.context() as patch, pytest.raises(RankError, match="SIGKILL"):
            patch.setattr(loop, "train_step", die)
            finish_saves(patch)
            yield

    return lose
