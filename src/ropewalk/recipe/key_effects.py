"""The part of a run that each key of a recipe decides. A run can so continue under a recipe that differs a little.

Every key is listed here once. A test walks the schema, so a new key without an entry is an error. ``means`` keys change
how numbers are computed and never which numbers: they may change from one session to the next, and each session is
written down.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ropewalk.recipe.mark_given import mark_ropes
from ropewalk.recipe.spec import Recipe

Side = Literal[
    "elsewhere",
    "place",
    "means",
    "model",
    "seed",
    "text",
    "mix",
    "positions",
    "training",
    "rates",
    "merge",
    "gate",
    "evaluate",
    "export",
]
"""The kind of effect that a key has.

``elsewhere``: where files lie, and which trackers are used. ``place``: where a source's text lies; it may be moved if
the text stays the same. ``text``: the contents of the corpus. ``mix``: how its sequences are dealt out. ``positions``:
the stage's extended model. ``training``: the content of its steps. ``rates``: the number of steps and the learning rate
of each. ``merge``: how the trained weights are merged with the base when they are written. The other values name a
part.
"""

FREE: frozenset[Side] = frozenset({"elsewhere", "means"})
"""Sides that decide no part of a run's results."""

SIDES: Mapping[str, Side] = {
    "model": "model",
    "run": "elsewhere",
    "seed": "seed",
    "trackers": "elsewhere",
    "strict": "elsewhere",
    "trial": "elsewhere",
    "hardware": "elsewhere",
    "nodes": "elsewhere",
    "mix_study": "elsewhere",
    "corpus.store": "elsewhere",
    "corpus.sources": "text",
    "corpus.held_out": "text",
    "corpus.repeated_sections": "text",
    "corpus.near_duplicates": "text",
    "corpus.long_documents": "text",
    "corpus.decontaminate": "text",
    "corpus.seed": "seed",
    "corpus.mix": "mix",
    "corpus.max_repeats": "mix",
    "corpus.languages": "mix",
    "corpus.lengths": "mix",
    "corpus.when_dry": "mix",
    "corpus.packing": "mix",
    "corpus.workers": "elsewhere",
    "corpus.worker_count": "elsewhere",
    "stages.context_length": "positions",
    "stages.rope": "positions",
    "stages.layers": "positions",
    "stages.experimental": "training",
    "stages.pose": "positions",
    "stages.rope_interpolation_steps": "training",
    "stages.tokens": "rates",
    "stages.step_tokens": "training",
    "stages.micro_batch_size": "means",  # the step's gradient is one sum, whatever its parts
    "stages.lr": "rates",
    "stages.schedule": "rates",
    "stages.weight_decay": "training",
    "stages.betas": "training",
    "stages.embedding_lr": "training",
    "stages.max_grad_norm": "training",
    "stages.mix": "mix",
    "stages.languages": "mix",
    "stages.lengths": "mix",
    "stages.loss_weights": "training",
    "stages.z_loss": "training",
    "stages.long_ce": "training",
    "stages.merge_with_base": "merge",
    "stages.lora": "training",
    "stages.experts": "training",
    "stages.stop": "rates",
    "stages.gate": "gate",
    "stages.checkpoint_steps": "means",
    "stages.log_steps": "means",
    "stages.validation": "means",
    "stages.save_total_limit": "means",
    "stages.carry_moments": "training",
    "stages.guard": "means",  # a user who gets a warning about unsound training must be able to continue the run
    "parallel.ranks": "means",
    "parallel.device": "means",
    "parallel.deterministic": "means",
    "parallel.context_parallel": "means",
    "parallel.replicas": "means",
    "parallel.layout": "means",
    "parallel.exchange": "means",
    "parallel.ulysses_degree": "means",
    "parallel.recompute": "means",
    "parallel.recompute_blocks": "means",
    "parallel.mlp_tile_tokens": "means",
    "parallel.offload": "means",
    "parallel.states": "means",
    "parallel.precision": "means",
    "parallel.kernels": "means",
    "parallel.compile": "means",
    "parallel.loss_chunk_tokens": "means",
    "parallel.hang_seconds": "means",
    "parallel.moments_kernel": "means",
    "parallel.restarts": "means",
    "evaluate.lengths": "evaluate",
    "evaluate.answers": "evaluate",
    "evaluate.depths": "evaluate",
    "evaluate.position_lengths": "evaluate",
    "evaluate.documents": "evaluate",
    "evaluate.context_law": "evaluate",
    "evaluate.short_tokens": "evaluate",
    "evaluate.foreign": "evaluate",
    "evaluate.abilities": "evaluate",
    "evaluate.pairs": "evaluate",
    "evaluate.probes": "evaluate",
    "evaluate.grid": "evaluate",
    "evaluate.ruler": "evaluate",
    "evaluate.benchmarks": "evaluate",
    "evaluate.seed": "evaluate",
    "evaluate.precision": "evaluate",
    "export.dtype": "export",
}


_PLACE = re.compile(r"corpus\.sources\.\d+\.path")


@dataclass(frozen=True, slots=True)
class KeyChange:
    """A key that differs between two recipes. ``path`` is as in an override. The values are the old and the new one."""

    path: str
    side: Side
    held: Any
    given: Any


def side_of(path: str) -> Side:
    """The side of a key, or of any key below it. A stage's number is not part of the key's name."""
    if _PLACE.fullmatch(path):
        return "place"
    parts = [part for part in path.split(".") if not part.isdigit()]
    for length in range(len(parts), 0, -1):
        if (side := SIDES.get(".".join(parts[:length]))) is not None:
            return side
    return "training"  # a whole stage: only one of the two recipes has it


def find_changes(held: Recipe, given: Recipe) -> list[KeyChange]:
    """Every key whose value differs between the recipes ``held`` (in the run folder) and ``given``."""
    older, newer = (mark_ropes(recipe.to_json(), recipe.stages) for recipe in (held, given))
    return [KeyChange(path, side_of(path), old, new) for path, old, new in _differ(older, newer, path="")]


def pick(data: Mapping[str, Any], room: str, *sides: Side) -> dict[str, Any]:
    """The keys of ``data`` that belong to these sides; ``data`` is a recipe, or the mapping below the key ``room``."""
    prefix = f"{room}." if room else ""
    return {key: value for key, value in data.items() if SIDES.get(f"{prefix}{key}") in sides}


def _differ(held: Any, given: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(held, dict) and isinstance(given, dict):
        for key in dict.fromkeys([*held, *given]):
            yield from _differ(held.get(key), given.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(held, list) and isinstance(given, list) and (len(held) == len(given) or path == "stages"):
        for place in range(max(len(held), len(given))):
            old, new = (each[place] if place < len(each) else None for each in (held, given))
            yield from _differ(old, new, f"{path}.{place}")
    elif held != given:
        yield path, held, given
