"""Jobs that wait for a preparation heed that of their own recipe, and no mark or corpus that was left earlier."""

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ropewalk.cli.main import app
from ropewalk.commands.grow import write_recipe
from ropewalk.commands.wait_corpus import OLD_SECONDS, mark_failure, wait_corpus
from ropewalk.core.artifact import seal
from ropewalk.core.error import UserError
from ropewalk.core.run_folder import RunFolder
from ropewalk.recipe.load import parse_recipe
from ropewalk.recipe.spec import Recipe

FAULT = UserError("a file is broken", where="web.jsonl, line 3", why="it is no JSON", fix="mend the line")
Happen = Callable[[], None]


def other(recipe: Recipe) -> Recipe:
    """A recipe of the same run folder with other text."""
    return parse_recipe({**recipe.to_json(), "seed": recipe.seed + 1}, where="test")


def prepare(recipe: Recipe) -> None:
    """The recipe's corpus, as a preparation leaves it: the recipe is there, then the manifest."""
    folder = RunFolder(Path(recipe.run))
    shutil.rmtree(folder.corpus, ignore_errors=True)
    folder.corpus.mkdir(parents=True)
    write_recipe(recipe, folder)
    seal(folder.corpus, kind="corpus", inputs={}, facts={}, names=[])


def fail(recipe: Recipe) -> None:
    with pytest.raises(UserError), mark_failure(recipe):
        raise FAULT


def wait(recipe: Recipe, *happen: Happen, seconds: float = 86400) -> float:
    """The seconds that a job waits, where one thing of ``happen`` happens in each look after the first."""
    events, passed = iter(happen), 0.0

    def sleep(longest: float) -> None:
        nonlocal passed
        passed += longest
        next(events, lambda: None)()

    wait_corpus(recipe, seconds=seconds, sleep=sleep, clock=lambda: passed)
    return passed


def test_a_prepared_corpus_ends_the_wait(recipe: Recipe) -> None:
    assert wait(recipe, lambda: None, lambda: prepare(recipe)) == 20
    assert wait(recipe) == 0


def test_a_corpus_of_another_recipe_is_none(recipe: Recipe) -> None:
    prepare(other(recipe))
    assert wait(recipe, lambda: None, lambda: prepare(recipe)) == 20
    shutil.rmtree(RunFolder(Path(recipe.run)).corpus)
    assert wait(recipe, lambda: prepare(recipe)) == 10, "a recipe without its corpus is not prepared"


def test_a_failure_during_the_wait_ends_it_with_its_reason(recipe: Recipe) -> None:
    with pytest.raises(UserError, match="the preparation of the corpus has failed") as raised:
        wait(recipe, lambda: None, lambda: fail(recipe))
    assert "a file is broken: it is no JSON" in raised.value.why and raised.value.where == "web.jsonl, line 3"


def test_marks_of_another_recipe_are_ignored(recipe: Recipe) -> None:
    fail(other(recipe))
    assert wait(recipe, lambda: fail(other(recipe)), lambda: prepare(recipe)) == 20


def test_a_stale_mark_is_removed_by_the_preparation_that_begins(recipe: Recipe) -> None:
    """The job looks first: the mark is of an earlier try, whose cause is mended."""
    fail(recipe)

    def begin() -> None:
        with mark_failure(recipe):
            assert not RunFolder(Path(recipe.run)).failed_preparation.exists()

    assert wait(recipe, *[lambda: None] * 30, begin, lambda: prepare(recipe)) == 320
    shutil.rmtree(recipe.run)
    fail(recipe)
    with pytest.raises(UserError, match="has failed"):
        wait(recipe, begin, lambda: None, lambda: fail(recipe))


def test_a_mark_that_nobody_removes_ends_the_wait_later(recipe: Recipe) -> None:
    """The preparation had failed before this job got its machines."""
    fail(recipe)
    passed = iter(range(0, 10 * OLD_SECONDS, 10))
    with pytest.raises(UserError, match="has failed"):
        wait_corpus(recipe, seconds=86400, sleep=lambda _: None, clock=lambda: float(next(passed)))
    assert next(passed) == OLD_SECONDS + 10


def test_the_wait_has_an_end(recipe: Recipe) -> None:
    with pytest.raises(UserError, match="is not prepared"):
        wait(recipe, seconds=25)


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """``prepare`` ends with what is in the list."""
    ends: list[Any] = []

    def end(*_: object) -> dict[str, Any]:
        if ends:
            raise ends.pop()
        return {"text": "", "made": []}

    monkeypatch.setattr("ropewalk.commands.run.do_part", end)
    yield ends


def test_the_verbs_leave_a_mark_only_if_asked_and_only_for_wrong_input(
    recipe: Recipe, tmp_path: Path, verb: list[Any]
) -> None:
    mark = RunFolder(Path(recipe.run)).failed_preparation
    path = str(tmp_path / "recipe.yaml")
    assert mark.name == "run.prepare-failed"
    for error in (FAULT, RuntimeError("ours")):
        verb.append(error)
        assert CliRunner().invoke(app, ["prepare", path]).exception is error and not mark.exists()
    verb.append(RuntimeError("ours"))
    CliRunner().invoke(app, ["prepare", path, "--mark-failure"])
    assert not mark.exists(), "a preparation that may go on leaves none"
    verb.append(FAULT)
    assert CliRunner().invoke(app, ["prepare", path, "--mark-failure"]).exception is FAULT
    assert json.loads(mark.read_text())["what"] == "a file is broken"
    assert CliRunner().invoke(app, ["prepare", path, "--mark-failure"]).exit_code == 0 and not mark.exists()
    for number in (errno.ENOSPC, errno.EIO):
        verb.append(OSError(number, "the disk", "shard.bin"))
        assert isinstance(CliRunner().invoke(app, ["prepare", path, "--mark-failure"]).exception, OSError)
        assert mark.exists() == (number == errno.ENOSPC), "a full disk ends the job with 2, as wrong input does"
    waited = CliRunner().invoke(app, ["corpus", "wait", path, "--seconds", "0"])
    assert isinstance(waited.exception, UserError) and waited.exception.what == "the corpus is not prepared"
    prepare(recipe)
    assert CliRunner().invoke(app, ["corpus", "wait", path]).exit_code == 0
