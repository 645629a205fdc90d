"""How the keys of one layer's attention call travel, and their gradients back."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist

from ropewalk.attention.exchange import EXCHANGES, GATHERED, Block, Exchange, RankExchange, plan_traffic
from ropewalk.attention.schedule import AttentionSchedule
from ropewalk.partition.partition import Partition


@dataclass(frozen=True, slots=True)
class KeyTransfer:
    """An exchange between the ranks of a group; ``traffic`` is None where nothing travels."""

    exchange: Exchange
    traffic: RankExchange | None
    group: dist.ProcessGroup | None

    def fetch(self, own: Block) -> Iterator[Block]:
        """The blocks of steps 1, 2, ..., as they arrive; ``own`` is what this rank has for the others."""
        if self.traffic is None:
            return iter([own])
        assert self.group is not None
        return self.exchange.fetch(own, self.traffic, self.group)

    def return_gradients(self, gradients: Iterator[Block], dtype: torch.dtype) -> Callable[[], Block]:
        """Send them to the keys' owners; the result waits for what all ranks have for this rank's own keys."""
        if self.traffic is None:
            own = next(gradients)
            return lambda: own
        assert self.group is not None
        return self.exchange.return_gradients(gradients, self.traffic, self.group, dtype)


def find_transfer(
    partition: Partition, schedule: AttentionSchedule, group: dist.ProcessGroup | None, device: torch.device
) -> KeyTransfer | None:
    """None where a rank computes on its own keys only, in their own order."""
    if not (partition.exchanges or schedule.gathered):
        return None
    exchange = GATHERED if schedule.gathered else EXCHANGES[partition.exchange]
    traffic = plan_traffic(partition, schedule.rank, device) if partition.exchanges else None
    return KeyTransfer(exchange, traffic, group)
