"""The rate of torch's attention kernel on a CPU by the length of a document: keys are skipped in whole blocks only.

A rate counts causal pairs, and the kernel also computes the hidden ones of the last block. So short documents have a
lower rate: twice as many pairs are computed as count for 512 tokens, 1.25 times as many for 2,048. All rates of a
``Machine`` that is a CPU are those of ``MEASURED_TOKENS``.
"""

MEASURED_TOKENS = 2048
"""Of the document on which attention is measured, where sequences are as long."""
_BLOCK_TOKENS = 512


def count_measured(context_tokens: int | None) -> int:
    """The tokens of the document on which a stage with such sequences measures attention; None: the longest."""
    return max(_BLOCK_TOKENS, min(MEASURED_TOKENS, context_tokens or MEASURED_TOKENS))


def scale_rate(document_tokens: float, *, measured_tokens: float = MEASURED_TOKENS) -> float:
    """The rate on a document, as a share of that on a document of ``measured_tokens``."""
    return _block_share(document_tokens) / _block_share(measured_tokens)


def _block_share(document_tokens: float) -> float:
    """Pairs that count over those that are computed. A document of less than a block has all its keys computed."""
    return document_tokens / (document_tokens + min(_BLOCK_TOKENS, document_tokens))
