"""Text is prepared, killed at random moments again and again, and the bytes are those of a run that nobody disturbed.

    python benchmarks/corpus_kills.py [--kills 20] [--seed 0] [--quick]

Real SIGKILLs of real commands: `ropewalk prepare`, and the shares of an array (`ropewalk corpus tokenise --share`). A
chain of attempts works on one store until one of them ends by itself; then every file is compared. A third of the kills
hit the command alone, as the system does when memory is short (its workers then have to end by themselves), a third
one of its workers, a third all of them. Prints one JSON line a chain and {case, ours, must_reach} at the end.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import ropewalk
from ropewalk.core.digest import digest_file
from ropewalk.core.record import Document
from ropewalk.corpus.read.source import read_source
from ropewalk.corpus.spec import Source

FILES, MEGABYTES = 6, 1.5
SHARES, SHARE_OF_SHARES = 3, 0.25
ENDS_WITHIN_SECONDS = 15.0
COMMAND = [sys.executable, "-c", "from ropewalk.cli.main import main; main()"]


def write_texts(folder: Path, megabytes: float) -> None:
    """Two sources of many files, which share copies and long sections; a short text and a broken line among them."""
    texts = []
    for name in ("stories_en", "stories_zh", "statutes_zh", "python_topics"):
        source = Source(name=name, embedded=name, role="general", size_bytes=round(megabytes * 1e6 / 4))
        texts += [item.text for item in read_source(source, seed=0) if isinstance(item, Document)]
    order = np.random.default_rng(0).permutation(len(texts)).tolist()
    for name, step in (("web", 1), ("law", 3)):  # the second source copies every third document of the first
        chosen = [texts[at] for at in order[::step]]
        chosen = [text + (chosen[0][:9000] if number % 7 == 3 else "") for number, text in enumerate(chosen)]
        (folder / name).mkdir()
        for file in range(FILES):
            lines = [json.dumps({"text": text}, ensure_ascii=False) for text in ["short", *chosen[file::FILES]]]
            lines.insert(2, '{"text": ')
            (folder / name / f"{file}.jsonl").write_text("\n".join(lines), encoding="utf-8")


def write_recipe(folder: Path, name: str) -> Path:
    """A recipe whose store and run are its own."""
    source = {"profile": "law", "faults": "skip"}
    recipe = {
        "model": str(Path(ropewalk.__file__).parent / "model" / "tiny_base"),
        "run": str(folder / name / "run"),
        "corpus": {
            "store": str(folder / name / "store"),
            "sources": [
                {"name": "web", "path": str(folder / "web"), "role": "general", **source},
                {"name": "law", "path": str(folder / "law"), "role": "domain", **source},
                {"name": "code", "embedded": "python_code", "role": "domain", "size_bytes": "1M"},
            ],
            "mix": {"general": 7, "domain": 3},
            "worker_count": 2,
        },
        "stages": [
            {
                "context_length": 2048,
                "rope": {"kind": "theta", "theta": 1e5},
                "tokens": 65536,
                "step_tokens": 8192,
                "lr": 1e-3,
            }
        ],
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(recipe))
    return path


def start(recipe: Path, share: int | None) -> subprocess.Popen[bytes]:
    """One attempt, of all or of a share of an array, with its workers in a process group of its own."""
    asked = (
        ["prepare", str(recipe)] if share is None else ["corpus", "tokenise", str(recipe), f"--share={share}/{SHARES}"]
    )
    log = (recipe.parent / "last.log").open("wb")
    return subprocess.Popen([*COMMAND, *asked], stdout=subprocess.DEVNULL, stderr=log, start_new_session=True)


def members(group: int) -> list[int]:
    """The processes of a group, without the dead ones that nobody has asked for yet."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return sorted(found)


def kill(process: subprocess.Popen[bytes], whom: str, random: np.random.Generator) -> None:
    """Kill the command, one of its workers or all; then wait until nobody is left, and insist that nobody stays."""
    workers = [pid for pid in members(process.pid) if pid != process.pid]
    if whom == "all":
        os.killpg(process.pid, signal.SIGKILL)
    elif whom == "worker" and workers:
        os.kill(int(random.choice(workers)), signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    left_at = time.monotonic() + ENDS_WITHIN_SECONDS
    while members(process.pid):
        assert time.monotonic() < left_at, f"workers outlive their command: {members(process.pid)}"
        time.sleep(0.05)


def phase(home: Path) -> str:
    """How far an attempt had come, by what it left."""
    store = home / "store"
    if (home / "run" / "corpus").exists():
        return "done"
    if any((path / "manifest.json").exists() for path in store.glob("[0-9a-f]*") if path.is_dir()):
        return "putting together"
    if any(store.glob("sections-*")):
        return "tokenising"
    return "surveying" if (store / ".shards").exists() else "starting"


def digests(home: Path) -> dict[str, str]:
    """Of every file of the store and the corpus, but for locks, which say who held them."""
    files = [path for part in ("store", "run/corpus") for path in (home / part).rglob("*") if path.is_file()]
    return {str(path.relative_to(home)): digest_file(path) for path in sorted(files) if path.name != ".lock"}


def run_chain(folder: Path, name: str, random: np.random.Generator, *, seconds: float, kills: int) -> dict[str, Any]:
    """Attempts on one store, at most ``kills`` of them killed, until one ends well."""
    recipe, home = write_recipe(folder, name), folder / name
    phases: Counter[str] = Counter()
    whoms: Counter[str] = Counter()
    while True:
        share = int(random.integers(SHARES)) if kills and random.random() < SHARE_OF_SHARES else None
        process = start(recipe, share)
        try:
            process.wait(float(random.uniform(0, seconds)) if sum(phases.values()) < kills else None)
        except subprocess.TimeoutExpired:
            whom = str(random.choice(["command", "worker", "all"]))
            kill(process, whom, random)
            phases[phase(home)] += 1
            whoms[whom] += 1
            continue
        assert process.returncode == 0, (folder / "last.log").read_text()
        if share is None:
            return {"kills": sum(phases.values()), "killed": dict(whoms), "while": dict(phases), "files": digests(home)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="less text and three kills")
    given = parser.parse_args()
    wanted, random = 3 if given.quick else given.kills, np.random.default_rng(given.seed)
    folder = Path(tempfile.mkdtemp(prefix="ropewalk-kills-"))
    try:
        write_texts(folder, MEGABYTES / 2 if given.quick else MEGABYTES)
        begun = time.monotonic()
        truth = run_chain(folder, "whole", np.random.default_rng(1), seconds=0, kills=0)["files"]
        seconds = time.monotonic() - begun
        done, equal, chains = 0, 0, 0
        while done < wanted:
            chain = run_chain(folder, f"chain{chains}", random, seconds=seconds, kills=wanted - done)
            differing = sorted(name for name, _ in chain.pop("files").items() ^ truth.items())
            print(json.dumps({"chain": chains, **chain, "files": len(truth), "differing": differing}), flush=True)
            done, equal, chains = done + chain["kills"], equal + (not differing) * chain["kills"], chains + 1
            shutil.rmtree(folder / f"chain{chains - 1}")
        case = {"case": "prepared, killed at random moments: kills with the same bytes in the end", "peer": None}
        print(
            json.dumps(
                {**case, "ours": equal, "of": done, "must_reach": done, "seconds_undisturbed": round(seconds, 1)}
            )
        )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
