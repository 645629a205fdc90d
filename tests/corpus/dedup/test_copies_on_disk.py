"""Copies that are grouped in files are those that are grouped in memory, document by document."""

from pathlib import Path

import numpy as np
import pytest

from ropewalk.core.record import Role
from ropewalk.corpus.dedup import copies_on_disk, external_sort
from ropewalk.corpus.dedup.copies_on_disk import Copies
from ropewalk.corpus.dedup.external_sort import Column
from ropewalk.corpus.dedup.minhash import group_similar
from ropewalk.corpus.dedup.rank_selected import LeftOut, rank_selected
from ropewalk.corpus.prepare.hold_out_documents import _find_least


def make_shards(folder: Path, seed: int) -> list[tuple[Role, Path]]:
    """Shards of unlike sizes, one of them empty: chains of near copies, equal texts, and texts of their own."""
    rng = np.random.default_rng(seed)
    signatures = rng.integers(0, 1 << 32, (120, 128), dtype=np.uint32)
    digests = rng.integers(0, 1 << 63, 120, dtype=np.uint64) * np.uint64(2)
    for document in range(20, 120):
        of = int(rng.integers(document))
        if rng.random() < 0.2:
            signatures[document], digests[document] = signatures[of], digests[of]
        elif rng.random() < 0.6:
            kept = rng.random(128) < rng.choice([0.5, 0.75, 0.85, 0.95])
            signatures[document] = np.where(kept, signatures[of], signatures[document])
    sizes = rng.integers(1, 5, 120)  # many are equal
    shards: list[tuple[Role, Path]] = []
    borders, roles = [0, 7, 7, 50, 120], ("general", "general", "domain", "instruction")
    for number, role in enumerate(roles):
        here = slice(borders[number], borders[number + 1])
        part = folder / str(number)
        part.mkdir()
        np.save(part / "digests.npy", digests[here])
        np.save(part / "signatures.npy", signatures[here])
        np.save(part / "whole_bytes.npy", sizes[here])
        shards.append((role, part))  # type: ignore[arg-type]
    return shards


@pytest.mark.parametrize("seed", range(2))
def test_groups_and_their_best_are_those_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    for module, name, value in (
        (external_sort, "_FILE_RECORDS", 50),
        (external_sort, "_CHUNK_DOCUMENTS", 33),
        (copies_on_disk, "_BATCH_DOCUMENTS", 17),
        (copies_on_disk, "_OPEN_FILES", 2),
    ):
        monkeypatch.setattr(module, name, value)
    shards = make_shards(tmp_path, seed)
    columns = {
        name: np.concatenate([np.load(part / f"{name}.npy") for _, part in shards])
        for name in ("digests", "signatures", "whole_bytes")
    }
    (tmp_path / "scratch").mkdir()
    copies = Copies(shards, tmp_path / "scratch")
    first: dict[int, int] = {}
    equal = np.array([first.setdefault(digest, at) for at, digest in enumerate(columns["digests"].tolist())])
    assert np.array_equal(copies.equal.read(0, 120), equal) and len(first) < 115
    priority = {"instruction": 0, "domain": 1, "general": 2}
    ranks = [priority[role] for role, part in shards for _ in np.load(part / "digests.npy")]
    keys = [(rank, -size, at) for at, (rank, size) in enumerate(zip(ranks, columns["whole_bytes"], strict=True))]
    for threshold in (0.7, 0.9):
        firsts = np.unique(equal)
        near = firsts[group_similar(columns["signatures"][firsts], threshold=threshold)]
        expected = near[np.searchsorted(firsts, equal)]
        group = copies.group(threshold)
        assert np.array_equal(group.read(0, 120), expected) and len(np.unique(expected)) < len(firsts)
        best = copies.find_best(group, f"test-{threshold}").read(0, 120)
        members = {at: [other for other in range(120) if expected[other] == at] for at in set(expected.tolist())}
        assert best.tolist() == [min(members[at], key=keys.__getitem__) for at in expected.tolist()]


@pytest.mark.parametrize("seed", [0, 1, 2, 4])
def test_a_copy_that_its_source_leaves_in_is_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Against a plain search, with two similarities. Chance decides once for all copies of a source."""
    monkeypatch.setattr(external_sort, "_CHUNK_DOCUMENTS", 13)
    shards, rng = make_shards(tmp_path, seed), np.random.default_rng(seed)
    (tmp_path / "scratch").mkdir()
    copies = Copies(shards, tmp_path / "scratch")
    near, lengths = copies.group(0.7), np.diff(copies.borders)
    groups = [near, near, copies.equal, near]
    kinds = [rng.choice(["fit", "unfit", "drawn", "unjudged"], length, p=[0.35, 0.2, 0.25, 0.2]) for length in lengths]
    left_out = [LeftOut(*(np.flatnonzero(own == kind) for kind in LeftOut._fields)) for own in kinds]
    kind, old = np.concatenate(kinds).tolist(), copies.rank.read(0, 120).tolist()
    homes = np.repeat(np.arange(4), lengths).tolist()
    keys = [group.read(0, 120).tolist() for group in groups]

    def beside(at: int) -> list[int]:
        return [other for other in range(120) if keys[homes[at]][other] == keys[homes[at]][at]]

    settled = []
    for at in range(120):
        mates = [other for other in beside(at) if homes[other] == homes[at]]
        best = min(mates, key=lambda other: (kind[other] == "unfit", old[other], other))
        settled.append("drawn" if kind[best] == "drawn" and kind[at] != "unfit" else kind[at])
    expected = []
    for at in range(120):
        is_left_out = settled[at] in ("unfit", "drawn")
        is_beside = any(settled[other] in ("unfit", "drawn") for other in beside(at))
        expected.append(old[at] + ((is_left_out or (settled[at] == "unjudged" and is_beside)) << 60))
    assert settled != kind and 20 < sum(new != rank for new, rank in zip(expected, old, strict=True)) < 110
    rank_selected(copies, groups, left_out)
    assert copies.rank.read(0, 120).tolist() == expected


def test_the_least_key_is_that_of_sorting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_sort, "_CHUNK_DOCUMENTS", 11)
    rng = np.random.default_rng(0)
    keys, counted = Column(tmp_path / "keys", 200, np.uint64), Column(tmp_path / "counted", 200, np.bool_)
    drawn = rng.integers(0, 1 << 63, 200, dtype=np.uint64)
    drawn[:50] = np.uint64(5) + np.arange(50, dtype=np.uint64) % np.uint64(3)  # equal keys, and many in one bin
    counts = rng.random(200) < 0.4
    keys.write(0, drawn)
    counted.write(0, counts)
    for documents in ((0, 200), (10, 60), (150, 153)):
        kept = drawn[slice(*documents)][counts[slice(*documents)]]
        for share in (0, 0.02, 0.3, 0.9):
            count = min(max(round(share * len(kept)), min(8, len(kept) // 10)), len(kept) - 1) if share else 0
            least = int(np.sort(kept)[count]) if count else 0
            assert _find_least(keys, counted, documents, share) == least
