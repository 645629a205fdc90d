"""LongPPL: the perplexity of the tokens that need far context (Fang et al., 2410.23771).

A token is a key token where the loss without far context is larger by more than 2 nats than the loss with it, and the
loss with it is below 2. Most tokens of a text need only near context, so the plain perplexity hides the loss of key
tokens. One model chooses them for all, the one that was trained. They favour it: tokens on which it had luck are among
them.
"""

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float64

from ropewalk.core.record import Score
from ropewalk.evaluate.score import ratio

_GAIN, _LOSS = 2.0, 2.0


def find_key_tokens(
    whole: Float64[np.ndarray, "documents tokens"], window: Float64[np.ndarray, "documents tokens"]
) -> Bool[np.ndarray, "documents tokens"]:
    """The key tokens, from the losses with the whole context and with a window, in nats."""
    keys: Bool[np.ndarray, "documents tokens"] = np.logical_and(window - whole > _GAIN, whole < _LOSS)
    return keys


def score_long_perplexity(
    loss: Float64[np.ndarray, "documents tokens"],
    keys: Bool[np.ndarray, "documents tokens"],
    *,
    model: str,
    context_tokens: int,
) -> Iterator[Score]:
    """``long_ppl``, exp of the mean ``loss`` of the key tokens; nothing where there are none."""
    count = keys.sum(axis=1).astype(float)
    if not count.sum():
        return
    found = ratio(np.where(keys, loss, 0.0).sum(axis=1), count)
    value, low, high = (math.exp(min(end, 700.0)) for end in found.interval)  # an infinite end stays very large
    n = int(count.sum())
    yield Score(model, "long_ppl", "perplexity", context_tokens, None, None, n, value, low, high, found.samples)
