"""Texts by a table of bytes are those of the library, for any ids; it decodes itself where tokens are no bytes."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Bpe
from tokenizers import decoders

from ropewalk.corpus.tokens.byte_decoder import Decoder
from ropewalk.corpus.tokens.tokenizer_files import read_bpe


@pytest.fixture(scope="module")
def bpe(tokenizer_folder: Path) -> Bpe:
    made_of = json.loads(read_bpe(tokenizer_folder).to_str())
    number = max(token["id"] for token in made_of["added_tokens"]) + 1
    vocabulary = len(read_bpe(tokenizer_folder).get_vocab())
    token = {**made_of["added_tokens"][0], "id": vocabulary, "content": "<天 signs>", "special": False}
    assert vocabulary >= number
    made_of["added_tokens"].append(token)
    return Bpe.from_str(json.dumps(made_of))


@given(seed=st.integers(0, 1 << 30), count=st.integers(0, 60))
@settings(max_examples=150, deadline=None)
def test_any_ids_have_the_text_of_the_library(bpe: Bpe, seed: int, count: int) -> None:
    """Drawn ids are mostly torn characters; the last token is an added one that is written in no bytes."""
    ids = np.random.default_rng(seed).integers(0, bpe.get_vocab_size(), count)
    ids = np.append(ids, bpe.get_vocab_size() - 1)
    wanted = bpe.decode(ids.tolist(), skip_special_tokens=False)
    assert Decoder(bpe).decode(ids.astype(np.uint32)) == Decoder(bpe).decode(ids.tolist()) == wanted
    assert Decoder(bpe)._table is not None and wanted.endswith("<天 signs>")


def test_ids_beyond_the_vocabulary_have_no_text(bpe: Bpe) -> None:
    ids = [*bpe.encode("river", add_special_tokens=False).ids, bpe.get_vocab_size() + 9]
    assert Decoder(bpe).decode(ids) == "river"


def test_tokens_that_are_no_bytes_are_decoded_by_the_library(bpe: Bpe) -> None:
    other = Bpe.from_str(bpe.to_str())
    other.decoder = decoders.Metaspace()
    ids = bpe.encode("river stone", add_special_tokens=False).ids
    assert Decoder(other)._table is None
    assert Decoder(other).decode(ids) == other.decode(ids, skip_special_tokens=False) != "river stone"
