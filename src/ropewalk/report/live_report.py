"""The report of a run that goes on: the page in memory, made again when the files that it reads have changed.

The run shares its machine with this program. So the page is made when somebody asks for it, and takes at most a share
of one core: after a page that took a second, the next one waits. Nothing is written.
"""

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ropewalk.core.error import UserError
from ropewalk.core.run_folder import RunFolder, StageFolder
from ropewalk.report.html import Page, render
from ropewalk.report.page import make_page
from ropewalk.report.visible import show_hidden

_READ = {".json", ".jsonl", ".yaml"}


class LiveReport:
    """The present report of the run in folder ``run``, of which at most ``busy_share`` of one core makes pages.

    Raises UserError where the folder has no run, or one that cannot be read. A file that is damaged later is told on
    the page. Threads may call it together.
    """

    def __init__(self, run: Path, *, busy_share: float = 0.1) -> None:
        assert 0 < busy_share <= 1
        self._run, self._busy_share = run, busy_share
        self._turn = threading.Lock()
        self._free_at = 0.0
        self.state = find_state(run)
        """The state of the files that the page was made from."""
        self._html = self._make()

    def update(self) -> str:
        """Make the page again if the files have changed and it is time; the page as HTML."""
        with self._turn:
            if time.monotonic() >= self._free_at and (state := find_state(self._run)) != self.state:
                self.state = state
                try:
                    self._html = self._make()
                except (UserError, OSError) as fault:  # a part of the run may be replacing its folder
                    self._html = render(_tell_fault(self._run, fault, self.state))
            return self._html

    def _make(self) -> str:
        begun = time.monotonic()
        html = render(make_page(self._run, live=self.state))
        now = time.monotonic()
        self._free_at = now + (now - begun) * (1 / self._busy_share - 1)
        return html


def find_state(run: Path) -> str:
    """A digest of the sizes and times of the files that a report reads; another one when a file has changed."""
    digest = hashlib.sha256()
    for folder in _folders(RunFolder(run)):
        for path in sorted(folder.glob("*")):
            if path.suffix in _READ:
                try:
                    found = path.stat()
                except FileNotFoundError:  # removed between the two calls
                    continue
                digest.update(f"{path}|{found.st_size}|{found.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _folders(run: RunFolder) -> Iterator[Path]:
    yield from (run.root, run.corpus)
    for stage in map(StageFolder, sorted(run.stages.glob("*"))):
        yield from (stage.root, stage.extended, stage.trained)


def _tell_fault(run: Path, fault: UserError | OSError, state: str) -> Page:
    told = str(fault) if isinstance(fault, OSError) else f"{fault.what}: {fault.where}: {fault.why}. Fix: {fault.fix}"
    return Page(
        title=show_hidden(run.resolve().name),
        what="The run cannot be read now.",
        verdict=show_hidden(told),
        verdict_mark="fail",
        tiles=(),
        summary=None,
        sections=(),
        made_from="the files of the run folder",
        live=state,
    )
