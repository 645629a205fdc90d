"""The share of a stage's tokens that each role gives."""

import math

from ropewalk.core.record import ROLES
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage import Stage


def role_shares(recipe: Recipe, stage: Stage) -> dict[str, float]:
    """Role -> share; a weight of a source counts for its role. ``languages`` and ``lengths`` divide text within one."""
    weights = recipe.mix(stage)
    roles: dict[str, str] = {source.name: source.role for source in recipe.corpus.sources}
    shares: dict[str, float] = dict.fromkeys(ROLES, 0.0)
    for key, weight in weights.items():
        shares[roles.get(key, key)] += weight / math.fsum(weights.values())
    return shares
