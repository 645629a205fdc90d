"""Runs the tests in forks of the process that collected them: ``pytest --workers 2``.

A worker that is a fresh interpreter imports and collects everything for 20 seconds of its own; a fork has it already.
A pipe holds the numbers of pieces of test files. Each worker takes the next one from it when it begins the last test of
its piece, until there is none. What it has to report comes back through a pipe of its own. A worker that dies fails
the session, and so does a test without a report.
"""

import marshal
import os
import selectors
import struct
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

MOST_TESTS = 40
"""Of one piece: the fixtures of a module or a package are made again for each piece of it, at most."""
_NUMBER = struct.Struct("<i")
_SECONDS = 1.0
"""Between two looks for workers that died while a process of theirs holds the pipe open."""

at_start: list[Callable[[], None]] = []
"""What each worker does first."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--workers", type=int, default=1, help="run the tests in so many forks of this process")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    options = session.config.option
    if options.workers == 1 or options.collectonly or session.testsfailed or not session.items:
        return None  # pytest's own loop
    run_in_workers(session, options.workers)
    return True


def split_items(items: list[pytest.Item]) -> list[range]:
    """Pieces of neighbouring tests, from and to their places in ``items``: of one file, at most MOST_TESTS.

    Those of GPUs come first, then by their number of tests: files of few tests are those of long ones, most often, and
    no worker should begin a long test after the others have ended.
    """
    pieces, start = [], 0
    for (_, on_gpu), those in groupby(items, lambda item: (item.path, item.get_closest_marker("gpu") is not None)):
        end = start + len(list(those))
        cuts = [range(each, min(each + MOST_TESTS, end)) for each in range(start, end, MOST_TESTS)]
        pieces += [(not on_gpu, len(each), each) for each in cuts]
        start = end
    return [each for _, _, each in sorted(pieces, key=lambda piece: piece[:2])]


def run_in_workers(session: pytest.Session, workers: int) -> None:
    """Run all tests of ``session`` in so many forks. Raises pytest's Failed where one died or a test was not run."""
    pieces = split_items(session.items)
    folders: Any = getattr(session.config, "_tmp_path_factory", None)
    if folders is not None:
        folders.getbasetemp()  # one for all, whose lock ends with this process: a worker's would stay
    queue, full = os.pipe()
    os.write(full, b"".join(_NUMBER.pack(each) for each in range(len(pieces))))
    os.close(full)
    started = [_start(session, pieces, queue) for _ in range(min(workers, len(pieces)))]
    reported = _read_all(session, started, queue)
    for worker in started:
        with suppress(ChildProcessError):  # one that died was waited for
            os.waitpid(worker.pid, 0)
    os.close(queue)
    if not session.shouldfail and (lost := [item.nodeid for item in session.items if item.nodeid not in reported]):
        session.shouldfail = f"{len(lost)} tests have no report: {', '.join(lost[:9])}"
    if session.shouldfail or session.shouldstop:
        raise session.Failed(session.shouldfail or session.shouldstop)


@dataclass
class _Worker:
    """What the parent knows of one: its process, its end of the pipe, and the test it runs."""

    pid: int
    pipe: int
    text: bytearray = field(default_factory=bytearray)
    running: str = "no test"
    ended: bool = False

    def read(self) -> Iterator[tuple[str, Any]]:
        """What has come whole; then ("died", why) where nothing comes any more and the worker did not say "end"."""
        found = os.read(self.pipe, 1 << 16)
        self.text += found
        while len(self.text) >= _NUMBER.size:
            end = _NUMBER.size + _NUMBER.unpack_from(self.text)[0]
            if len(self.text) < end:
                break
            kind, told = marshal.loads(self.text[_NUMBER.size : end])
            del self.text[:end]
            self.running = told[0] if kind == "start" else self.running
            self.ended |= kind == "end"
            yield kind, told
        if not found and not self.ended:
            yield from self.bury(os.waitpid(self.pid, 0)[1])

    def bury(self, status: int) -> Iterator[tuple[str, Any]]:
        self.ended = True
        yield "died", f"a worker died in {self.running} (wait status {status})"

    def look(self) -> Iterator[tuple[str, Any]]:
        """The same for one that died while another process holds the pipe open."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid and status:
            yield from self.bury(status)


def _read_all(session: pytest.Session, workers: list[_Worker], queue: int) -> set[str]:
    """Hand all that the workers tell to pytest. Returns the names of the tests that ended."""
    reported: set[str] = set()
    with selectors.DefaultSelector() as ready:
        for worker in workers:
            ready.register(worker.pipe, selectors.EVENT_READ, worker)
        while ready.get_map():
            found = [key.data for key, _ in ready.select(timeout=_SECONDS)]
            told = [each for worker in found for each in worker.read()]
            for kind, given in told or [each for worker in workers if not worker.ended for each in worker.look()]:
                _hand_on(session, kind, given)
                reported |= {given[0]} if kind == "finish" else set()
            for worker in workers:
                if worker.ended and worker.pipe in ready.get_map():
                    ready.unregister(worker.pipe)
            if session.shouldfail or session.shouldstop:
                while os.read(queue, 1 << 16):
                    pass  # so each worker ends after its piece
    return reported


def _hand_on(session: pytest.Session, kind: str, told: Any) -> None:
    hook = session.config.hook
    if kind == "start":
        hook.pytest_runtest_logstart(nodeid=told[0], location=told[1])
    elif kind == "report":
        report = hook.pytest_report_from_serializable(config=session.config, data=told)
        hook.pytest_runtest_logreport(report=report)
    elif kind == "finish":
        hook.pytest_runtest_logfinish(nodeid=told[0], location=told[1])
    elif kind == "warning":
        (module, name), text, file, line, when, nodeid, location = told
        category = getattr(sys.modules.get(module), name, UserWarning)
        message = warnings.WarningMessage(text, category, file, line)
        given = {"when": when, "nodeid": nodeid, "location": location}
        hook.pytest_warning_recorded.call_historic(kwargs={"warning_message": message, **given})
    elif kind == "died":
        session.shouldfail = told


def _start(session: pytest.Session, pieces: list[range], queue: int) -> _Worker:
    theirs, ours = os.pipe()
    sys.stdout.flush()
    if pid := os.fork():
        os.close(ours)
        return _Worker(pid, theirs)
    os.close(theirs)
    _work(session, pieces, queue, ours)


def _work(session: pytest.Session, pieces: list[range], queue: int, pipe: int) -> NoReturn:
    """The life of a worker. Its process ends here, with 1 where pytest itself failed."""
    status = 1
    try:
        for each in at_start:
            each()
        _become_worker(session.config, Teller(session.config, pipe))
        _run(session, pieces, queue)
        _send(pipe, "end", None)
        status = 0
    finally:
        if status:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(status)


def _become_worker(config: pytest.Config, teller: "Teller") -> None:
    """Nothing is written to the terminal, and what tests write goes to a file of this worker's own."""
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    capture.stop_global_capturing()
    capture.start_global_capturing()
    capture.suspend_global_capture()
    reporter: Any = config.pluginmanager.unregister(name="terminalreporter")
    writer = SimpleNamespace(_tw=config.get_terminal_writer() if reporter is None else reporter._tw)
    config.pluginmanager.register(writer, "terminalreporter")  # pytest-timeout writes its stacks there
    config.pluginmanager.register(teller)


def _run(session: pytest.Session, pieces: list[range], queue: int) -> None:
    def take() -> range:
        found = os.read(queue, _NUMBER.size)
        return pieces[_NUMBER.unpack(found)[0]] if found else range(0)

    piece, items = take(), session.items
    while piece:
        following = range(0)
        for each in piece:
            following = take() if each == piece[-1] else range(each + 1, piece.stop)
            nextitem = items[following[0]] if following else None
            items[each].config.hook.pytest_runtest_protocol(item=items[each], nextitem=nextitem)
            if session.shouldfail or session.shouldstop:
                return
        piece = following


def _send(pipe: int, kind: str, told: Any) -> None:
    text = marshal.dumps((kind, told))
    left = memoryview(_NUMBER.pack(len(text)) + text)
    while left:
        left = left[os.write(pipe, left) :]


class Teller:
    """A worker's plugin: what pytest reports there goes to the parent."""

    def __init__(self, config: pytest.Config, pipe: int) -> None:
        self.config, self.pipe = config, pipe

    def pytest_runtest_logstart(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        _send(self.pipe, "start", (nodeid, location))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        _send(self.pipe, "report", self.config.hook.pytest_report_to_serializable(config=self.config, report=report))

    def pytest_runtest_logfinish(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        _send(self.pipe, "finish", (nodeid, location))

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: tuple[str, int, str] | None
    ) -> None:
        kind = warning_message.category
        text, file, line = str(warning_message.message), warning_message.filename, warning_message.lineno
        _send(self.pipe, "warning", ((kind.__module__, kind.__name__), text, file, line, when, nodeid, location))
