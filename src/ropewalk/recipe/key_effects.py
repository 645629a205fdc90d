"""Which part of a run each key of a recipe decides, so that a run can go on under a recipe that is not quite the same.

Every key stands here once, and a test walks the schema: a new key that nobody placed is an error. ``means`` is how
numbers are computed and never which: it may change from one sitting to the next, and each sitting is written down.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

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
    "blend",
    "gate",
    "evaluate",
    "export",
]
"""``elsewhere``: where things lie, and who is told. ``place``: where a source's text lies, which may be moved as long
as it is the same text. ``text``: what the corpus holds. ``mix``: how its rows are dealt
out. ``positions``: what the stage's extended model is. ``training``: what its steps learn. ``rates``: how many steps
there are, and each one's learning rate. ``blend``: what is written of the trained weights. Others name a part."""

FREE: frozenset[Side] = frozenset({"elsewhere", "means"})
"""Sides that decide no part of what a run makes."""

SIDES: Mapping[str, Side] = {
    "model": "model",
    "run": "elsewhere",
    "seed": "seed",
    "trackers": "elsewhere",
    "strict": "elsewhere",
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
    "stages.context": "positions",
    "stages.rope": "positions",
    "stages.layers": "positions",
    "stages.skip": "positions",
    "stages.anneal_steps": "training",
    "stages.tokens": "rates",
    "stages.step_tokens": "training",
    "stages.micro_rows": "means",  # how many rows go through the model at once; the step's gradient is one sum
    "stages.lr": "rates",
    "stages.schedule": "rates",
    "stages.weight_decay": "training",
    "stages.betas": "training",
    "stages.embedding_lr": "training",
    "stages.clip": "training",
    "stages.mix": "mix",
    "stages.languages": "mix",
    "stages.lengths": "mix",
    "stages.loss_weights": "training",
    "stages.z_loss": "training",
    "stages.long_ce": "training",
    "stages.blend": "blend",
    "stages.lora": "training",
    "stages.until": "rates",
    "stages.promote": "gate",
    "stages.checkpoint_steps": "means",
    "stages.panel_steps": "means",
    "stages.panel": "means",
    "stages.keep": "means",
    "stages.carry_moments": "training",
    "stages.guard": "means",  # whoever is told that training does not stay sound must be able to go on
    "parallel.ranks": "means",
    "parallel.context": "means",
    "parallel.replicas": "means",
    "parallel.layout": "means",
    "parallel.exchange": "means",
    "parallel.ulysses_degree": "means",
    "parallel.recompute": "means",
    "parallel.mlp_tile_tokens": "means",
    "parallel.offload": "means",
    "parallel.states": "means",
    "parallel.precision": "means",
    "parallel.compile": "means",
    "parallel.loss_chunk_tokens": "means",
    "parallel.hang_seconds": "means",
    "parallel.restarts": "means",
    "evaluate.lengths": "evaluate",
    "evaluate.answers": "evaluate",
    "evaluate.depths": "evaluate",
    "evaluate.position_lengths": "evaluate",
    "evaluate.documents": "evaluate",
    "evaluate.short_tokens": "evaluate",
    "evaluate.pairs": "evaluate",
    "evaluate.probes": "evaluate",
    "evaluate.seed": "evaluate",
    "evaluate.precision": "evaluate",
    "export.dtype": "export",
}


_PLACE = re.compile(r"corpus\.sources\.\d+\.path")


@dataclass(frozen=True, slots=True)
class Change:
    """A key that two recipes have not alike: ``path`` as an override writes it, and its value there and here."""

    path: str
    side: Side
    held: Any
    given: Any


def side_of(path: str) -> Side:
    """The side of a key, or of anything below it; a stage's number is no part of a key's name."""
    if _PLACE.fullmatch(path):
        return "place"
    parts = [part for part in path.split(".") if not part.isdigit()]
    for length in range(len(parts), 0, -1):
        if (side := SIDES.get(".".join(parts[:length]))) is not None:
            return side
    return "training"  # a stage as a whole: one of the two recipes has it


def find_changes(held: Recipe, given: Recipe) -> list[Change]:
    """Every key that ``given`` has not as ``held`` has it."""
    return [
        Change(path, side_of(path), old, new) for path, old, new in _differ(held.to_json(), given.to_json(), path="")
    ]


def pick(data: Mapping[str, Any], room: str, *sides: Side) -> dict[str, Any]:
    """The keys of ``data``, a recipe's or those below ``room``, that are of these sides."""
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
