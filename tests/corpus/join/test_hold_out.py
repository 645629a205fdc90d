"""What is held out of joined and other sources together, against a search over all pairs of documents."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ropewalk.core.seed import seed_for, stream
from ropewalk.corpus.join.places import Places
from ropewalk.corpus.prepare.hold_out_documents import HELD_OUT, TRAIN
from ropewalk.corpus.prepare.ledger import SourceLedger
from ropewalk.corpus.prepare.splits import select_documents
from ropewalk.corpus.prepare.tokenized import Tokenized


def make_sources(folder: Path, sizes: Sequence[int], random: np.random.Generator) -> list[Tokenized]:
    """Sources whose documents are now and then equal to, or nearly equal to, an earlier one of any source."""
    digests, signatures, made, at = list[int](), list[np.ndarray](), [], 0  # type: ignore[type-arg]
    for number, size in enumerate(sizes):
        for _ in range(size):
            signature = random.integers(0, 1 << 32, 128, dtype=np.uint32)
            digest = int(random.integers(0, 1 << 63))
            if digests and (drawn := random.random()) < 0.3:
                other = int(random.integers(len(digests)))
                signature = signatures[other].copy()
                if drawn < 0.1:
                    digest = digests[other]
                else:
                    signature[int(random.integers(128))] = 7
            digests.append(digest)
            signatures.append(signature)
        (folder / str(number)).mkdir()
        columns = {
            "digests": np.array(digests[at:], dtype=np.uint64),
            "signatures": np.array(signatures[at:], dtype=np.uint32).reshape(-1, 128),
            "whole_bytes": random.integers(100, 200, size),
        }
        for name, column in columns.items():
            np.save(folder / str(number) / f"{name}.npy", column, allow_pickle=False)
        made.append(Tokenized(folder / str(number), SourceLedger(), ("en",)))
        at += size
    return made


def components(edges: np.ndarray) -> list[int]:  # type: ignore[type-arg]
    """For each document the first one that it is connected to."""
    found = list(range(len(edges)))
    for document in range(len(edges)):
        reached, waiting = {document}, [document]
        while waiting:
            new = {*np.flatnonzero(edges[waiting.pop()]).tolist()} - reached
            reached |= new
            waiting += new
        found[document] = min(reached)
    return found


@pytest.mark.parametrize("case", range(8))
def test_joined_and_single_documents_are_held_out_as_a_search_over_all_pairs_says(case: int, tmp_path: Path) -> None:
    random = stream("hold out", case)
    sizes = [(40, 30, 20), (3, 50, 1), (25, 12, 40), (1, 2, 60)][case % 4]
    share, near = (
        [0.3, 0.02, 0.1, 0.0][case % 4 if case < 4 else case % 3],
        [(None, 0.8, None), (None, None, None)][case % 2],
    )
    (tmp_path / "scratch").mkdir()
    sources = make_sources(tmp_path, sizes, random)
    joins = [
        random.integers(0, 1 + size // 2, size) if case % 5 != number else None for number, size in enumerate(sizes)
    ]
    places = [
        None if group is None else Places(group, np.argsort(group, kind="stable"), [""] * len(group), 0)
        for group in joins
    ]
    found = select_documents(
        sources, ["general"] * 3, near_duplicates=near, held_out=share, places=places, scratch=tmp_path / "scratch"
    )
    split = np.concatenate([choice.split for choice in found])
    source_of = np.repeat(np.arange(3), sizes)
    digests = np.concatenate([source.digests for source in sources])
    signatures = np.concatenate([np.load(source.folder / "signatures.npy") for source in sources])
    kept = split <= HELD_OUT
    # A document that is not joined, or not kept, is a joined document of its own.
    joined = [
        (source_of[at].item(), "alone", at)
        if (group := joins[source_of[at]]) is None or not kept[at]
        else (source_of[at].item(), "joined", group[at - sum(sizes[: source_of[at]])].item())
        for at in range(len(split))
    ]
    copies = np.stack([(signatures == each).mean(axis=1) > 0.9 for each in signatures])
    name_of = {each: number for number, each in enumerate(joined)}
    names = np.array([name_of[each] for each in joined])
    together = names[:, None] == names
    first_copy, united = components(copies), components(copies | together)
    keys = []
    for component in united:
        members = [at for at, own in enumerate(united) if own == component]
        is_joined = any(joins[source_of[at]] is not None for at in members)
        least = min(digests[members].tolist()) if is_joined else int(digests[first_copy[component]])
        keys.append(seed_for("held out", least))
    held = set()
    for number in range(3):
        own = {joined[at]: keys[at] for at in np.flatnonzero(kept & (source_of == number)).tolist()}
        count = max(round(share * len(own)), min(8, len(own) // 10)) if share else 0
        count = min(count, len(own) - 1)
        border = sorted(own.values())[count] if count > 0 else 0
        below = {key for key in own.values() if key < border}
        assert sum(key in below for key in own.values()) <= max(count, 0)
        held |= below
    expected = [HELD_OUT if keys[at] in held else TRAIN for at in np.flatnonzero(kept)]
    assert split[kept].tolist() == expected
    assert case not in (0, 2) or HELD_OUT in expected
