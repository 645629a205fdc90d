"""Distribution of heads over ranks that split heads instead of sequences.

Query heads must divide evenly. Key heads, of which grouped attention has fewer, are copied only as often as needed.
"""

import math

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count


def count_shared_heads(heads: int, kv_heads: int, ulysses_degree: int, *, context_ranks: int | None = None) -> int:
    """The least number of key heads, copies included, that ``ulysses_degree`` ranks share evenly beside query heads.

    Raises UserError where ``heads`` query heads cannot be split so; it offers degrees that also make equal groups of
    ``context_ranks``, where these are known.
    """
    if not _fits(heads, kv_heads, ulysses_degree):
        degrees = [each for each in range(1, heads + 1) if (context_ranks or each) % each == 0]
        fitting = (str(each) for each in degrees if _fits(heads, kv_heads, each))
        raise UserError(
            "heads cannot be divided over ranks",
            where="parallel.ulysses_degree",
            why=f"{format_count(heads, 'query head')} and {format_count(kv_heads, 'key head')} over "
            f"{format_count(ulysses_degree, 'rank')}",
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
