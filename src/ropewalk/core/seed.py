"""Named random streams: a stream depends only on its purpose, never on earlier random numbers."""

import numpy as np
import xxhash


def seed_for(*purpose: str | int) -> int:
    """A 63-bit seed for a purpose such as ``("order", "law", epoch, seed)``."""
    return xxhash.xxh3_64_intdigest("\x1f".join(map(str, purpose)).encode()) >> 1


def stream(*purpose: str | int) -> np.random.Generator:
    """A numpy generator (Philox, the same on every platform) for a purpose."""
    return np.random.Generator(np.random.Philox(seed_for(*purpose)))
