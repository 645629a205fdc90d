"""Chooses the sessions that a stage's receipt describes: those by the means that took most of its steps.

A run that is stopped may go on with other ranks, another precision or other savings. Speeds of two ways of computing
have no common median, and a device is named only once.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ropewalk.recipe.parallel import Parallel
from ropewalk.recipe.spec import Recipe

WARM_STEPS = 2
"""Steps at the start of a session that compile, allocate and open files; their speed is left out."""
_RIG = ("device", "kind", "ranks", "context_ranks")
_SPEEDLESS = ("hang_seconds", "restarts")
"""Keys of ``parallel`` that change no speed."""
_MICRO = "micro_batch_size"


def choose_session(
    sessions: Sequence[Mapping[str, Any]], steps: Collection[int]
) -> tuple[Mapping[str, Any], frozenset[int]]:
    """The latest session by the means that took most of ``steps``, and the steps by these means that are counted.

    ``sessions`` are those of one stage, oldest first. A step belongs to the last session that began before it: an
    earlier one took it in vain.
    """
    latest, taken = dict[str, Mapping[str, Any]](), dict[str, set[int]]()
    for session in sessions:
        latest[_spell(session)] = session
    for step in steps:
        own = next((each for each in reversed(sessions) if each["from_step"] < step), None)
        if own is not None and step > own["from_step"] + WARM_STEPS:
            taken.setdefault(_spell(own), set()).add(step)
    order = {_spell(session): number for number, session in enumerate(sessions)}
    best = max(latest, key=lambda means: (len(taken.get(means, ())), order[means]))
    return latest[best], frozenset(taken.get(best, ()))


def apply_session(recipe: Recipe, stage: int, session: Mapping[str, Any]) -> Recipe:
    """``recipe`` with the means of a session of ``stage``: its ``parallel``, and its micro-batches."""
    parallel = {key: value for key, value in session["parallel"].items() if key in Parallel.model_fields}
    stages = list(recipe.stages)
    stages[stage] = stages[stage].model_copy(
        update={_MICRO: session.get("means", {}).get(_MICRO, stages[stage].micro_batch_size)}
    )
    return recipe.model_copy(update={"parallel": recipe.parallel.model_copy(update=parallel), "stages": tuple(stages)})


def _spell(session: Mapping[str, Any]) -> str:
    """What decides the speed of a session, as text."""
    parallel = {key: value for key, value in session["parallel"].items() if key not in _SPEEDLESS}
    rig = [session["rig"][key] for key in _RIG]
    return json.dumps([rig, parallel, session["savings"], session.get("means", {}).get(_MICRO)], sort_keys=True)
