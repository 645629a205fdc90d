"""The seconds of messages over two kinds of links: between devices of a node, and between nodes.

A gather or a reduction over nodes crosses each node's border once with all bytes, and all devices of the node share in
that. Heads that are exchanged and keys that are needed go from each device to each other one, over its own part of the
network. In a ring of ranks every step waits for the message over the border, which one device sends.
"""

from ropewalk.plan.hardware import Machine
from ropewalk.plan.traffic import Exchange


def state_seconds(sent_bytes: float, ranks: int, machine: Machine) -> float:
    """Seconds to send ``sent_bytes`` of weights and gradients, which ``ranks`` ranks share."""
    inside = sent_bytes / machine.link_bytes_per_second
    if not _is_spread(ranks, machine):
        return inside
    assert machine.node_ranks is not None
    return max(inside, sent_bytes / (machine.node_ranks * machine.network_bytes_per_second))


def replica_seconds(sent_bytes: float, ranks: int, shards: int, machine: Machine) -> float:
    """Seconds to send ``sent_bytes`` of gradients to the ranks that hold the same of ``shards`` shards.

    Each shard has a ring of its own; over a node's border go the rings of all shards that the node holds.
    """
    inside = sent_bytes / machine.link_bytes_per_second
    if not _is_spread(ranks, machine):
        return inside
    assert machine.node_ranks is not None
    rings = min(shards, machine.node_ranks)
    return max(inside, rings * sent_bytes / (machine.node_ranks * machine.network_bytes_per_second))


def context_seconds(sent_bytes: float, context_ranks: int, exchange: Exchange, machine: Machine) -> float:
    """Seconds to send ``sent_bytes`` for attention among ``context_ranks`` neighbouring ranks."""
    inside = sent_bytes / machine.link_bytes_per_second
    if not _is_spread(context_ranks, machine):
        return inside
    assert machine.node_ranks is not None
    if exchange == "ring":
        return max(inside, sent_bytes / machine.network_bytes_per_second)
    if exchange == "all_gather":
        return state_seconds(sent_bytes, context_ranks, machine)
    outside = (context_ranks - machine.node_ranks) / (context_ranks - 1)
    return max(inside * (1 - outside), outside * sent_bytes / machine.network_bytes_per_second)


def _is_spread(ranks: int, machine: Machine) -> bool:
    return machine.node_ranks is not None and ranks > machine.node_ranks
