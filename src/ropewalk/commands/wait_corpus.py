"""``ropewalk corpus wait``: ends when `prepare` of the same recipe is done, for jobs that start beside the preparation.

A corpus of another recipe in the same run folder does not count, nor does the failure of another recipe's preparation.
A preparation with ``--mark-failure`` leaves a file beside the run folder where the input is wrong or the disk cannot be
written, and first removes the file of an earlier try. A waiting job may begin before the preparation does, so a file
that was there first counts only if nothing has removed it for ``OLD_SECONDS``.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ropewalk.core.artifact import is_finished, write_whole
from ropewalk.core.error import UserError, explain_disk_fault
from ropewalk.core.read_json import read_written
from ropewalk.core.run_folder import RunFolder
from ropewalk.core.strict_json import spell_json
from ropewalk.parallel.stop import stop_if_asked
from ropewalk.recipe.load import load_recipe
from ropewalk.recipe.part_digests import CORPUS, digest_parts
from ropewalk.recipe.spec import Recipe

OLD_SECONDS = 900
"""Until a failure that is older than the wait counts; the preparation has begun by then, or its machine is late."""
_LOOK_SECONDS = 10


def wait_corpus(
    recipe: Recipe,
    *,
    seconds: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Return when the corpus of ``recipe`` is prepared in its run folder.

    Raises UserError where its preparation found wrong input, and after ``seconds``; Stopped on a signal.
    """
    folder, begun = RunFolder(Path(recipe.run)), clock()
    asked = digest_parts(recipe)[CORPUS]
    old = _read_failure(folder)
    while not _is_prepared(folder, asked):
        stop_if_asked()
        waited, failure = clock() - begun, _read_failure(folder)
        if failure != old:
            old = None
        if failure is not None and failure["corpus"] == asked and (failure != old or waited >= OLD_SECONDS):
            raise UserError(
                "the preparation of the corpus has failed",
                where=failure["where"],
                why=f"{failure['what']}: {failure['why']}",
                fix=f"{failure['fix']}; then start the preparation and this job again",
            )
        if waited >= seconds:
            raise UserError(
                "the corpus is not prepared",
                where=str(folder.corpus),
                why=f"this recipe's text was waited for, {seconds:g} s long",
                fix="look at the log of the preparation, or wait longer (--seconds)",
            )
        sleep(min(_LOOK_SECONDS, seconds - waited))
    return {"corpus": str(folder.corpus), "text": str(folder.corpus)}


@contextmanager
def mark_failure(recipe: Recipe) -> Iterator[None]:
    """Around a preparation: wrong input, or a disk that cannot be written, is told in a file beside the run folder.

    What an earlier try left is removed first.
    """
    folder = RunFolder(Path(recipe.run))
    folder.failed_preparation.unlink(missing_ok=True)
    try:
        yield
    except UserError as error:
        _leave_mark(recipe, folder, error)
        raise
    except OSError as error:
        fault = explain_disk_fault(error)
        if fault is not None:  # it ends the command as wrong input does, so no other try follows
            _leave_mark(recipe, folder, fault)
        raise


def _leave_mark(recipe: Recipe, folder: RunFolder, error: UserError) -> None:
    told: dict[str, Any] = {"what": error.what, "where": error.where, "why": error.why, "fix": error.fix}
    told |= {"corpus": digest_parts(recipe)[CORPUS], "time": time.time()}
    folder.failed_preparation.parent.mkdir(parents=True, exist_ok=True)
    write_whole(folder.failed_preparation, spell_json(told, ensure_ascii=False))


def _is_prepared(folder: RunFolder, asked: str) -> bool:
    """Whether the folder's corpus is whole and that of the recipe with the digest ``asked``."""
    if not folder.recipe.exists() or not is_finished(folder.corpus):
        return False
    return digest_parts(load_recipe(folder.recipe))[CORPUS] == asked


def _read_failure(folder: RunFolder) -> dict[str, Any] | None:
    try:
        return read_written(folder.failed_preparation, dict)
    except FileNotFoundError:
        return None
