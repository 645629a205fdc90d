"""A tokenizer trained in a second, and the corpus that most tests read."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from made_texts import han, sentence
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.tokenizer import Tokenizer, load_tokenizer
from ropewalk.corpus.tokens.train_tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [sentence(number) + "\n" + han(number) for number in range(50)]
    return train_tokenizer(texts, vocabulary=400, folder=tmp_path_factory.mktemp("tokenizer") / "made")


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return load_tokenizer(tokenizer_folder)


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    return partial(write_records, tmp_path)


@pytest.fixture
def spec(tmp_path: Path) -> CorpusSpec:
    return make_spec(tmp_path)


@pytest.fixture(scope="session")
def corpus(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """``make_spec``'s corpus, for tests that only read it."""
    folder = tmp_path_factory.mktemp("corpus")
    return open_corpus(build(make_spec(folder), tokenizer=tokenizer, seed=0, folder=folder / "corpus"))


def write_records(folder: Path, name: str, records: list[dict[str, object]]) -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def make_spec(folder: Path) -> CorpusSpec:
    """Three sources of unlike document lengths, one with a loss mask, mixed 7:2:1."""
    general = [{"text": sentence(n, 60 + 13 * (n % 40))} for n in range(300)]
    domain = [{"text": han(1000 + n, 80 + 1500 * (n % 7 == 0))} for n in range(60)]
    pairs = [{"question": sentence(5000 + n, 12), "answer": sentence(9000 + n, 4)} for n in range(200)]
    paths = {
        name: str(write_records(folder, f"{name}.jsonl", records))
        for name, records in (("prose", general), ("han", domain), ("pairs", pairs))
    }
    options = {"prompt_key": "question", "answer_key": "answer"}
    return CorpusSpec.model_validate(
        {
            "store": str(folder / "store"),
            "sources": [
                {"name": "prose", "path": paths["prose"], "role": "general", "language": "en"},
                {"name": "han", "path": paths["han"], "role": "domain", "profile": "law"},
                {"name": "pairs", "path": paths["pairs"], "role": "instruction", "options": options},
            ],
            "mix": {"general": 7, "domain": 2, "instruction": 1},
            "near_duplicates": None,
        }
    )
