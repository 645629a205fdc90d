"""What recurrent layers cost under a partition, and the layout that is chosen for both kinds of layers."""

import numpy as np
import pytest

from packs import pack
from ropewalk.partition import partition_tokens
from ropewalk.partition.choose import choose_partition, make_sharing
from ropewalk.partition.cost import Heads, price_of
from ropewalk.partition.layout import propose
from ropewalk.partition.needed_keys import count_traffic_tokens
from ropewalk.partition.partition import Partition
from ropewalk.partition.recurrent_cost import RecurrentStates, SummaryCounts, count_summaries
from ropewalk.partition.segments import find_documents, make_segments

TOKENS, RANKS, MIB = 1 << 17, 8, 1 << 20
ATTENTION = Heads(16, 4, 256)
DELTA = RecurrentStates("gated_delta", 32, 128, 128, per_attention_layer=3, channels=8192, taps=4)
"""Qwen3.5 9B: three gated delta nets for each layer with attention."""
WIDTH, MLP_WIDTH = 4096, 12288
PRICE = price_of(ATTENTION, device="cuda", element_bytes=2, recurrent=DELTA)


def draw(seed: int, tokens: int = TOKENS, median: int = 4096) -> np.ndarray:
    """Documents of log-normal lengths around 4Ki."""
    lengths = np.random.default_rng(seed).lognormal(np.log(median), 1.3, size=80).astype(int) + 1
    return pack(np.minimum(lengths, tokens).tolist(), tokens)


def draw_42() -> np.ndarray:
    """42 documents, 3Ki in the mean, none longer than a rank's share."""
    lengths = np.random.default_rng(1).lognormal(0, 0.8, size=42)
    ends = np.round(np.cumsum(lengths) * TOKENS / lengths.sum()).astype(int)
    return pack(np.diff(ends, prepend=0).tolist(), TOKENS)


def count_slowly(partition: Partition) -> SummaryCounts:
    """Segment after segment, document after document, token after token."""
    ranks, segments = partition.ranks, partition.segments
    counts = SummaryCounts(*(np.zeros(shape, np.int64) for shape in ((ranks, ranks), (ranks, ranks), ranks, ranks)))
    for document in set(segments.document.tolist()) - {-1}:
        chain = np.flatnonzero(segments.document == document).tolist()
        for rank in range(ranks):
            places = [place for place, each in enumerate(chain) if segments.owner[each] == rank]
            counts.links[rank] += max(places, default=0)
            for place in range(max(places, default=0)):
                owner = segments.owner[chain[place]]
                if owner != rank:
                    (counts.whole if place else counts.states)[rank, owner] += 1
            for place in places:
                inner = 0 < place < len(chain) - 1
                counts.inner_tokens[rank] += inner * segments.ranges.length[chain[place]]
    return counts


@pytest.mark.parametrize("layout", ["contiguous", "zigzag", "balanced", "local"])
def test_summaries_are_counted_as_by_hand(layout: str) -> None:
    document = np.concatenate([pack([1, 300, 2, 90], 512), pack([512], 512), pack([70, 70, 70], 512)])
    for ranks in (1, 2, 4, 8):
        partition = partition_tokens(document, ranks=ranks, layout=layout)
        found, truth = count_summaries(partition.segments, ranks), count_slowly(partition)
        for name in ("whole", "states", "inner_tokens", "links"):
            assert np.array_equal(getattr(found, name), getattr(truth, name)), name
        assert found.published == truth.whole.sum() + truth.states.sum()


def test_bytes_are_those_of_the_layers_shape() -> None:
    assert DELTA.summary_bytes() == 4 * MIB and DELTA.summary_bytes(begins=True) == 2 * MIB
    rows = DELTA.per_attention_layer * DELTA.summary_bytes() / (2 * ATTENTION.kv_heads * ATTENTION.head_dim * 2)
    assert rows == 3072, "a summary of three layers, in rows of keys and values in bfloat16"
    mamba = RecurrentStates("ssd", 64, 128, 64, per_attention_layer=9)
    assert mamba.summary_bytes() - mamba.summary_bytes(begins=True) == 64 * 4, "M is a number for each head"
    # Forward and backward: a summary and its gradient in float32, keys in bfloat16 and their gradients in float32.
    assert PRICE.recurrent is not None
    dear = PRICE.recurrent.byte_pairs * DELTA.summary_bytes() / PRICE.key_pairs
    assert dear == pytest.approx(3 * 8 * (1 << 20) / (2048 * 6))


def test_balanced_needs_few_summaries_where_zigzag_cuts_every_document() -> None:
    document, most = draw_42(), {}
    for layout in ("contiguous", "zigzag", "balanced"):
        partition = partition_tokens(document, ranks=RANKS, layout=layout, price=PRICE)
        most[layout] = count_summaries(partition.segments, RANKS).received_bytes(DELTA).max() / MIB
        if layout != "contiguous":
            assert partition.balance <= 1.02
    assert most["zigzag"] == 42 * 52 == 2184
    assert most["balanced"] <= 12
    assert most["contiguous"] <= most["balanced"]


def test_contiguous_has_fewest_summaries_and_unequal_attention() -> None:
    imbalance = []
    for seed in range(6):
        document = draw(seed, median=2048)
        cuts = {}
        for layout in ("contiguous", "balanced", "local", "zigzag"):
            partition = partition_tokens(document, ranks=RANKS, layout=layout, price=PRICE)
            cuts[layout] = count_summaries(partition.segments, RANKS).published
            if layout == "contiguous":
                imbalance.append(partition.balance)
        assert cuts["contiguous"] == min(cuts.values())
    assert 1.4 <= np.median(imbalance) <= 2.7, imbalance


def count_work(partition: Partition) -> np.ndarray:
    """Operations of each rank in the forward of four layers, three with a delta net and one with attention: [ranks]."""
    heads, key_dim, value_dim = DELTA.heads, DELTA.key_dim, DELTA.value_dim
    keys = heads // 2 * key_dim
    dense = 2 * WIDTH * (2 * keys + 3 * heads * value_dim + 2 * heads)
    chunk = 64
    scan = (
        2 * heads * (chunk * (2 * key_dim + value_dim) + chunk * (key_dim + value_dim) // 2 + 3 * key_dim * value_dim)
    )
    width = ATTENTION.heads * ATTENTION.head_dim
    attention = 2 * WIDTH * (3 * width + 2 * ATTENTION.kv_heads * ATTENTION.head_dim)
    token = 3 * (dense + scan) + attention + 4 * 6 * WIDTH * MLP_WIDTH
    counts = count_summaries(partition.segments, partition.ranks)
    linked = 3 * 2 * heads * key_dim**2 * value_dim * counts.links
    again = 3 * DELTA.summary_operations() * counts.inner_tokens
    work: np.ndarray = token * partition.local_tokens + 4 * width * partition.pairs + again + linked
    return work


def test_both_kinds_of_layers_are_balanced_at_once() -> None:
    """A 3:1 model, 100 packs around 4Ki in 128Ki tokens, 8 ranks: work max/mean at most 1.05."""
    ratios, short, pieces = [], 0, 0
    for seed in range(100):
        document = draw(seed)
        partition = partition_tokens(document, ranks=RANKS, price=PRICE)
        work = count_work(partition)
        ratios.append(work.max() / work.mean())
        segments = partition.segments
        real = segments.document >= 0
        lengths = np.bincount(document[document >= 0])[document[0, segments.ranges.start[real]]]
        short += int((segments.ranges.length[real] < np.minimum(256, lengths)).sum())
        pieces += int(real.sum())
    assert max(ratios) <= 1.05, max(ratios)
    assert short <= 0.02 * pieces, "pieces of 256 tokens, unless a document is shorter or a rank would miss its work"


def test_a_delta_layer_sends_a_fifth_of_its_attention_layers_ring_whatever_the_length() -> None:
    found = {}
    for tokens in (TOKENS, 1 << 20):
        partition = partition_tokens(pack([tokens], tokens), ranks=RANKS, price=PRICE)
        assert partition.balance < 1.01
        halo = count_traffic_tokens(partition.segments, RANKS, DELTA.taps).sum(1).max() * DELTA.channels * 2
        sent = count_summaries(partition.segments, RANKS).received_bytes(DELTA).max() + halo
        row = 2 * ATTENTION.kv_heads * ATTENTION.head_dim * 2
        found[tokens] = sent, (RANKS - 1) * partition.local_tokens * row
    (sent, ring), (far, _) = found.values()
    assert sent <= ring / 5 and far == sent


def test_cuts_are_few_and_at_whole_chunks() -> None:
    """Both ends of a share cannot always be; without recurrent layers hardly any is."""
    at_chunks, cuts = {}, {}
    for name, price in (("plain", price_of(ATTENTION, device="cuda", element_bytes=2)), ("recurrent", PRICE)):
        whole = []
        for seed in range(6):
            segments = partition_tokens(draw(seed), ranks=RANKS, layout="balanced", price=price).segments
            inside = (segments.document >= 0) & (segments.ranges.start > segments.begin)
            whole += ((segments.ranges.start - segments.begin)[inside] % 64 == 0).tolist()
        at_chunks[name], cuts[name] = np.mean(whole), len(whole)
    assert at_chunks["recurrent"] > 0.45 > 0.1 > at_chunks["plain"]
    assert cuts["recurrent"] <= cuts["plain"]
    aligned = pack([64 * 700, *[64 * each for each in range(10, 50)]], TOKENS)
    segments = partition_tokens(aligned, ranks=RANKS, price=PRICE).segments
    assert ((segments.ranges.start - segments.begin)[segments.document >= 0] % 64 == 0).all()


def test_head_tail_is_for_long_documents_alone() -> None:
    """Of the layouts that auto may choose, none gives a document of at most S / 4P tokens two parts of every rank."""
    document = pack([20_000, 6000, *[4096, 3000] * 14], TOKENS)
    documents = find_documents(document)
    lengths, names = documents.ranges.length, []
    for name, owned in propose(documents, RANKS, "auto", recurrent=True):
        names.append(name)
        segments = make_segments(documents, owned, RANKS)
        cuts = np.bincount(segments.document[segments.document >= 0])
        for each, count in enumerate(cuts):
            assert count < 2 * RANKS - 1 or lengths[each] > TOKENS / (4 * RANKS), (name, each)
        if name == "local" and cuts[1] > 8:
            inside = (segments.document == 1) & (segments.ranges.start > segments.begin)
            assert ((segments.ranges.start - segments.begin)[inside] % 64 == 0).all()
    # The same documents are longer than a share and than a half of it: that ownership is proposed once.
    assert names == ["contiguous", "balanced", "local", "local"]


def test_the_choice_is_told_beside_contiguous() -> None:
    sharing = make_sharing(ATTENTION, device="cuda", element_bytes=2, recurrent=DELTA)
    choice = choose_partition(draw_42(), ranks=RANKS, sharing=sharing)
    told = choice.explain()
    assert told.startswith("balanced over 8 ranks") and "recurrent layers: " in told
    assert "at most 12 MiB a layer" in told
    ratio = float(told.split("contiguous would cost ")[1].split()[0])
    assert ratio > 1 and "work max/mean" in told.split("contiguous would cost ")[1]
    assert (
        "recurrent"
        not in choose_partition(
            draw_42(), ranks=RANKS, sharing=make_sharing(ATTENTION, device="cuda", element_bytes=2)
        ).explain()
    )


def test_dear_summaries_make_contiguous_the_choice() -> None:
    """Short rows of a model with large states: what balance saves is less than what its cuts cost."""
    huge = DELTA._replace(heads=512, per_attention_layer=12)
    sharing = make_sharing(ATTENTION, device="cuda", element_bytes=2, recurrent=huge)
    document = pack([1024] * 3 + [5120], 1 << 13)
    choice = choose_partition(document, ranks=4, sharing=sharing)
    assert isinstance(choice.partition, Partition) and choice.partition.layout == "contiguous"
    assert "balanced would cost" in choice.explain()


def test_heads_are_not_cut_where_layers_recur() -> None:
    one, slow = pack([TOKENS], TOKENS), make_sharing(ATTENTION, device="cuda", element_bytes=2)
    assert len(choose_partition(one, ranks=RANKS, sharing=slow).costs) > 1
    sharing = make_sharing(ATTENTION, device="cuda", element_bytes=2, recurrent=DELTA)
    assert choose_partition(one, ranks=RANKS, sharing=sharing).costs.keys() == {1}


def test_a_convolution_alone_sends_rows_and_no_summaries() -> None:
    short = RecurrentStates("convolution", 0, 0, 0, per_attention_layer=2, channels=2048, taps=3)
    assert short.summary_bytes() == short.summary_operations() == 0
    price = price_of(ATTENTION, device="cuda", element_bytes=2, recurrent=short).recurrent
    segments = partition_tokens(draw_42(), ranks=RANKS, layout="balanced").segments
    assert price is not None and price.inner_token_pairs == price.link_pairs == 0
    rows = count_traffic_tokens(segments, RANKS, 3)
    sent = (np.maximum(rows.sum(0), rows.sum(1)) + rows.sum() / RANKS) / 2
    assert price.price(segments, RANKS) == pytest.approx(
        2 * 2 * sent * 2048 * 2 * 1e-11 / pair_seconds() + 2 * messages()
    )


def pair_seconds() -> float:
    return 14 * ATTENTION.heads * ATTENTION.head_dim / 450e12


def messages() -> float:
    return 30e-6 / pair_seconds()
