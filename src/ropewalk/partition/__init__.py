"""How sequences are cut over ranks: token owners, the tiles of each rank, and the keys that it must receive."""

from ropewalk.partition.draw import draw_partition
from ropewalk.partition.local_shard import local_shard
from ropewalk.partition.partition import EXCHANGES, LAYOUTS, Partition, partition_tokens
from ropewalk.partition.ulysses import AnyPartition, UlyssesPartition, partition_tokens_and_heads

__all__ = [
    "EXCHANGES",
    "LAYOUTS",
    "AnyPartition",
    "Partition",
    "UlyssesPartition",
    "draw_partition",
    "local_shard",
    "partition_tokens",
    "partition_tokens_and_heads",
]
