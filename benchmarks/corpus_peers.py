"""The peers' half of benchmarks/corpus_clean.py and corpus_whole.py, for a Python that has them, spacy and jieba.

Reads ``{step, first, last}`` line by line, answers with processor seconds and what was decided. Nothing of ropewalk.
"""

import json
import re
import sys
import tempfile
import time
from pathlib import Path

from datasketch import MinHash, MinHashLSH
from datatrove.data import Document
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.logging import logger

logger.remove()
LANGUAGES = {"en": "eng", "code": "eng", "zh": "cmn", "law": "cmn"}
WORD = re.compile(r"[\u3400-\u9fff]|\w+")


def make_filters(language):
    """As published for web text; for Chinese with the thresholds that words of one character need."""
    quality = (
        {"min_avg_word_length": 1, "min_stop_words": 0, "max_non_alpha_words_ratio": 0.6} if language == "cmn" else {}
    )
    return [
        GopherRepetitionFilter(language=language),
        GopherQualityFilter(language=language, **quality),
        FineWebQualityFilter(language=language),
    ]


FILTERS = {language: make_filters(language) for language in ("eng", "cmn")}
for kept in FILTERS.values():  # loads the word splitters
    for each in kept:
        each.filter(Document(text="a first text. 一段文字。", id="0"))


def run_filters(texts, seen):
    decisions = []
    for entry in texts:
        document, decision = Document(text=entry["text"], id=entry["id"]), "kept"
        for each in FILTERS[LANGUAGES[entry["kind"]]]:
            result = each.filter(document)
            if result is not True:
                decision = result[1] if isinstance(result, tuple) else type(each).__name__
                break
        if decision == "kept":
            decision = "exact duplicate" if entry["text"] in seen else "kept"
            seen.add(entry["text"])
        decisions.append(decision)
    return decisions


class Judge(PipelineStep):
    """The filters of each text's language, asked as in a run. Every text goes on, so that all is encoded."""

    name = "judge"

    def run(self, data, rank=0, world_size=1):
        for document in data:
            for each in FILTERS[LANGUAGES[document.metadata["kind"]]]:
                each.filter(document)
            yield document


def run_datatrove(texts, folder, *, tokenizer=None):
    """Its four stages, 14 bands of 8 as it comes, in this process; with ``tokenizer`` its filters before them, and its
    tokeniser behind."""
    (folder / "in").mkdir()
    (folder / "in" / "a.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in texts))
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    first = "in" if tokenizer is None else "judged"

    def read():
        return JsonlReader(str(folder / first))

    stages = (
        []
        if tokenizer is None
        else [([JsonlReader(str(folder / "in")), Judge(), JsonlWriter(str(folder / "judged"), compression=None)], 1)]
    )
    stages += [
        ([read(), MinhashDedupSignature(output_folder=str(folder / "sig"), config=config, language="eng")], 1),
        ([MinhashDedupBuckets(str(folder / "sig"), str(folder / "buckets"), config=config)], 14),
        ([MinhashDedupCluster(str(folder / "buckets"), str(folder / "remove"), config=config)], 1),
        ([read(), MinhashDedupFilter(str(folder / "remove")), JsonlWriter(str(folder / "out"), compression=None)], 1),
    ]
    if tokenizer is not None:
        encode = DocumentTokenizer(str(folder / "tokens"), tokenizer_name_or_path=tokenizer)
        stages.append(([JsonlReader(str(folder / "out")), encode], 1))
    begun = time.process_time()
    for number, (pipeline, tasks) in enumerate(stages):
        logs = str(folder / f"logs{number}")
        LocalPipelineExecutor(pipeline=pipeline, tasks=tasks, workers=1, logging_dir=logs).run()
    seconds = time.process_time() - begun
    kept = sum(path.read_text().count("\n") for path in (folder / "out").glob("*.jsonl"))
    return seconds, len(texts) - kept


def run_datasketch(texts):
    index, dropped = MinHashLSH(threshold=0.8, num_perm=128), 0
    for entry in texts:
        words = WORD.findall(entry["text"].lower())
        shingles = {" ".join(words[at : at + 5]).encode() for at in range(max(1, len(words) - 4))}
        signature = MinHash(num_perm=128)
        signature.update_batch(list(shingles))
        dropped += bool(index.query(signature))
        index.insert(entry["id"], signature)
    return dropped


def main():
    replies, sys.stdout = sys.stdout, sys.stderr  # datatrove's own lines go elsewhere
    with Path(sys.argv[1]).open(encoding="utf-8") as file:
        texts = [json.loads(line) for line in file]
    seen = set()
    for line in sys.stdin:
        asked = json.loads(line)
        part = texts[asked["first"] : asked["last"]]
        answer = {}
        begun = time.process_time()
        if asked["step"] == "filters":
            answer["decisions"] = run_filters(part, seen)
        elif asked["step"] == "datasketch":
            answer["dropped"] = run_datasketch(part)
        answer["seconds"] = time.process_time() - begun
        if asked["step"] == "whole":
            with tempfile.TemporaryDirectory() as folder:
                made = run_datatrove(part, Path(folder), tokenizer=asked["tokenizer"])
                answer["seconds"], answer["dropped"] = made
        if asked["step"] == "datatrove":
            with tempfile.TemporaryDirectory() as folder:
                answer["seconds"], answer["dropped"] = run_datatrove(part, Path(folder))
        print(json.dumps(answer), file=replies, flush=True)


if __name__ == "__main__":
    main()
