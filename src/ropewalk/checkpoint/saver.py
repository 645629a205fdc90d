"""Asynchronous saves: the state is copied at once, and a thread writes the copy while training continues.

The threads of all ranks use a process group of their own. In one common group, two threads would read each other's
messages. Only one save runs at a time. A failure is never lost: the loop checks for it at each step, and every rank
raises the error.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import TracebackType

import torch.distributed as dist
from torch.distributed.constants import default_pg_timeout

from ropewalk.attention.group_timeout import read_timeout
from ropewalk.checkpoint.save import first_changes, remove_stale, write_snapshot
from ropewalk.checkpoint.save_record import note_begun, note_saved
from ropewalk.checkpoint.staging import HostStage
from ropewalk.checkpoint.state import Snapshot, TrainState, take_snapshot
from ropewalk.parallel.collective import wait_for_ranks
from ropewalk.parallel.device import rank_device, use_device
from ropewalk.parallel.flight_recorder import SAVING


class Saver:
    """Writes one stage's checkpoints into ``folder`` and keeps the ``keep`` newest ones.

    Every rank has one, and all ranks call the same methods in the same order. The checkpoint of ``spared_step`` is
    never removed.
    """

    def __init__(self, folder: Path, *, keep: int, spared_step: int | None = None) -> None:
        self._folder, self._keep, self._spared = folder, keep, spared_step
        self._pending: Future[Path] | None = None
        self._stage = HostStage(rank_device())
        first_changes(lambda: remove_stale(folder), folder)
        world = dist.group.WORLD
        assert world is not None
        # gloo, because the messages are small and lie in host memory. They wait for disks, so never less than torch's
        # default, and longer where a step may take longer.
        timeout = max(default_pg_timeout, read_timeout(world) or timedelta(0))
        self._group = dist.new_group(backend="gloo", timeout=timeout, group_desc=SAVING)
        self._thread = ThreadPoolExecutor(
            1, thread_name_prefix="save", initializer=use_device, initargs=(rank_device(),)
        )

    def begin(self, state: TrainState) -> None:
        """Copy ``state`` and start to write the copy.

        First wait for the previous save. Raises UserError where that save failed.
        """
        self.finish()
        snapshot = take_snapshot(state, self._stage)
        first_changes(lambda: note_begun(self._folder, snapshot.step), self._folder)
        self._pending = self._thread.submit(self._write, snapshot)

    def _write(self, snapshot: Snapshot) -> Path:
        path = write_snapshot(snapshot, self._folder, keep=self._keep, spared_step=self._spared, group=self._group)
        first_changes(lambda: note_saved(self._folder, snapshot.step), self._folder, group=self._group)
        return path

    @property
    def has_failed(self) -> bool:
        """Whether the current save has failed on this rank. Other ranks may see the failure a moment later."""
        return self._pending is not None and self._pending.done() and self._pending.exception() is not None

    def finish(self) -> None:
        """Return when the current save is published. Raises UserError, on every rank, where the save failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the thread and its group. After an error do not wait for it: the save may itself wait for this rank."""
        self._thread.shutdown(wait=kind is None)
        if kind is None:  # else the thread may still read the copy, and wait for a message
            self._stage.close()
            wait_for_ranks()  # a rank that closed its connections first would break the last message of another one
            dist.destroy_process_group(self._group)
