"""Shares of a mix without languages, lengths and dry strata, by its weights and the sources' sizes: a plain truth."""

from collections.abc import Mapping

from ropewalk.core.record import Role
from ropewalk.corpus.mix.mixture import find_members


def source_shares(
    mix: Mapping[str, float], *, roles: Mapping[str, Role], tokens: Mapping[str, int]
) -> dict[str, float]:
    """Each source's share of the tokens. A role's weight is spread over its sources by their ``tokens``.

    A source that ``mix`` names has the weight given there and takes no part in its role's. Sources with a share of 0
    are left out. Raises UserError for a key that names nothing and for a weight that has no text to spend it on.
    """
    shares: dict[str, float] = {}
    total = sum(mix.values())
    for key, weight in mix.items():
        if weight == 0:
            continue
        members = find_members(key, mix, roles=roles, tokens=tokens)
        size = sum(tokens[name] for name in members)
        for name in members:
            shares[name] = weight / total * tokens[name] / size
    return {name: shares[name] for name in roles if name in shares}
