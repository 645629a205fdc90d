"""What it saves to clean each text once: the processor time of a whole preparation, before and now, in one run.

    python benchmarks/corpus_once.py --data FOLDER --before SRC [--rounds 3]

SRC is the ``src`` folder of a checkout from before the change. Both sides prepare the same files (.jsonl.zst with
``text``) in a process of their own, in turns; processor time includes workers. The digests of their stores' sources
must be equal. Prints one JSON line.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import ropewalk
from ropewalk.core.artifact import read_manifest

PREPARE = """
import json, resource, sys
from pathlib import Path
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.corpus.tokens.tokenizer import load_tokenizer
spec, tokenizer, folder = json.loads(sys.argv[1]), load_tokenizer(Path(sys.argv[2])), Path(sys.argv[3])
import os
start = os.times()
build(CorpusSpec.model_validate({**spec, "store": str(folder / "store")}), tokenizer=tokenizer, seed=0,
      folder=folder / "corpus")
end = os.times()
print(sum(end[:4]) - sum(start[:4]))
"""


def prepare(source: Path, spec: dict[str, object], folder: Path) -> float:
    """Prepare the corpus with the code in ``source``; the processor seconds of the preparation."""
    tokenizer = Path(ropewalk.__file__).parent / "model" / "tiny_base"
    command = [sys.executable, "-c", PREPARE, json.dumps(spec), str(tokenizer), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(source), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    return float(done.stdout.split()[-1])


def digest_store(folder: Path) -> dict[str, object]:
    """The files of each source's folder in the store, with their digests."""
    names = sorted(path.parent.name for path in (folder / "store").glob("*/tokens.npy"))
    return {name: read_manifest(folder / "store" / name)["files"] for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    sources = [
        {"name": path.name.split(".")[0], "path": str(path.resolve()), "role": "domain" if "law" in path.name else
         "general", **({"profile": "law"} if "law" in path.name else {})}
        for path in sorted(given.data.glob("*.jsonl.zst"))
    ]  # fmt: skip
    spec = {"sources": sources, "mix": {"general": 7, "domain": 3}, "worker_count": 1}
    sides = {"before": given.before, "now": Path(ropewalk.__file__).parents[1]}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    stores = []
    for _ in range(given.rounds):
        for name, source in sides.items():
            with tempfile.TemporaryDirectory() as folder:
                seconds[name].append(round(prepare(source, spec, Path(folder)), 2))
                stores.append(digest_store(Path(folder)))
    assert stores and all(store == stores[0] and store for store in stores)
    ratio = min(seconds["now"]) / min(seconds["before"])
    print(json.dumps({"case": "preparation, CPU seconds", **seconds, "saved": round(1 - ratio, 3), "same bytes": True}))


if __name__ == "__main__":
    main()
