"""A whole preparation beside datatrove's, in one run: clean, de-duplicate, join and tokenise, per core-second.

    python benchmarks/corpus_whole.py --peers VENV/bin/python --data FOLDER [--megabytes 12] [--rounds 2]

Peers live in an environment of their own (datatrove[io,processing], datasketch, spacy, jieba, tokenizers) and run as a
subprocess (benchmarks/corpus_peers.py). Both sides get the same texts (corpus_clean.collect) and the same tokenizer in
turns. datatrove judges each text by its Gopher, repetition and FineWeb filters, which here drop nothing (they are made
for English web pages and would leave a thirtieth), then runs its four stages of MinHash and its tokeniser; it has no
joins. Ours is `prepare`: reading, cleaning, copies, sections, held-out text, store and corpus; then the same with
documents joined by their key, and with related ones. Processor seconds; imports, and what each side loads to judge
languages and to split words, come before them. Prints JSON lines.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import ropewalk
from corpus_clean import Peers, collect, tell

TOKENIZER = Path(ropewalk.__file__).parent / "model" / "tiny_base"
ARMS: dict[str, dict[str, object]] = {
    "no joins": {},
    "joins by key": {"join": {"by": ["kind"], "order": ["number"], "most_tokens": 16384}},
    "related joins": {"join": {"related": {"target_tokens": 16384}}},
}
MUST_REACH = {"no joins": 10, "joins by key": 10, "related joins": 5}
PREPARE = """
import json, os, sys
from pathlib import Path
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.corpus.tokens.tokenizer import load_tokenizer
from ropewalk.corpus.text.language import judge_language
judge_language("a first text in English, long enough for the model of languages")
spec, tokenizer, folder = json.loads(sys.argv[1]), load_tokenizer(Path(sys.argv[2])), Path(sys.argv[3])
start = os.times()
made = build(CorpusSpec.model_validate(spec), tokenizer=tokenizer, seed=0, folder=folder / "corpus")
end = os.times()
entry = open_corpus(made).ledger["text"]
print(json.dumps({"seconds": sum(end[:4]) - sum(start[:4]), "train": entry["train"], "dropped": entry["dropped"]}))
"""


def prepare(arm: dict[str, object], texts: Path, fast: bool) -> dict[str, object]:
    """One preparation in a process of its own; seconds, and what became of the documents."""
    hide = "" if fast else "import sys; sys.modules['gigatoken'] = None\n"
    with tempfile.TemporaryDirectory() as folder:
        source = {"name": "text", "path": str(texts), "role": "general", **arm}
        spec = {"store": f"{folder}/store", "sources": [source], "mix": {"text": 1}, "worker_count": 1}
        command = [sys.executable, "-c", hide + PREPARE, json.dumps(spec), str(TOKENIZER), folder]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", required=True, help="the python of an environment with the peers")
    parser.add_argument("--data", type=Path, required=True, help="a folder of .jsonl.zst")
    parser.add_argument("--megabytes", type=float, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    texts = collect(given.data, given.megabytes)
    size = sum(len(entry["text"].encode()) for entry in texts) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.jsonl"
        numbered = ({**entry, "number": number} for number, entry in enumerate(texts))
        path.write_text("".join(json.dumps(entry) + "\n" for entry in numbered), encoding="utf-8")
        theirs: list[float] = []
        ours: dict[tuple[str, bool], list[float]] = {}
        facts: dict[str, object] = {}
        for _ in range(given.rounds):
            peers = Peers(given.peers, path)  # a new process: what it keeps would make the second round shorter
            answer = peers.ask("whole", 0, len(texts), tokenizer=str(TOKENIZER / "tokenizer.json"))
            theirs.append(float(str(answer.pop("seconds"))))
            facts["datatrove"] = answer
            for name, arm in ARMS.items():
                for fast in (False, True):
                    answer = prepare(arm, path, fast)
                    ours.setdefault((name, fast), []).append(float(str(answer.pop("seconds"))))
                    facts[name] = answer
    best = min(theirs)
    for (name, fast), seconds in ours.items():
        tell(
            f"prepare, {name}, {'gigatoken' if fast else 'tokenizers'}",
            "datatrove: filters, MinHash, tokens",
            size / min(seconds),
            size / best,
            "MB per core-second",
            MUST_REACH[name],
            megabytes=round(size, 1),
            documents=len(texts),
            seconds=[round(each, 1) for each in seconds],
            peer_seconds=[round(each, 1) for each in theirs],
            outcome=facts[name],
            peer_outcome=facts["datatrove"],
        )


if __name__ == "__main__":
    main()
