"""gigatoken and the cache of words beside tokenizers: the same ids on all embedded text? And how fast?

    python benchmarks/tokenizer_libraries.py [--megabytes 1] [--out FILE]

Five tokenizers are trained on the spot, one for each way to split a text: ours, Llama 3's, Qwen's, GPT-2's, and that of
SentencePiece (Llama 2, Mistral, Gemma). Each encodes every embedded source. Seconds are those of the processor.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from ropewalk.core.record import Document
from ropewalk.core.versions import find_versions
from ropewalk.corpus.embedded.registry import EMBEDDED
from ropewalk.corpus.read.source import read_source
from ropewalk.corpus.spec import Source
from ropewalk.corpus.tokens import gigatoken
from ropewalk.corpus.tokens.safe_splits import CUTTABLE
from ropewalk.corpus.tokens.train_tokenizer import SPLIT
from ropewalk.corpus.tokens.word_cache import load_words

VOCABULARY, SAMPLE_TEXTS = 4096, 400


def train(pattern: str | None, texts: Iterable[str]) -> Tokenizer:
    """A BPE of bytes with this split; ``GPT-2`` is the split that tokenizers has; None is SentencePiece's way."""
    if pattern is None:
        bpe = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<unk>", *bytes_], show_progress=False)
        bpe.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")  # words, else the training takes hours
        bpe.train_from_iterator(texts, trainer)
        bpe.pre_tokenizer = None
        return bpe
    bpe = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern == "GPT-2")
    split = [] if pattern == "GPT-2" else [pre_tokenizers.Split(Regex(pattern), behavior="isolated")]
    bpe.pre_tokenizer = pre_tokenizers.Sequence([*split, level]) if split else level
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(texts, trainer)
    return bpe


def encode_batch(bpe: Tokenizer, batch: list[str]) -> list[np.ndarray]:
    return [np.array(each.ids, np.uint32) for each in bpe.encode_batch(batch, add_special_tokens=False)]


def time_encoding(encode: Callable[[str], Any], texts: list[str]) -> tuple[float, list[np.ndarray]]:
    begun = time.process_time()
    ids = [np.asarray(encode(text)) for text in texts]
    return time.process_time() - begun, ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=1.0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    texts: list[str] = []
    for name in EMBEDDED:
        source = Source(name=name, embedded=name, role=EMBEDDED[name].role, size_bytes=round(given.megabytes * 1e6))
        texts += [item.text for item in read_source(source, seed=0) if isinstance(item, Document)]
    size = sum(len(text.encode()) for text in texts) / 1e6
    sample = [texts[at] for at in np.random.default_rng(0).permutation(len(texts))[:SAMPLE_TEXTS]]
    llama, qwen = sorted(CUTTABLE - {SPLIT}, key=lambda pattern: "{1,3}" not in pattern)
    ways: dict[str, str | None] = {"ropewalk": SPLIT, "Llama 3": llama, "Qwen": qwen}
    ways |= {"GPT-2": "GPT-2", "SentencePiece": None}
    lines = []
    for name, pattern in ways.items():
        bpe = train(pattern, sample)
        bpe.encode_special_tokens = True
        made_of = json.loads(bpe.to_str())
        slow = partial(encode_batch, bpe)
        seconds, truth = time_encoding(lambda text, slow=slow: slow([text])[0], texts)
        found: dict[str, Any] = {
            "tokenizer": name,
            "megabytes": round(size, 1),
            "tokenizers_seconds": round(seconds, 2),
        }
        fast = {"gigatoken": gigatoken._load(made_of), "words": load_words(made_of, slow)}
        for library, encoder in fast.items():
            if encoder is None:
                found[library] = "does not take it"
                continue
            seconds, ids = time_encoding(encoder.encode, texts)
            others = sum(not np.array_equal(one, other) for one, other in zip(ids, truth, strict=True))
            found[library] = {"seconds": round(seconds, 2), "documents": len(texts), "with_other_ids": others}
        print(json.dumps(found, ensure_ascii=False), flush=True)
        lines.append({**found, "versions": find_versions(("tokenizers", "gigatoken", "regex"))})
    if given.out:
        given.out.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


if __name__ == "__main__":
    main()
