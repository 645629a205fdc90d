"""Makes shards in processes of this machine, in a Ray cluster, or in one job of an array.

A worker receives a line of JSON that names a job file and a task, and replies in lines of JSON. So only text and files
pass between machines. A worker process on this machine ends when its parent dies, because its standard input ends. Its
unfinished shard is then not used.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, Literal

from ropewalk.core.error import SIGNAL_SECONDS, RankError, UserError, explain_disk_fault
from ropewalk.core.progress import is_quiet, set_first, set_quiet
from ropewalk.core.ray_cluster import start_ray
from ropewalk.core.strict_json import spell_json
from ropewalk.core.translate import get_language, set_language
from ropewalk.corpus.prepare.count_cores import count_cores
from ropewalk.corpus.prepare.shards import Advance, read_job, work

Workers = Literal["processes", "ray"]
_PROGRESS_SECONDS = 0.5
_QUIET = "quiet"


def count_workers(workers: Workers, asked: int | None) -> int:
    """The number of parallel tasks: ``asked`` if given, else one for each core of this machine or of the cluster."""
    if asked is not None:
        return asked
    if workers == "ray":
        return max(1, int(_start_ray().cluster_resources().get("CPU", 1)))
    return count_cores()


def run_tasks(tasks: Sequence[str], *, workers: Workers, count: int, advance: Advance) -> None:
    """Run all ``tasks``, lines of ``name_task``. Raises the first UserError of a worker."""
    if workers == "ray":
        _run_on_ray(tasks, count, advance)
    elif count == 1 or len(tasks) == 1:
        with redirect_stdout(sys.stderr):  # what the user's functions print is no result of ours
            for task in tasks:
                do_task(task, advance)
    else:
        _run_on_processes(tasks, min(count, len(tasks)), advance)


def name_task(job_file: Path, task: dict[str, int]) -> str:
    """A task as a line of JSON for any worker."""
    return spell_json({"job": str(job_file.resolve()), "task": task})


def do_task(line: str, advance: Advance) -> None:
    """Run one task in this process. Raises UserError where text cannot be read."""
    entry = json.loads(line)
    job = read_job(Path(entry["job"]))
    os.chdir(job.working_folder)
    work(job, entry["task"], advance)


def serve() -> None:
    """Run a worker process: one task per line on standard input, progress and replies on standard output.

    Its arguments are how it speaks: the language, and whether it is ``quiet``.
    """
    _speak_as(sys.argv[1], quiet=sys.argv[2:] == [_QUIET])
    os.putenv("TOKENIZERS_PARALLELISM", "false")  # one core each: other workers use the others
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # the parent handles them and ends this process
        signal.signal(number, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries and the user's functions print must not stand among the replies
    tasks: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(tasks,), daemon=True).start()

    def tell(entry: dict[str, Any]) -> None:
        print(spell_json(entry), file=replies, flush=True)

    while True:
        tell(_answer(tasks.get(), tell))


def _speak_as(language: str, *, quiet: bool) -> None:
    """Set the language of the parent, and whether it is quiet; the parent prints what all workers find."""
    set_language(language)
    set_quiet(quiet)
    set_first(False)


def _listen(tasks: "queue.Queue[str]") -> None:
    for line in sys.stdin:
        tasks.put(line)
    os._exit(0)  # the parent has ended, or has closed the input to end this process


def _answer(line: str, tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    done, told = 0.0, time.monotonic()

    def advance(size_bytes: float) -> None:
        nonlocal done, told
        done += size_bytes
        if time.monotonic() - told > _PROGRESS_SECONDS:
            tell({"bytes": done})
            done, told = 0.0, time.monotonic()

    fault = _do_quietly(line, advance)
    return {"bytes": done, "fault": fault}


def _do_quietly(line: str, advance: Advance) -> dict[str, str]:
    """Run a task and return its UserError as data: an exception cannot be sent between machines unchanged."""
    try:
        do_task(line, advance)
    except UserError as error:
        fault = error
    except OSError as error:
        told = explain_disk_fault(error)  # as where this program ends, which sees only that a worker ended
        if told is None:
            raise
        fault = told
    else:
        return {}
    return {"what": fault.what, "where": fault.where, "why": fault.why, "fix": fault.fix}


def _run_on_processes(tasks: Sequence[str], count: int, advance: Advance) -> None:
    waiting: queue.Queue[str] = queue.Queue()
    for task in tasks:
        waiting.put(task)
    lock = threading.Lock()

    def advance_together(size_bytes: float) -> None:
        with lock:
            advance(size_bytes)

    started: list[subprocess.Popen[str]] = []
    try:
        with ThreadPoolExecutor(count) as pool:
            for _ in range(count):
                code = "from ropewalk.corpus.prepare.workers import serve; serve()"
                command = [sys.executable, "-c", code, get_language(), *([_QUIET] if is_quiet() else [])]
                started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            open_ends = {pool.submit(_keep_busy, process, waiting, advance_together) for process in started}
            try:
                while open_ends:
                    ended, open_ends = wait(open_ends, timeout=SIGNAL_SECONDS, return_when=FIRST_COMPLETED)
                    for end in ended:  # a fault of any of them, while others may have hours of work left
                        end.result()
            except BaseException:
                _empty(waiting)
                for process in started:
                    process.kill()
                raise
    finally:
        for process in started:
            process.kill()
            process.communicate()  # waits, and closes its pipes


def _keep_busy(process: "subprocess.Popen[str]", waiting: "queue.Queue[str]", advance: Advance) -> None:
    """Give one process one task after the other until none is left, and read its replies."""
    assert process.stdin is not None and process.stdout is not None
    while True:
        try:
            task = waiting.get_nowait()
        except queue.Empty:
            return
        with suppress(BrokenPipeError):  # it has ended, as its output says
            process.stdin.write(task + "\n")
            process.stdin.flush()
        for line in process.stdout:
            entry = json.loads(line)
            advance(entry["bytes"])
            if "fault" in entry:
                if entry["fault"]:
                    _empty(waiting)
                _raise(entry["fault"])
                break
        else:
            _empty(waiting)
            raise _explain_end(process.wait())


def _explain_end(code: int) -> RuntimeError:
    """The error for a worker that ended before its task did. A negative code is the signal that killed it."""
    if code >= 0:
        return RuntimeError(f"a worker ended before its task did, with code {code}; its messages are above")
    told = f"a worker of the preparation was killed by signal {-code}"
    if -code == signal.SIGKILL:
        told += ": most often memory ran out, and a smaller corpus.worker_count needs less"
    return RankError(f"{told}; the same command continues from here")


def _empty(waiting: "queue.Queue[str]") -> None:
    while not waiting.empty():
        try:
            waiting.get_nowait()
        except queue.Empty:
            return


def _run_on_ray(tasks: Sequence[str], count: int, advance: Advance) -> None:
    ray = _start_ray()
    remote = ray.remote(num_cpus=1)(_do_on_ray)
    left = list(tasks)[::-1]
    running: dict[Any, float] = {}
    try:
        while left or running:
            while left and len(running) < count:
                task = left.pop()
                running[remote.remote(task, get_language(), is_quiet())] = json.loads(task)["task"]["bytes"]
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            size_bytes = running.pop(done)
            _raise(ray.get(done))
            advance(size_bytes)
    finally:
        for begun in running:  # after a fault: else they hold the cluster's cores, for hours
            ray.cancel(begun)


def _start_ray() -> Any:
    return start_ray("corpus.workers: ray", instead="set workers: processes")


def _do_on_ray(line: str, language: str, quiet: bool) -> dict[str, str]:
    _speak_as(language, quiet=quiet)
    return _do_quietly(line, lambda _: None)


def _raise(fault: dict[str, str]) -> None:
    if fault:
        raise UserError(**fault)
