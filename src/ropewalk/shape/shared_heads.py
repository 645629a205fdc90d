"""Distribution of heads over ranks that split heads instead of sequences.

Query heads must divide evenly. Key heads, of which grouped attention has fewer, are copied only as often as needed.
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
            "heads cannot be divided over ranks",
            where="parallel.ulysses_degree",
            why=f"{heads} query heads and {kv_heads} key heads over {ulysses_degree} ranks",
            fix=f"use one of {', '.join(fitting)}, and divide sequences over the other ranks",
        )
    return math.lcm(kv_heads, ulysses_degree)


def _fits(heads: int, kv_heads: int, ulysses_degree: int) -> bool:
    return heads % math.lcm(kv_heads, ulysses_degree) == 0


def limit_sharing(asked: int | None, *, recurrent: bool) -> int | None:
    """The number of ranks that share heads: as ``asked``, None for any, and 1 for a model with recurrent layers.

    Raises UserError where more are asked for than such a model can have.
    """
    if not recurrent:
        return asked
    if asked not in (None, 1):
        raise UserError(
            "recurrent layers need a partition of tokens",
            where="parallel.ulysses_degree",
            why=f"it is {asked}, and a recurrent layer's convolution and state belong to all of its channels",
            fix="set ulysses_degree to 1, or to auto",
        )
    return 1
