"""Skip-wise positions against what the paper asks of them, drawn many times and counted."""

from collections import Counter

import numpy as np
import pytest

from ropewalk.core.error import UserError
from ropewalk.core.seed import stream
from ropewalk.recipe.load import parse_stage
from ropewalk.rope.pose import Pose, pose_document, pose_positions

STAGE = ["context_length=16", "rope.kind=theta", "rope.theta=1e6"]


def test_positions_rise_from_zero_and_stay_inside_the_reach() -> None:
    random = stream("test", "any")
    for _ in range(2000):
        tokens, chunks = int(random.integers(1, 40)), int(random.integers(2, 7))
        pose = Pose(reach=tokens + int(random.integers(0, 60)), chunks=chunks)
        positions = pose_document(tokens, pose, random=random)
        steps = np.diff(positions)
        assert positions[0] == 0 and positions[-1] < pose.reach and len(positions) == tokens
        assert (steps >= 1).all() and (steps > 1).sum() <= min(chunks, tokens) - 1
    assert pose_document(9, Pose(reach=9), random=random).tolist() == list(range(9)), "no room is no move"


def test_place_and_amount_are_even_over_all_that_is_allowed() -> None:
    """Two chunks, 9 places x 50 amounts: chi-square stays within four of its standard deviations."""
    tokens, reach, draws = 10, 60, 60_000
    random, seen = stream("test", "even"), Counter[tuple[int, int]]()
    for _ in range(draws):
        steps = np.diff(pose_document(tokens, Pose(reach=reach), random=random))
        moved = int(steps.max()) - 1
        if moved:  # an unmoved chunk does not tell where it was cut
            seen[int(steps.argmax()) + 1, moved] += 1
    cells = (tokens - 1) * (reach - tokens)
    assert {place for place, _ in seen} == set(range(1, tokens))
    assert {moved for _, moved in seen} == set(range(1, reach - tokens + 1))
    expected = draws / (cells + tokens - 1)
    counts = np.array([seen[place, moved] for place in range(1, tokens) for moved in range(1, reach - tokens + 1)])
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_square - cells) < 4 * np.sqrt(2 * cells)


def test_later_chunks_move_no_less_than_earlier_ones_and_evenly_above() -> None:
    """Three chunks of one token: the second move is even over [first, reach - 3], as in the paper's section 3."""
    random, pose = stream("test", "three"), Pose(reach=8, chunks=3)
    moves = Counter(
        (int(at[1]) - 1, int(at[2]) - 2) for at in (pose_document(3, pose, random=random) for _ in range(40_000))
    )
    expected = {(first, second): 1 / 6 / (6 - first) for first in range(6) for second in range(first, 6)}
    assert moves.keys() == expected.keys()
    for pair, share in expected.items():
        assert moves[pair] == pytest.approx(40_000 * share, abs=5 * np.sqrt(40_000 * share))


def test_every_distance_below_the_reach_is_met() -> None:
    random, met = stream("test", "distances"), set[int]()
    for _ in range(400):
        positions = pose_document(8, Pose(reach=40), random=random)
        met |= set(np.subtract.outer(positions, positions).ravel().tolist())
    assert {distance for distance in met if distance > 0} == set(range(1, 40))


def test_rows_skip_document_by_document_and_padding_does_not() -> None:
    document = np.array([[0, 0, 0, 0, 1, 2, 2, 2, -1, -1], [0, 0, 1, 1, 1, 1, 1, 1, 1, 1]], dtype=np.int32)
    pose = Pose(reach=1000, chunks=3)
    found = pose_positions(document, pose, random=[stream("row", number) for number in (0, 1)])
    assert found.dtype == np.int32 and found[document < 0].tolist() == [0, 0]
    for row, lengths in enumerate(((4, 1, 3), (2, 8))):
        draw = stream("row", row)
        wanted = np.concatenate([pose_document(length, pose, random=draw) for length in lengths])
        assert found[row, : len(wanted)].tolist() == wanted.tolist() and wanted.max() > 10
    alone = pose_positions(document[1:], pose, random=[stream("row", 1)])
    assert alone.tolist() == found[1:].tolist(), "a row's positions are its own"


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["pose.reach=15"], "pose.reach, 15 tokens, is shorter than a sequence of 16"),
        (["pose.reach=64", "pose.chunks=1"], "pose.chunks: Input should be greater than or equal to 2"),
        (["pose.reach=64", "pose.chunks=17"], "a sequence of 16 tokens has no 17 parts"),
        (["pose.reach=0"], "pose.reach"),
        (["pose.chunks=2"], "pose.reach: missing"),
        (["pose.reach=64", "layers=[{}, {window: 8}]"], "a window counts tokens"),
        (["pose.reach=64", "rope={kind: dynamic}"], "dynamic depends on a document's length"),
        (["pose.reach=64", "layers=[{}, {rope: {kind: dynamic}}]"], "dynamic depends on a document's length"),
    ],
)
def test_what_cannot_skip_is_refused(overrides: list[str], why: str) -> None:
    with pytest.raises(UserError) as error:
        parse_stage([*STAGE, *overrides])
    assert why in str(error.value)


def test_the_reach_is_what_a_method_is_completed_for() -> None:
    assert parse_stage(STAGE).reach_tokens == 16
    assert parse_stage([*STAGE, "pose.reach=1Ki"]).reach_tokens == 1024
