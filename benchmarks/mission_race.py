"""The mission's race: whole steps of one small model on all ranks, ours and its peers, turn by turn, kept in a file.

Sides are named SOFTWARE or SOFTWARE-TEXT: ``one`` and ``pack`` are ours; ``zigzag`` is the ring that knows documents;
``head-tail`` and ``contiguous`` are torch's rings, which take a row for one document; ``ulysses`` is DeepSpeed's, on
one document; ``ringmaster-KIND-one`` and ``ringmaster-KIND-pack`` are axolotl-ringmaster's (ringmaster_peer.py).

A turn runs every side once, the next turn in the opposite order. A ratio is the median of the ratios of the turns that
both sides ran, so a slow minute of a shared machine counts for both. ``--state FILE`` keeps all turns: the next command
adds to them. Beside the clock stands processor time, which other programs disturb less, and what one step did by
observe.py: kernels, pairs of all over those of the mask, balance and bytes. The first step of a side warms it up.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from kept_turns import Race
from observe import Observed, observe
from packs import draw_pack
from race import clock_both, tell
from ringmaster_peer import find_obstacle, find_ringmaster
from ropewalk.core.versions import find_version as find_package_version
from ropewalk.partition import partition_tokens
from ropewalk.plan.receipt import AttentionSoftware
from side_receipt import count_gradient_bytes, find_rig, write_side_receipt
from trainee import SHAPE, make_our_step, make_ring_step, make_ringmaster_step
from ulysses import Ulysses, find_version
from zigzag_ring import round_pack

SIDES = ("pack", "zigzag", "head-tail", "contiguous", "one", "ulysses", "ringmaster-ulysses-one",
         "ringmaster-ulysses-pack", "ringmaster-ring-pack", "ringmaster-usp-pack")  # fmt: skip
MEDIAN_TOKENS = 4096
_RING = "torch ring, document-true zigzag, equal recompute"


class Peers(NamedTuple):
    """What the peers need, and where results go."""

    deepspeed_python: Path | None = None
    ringmaster: Path | None = None
    sides: tuple[str, ...] = SIDES
    receipts: Path | None = None
    state: Path | None = None


def run_mission(tokens: int, dtype: str, device: str, *, turns: int, peers: Peers, folder: Path) -> Race:
    """All sides that can run here, ``turns`` more of each. Every rank must call it."""
    ranks, first = dist.get_world_size(), dist.get_rank() == 0
    texts = {
        "one": draw_pack(tokens, None),
        "pack": round_pack(draw_pack(tokens, MEDIAN_TOKENS), 2 * ranks),
    }
    race = Race(f"{tokens} tokens, {dtype}, {SHAPE['num_hidden_layers']} layers, {ranks} ranks", peers.state)
    runs = _make_sides(texts, dtype, device, peers=peers, folder=folder)
    losses: dict[str, Tensor] = {}
    for turn in range(turns + 1):  # the first warms up
        took: dict[str, Any] = {"load": os.getloadavg()[0]}
        for name in list(runs)[:: -1 if turn % 2 else 1]:
            took[name], found, seen = _take_turn(runs[name], device, watches=turn == 0)
            losses[name] = found if turn == 0 else torch.stack([losses[name], found]) if turn == 1 else losses[name]
            if seen is not None:
                race.sides[name] = _describe(texts[find_text(name)], dtype, seen)
        if turn:
            race.turns.append(took)
            race.write()
    for text in texts:
        of_text = {name: each for name, each in losses.items() if find_text(name) == text}
        check_losses(of_text, dtype)
    for each in runs.values():
        each.close()
    if peers.receipts is not None:
        _write_receipts(race, texts, losses, dtype, peers)
    if first:
        _tell_all(race, tokens, peers)
    return race


class _Run(NamedTuple):
    """A side's step, which gives this rank's loss; or, in a process of its own that nobody sees into, ``read`` does."""

    step: Callable[[], Tensor | None]
    read: Callable[[], Tensor] | None = None
    close: Callable[[], None] = lambda: None


def find_text(side: str) -> str:
    """What a side reads."""
    return "pack" if side == "zigzag" or side.endswith("pack") else "one"


def _make_sides(
    texts: Mapping[str, np.ndarray], dtype: str, device: str, *, peers: Peers, folder: Path
) -> dict[str, _Run]:
    ways: dict[str, Any] = {"dtype": dtype, "device": device}
    runs: dict[str, _Run] = {}
    for name in peers.sides:
        document = texts[find_text(name)]
        if name in texts:
            runs[name] = _Run(make_our_step(document, **ways))
        elif name == "ulysses" and peers.deepspeed_python is not None and find_version(peers.deepspeed_python):
            runs[name] = _start_ulysses(peers.deepspeed_python, folder, document.size, ways)
        elif name.startswith("ringmaster") and find_ringmaster(peers.ringmaster):
            assert peers.ringmaster is not None
            kind = name.split("-")[1]
            obstacle = find_obstacle(
                kind, packed=len(np.unique(document)) > 1, ranks=dist.get_world_size(), tokens=document.size,
                kv_heads=SHAPE["num_key_value_heads"],
            )  # fmt: skip
            if not obstacle:
                runs[name] = _Run(make_ringmaster_step(document, **ways, kind=kind, folder=peers.ringmaster))
            elif dist.get_rank() == 0:
                print(json.dumps({"side": name, "tokens": document.size, "not run": obstacle}), flush=True)
        elif name in ("zigzag", "head-tail", "contiguous"):
            runs[name] = _Run(make_ring_step(document, **ways, kind=name))
    return runs


def _start_ulysses(python: Path, folder: Path, tokens: int, ways: dict[str, Any]) -> _Run:
    peer = Ulysses(python, folder, "step", tokens=tokens, **ways)
    return _Run(peer.run, lambda: peer.result()["losses"][-1], peer.close)


def _take_turn(run: _Run, device: str, *, watches: bool) -> tuple[list[float], Tensor, Observed | None]:
    """Seconds by both clocks, the loss of all ranks, and, if it ``watches``, what the step did."""
    losses: list[Tensor | None] = []
    seen: Observed | None = None
    if watches and run.read is None:
        loss, seen = observe(run.step, heads=SHAPE["num_attention_heads"])
        losses, seconds = [loss], [0.0, 0.0]
    else:
        seconds = clock_both(lambda: losses.append(run.step()), device)
    loss = losses[0] if run.read is None else run.read()
    assert loss is not None
    total = loss.double().cpu()
    dist.all_reduce(total)
    return seconds, total, seen


def _describe(document: np.ndarray, dtype: str, seen: Observed) -> dict[str, Any]:
    """What the step did, beside what the mask needs; bytes without the sum of gradients, which all sides have."""
    needed = float(partition_tokens(document, ranks=1).pairs.sum()) * SHAPE["num_hidden_layers"]
    return seen.beside(needed, shared_bytes=count_gradient_bytes(dtype, dist.get_world_size()))


SAME_LOSS = {"float32": 1e-5, "bfloat16": 2e-3}


def check_losses(found: Mapping[str, Tensor], dtype: str) -> float:
    """The largest relative difference from the first side's losses."""
    if not found:
        return 0.0
    first, *others = found.values()
    largest = max((float((other / first - 1).abs().max()) for other in others), default=0.0)
    assert largest <= SAME_LOSS[dtype], f"losses differ by {largest}: {found}"
    return largest


def _name_software(side: str, peers: Peers) -> tuple[AttentionSoftware, str] | None:
    """Name and version for a receipt; None for what is not in the list of baselines."""
    if side in ("one", "pack"):
        return "ropewalk", find_package_version("ropewalk")
    if side == "ulysses":
        return "Ulysses", f"DeepSpeed {find_version(peers.deepspeed_python)}"
    if side.startswith("ringmaster-ulysses"):
        return "Ulysses", f"axolotl-ringmaster {find_ringmaster(peers.ringmaster)}"
    if side.startswith("ringmaster"):
        return None
    return _RING if side == "zigzag" else "torch ring, all pairs", f"torch {find_package_version('torch')}"


def _write_receipts(
    race: Race, texts: Mapping[str, np.ndarray], losses: Mapping[str, Tensor], dtype: str, peers: Peers
) -> None:
    assert peers.receipts is not None
    rig = find_rig(dtype)
    for name, each in losses.items():
        software = _name_software(name, peers)
        if software is not None and name in race.sides:
            write_side_receipt(
                peers.receipts, name, texts[find_text(name)], software=software, dtype=dtype, rig=rig,
                seconds=race.seconds(name), loss=float(each.flatten()[0]), did=race.sides[name],
            )  # fmt: skip


def _tell_all(race: Race, tokens: int, peers: Peers) -> None:
    """A line for each peer of ours, on one document and on the pack."""
    for ours, word, must in (("one", "one document", 0.98), ("pack", "packed documents around 4Ki", 1.5)):
        for side in (each for each in SIDES if each not in ("one", "pack")):
            all_pairs = find_text(side) != ours
            found = (
                None if all_pairs and side not in ("head-tail", "contiguous", "ulysses") else race.compare(ours, side)
            )
            if found is None:
                continue
            did = {"ours": race.sides.get(ours), "theirs": race.sides.get(side)}
            name = side + (", which computes all pairs of the row" if all_pairs else "")
            tell(
                f"step, {word}, {race.case}", name, ours=tokens / found.pop("ours"),
                theirs=tokens / found.pop("theirs"), unit="tokens/s",
                must_reach=1.0 if side == "zigzag" else must, **found, did=did,
            )  # fmt: skip
