"""How heads are shared out over ranks that split heads instead of rows.

Query heads must divide; key heads, of which grouped attention has fewer, are copied just as often as that needs.
"""

import math

from ropewalk.core.error import UserError


def count_shared_heads(heads: int, kv_heads: int, ulysses_degree: int) -> int:
    """The least number of key heads, copies included, that ``ulysses_degree`` ranks share evenly beside query heads.

    Raises UserError where ``heads`` query heads cannot be split so.
    """
    if not _fits(heads, kv_heads, ulysses_degree):
        fitting = (str(each) for each in range(1, heads + 1) if _fits(heads, kv_heads, each))
        raise UserError(
            "heads cannot be split over ranks",
            where="parallel.ulysses_degree",
            why=f"{heads} query heads and {kv_heads} key heads over {ulysses_degree} ranks",
            fix=f"take one of {', '.join(fitting)}, and cut rows over the other ranks",
        )
    return math.lcm(kv_heads, ulysses_degree)


def _fits(heads: int, kv_heads: int, ulysses_degree: int) -> bool:
    return heads % math.lcm(kv_heads, ulysses_degree) == 0
