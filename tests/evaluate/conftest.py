"""A model of random weights, its tokenizer, and a small corpus with held-out text: what every measurement needs."""

import json
from pathlib import Path

import pytest

from made_texts import WORDS, han, sentence
from ropewalk.core.seed import stream
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.tokenizer import Tokenizer, load_tokenizer
from ropewalk.corpus.tokens.train_tokenizer import train_tokenizer
from ropewalk.model.init import init_model
from ropewalk.probe.key_value import KeyValue, make_key_value_prompt
from ropewalk.recipe.spec import Init

BASE_TOKENS = 64


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [make_key_value_prompt(KeyValue(), stream("test", n), words=400).text for n in range(60)]
    texts += [sentence(n) + "\n" + han(n) for n in range(50)]
    return train_tokenizer(texts, vocabulary=900, folder=tmp_path_factory.mktemp("tokenizer") / "made")


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return load_tokenizer(tokenizer_folder)


@pytest.fixture(scope="session")
def models(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models of one tokenizer and other weights."""
    folder = tmp_path_factory.mktemp("models")
    shape = {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "mlp_width": 48}
    spec = Init.model_validate(
        {**shape, "context_length": BASE_TOKENS, "deviation": 0.3, "tokenizer": str(tokenizer_folder)}
    )
    for seed, name in enumerate(("base", "extended")):
        init_model(spec, folder / name, tokenizer=tokenizer_folder, seed=seed)
    return {name: folder / name for name in ("base", "extended")}


@pytest.fixture(scope="session")
def corpus(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """English of many lengths, Chinese that is short, and questions; a third is held out."""
    folder = tmp_path_factory.mktemp("corpus")
    records: dict[str, list[dict[str, str]]] = {
        "prose": [{"text": sentence(n, 20 + 12 * (n % 40))} for n in range(160)],
        "han": [{"text": han(1000 + n, 150)} for n in range(40)],
        "pairs": [{"question": sentence(5000 + n, 12), "answer": WORDS[n % len(WORDS)]} for n in range(60)],
    }
    for name, lines in records.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = {"prompt_key": "question", "answer_key": "answer"}
    sources = [
        {"name": "prose", "path": str(folder / "prose.jsonl"), "role": "general", "language": "en"},
        {"name": "han", "path": str(folder / "han.jsonl"), "role": "domain", "language": "zh", "profile": "law"},
        {"name": "pairs", "path": str(folder / "pairs.jsonl"), "role": "instruction", "options": options},
    ]
    spec = CorpusSpec.model_validate(
        {
            "store": str(folder / "store"),
            "sources": sources,
            "mix": {"general": 7, "domain": 2, "instruction": 1},
            "held_out": 0.33,
            "near_duplicates": None,
        }
    )
    return open_corpus(build(spec, tokenizer=tokenizer, seed=0, folder=folder / "corpus"))
