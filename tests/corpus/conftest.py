"""A tokenizer trained in a second, and the corpus that most tests read."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from made_texts import han, sentence
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.corpus.tokenize import Tokenizer, load_tokenizer
from ropewalk.corpus.vocabulary import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [sentence(number) + "\n" + han(number) for number in range(50)]
    return train_tokenizer(texts, vocabulary=400, folder=tmp_path_factory.mktemp("tokenizer") / "made")


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return load_tokenizer(tokenizer_folder)


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, records: list[dict[str, object]]) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
        return path

    return write


@pytest.fixture
def spec(tmp_path: Path, write_jsonl: Callable[..., Path]) -> CorpusSpec:
    """Three sources of unlike document lengths, one with a loss mask, mixed 7:2:1."""
    general = [{"text": sentence(n, 60 + 13 * (n % 40))} for n in range(300)]
    domain = [{"text": han(1000 + n, 80 + 1500 * (n % 7 == 0))} for n in range(60)]
    pairs = [{"question": sentence(5000 + n, 12), "answer": sentence(9000 + n, 4)} for n in range(200)]
    return CorpusSpec.model_validate(
        {
            "store": str(tmp_path / "store"),
            "sources": [
                {
                    "name": "prose",
                    "path": str(write_jsonl("prose.jsonl", general)),
                    "role": "general",
                    "language": "en",
                },
                {"name": "han", "path": str(write_jsonl("han.jsonl", domain)), "role": "domain", "profile": "law"},
                {
                    "name": "pairs",
                    "path": str(write_jsonl("pairs.jsonl", pairs)),
                    "role": "instruction",
                    "options": {"prompt_key": "question", "answer_key": "answer"},
                },
            ],
            "mix": {"general": 7, "domain": 2, "instruction": 1},
            "near_duplicates": None,
        }
    )
