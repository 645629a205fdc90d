"""The picture says who computes what."""

from packs import pack
from ropewalk.partition import draw_partition, partition_tokens


def test_a_zigzag_picture() -> None:
    lines = draw_partition(partition_tokens(pack([8, 4], 16), ranks=2, layout="zigzag"), cells=16).splitlines()
    assert lines[:8] == [
        "0" + "." * 15,
        "00" + "." * 14,
        "bb1" + "." * 13,
        "bb11" + "." * 12,
        "bb111" + "." * 11,
        "bb1111" + "." * 10,
        "00aaaa0" + "." * 9,
        "00aaaa00" + "." * 8,
    ]
    assert lines[12:16] == ["." * 16] * 4
    assert lines[17] == "zigzag, 16 tokens, work max/mean 1.00"
    assert lines[18] == "rank 0: 23 pairs, 6 keys received"


def test_a_window_is_seen() -> None:
    lines = draw_partition(partition_tokens(pack([8], 8), ranks=1, window=2)).splitlines()
    assert lines[:3] == ["0.......", "00......", ".00....."]
