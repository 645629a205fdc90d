"""Write a checkpoint that appears whole or not at all.

Every rank writes its shards as safetensors into a work folder beside the target, flushes them and hashes them. Rank 0
then adds the JSON and the manifest, and renames the folder. There is no pickle: torch's usual checkpoint metadata is
one, and a pickle runs code when it is read. torch's Hugging Face writer needs no such file, because each shard stores
its own position (streamed_writer.py).
"""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_saver import save as write_shards
from torch.distributed.tensor import DTensor

from ropewalk.checkpoint.load import find_fault_together, list_checkpoints, step_of
from ropewalk.checkpoint.state import Snapshot, TrainState, take_snapshot
from ropewalk.checkpoint.streamed_writer import StreamedWriter
from ropewalk.core.artifact import discard, flush_files, publish, require_free, write_manifest
from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.core.run_folder import CHECKPOINT_STATE, name_checkpoint
from ropewalk.parallel.collective import gather_values, rank_and_ranks, share_from_first

KIND = "checkpoint"
Group = dist.ProcessGroup | None


def save_checkpoint(state: TrainState, folder: Path, *, keep: int = 2) -> Path:
    """Write ``folder/step-00000100``, then remove the oldest checkpoints beyond ``keep``; return the new folder.

    Every rank must call it. If an intact checkpoint of this step exists, it stays as it is; a damaged one is renamed.
    Raises UserError, on every rank, if any rank cannot write. Then no new checkpoint appears, and older ones remain.
    """
    return write_snapshot(take_snapshot(state), folder, keep=keep)


def write_snapshot(
    snapshot: Snapshot, folder: Path, *, keep: int, spared_step: int | None = None, group: Group = None
) -> Path:
    """Do the same as ``save_checkpoint`` for a snapshot, with messages between ranks over ``group``.

    A thread needs a group of its own. The checkpoint of ``spared_step`` is never removed, and does not count among the
    ``keep`` newest ones.
    """
    target = folder / name_checkpoint(snapshot.step)
    if _make_way(target, group):
        _write_new(snapshot, target, group)
    _remove_old(folder, keep, spared_step, group)
    return target


def remove_stale(folder: Path) -> None:
    """Remove the unfinished folders that a killed save or removal left in ``folder``.

    Only one process may call it, and no save into this folder may run at that time.
    """
    for path in (*folder.glob(".tmp-step-*"), *folder.glob(".trash-*")):
        shutil.rmtree(path)


def first_changes(work: Callable[[], None], folder: Path, *, group: Group = None) -> None:
    """Call ``work()``, which changes small things in ``folder``, on rank 0 while the others wait.

    Raises UserError, on every rank, where it cannot. Every rank must call it.
    """
    fault: UserError | None = None
    if rank_and_ranks()[0] == 0:
        try:
            work()
        except UserError as error:
            fault = error
        except OSError as error:
            fault = UserError(
                "the folder of the checkpoints cannot be changed",
                where=str(folder),
                why=str(error),
                fix="free some disk space or repair the folder, then run the same command: it continues from the "
                "newest checkpoint",
            )
    fault = share_from_first(fault, group=group)
    if fault is not None:
        raise fault


def _make_way(target: Path, group: Group) -> bool:
    """Return whether ``target`` must be written. A damaged folder is renamed, never removed."""
    if not share_from_first(target.exists(), group=group):
        return True
    fault = find_fault_together(target, group=group)
    if fault is not None:
        first_changes(lambda: _put_aside(target, fault), target.parent, group=group)
    return fault is not None


def _put_aside(target: Path, fault: str) -> None:
    aside = next(path for i in range(1000) if not (path := target.with_name(f".damaged-{target.name}-{i}")).exists())
    say(f"{target} is damaged ({fault}); it is now {aside.name}")
    target.rename(aside)


def _write_new(snapshot: Snapshot, target: Path, group: Group) -> None:
    work = target.with_name(f".tmp-{target.name}")
    tensors = dict(snapshot.tensors)
    shapes: dict[str, Any] = {name: [str(t.dtype), list(t.shape)] for name, t in tensors.items()}
    for others in gather_values(
        {name: shape for name, shape in shapes.items() if name.startswith("rng/")}, group=group
    ):
        shapes |= others
    needed_bytes = sum(gather_values(_local_bytes(tensors), group=group))
    _agree_or_refuse(_prepare(work, needed_bytes=needed_bytes), work, target, group)
    try:
        write_shards(tensors, storage_writer=StreamedWriter(work), process_group=group)
    except CheckpointException as error:  # no subclass of Exception; raised on every rank if one rank fails
        causes = "; ".join(f"rank {rank}: {cause}" for rank, (cause, _) in sorted(error.failures.items()))
        _agree_or_refuse(causes, work, target, group)
    files, refusal = _seal_shards(work)
    _agree_or_refuse(refusal, work, target, group)
    everyones = gather_values(files, group=group)
    _agree_or_refuse(_finish(snapshot, work, target, (shapes, everyones)), work, target, group)


def _prepare(work: Path, *, needed_bytes: int) -> str | None:
    """Make an empty work folder on rank 0. Return the reason if that fails, else None."""
    if rank_and_ranks()[0]:
        return None
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        require_free(work, needed_bytes)
    except OSError as error:
        return str(error)
    except UserError as error:
        return error.why
    return None


def _seal_shards(work: Path) -> tuple[dict[str, Any], str | None]:
    """Flush and hash the files that this rank wrote. In file names torch counts ranks from 1."""
    names = [path.name for path in work.glob(f"shard-{rank_and_ranks()[0] + 1:05}-*")]
    try:
        return flush_files(work, names), None
    except OSError as error:
        return {}, str(error)


def _finish(snapshot: Snapshot, work: Path, target: Path, found: tuple[dict[str, Any], list[Any]]) -> str | None:
    rank, ranks = rank_and_ranks()
    if rank:
        return None
    shapes, everyones = found
    facts = {**snapshot.figures, "ranks": ranks, "tensors": shapes, "inputs": dict(snapshot.inputs)}
    try:
        (work / CHECKPOINT_STATE).write_text(json.dumps(facts, indent=1, sort_keys=True, allow_nan=False))
        files = {
            name: entry for each in [*everyones, flush_files(work, [CHECKPOINT_STATE])] for name, entry in each.items()
        }
        stands_for = {"step": snapshot.step, "stage": snapshot.stage}
        write_manifest(work, kind=KIND, inputs=snapshot.inputs, facts=stands_for, files=files)
        publish(work, target)
    except OSError as error:
        return str(error)
    return None


def _agree_or_refuse(refusal: str | None, work: Path, target: Path, group: Group) -> None:
    """Return if no rank has a ``refusal``; else remove the work folder and raise the first refusal on every rank."""
    refusals = [each for each in gather_values(refusal, group=group) if each]
    if refusals:
        if rank_and_ranks()[0] == 0:
            shutil.rmtree(work, ignore_errors=True)
        raise UserError(
            "the checkpoint could not be written",
            where=str(target),
            why=refusals[0],
            fix="free some disk space or repair the folder, then run the same command: it continues from the newest "
            "checkpoint",
        )


def _remove_old(folder: Path, keep: int, spared_step: int | None, group: Group) -> None:
    """Remove all checkpoints older than the ``keep`` newest intact ones.

    Each checkpoint is read back and verified here. A damaged one does not count.
    """
    assert keep > 0
    whole, old = 0, list[Path]()
    for path in share_from_first(list_checkpoints(folder), group=group):
        if step_of(path) == spared_step:
            continue
        if whole < keep:
            whole += find_fault_together(path, group=group) is None
        else:
            old.append(path)
    if old:
        first_changes(lambda: _discard_all(old), folder, group=group)


def _discard_all(paths: Sequence[Path]) -> None:
    for path in paths:
        discard(path)


def _local_bytes(tensors: dict[str, Any]) -> int:
    """Return this rank's share of the bytes to write. Data that several replicas hold is written once."""
    _, ranks = rank_and_ranks()
    return sum(
        math.ceil(tensor.numel() * tensor.element_size() / (ranks if isinstance(tensor, DTensor) else 1))
        for tensor in tensors.values()
    )
