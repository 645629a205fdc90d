"""Find the newest intact checkpoint and load it, on any number of ranks.

A folder is used only after all of its bytes match the digests in its manifest. Without this check, a tensor with one
flipped bit would load without an error. A checkpoint saved on 2 ranks can be loaded on 3: each rank reads the slices
that it needs.
"""

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load as read_shards

from ropewalk.checkpoint.convert_moments import find_other_form, name_scale, read_other_form
from ropewalk.checkpoint.state import (
    MOMENTS,
    SHARES,
    WEIGHT,
    TrainState,
    name_tensors,
    name_weights,
    random_states,
    set_random_states,
    set_updates,
)
from ropewalk.core.error import UserError
from ropewalk.core.progress import say, warn
from ropewalk.core.quantity import format_count
from ropewalk.core.run_folder import CHECKPOINT_STATE
from ropewalk.model.lazy_weights import LazyWeights
from ropewalk.model.read_rows import STORED_TYPES, StoredTensor, read_rows
from ropewalk.model.weights import read_file_headers
from ropewalk.parallel.collective import rank_and_ranks, share_from_first
from ropewalk.parallel.verify_folder import (
    find_fault_together as find_fault_together,
)
from ropewalk.parallel.verify_folder import (
    find_folder_fault as find_folder_fault,
)

_NAME = re.compile(r"step-(\d{8,})")


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoint folders in ``folder`` by name, newest first. Damaged ones are included."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """Return the step in a checkpoint's name."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def read_facts(checkpoint: Path) -> dict[str, Any]:
    """Return everything in a verified checkpoint that is not a tensor."""
    facts: dict[str, Any] = json.loads((checkpoint / CHECKPOINT_STATE).read_text())
    return facts


def newest(folder: Path) -> Path | None:
    """Return the newest intact checkpoint in ``folder``, verified byte for byte; None if there is none.

    A warning is printed for each newer checkpoint that is damaged. Inside ``run_ranks`` every rank must call it: each
    rank reads its share of the files, and all ranks get the same result.
    """
    speaks, passed_over = rank_and_ranks()[0] == 0, False
    for path in share_from_first(list_checkpoints(folder)):
        fault = find_fault_together(path)
        if fault is None:
            if passed_over and speaks:
                say(f"falling back to {path}")
            return path
        if speaks:
            warn(f"WARNING: {path} cannot be used: {fault}")
        passed_over = True
    return None


def load_checkpoint(state: TrainState, checkpoint: Path) -> TrainState:
    """Read a verified checkpoint into ``state``'s model and optimizer, in place; return ``state`` with its counters.

    Every rank must call it. Random states are restored only if the number of ranks is the same. Raises UserError if
    the checkpoint holds other tensors than ``state``, or was made from other inputs.
    """
    facts = read_facts(checkpoint)
    _compare("inputs", dict(state.inputs), facts["inputs"], checkpoint)
    _read_tensors(name_tensors(state), facts, checkpoint)
    same_ranks = facts["ranks"] == rank_and_ranks()[1]
    generators = random_states() if same_ranks else {}
    generators = {name: value for name, value in generators.items() if name in facts["tensors"]}
    _fill(generators, checkpoint)
    set_random_states(generators)
    state = state.with_figures(facts)
    set_updates(state)
    return state


def load_moments(state: TrainState, checkpoint: Path) -> TrainState:
    """Read only the optimizer's moments and its counts of updates from ``checkpoint``, for use in the next stage.

    A weight that the stage before did not train begins with moments of 0, as if it had been frozen until now.
    """
    facts = read_facts(checkpoint)
    trained = {name.partition("/")[2] for name in facts["tensors"] if name.startswith(f"{MOMENTS[0]}/")}
    now = [name for name, _ in name_weights(state.model)]
    kept, new = trained & {*now}, [name for name in now if name not in trained]
    held = {name: entry for name, entry in facts["tensors"].items() if name.partition("/")[2] in kept}
    moments = {name: tensor for name, tensor in name_tensors(state).items() if not name.startswith((WEIGHT, SHARES))}
    moments = {name: tensor for name, tensor in moments.items() if name.partition("/")[2] in kept}
    _read_tensors(moments, {**facts, "tensors": held}, checkpoint)
    if new and rank_and_ranks()[0] == 0:
        say(f"fresh moments for {format_count(len(new), 'weight')} that the stage before did not train ({new[0]} ..)")
    missed = {name: count for name, count in facts.get("missed", {}).items() if name in kept}
    missed |= dict.fromkeys(new, facts["updates"])
    state = state.with_figures({**state.figures(), "updates": facts["updates"], "missed": missed})
    set_updates(state)
    return state


def load_weights(checkpoint: Path) -> LazyWeights:
    """Return all weights of a checkpoint under transformers' names. Only this process reads, one tensor when asked.

    A weight that is tied to another one appears once, under the name of the other one. Raises UserError if the folder
    is damaged.
    """
    fault = find_folder_fault(checkpoint)
    if fault is not None:
        raise UserError(
            "the checkpoint is damaged", where=str(checkpoint), why=fault, fix="use an older checkpoint, or train again"
        )
    held = read_facts(checkpoint)["tensors"]
    shapes = {name.removeprefix(WEIGHT): tuple(held[name][1]) for name in held if name.startswith(WEIGHT)}
    parts: dict[str, list[tuple[StoredTensor, int]]] = {name: [] for name in shapes}
    saved = HuggingFaceStorageReader(str(checkpoint)).read_metadata().storage_data
    files = {path: read_file_headers(Path(path)) for path in {each.relative_path for each in saved.values()}}
    for index, each in saved.items():
        if index.fqn.startswith(WEIGHT):
            assert not any(index.offset[1:]), "a rank holds rows"
            parts[index.fqn.removeprefix(WEIGHT)].append((files[each.relative_path][index.fqn], index.offset[0]))
    return LazyWeights(shapes, partial(_join, shapes, parts))


def _join(
    shapes: Mapping[str, tuple[int, ...]], parts: Mapping[str, list[tuple[StoredTensor, int]]], name: str
) -> Float[Tensor, "..."]:
    """Read one tensor from the files of all ranks, each of which has some of its rows."""
    whole = torch.empty(shapes[name], dtype=STORED_TYPES[parts[name][0][0].dtype])
    for part, first in parts[name]:
        read_rows(part, whole[first : first + part.shape[0]])
    return whole


def _read_tensors(tensors: Mapping[str, Shaped[Tensor, "..."]], facts: Mapping[str, Any], checkpoint: Path) -> None:
    """Compare names, dtypes and shapes, then fill the tensors. torch's reader alone would ignore surplus tensors.

    Moments that the checkpoint has in another form are converted into the form of ``tensors``.
    """
    others = find_other_form(tensors, facts["tensors"])
    apart = {*others, *map(name_scale, others)}
    plain = {name: tensor for name, tensor in tensors.items() if name not in apart}
    kinds = {name.partition("/")[0] for name in plain}
    held = {name: shape for name, shape in facts["tensors"].items() if name.partition("/")[0] in kinds}
    held = {name: shape for name, shape in held.items() if name not in apart}
    wanted = {name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in plain.items()}
    _compare("tensors", wanted, held, checkpoint)
    _fill(plain, checkpoint)
    if others:
        narrow = tensors[others[0]].dtype == torch.uint8
        if rank_and_ranks()[0] == 0:
            say(
                f"moments of matrices are in {'8 bits' if narrow else 'float32'} from here on; {checkpoint.name} has "
                f"them in {'float32' if narrow else '8 bits'}"
            )
        read_other_form(others, tensors, partial(_fill, checkpoint=checkpoint))


def _fill(tensors: Mapping[str, Shaped[Tensor, "..."]], checkpoint: Path) -> None:
    read_shards(dict(tensors), storage_reader=HuggingFaceStorageReader(str(checkpoint)))


def _compare(what: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], checkpoint: Path) -> None:
    differing = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    if differing:
        name = differing[0]
        raise UserError(
            f"the checkpoint was made with other {what}",
            where=str(checkpoint),
            why=f"{name} is {theirs.get(name)} there and {ours.get(name)} here ({len(differing)} differ)",
            fix="resume with the same recipe and corpus, or give the run another folder",
        )
