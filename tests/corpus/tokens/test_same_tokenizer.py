"""Ids of one tokenizer are refused for another one of the same size; another layout of the same file is the same."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ropewalk.core.artifact import new_folder
from ropewalk.core.error import UserError
from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.corpus.tokens.same_tokenizer import EXPORTED, require_exported, require_model, require_tokenizer
from ropewalk.corpus.tokens.tokenizer import Tokenizer, load_tokenizer
from swapped_tokenizer import swap_two_tokens


@pytest.fixture
def other(tokenizer_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(tokenizer_folder, tmp_path / "other")
    swap_two_tokens(tmp_path / "other" / "tokenizer.json")
    return tmp_path / "other"


def test_a_tokenizer_of_the_same_size_is_another_one(corpus: Corpus, tokenizer: Tokenizer, other: Path) -> None:
    swapped = load_tokenizer(other)
    assert (swapped.vocabulary, swapped.eos_id) == (tokenizer.vocabulary, tokenizer.eos_id)
    with pytest.raises(UserError, match="corpus was made with another tokenizer") as caught:
        require_model(corpus, other)
    assert "its ids stand for other text" in caught.value.why and str(other) in caught.value.where


def test_another_layout_of_the_file_is_the_same_tokenizer(
    corpus: Corpus, tokenizer_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(tokenizer_folder, tmp_path / "same")
    path = tmp_path / "same" / "tokenizer.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "truncation": None}, indent=4, ensure_ascii=True, sort_keys=True))
    require_model(corpus, tmp_path / "same")


def test_a_corpus_made_by_hand_is_held_to_its_sizes(corpus: Corpus, tokenizer: Tokenizer, other: Path) -> None:
    by_hand = replace(corpus, tokenizer=None)
    require_model(by_hand, other)
    with pytest.raises(UserError, match="another tokenizer"):
        require_tokenizer(replace(by_hand, vocabulary=7), tokenizer, where=other)


def test_exported_ids_say_whose_they_are(tokenizer: Tokenizer, other: Path, tmp_path: Path) -> None:
    with new_folder(tmp_path / "out", kind=f"{EXPORTED}olmo", inputs={"tokenizer": tokenizer.digest}) as work:
        (work / "law").mkdir()
        (work / "law" / "part.npy").touch()
    ids = tmp_path / "out" / "law" / "part.npy"
    require_exported(ids, tokenizer)
    with pytest.raises(UserError, match="another tokenizer's"):
        require_exported(ids, load_tokenizer(other))
    require_exported(tmp_path / "elsewhere.npy", load_tokenizer(other))
