"""How rows are cut over ranks: who owns which token, what each rank computes, which key rows it must receive."""

from ropewalk.partition.draw import draw
from ropewalk.partition.local_shard import cut
from ropewalk.partition.partition import EXCHANGES, LAYOUTS, Partition, partition_rows
from ropewalk.partition.ulysses import AnyPartition, HeadPartition, partition_rows_and_heads

__all__ = [
    "EXCHANGES",
    "LAYOUTS",
    "AnyPartition",
    "HeadPartition",
    "Partition",
    "cut",
    "draw",
    "partition_rows",
    "partition_rows_and_heads",
]
