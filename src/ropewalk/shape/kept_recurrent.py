"""What autograd keeps of a recurrent layer without its MLP and the norms around it, by the layout of its class.

Counted like the rows of shape/kept.py, with our forward of the layer over packed documents (docs/recurrence.md), and
compared with torch in the conformance suite. Chunks of a recurrence are full here: a document's last chunk counts as
many tokens as it has.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ropewalk.shape.kept import Counts, weigh_kept
from ropewalk.shape.recurrences import RECURRENCES
from ropewalk.shape.recurrent import RecurrentLayers


@dataclass(frozen=True, slots=True)
class KeptRecurrent:
    """Tensors that one recurrent layer keeps of each token, by their width.

    ``channels`` pass the convolution; ``key_heads`` and ``heads`` are keys of the heads that the matrices make, and of
    all heads; ``values`` are those of all heads, ``steps`` one number of each head. ``head_scores`` are numbers of a
    token for each of its chunk in each head, and ``states`` one state in each chunk.
    ``pairs`` are decays between a token and its chunk where each number of a key has its own, and ``ranks`` products of
    matrices of low rank.
    """

    channels: Counts
    key_heads: Counts = (0, 0)
    heads: Counts = (0, 0)
    values: Counts = (0, 0)
    steps: Counts = (0, 0)
    head_scores: Counts = (0, 0)
    states: Counts = (0, 0)
    pairs: Counts = (0, 0)
    ranks: Counts = (0, 0)

    def bytes_of_token(self, layers: RecurrentLayers, element_bytes: int) -> float:
        """Bytes of one token in one layer."""
        found = weigh_kept(self.channels, layers.channels, element_bytes)
        if not layers.heads:
            return found
        chunk, heads = RECURRENCES[layers.kind].chunk_tokens, layers.heads
        widths = (
            (self.key_heads, layers.key_heads * layers.key_dim),
            (self.heads, heads * layers.key_dim),
            (self.values, heads * layers.value_dim),
            (self.steps, heads),
            (self.head_scores, heads * chunk),
            (self.states, heads * layers.key_dim * layers.value_dim / chunk),
            (self.pairs, heads * chunk * layers.key_dim),
            (self.ranks, layers.key_dim),
        )
        return found + sum(weigh_kept(counts, width, element_bytes) for counts, width in widths)


_DELTA = KeptRecurrent(
    channels=(2, 1, -1),
    key_heads=(0, 2, 2),
    heads=(0, 2),
    values=(3, 6),
    steps=(1, 5),
    head_scores=(0, 1),
    states=(0, 1),
)
_SSD = KeptRecurrent(
    channels=(2, 1, -1),
    key_heads=(0, 2),
    values=(3, 4, 2),
    steps=(1, 4),
    states=(0, 1),
)
KEPT_RECURRENT: Mapping[str, KeptRecurrent] = {
    "qwen3_next": _DELTA,
    "qwen3_5": _DELTA,
    "olmo_hybrid": _DELTA,
    "kda": KeptRecurrent(
        channels=(2, 1, -1),
        values=(2, 18, 2),
        steps=(1, 4),
        head_scores=(0, 3),
        states=(0, 1),
        pairs=(0, 3),
        ranks=(2, 0),
    ),
    "lfm2": KeptRecurrent(channels=(6, 0)),
    "mamba2": _SSD,
    "nemotron_h": _SSD,
    "falcon_h1": _SSD,
    "lightning": KeptRecurrent(channels=(0, 0), values=(7, 4), steps=(0, 1), states=(0, 1)),
}
"""By the layout of ``RecurrentKeys``."""
_WITHOUT_NORM: Mapping[str, KeptRecurrent] = {
    "falcon_h1": replace(_SSD, values=(4, 1, 1)),
}


def row_of_recurrent(layers: RecurrentLayers) -> KeptRecurrent:
    """What the recurrence of a layer keeps; one without a norm keeps what its matrix makes for the gate."""
    return (KEPT_RECURRENT if layers.normed else _WITHOUT_NORM)[layers.layout]


def kept_summary_bytes(layers: RecurrentLayers) -> float:
    """Bytes that a token of an inner segment keeps besides, where the delta rule finds M and U: what each chunk adds to
    the state [U | M], and that state."""
    if not layers.heads or not RECURRENCES[layers.kind].erases:
        return 0.0
    width = layers.key_dim + layers.value_dim
    return 4.0 * layers.heads * width * (1 + layers.key_dim / RECURRENCES[layers.kind].chunk_tokens)
