"""Write a checkpoint that appears whole or not at all.

Every rank writes its shards into a work folder beside the target, as safetensors; rank 0 adds the JSON, hashes every
file into the manifest, flushes all of it, and renames. The surprise is what is *not* there: torch's usual checkpoint
metadata is a pickle, which runs code when read. Its Hugging Face writer needs none: each shard says where it belongs.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_saver import save as write_shards

from ropewalk.checkpoint.load import find_fault, list_checkpoints
from ropewalk.checkpoint.state import STATE, TrainState, name_tensors, random_states
from ropewalk.core.artifact import publish, require_free, seal
from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.parallel.collective import gather_values, rank_and_ranks, share_from_first

KIND = "checkpoint"


def save(state: TrainState, folder: Path, *, keep: int = 2) -> Path:
    """Write ``folder/step-00000100`` and then remove the oldest checkpoints beyond ``keep``; every rank calls it.

    A whole checkpoint of that step is left as it is; a damaged one is set aside. Raises UserError, on every rank, if
    any rank cannot write; then nothing has appeared and the older checkpoints stand.
    """
    target = folder / f"step-{state.step:08}"
    if not share_from_first(_make_way(target)):
        return target
    work = folder / f".tmp-{target.name}"
    tensors = {**name_tensors(state), **random_states()}
    shapes: dict[str, Any] = {name: [str(t.dtype), list(t.shape)] for name, t in tensors.items()}
    for others in gather_values({name: shape for name, shape in shapes.items() if name.startswith("rng/")}):
        shapes |= others
    _prepare(work, needed_bytes=sum(gather_values(_local_bytes(tensors))))
    try:
        writer = HuggingFaceStorageWriter(str(work), save_distributed=True)
        write_shards(tensors, storage_writer=writer)
    except CheckpointException as error:  # not an Exception, and raised on every rank if one fails
        causes = "; ".join(f"rank {rank}: {cause}" for rank, (cause, _) in sorted(error.failures.items()))
        raise _cannot_write(target, causes) from None
    _finish(state, work, target, shapes)
    if dist.get_rank() == 0:
        _remove_old(folder, keep)
    return target


def _make_way(target: Path) -> bool:
    """Whether ``target`` is to be written. Rank 0 looks; a damaged folder is renamed, never removed."""
    if rank_and_ranks()[0] or not target.exists():
        return True
    fault = find_fault(target)
    if fault is None:
        return False
    aside = next(path for i in range(1000) if not (path := target.with_name(f".damaged-{target.name}-{i}")).exists())
    say(f"{target} is damaged ({fault}); it is now {aside.name}")
    target.rename(aside)
    return True


def _prepare(work: Path, *, needed_bytes: int) -> None:
    """An empty work folder that every rank sees, or the same error on every rank."""
    refusal = None
    if dist.get_rank() == 0:
        try:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            require_free(work, needed_bytes)
        except (OSError, UserError) as error:
            refusal = str(error) if isinstance(error, OSError) else error.why
    refusal = share_from_first(refusal)
    if refusal:
        raise _cannot_write(work, refusal)


def _finish(state: TrainState, work: Path, target: Path, shapes: dict[str, Any]) -> None:
    refusal = None
    if dist.get_rank() == 0:
        facts = {**state.figures(), "ranks": dist.get_world_size(), "tensors": shapes, "inputs": dict(state.inputs)}
        try:
            (work / STATE).write_text(json.dumps(facts, indent=1, sort_keys=True))
            seal(work, kind=KIND, inputs=state.inputs, facts={"step": state.step, "stage": state.stage})
            publish(work, target)
        except OSError as error:
            refusal = str(error)
    refusal = share_from_first(refusal)
    if refusal:
        raise _cannot_write(target, refusal)


def _remove_old(folder: Path, keep: int) -> None:
    """Remove what is older than the ``keep`` newest checkpoints that verify; a damaged one does not count."""
    assert keep > 0
    whole = 0
    for path in list_checkpoints(folder):
        if whole < keep:
            whole += find_fault(path) is None
        else:
            trash = path.with_name(f".trash-{path.name}")
            path.rename(trash)  # so that a kill in the middle leaves no half checkpoint under a good name
            shutil.rmtree(trash)


def _local_bytes(tensors: dict[str, Any]) -> int:
    local = (tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors.values())
    return sum(tensor.nbytes for tensor in local)


def _cannot_write(where: Path, why: str) -> UserError:
    return UserError(
        "the checkpoint could not be written",
        where=str(where),
        why=why,
        fix="free some disk or mend the folder, then run the same command: it goes on from the newest checkpoint",
    )
