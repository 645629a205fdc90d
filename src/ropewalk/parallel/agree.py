"""Check that ranks which share sequences hold the same sequences, before one of them waits for keys that never come.

A rank with another batch makes another partition. Then the ranks wait for each other until a timeout, and the timeout
does not name the faulty rank. So the ranks first exchange a digest of the whole batch. The exchange is one sum over
ranks, in which every rank fills an element of its own.
"""

from collections import Counter
from collections.abc import Sequence

import torch
import torch.distributed as dist

from ropewalk.core.error import UserError
from ropewalk.parallel.collective import sum_over_ranks


def require_same_batch(digest: int, group: dist.ProcessGroup | None, *, device: torch.device) -> None:
    """Raise UserError on every rank of ``group`` unless all have the same ``digest`` (see core/digest.digest_arrays).

    The cost is one sum of as many numbers as the group has ranks. ``device`` must be a device that the group supports.
    """
    if group is None:
        return
    digests = torch.zeros(dist.get_world_size(group), dtype=torch.float64, device=device)
    digests[dist.get_rank(group)] = digest
    refuse_strangers(sum_over_ranks(digests, group=group).tolist(), context_ranks=len(digests))


def refuse_strangers(digests: Sequence[float], *, context_ranks: int) -> None:
    """Raise UserError unless the digests agree within each context-parallel group.

    ``digests`` holds one digest per rank. A group is ``context_ranks`` neighbouring ranks.
    """
    odd = []
    for first in range(0, len(digests), context_ranks):
        shared = digests[first : first + context_ranks]
        ((usual, _),) = Counter(shared).most_common(1)  # where several are equally common: the first one
        odd += [first + place for place, digest in enumerate(shared) if digest != usual]
    if odd:
        raise UserError(
            "ranks that share sequences do not have the same sequences",
            where=f"{'ranks' if len(odd) > 1 else 'rank'} {', '.join(map(str, odd))} of {len(digests)}",
            why="their tokens or documents differ from those of the other ranks that share the same sequences",
            fix="give all context ranks the same batch: the same data, order and seed, and no sampler that "
            "distributes sequences among them",
        )
