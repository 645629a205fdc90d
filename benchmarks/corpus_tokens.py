"""Text into tokens, tokens into rows, rows out of the store: beside what a user would pick, in one run, turn by turn.

    python benchmarks/corpus_tokens.py [--quick] [--only tokenise,pack,windows,memory,wide,growth] [--mds PYTHON]

Peers: `datasets.map` with a transformers fast tokenizer, TRL's packer, Hugging Face datasets and MDS windows, and
`tokenizers.encode`. Run it where datasets, trl, gigatoken and ropewalk are installed together; MDS pins other versions
and runs in the interpreter that --mds names. Speeds are per second of processor time, the best of the turns of each;
each side runs in a process of its own. Text is made by ropewalk's generators, so that anyone can repeat it.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

WINDOW, WINDOWS, STORE_TOKENS = 32768, 1500, 48 << 20
PACK_DOCUMENTS = 1_000_000
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Megabytes of each.
GENERATORS = {"stories_en": 16, "stories_zh": 16, "python_code": 12, "statutes_zh": 12, "python_topics": 6}


# What each side does, in a process of its own. Each returns {seconds, ...}.


def make_text(folder: str, scale: float) -> dict[str, Any]:
    """Mixed text as jsonl, and a byte-level BPE of 32,768 tokens with Llama 3's split, for all sides."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    from ropewalk.core.record import Document
    from ropewalk.corpus.read.source import read_source
    from ropewalk.corpus.spec import Source

    place, texts = Path(folder), []
    for name, megabytes in GENERATORS.items():
        source = Source(name=name, embedded=name, role="general", size_bytes=round(megabytes * 1e6 * scale))
        texts += [item.text for item in read_source(source, seed=0) if isinstance(item, Document)]
    order = np.random.default_rng(0).permutation(len(texts))
    with (place / "text.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": texts[at]}, ensure_ascii=False) + "\n" for at in order)
    if not (place / "tokenizer").exists():
        bpe = Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated")
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.Sequence([split, level]), decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=32768, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
        )
        bpe.train_from_iterator([text[:40_000] for text in texts[::3]], trainer)
        (place / "tokenizer").mkdir()
        bpe.save(str(place / "tokenizer" / "tokenizer.json"))
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "model_max_length": 10**9}
        (place / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))
    return {"seconds": 0.0, "megabytes": sum(len(text.encode()) for text in texts) / 1e6, "documents": len(texts)}


def tokenise_ours(folder: str, fast: bool) -> dict[str, Any]:
    from ropewalk.corpus.read.source import read_source
    from ropewalk.corpus.spec import Source
    from ropewalk.corpus.tokens import gigatoken as fast_path
    from ropewalk.corpus.tokens.store import write_shards
    from ropewalk.corpus.tokens.tokenizer import load_tokenizer

    if not fast:
        fast_path._load = lambda _: None
    tokenizer = load_tokenizer(Path(folder) / "tokenizer")
    source = Source(name="text", path=f"{folder}/text.jsonl", role="general", language="en")
    with tempfile.TemporaryDirectory(dir=folder) as out:
        begun = time.process_time()
        encoded = tokenizer.encode_documents(read_source(source, seed=0))
        written = write_shards(encoded, Path(out), vocabulary=tokenizer.vocabulary)
        seconds = time.process_time() - begun
    assert tokenizer._fast.trusted
    return {"seconds": seconds, "tokens": sum(shard["tokens"] for shard in written)}


def tokenise_datasets(folder: str) -> dict[str, Any]:
    import datasets
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(f"{folder}/tokenizer")
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        begun = time.process_time()
        text = datasets.load_dataset("json", data_files=f"{folder}/text.jsonl", split="train", cache_dir=cache)
        encode = lambda batch: {"input_ids": tokenizer(batch["text"])["input_ids"]}  # noqa: E731
        made = text.map(encode, batched=True, remove_columns=["text"], load_from_cache_file=False)
        seconds = time.process_time() - begun
        tokens = int(sum(map(len, made.with_format("numpy")["input_ids"])))
    return {"seconds": seconds, "tokens": tokens + len(made)}  # ours ends every document


def document_lengths() -> np.ndarray:
    return np.minimum(np.random.default_rng(0).lognormal(6.5, 1.3, PACK_DOCUMENTS).astype(np.int64) + 1, 345_000)


def pack_ours(context: int) -> dict[str, Any]:
    from ropewalk.corpus.mix.packing import pack

    lengths = document_lengths()
    begun = time.process_time()
    packing = pack(lengths, context_tokens=context, random=np.random.default_rng(1))
    seconds = time.process_time() - begun
    return {"seconds": seconds, "padding": 1 - lengths.sum() / (context * len(packing.sequence_ends))}


def pack_trl(context: int, batch: int) -> dict[str, Any]:
    """TRL's own function on batches as `map` gives them, of ids that are one byte wide, to spare it copying."""
    import pyarrow as pa
    from trl.data_utils import _pack_bfd

    lengths = document_lengths()
    rows, seconds = 0, 0.0
    for start in range(0, len(lengths), batch):
        part = lengths[start : start + batch]
        ids = pa.array(np.zeros(int(part.sum()), dtype=np.int8))
        table = pa.table({"input_ids": pa.LargeListArray.from_arrays(np.concatenate([[0], np.cumsum(part)]), ids)})
        begun = time.process_time()
        packed = _pack_bfd(table, context, "split")
        seconds += time.process_time() - begun
        rows += len(packed)
    return {"seconds": seconds, "padding": 1 - lengths.sum() / (context * rows)}


def _ids() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 60_000, STORE_TOKENS, dtype=np.int64)


def _windows() -> np.ndarray:
    return np.random.default_rng(1).permutation(STORE_TOKENS // WINDOW)[:WINDOWS]


def windows_ours(folder: str) -> dict[str, Any]:
    from ropewalk.corpus.tokens.store import all_documents, open_shards, write_shards

    place = Path(folder) / "store"
    if not place.exists():
        place.mkdir()
        parts = _ids().reshape(-1, 1 << 20)
        write_shards(((part, np.ones(len(part), np.uint8)) for part in parts), place, vocabulary=60_000)
    documents = all_documents(open_shards(place, vocabulary=60_000, manifest={}))
    per_document, sums = (1 << 20) // WINDOW, 0
    begun = time.process_time()
    for window in _windows().tolist():
        document, at = window // per_document, window % per_document * WINDOW
        ids, _ = documents.read(document, at, at + WINDOW)
        sums += int(ids.astype(np.int32)[::4096].sum())  # as a batch takes them
    return {"seconds": time.process_time() - begun, "sum": sums}


def windows_datasets(folder: str) -> dict[str, Any]:
    import datasets

    place = Path(folder) / "windows"
    if not place.exists():
        kind = datasets.Features({"input_ids": datasets.LargeList(datasets.Value("int32"))})
        rows = {"input_ids": list(_ids().astype(np.int32).reshape(-1, WINDOW))}
        datasets.Dataset.from_dict(rows, features=kind).save_to_disk(str(place))
    held, sums = datasets.load_from_disk(str(place)).with_format("numpy"), 0
    begun = time.process_time()
    for window in _windows().tolist():
        sums += int(held[window]["input_ids"].astype(np.int32)[::4096].sum())
    return {"seconds": time.process_time() - begun, "sum": sums}


def windows_mds(folder: str) -> dict[str, Any]:
    from streaming import MDSWriter, StreamingDataset

    place = Path(folder) / "mds"
    if not place.exists():
        with MDSWriter(out=str(place), columns={"input_ids": f"ndarray:uint16:{WINDOW}"}) as writer:
            for row in _ids().astype(np.uint16).reshape(-1, WINDOW):
                writer.write({"input_ids": row})
    held, sums = StreamingDataset(local=str(place), shuffle=False, batch_size=1), 0
    begun = time.process_time()
    for window in _windows().tolist():
        sums += int(held[window]["input_ids"].astype(np.int32)[::4096].sum())
    return {"seconds": time.process_time() - begun, "sum": sums}


def _long_text(folder: str) -> str:
    with Path(folder, "text.jsonl").open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    text = "\n\n".join(texts)
    return (text * (24_000_000 // len(text) + 1))[:24_000_000]


def memory_ours(folder: str) -> dict[str, Any]:
    from ropewalk.core.record import Document
    from ropewalk.corpus.tokens.tokenizer import load_tokenizer

    tokenizer, text = load_tokenizer(Path(folder) / "tokenizer"), _long_text(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tokens, _ = tokenizer.encode_document(Document(text, "s", "general", "en", "1"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": 0.0, "megabytes": peak / 1e3, "tokens": len(tokens)}


def memory_tokenizers(folder: str) -> dict[str, Any]:
    from tokenizers import Tokenizer

    tokenizer, text = Tokenizer.from_file(f"{folder}/tokenizer/tokenizer.json"), _long_text(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tokens = len(tokenizer.encode(text, add_special_tokens=False).ids)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": 0.0, "megabytes": peak / 1e3, "tokens": tokens}


def write_wide(folder: str, megabytes: float) -> dict[str, Any]:
    """One document of ASCII with a single emoji in its middle: Python then keeps four bytes a character."""
    with Path(folder, "text.jsonl").open(encoding="utf-8") as file:
        texts = [text for text in (json.loads(line)["text"] for line in file) if text.isascii()]
    size, turn, has_emoji = 0, 0, False
    with Path(folder, "wide.jsonl").open("w", encoding="utf-8") as file:
        file.write('{"text": "')
        while size < megabytes * 1e6:
            text = texts[turn % len(texts)].replace("\n", f"\n{turn} ")  # no section of it stands twice
            if not has_emoji and size > megabytes * 5e5:
                text, has_emoji = f"\U0001f600 {text}", True
            size += file.write(json.dumps(f"{text}\n", ensure_ascii=False)[1:-1])
            turn += 1
        file.write('"}\n')
    return {"seconds": 0.0, "megabytes": size / 1e6}


def prepare_wide(folder: str) -> dict[str, Any]:
    """That document read, cleaned, searched for sections, signed and tokenised in this process."""
    from ropewalk.corpus.dedup.decontaminate import read_prompts
    from ropewalk.corpus.prepare.sources import tokenize_sources
    from ropewalk.corpus.prompt_rules import PromptRules
    from ropewalk.corpus.spec import CorpusSpec
    from ropewalk.corpus.tokens.tokenizer import load_tokenizer

    with tempfile.TemporaryDirectory(dir=folder) as out:
        source = {"name": "text", "path": f"{folder}/wide.jsonl", "role": "general", "profile": "law"}
        keys = {"store": f"{out}/store", "sources": [source], "mix": {"text": 1}, "worker_count": 1}
        tokenizer, begun = load_tokenizer(Path(folder) / "tokenizer"), time.process_time()
        (made,) = tokenize_sources(
            CorpusSpec.model_validate(keys), tokenizer=tokenizer, prompts=read_prompts(PromptRules()), seed=0
        )
        seconds, peak = time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "megabytes": peak * 1024 / 1e6, "tokens": int(made.tokens.sum())}


def prepare_ours(folder: str, megabytes: float) -> dict[str, Any]:
    """All of it: read, clean, sign, tokenise, put together; copies of the generated documents, each with its number."""
    from ropewalk.corpus.dedup.decontaminate import read_prompts
    from ropewalk.corpus.prepare.sources import tokenize_sources
    from ropewalk.corpus.prompt_rules import PromptRules
    from ropewalk.corpus.spec import CorpusSpec
    from ropewalk.corpus.tokens.tokenizer import load_tokenizer

    with tempfile.TemporaryDirectory(dir=folder) as out:
        size, copies = 0, 0
        lines = Path(folder, "text.jsonl").read_text(encoding="utf-8").splitlines()
        with Path(out, "text.jsonl").open("w", encoding="utf-8") as file:
            while size < megabytes * 1e6:
                text = json.loads(lines[copies % len(lines)])["text"] + f"\n{copies}"
                size += file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                copies += 1
        source = {"name": "text", "path": f"{out}/text.jsonl", "role": "general", "profile": "law"}
        spec = CorpusSpec.model_validate(
            {"store": f"{out}/store", "sources": [source], "mix": {"text": 1}, "worker_count": 2}
        )
        tokenizer = load_tokenizer(Path(folder) / "tokenizer")
        begun, children = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        own = time.process_time()
        tokenize_sources(spec, tokenizer=tokenizer, prompts=read_prompts(PromptRules()), seed=0)
        wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime + time.process_time() - own
        read = Path(out, "text.jsonl").stat().st_size / 1e6
    return {"seconds": spent, "wall": wall, "megabytes": read, "peak_megabytes": after.ru_maxrss / 1e3}


# The comparison.


def run(function: Any, *args: Any, python: str = sys.executable) -> dict[str, Any]:
    """Call one of the functions above in a fresh process on one core's worth of threads."""
    call = f"import sys,json; sys.path.insert(0,{str(Path(__file__).parent)!r}); import corpus_tokens as c; "
    call += f"print('RESULT'+json.dumps(c.{function.__name__}(*{args!r})))"
    command = ["env", "TOKENIZERS_PARALLELISM=false", "RAYON_NUM_THREADS=1", "OMP_NUM_THREADS=1", python, "-c", call]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        raise RuntimeError(f"{function.__name__} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(lines[0].removeprefix("RESULT")))


def best(turns: int, *calls: Any) -> list[dict[str, Any]]:
    """Every call's fastest of ``turns``, taken in turns."""
    taken = [[call() for call in calls] for _ in range(turns)]
    return [min((turn[at] for turn in taken), key=lambda result: result["seconds"]) for at in range(len(calls))]


def tell(case: str, peer: str, *, ours: float, theirs: float, unit: str, must_reach: float | None, **more: Any) -> None:
    ratio = theirs / ours if unit in ("s", "MB", "padding") else ours / theirs
    figures = {"ours": float(f"{ours:.4g}"), "theirs": float(f"{theirs:.4g}"), "unit": unit}
    line = {"case": case, "peer": peer, **figures, "ratio": float(f"{ratio:.4g}"), "must_reach": must_reach, **more}
    print(json.dumps(line), flush=True)


def compare_tokenising(folder: str, made: dict[str, Any], turns: int) -> None:
    theirs, slow, fast = best(
        turns,
        lambda: run(tokenise_datasets, folder),
        lambda: run(tokenise_ours, folder, False),
        lambda: run(tokenise_ours, folder, True),
    )
    assert theirs["tokens"] == slow["tokens"] == fast["tokens"], (theirs, slow, fast)
    speeds = [made["megabytes"] / each["seconds"] for each in (theirs, slow, fast)]
    about = {"megabytes": round(made["megabytes"], 1), "tokens": slow["tokens"]}
    for name, speed, bar in (("without gigatoken", speeds[1], 1.5), ("with gigatoken", speeds[2], 15)):
        tell(f"raw text to token store, {name}", "datasets.map, fast tokenizer", ours=speed, theirs=speeds[0],
             unit="MB per core-second", must_reach=bar, **about)  # fmt: skip


def compare_packing(turns: int) -> None:
    for context in (8192, 131072):
        ours, theirs = best(turns, lambda c=context: run(pack_ours, c), lambda c=context: run(pack_trl, c, 1000))
        case = f"pack 1M documents, {context // 1024}Ki"
        tell(case, "TRL bfd_split, map's 1,000", ours=ours["seconds"], theirs=theirs["seconds"], unit="s", must_reach=1)
        tell(f"{case}: padding", "the same", ours=ours["padding"], theirs=theirs["padding"], unit="padding",
             must_reach=1)  # fmt: skip


def compare_windows(folder: str, mds: str | None, turns: int) -> None:
    calls = [lambda: run(windows_ours, folder), lambda: run(windows_datasets, folder)]
    if mds:
        calls.append(lambda: run(windows_mds, folder, python=mds))
    results = best(turns + 1, *calls)  # the first turn writes the files
    assert len({result["sum"] for result in results}) == 1
    speeds = [WINDOWS * WINDOW / result["seconds"] / 1e6 for result in results]
    peers = [("Hugging Face datasets, numpy", 5), ("MDS", 1.2)]
    for (peer, bar), speed in zip(peers, speeds[1:], strict=False):
        tell("random windows of 32Ki", peer, ours=speeds[0], theirs=speed, unit="M tokens per core-second",
             must_reach=bar)  # fmt: skip


def measure_growth(folder: str, sizes: list[float]) -> None:
    for megabytes in sizes:
        found = run(prepare_ours, folder, megabytes)
        speed = found["megabytes"] / found["seconds"]
        hours = 75e3 / speed / 3600  # 20B tokens are about 75 GB of text
        line = {"case": f"read, clean, sign, tokenise {megabytes:g} MB, 2 processes", "peer": None,
                "MB per core-second": round(speed, 2), "wall seconds": round(found["wall"], 1),
                "peak MB of the largest process": round(found["peak_megabytes"]),
                "core-hours for 75 GB (20B tokens)": round(hours, 1)}  # fmt: skip
        print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the text, one turn of each")
    parser.add_argument("--only", default="tokenise,pack,windows,memory,wide,growth")
    parser.add_argument("--mds", help="a Python with mosaicml-streaming")
    parser.add_argument("--sizes", default="10,100", help="MB of text for growth")
    asked = parser.parse_args()
    parts, turns = asked.only.split(","), 1 if asked.quick else 2
    folder = tempfile.mkdtemp(prefix="ropewalk-corpus-")
    try:
        made = run(make_text, folder, 0.1 if asked.quick else 1.0)
        if "tokenise" in parts:
            compare_tokenising(folder, made, turns)
        if "pack" in parts:
            compare_packing(turns)
        if "windows" in parts:
            compare_windows(folder, asked.mds, turns)
        if "memory" in parts:
            ours, theirs = run(memory_ours, folder), run(memory_tokenizers, folder)
            assert ours["tokens"] == theirs["tokens"] + 1
            tell("peak memory of one document of 24M characters", "tokenizers.encode", ours=ours["megabytes"],
                 theirs=theirs["megabytes"], unit="MB", must_reach=5)  # fmt: skip
        if "wide" in parts:
            size = run(write_wide, folder, 20 if asked.quick else 215)["megabytes"]
            ours = run(prepare_wide, folder)
            tell(f"peak memory of a whole process: one document of {size:.0f} MB, ASCII and an emoji", "2 GiB",
                 ours=ours["megabytes"], theirs=2**31 / 1e6, unit="MB", must_reach=1,
                 seconds=round(ours["seconds"], 1), tokens=ours["tokens"])  # fmt: skip
        if "growth" in parts:
            measure_growth(folder, [float(size) for size in asked.sizes.split(",")])
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
