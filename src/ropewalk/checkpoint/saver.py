"""Saves that training does not wait for: a copy is taken at once, and a thread writes it while steps go on.

The threads of all ranks speak through a process group of their own: two threads in one group would read each other's
messages. One save is in flight at a time. A failure is never lost: the loop asks each step, and every rank raises.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import torch.distributed as dist

from ropewalk.checkpoint.save import remove_stale, write
from ropewalk.checkpoint.save_record import note_begun, note_saved
from ropewalk.checkpoint.state import Snapshot, TrainState, take_snapshot
from ropewalk.parallel.collective import rank_and_ranks, wait_for_ranks


class Saver:
    """Writes one stage's checkpoints into ``folder`` and keeps the ``keep`` newest; all ranks use theirs alike.

    That of ``spared_step`` is kept for good.
    """

    def __init__(self, folder: Path, *, keep: int, spared_step: int | None = None) -> None:
        self._folder, self._keep, self._spared = folder, keep, spared_step
        self._pending: Future[Path] | None = None
        if rank_and_ranks()[0] == 0:
            remove_stale(folder)
        wait_for_ranks()
        # gloo: what is said is small and lies in host memory.
        self._group = dist.new_group(backend="gloo")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="save")

    def begin(self, state: TrainState) -> None:
        """Copy ``state`` and write the copy from now on; waits for the save before, and raises if that one failed."""
        self.finish()
        snapshot = take_snapshot(state)
        if rank_and_ranks()[0] == 0:
            note_begun(self._folder, snapshot.step)
        self._pending = self._thread.submit(self._write, snapshot)

    def _write(self, snapshot: Snapshot) -> Path:
        path = write(snapshot, self._folder, keep=self._keep, spared_step=self._spared, group=self._group)
        if rank_and_ranks()[0] == 0:
            note_saved(self._folder, snapshot.step)
        return path

    @property
    def has_failed(self) -> bool:
        """Whether the save in flight has failed here; other ranks may see it a moment later."""
        return self._pending is not None and self._pending.done() and self._pending.exception() is not None

    def finish(self) -> None:
        """Return when the save in flight is published; if it failed, raise its UserError on every rank."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A rank that fails is not kept by a save that may wait for it."""
        self._thread.shutdown(wait=kind is None)
