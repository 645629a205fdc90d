"""For nineteen families ids and loss are those that transformers gives the same conversation."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chat_templates import FAMILIES, Family, write_model
from ropewalk.core.record import Document
from ropewalk.corpus.clean.document import clean_document
from ropewalk.corpus.read.chat import MESSAGES, lay_out
from ropewalk.corpus.read.conversation import find_conversation
from ropewalk.corpus.read_options import RecordOptions
from ropewalk.corpus.spec import Source
from ropewalk.corpus.tokens import chat_tokens
from ropewalk.corpus.tokens.chat_tokens import _mark
from ropewalk.corpus.tokens.tokenizer import Tokenizer, load_tokenizer

transformers = pytest.importorskip("transformers")

SYSTEM = {"role": "system", "content": "You are kind: 天地玄黄."}
TURNS = [
    {"role": "user", "content": "What is it for?"},
    {"role": "assistant", "content": "It ends a turn: 天地."},
    {"role": "user", "content": "And 2024?  Two  spaces.\n\nA paragraph."},
    {"role": "assistant", "content": "A"},
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "assistant: the river\n\n- stone\n- maple"},
]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'The "weather" of a city, 天气',
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "its name"}}},
    },
}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": 'Paris "9" 巴黎', "days": 2}}}
WITH_TOOLS = [
    {"role": "user", "content": "Weather in Paris?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "22 degrees", "name": "weather"},
    {"role": "assistant", "content": "It is 22."},
    {"role": "user", "content": "And then?"},
    {"role": "assistant", "content": "Rain."},
]


def conversations(family: Family) -> Iterator[dict[str, Any]]:
    yield {"messages": TURNS}
    yield {"messages": TURNS[:2]}
    if family.system:
        yield {"messages": [SYSTEM, *TURNS]}
    if family.tools:
        yield {"messages": WITH_TOOLS[:4], "tools": [WEATHER]}
        yield {"messages": WITH_TOOLS, "tools": [WEATHER]}
        short = [{**turn, "content": "I"} if turn["content"] else turn for turn in WITH_TOOLS]
        yield {"messages": short, "tools": [WEATHER]}


def encode(tokenizer: Tokenizer, record: dict[str, Any], **options: Any) -> tuple[np.ndarray, np.ndarray]:
    chosen = {"messages_key": "messages", "template": "chat", **options}
    source = Source.model_validate({"name": "s", "role": "instruction", "path": "x", "options": chosen})
    held = find_conversation(record, RecordOptions.model_validate(chosen))
    document = Document("", "s", "instruction", "en", "1", metadata={MESSAGES: held})
    rendered = lay_out(document, tokenizer.chat(plain=False), source)
    assert isinstance(rendered, Document), rendered
    cleaned = clean_document(rendered, source.cleaning("en").only_judging).outcome
    assert isinstance(cleaned, Document), cleaned
    return tokenizer.encode_document(cleaned)


def truth(folder: Path, record: dict[str, Any]) -> tuple[list[int], list[int]]:
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    told = theirs.apply_chat_template(
        record["messages"],
        tools=record.get("tools"),
        return_dict=True,
        return_assistant_tokens_mask="{% generation %}" in theirs.chat_template,
    )
    return list(told["input_ids"]), list(told.get("assistant_masks", []))


def own_part(tokens: np.ndarray, mask: np.ndarray, tokenizer: Tokenizer, given: list[int]) -> tuple[list, list, list]:
    """Ids and mask without the borders that a document has and the template has not written; theirs up to the end."""
    ours, flags = tokens.tolist(), mask.tolist()
    if given[0] != tokenizer.bos_id and ours[0] == tokenizer.bos_id:
        ours, flags = ours[1:], flags[1:]
    last = len(given)
    eos = [at for at, token in enumerate(given) if token == tokenizer.eos_id]
    if eos and not tokenizer.decode(given[eos[-1] + 1 :]).strip():
        last = eos[-1] + 1
    return ours[:last], flags[:last], given[:last]


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    family = FAMILIES[name]
    folder = write_model(family, tmp_path / "model", marks=False)
    tokenizer = load_tokenizer(folder)
    for record in conversations(family):
        tokens, mask = encode(tokenizer, record)
        given, _ = truth(folder, record)
        ours, _, theirs = own_part(tokens, mask, tokenizer, given)
        assert ours == theirs, tokenizer.decode(tokens)
        assert len(tokens) - len(ours) <= 2 and tokens[-1] == tokenizer.eos_id
        if tokenizer.bos_id is not None:
            assert tokens[0] == tokenizer.bos_id and tokens[1] != tokenizer.bos_id


@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_is_where_the_template_says_that_an_answer_is(tmp_path: Path, name: str) -> None:
    """The marks are believed; and where they are taken out, the answers are found in the same places."""
    family = FAMILIES[name]
    marked = write_model(family, tmp_path / "marked", marks=True)
    bare = load_tokenizer(write_model(family, tmp_path / "bare", marks=False))
    for record in conversations(family):
        given, theirs = truth(marked, record)
        for tokenizer in (load_tokenizer(marked), bare):
            tokens, mask = encode(tokenizer, record)
            ours, flags, _ = own_part(tokens, mask, tokenizer, given)
            if tokenizer is bare and not family.ended:
                assert all(flag >= asked for flag, asked in zip(flags, theirs, strict=False))
                continue
            start = int(tokenizer.bos_id is not None)
            trained = [tokenizer.decode([t]) for t, flag in zip(ours, flags, strict=True) if flag]
            wanted = [tokenizer.decode([t]) for t, flag in zip(ours, theirs, strict=False) if flag]
            assert flags[start:] == theirs[start : len(flags)], f"{trained}\n{wanted}"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_special_token_in_a_message_stays_letters(tmp_path: Path, name: str) -> None:
    """As many special tokens as without it, every letter there, and the loss on the same words."""
    family = FAMILIES[name]
    tokenizer = load_tokenizer(write_model(family, tmp_path / "model", marks=False))
    special = {*filter(None, (family.bos, family.eos)), *family.special}
    of_users = {*special, *(tag for tag in family.added if tag in family.template)}
    ids = {tokenizer._bpe.token_to_id(token) for token in of_users}
    assert None not in ids

    def talk(asked: str, said: str) -> dict[str, Any]:
        messages = [
            {"role": "user", "content": f"What is{asked} for?"},
            {"role": "assistant", "content": f"An{said} end."},
        ]
        return {"messages": [*messages, *messages]}

    harmless, _ = encode(tokenizer, talk(" it", " the"))
    for asked, said in (("".join(sorted(of_users)), " \ue0f0".join(sorted(special))), (" \n".join(of_users), "")):
        tokens, mask = encode(tokenizer, talk(asked, said))
        assert [t for t in tokens if t in ids] == [t for t in harmless if t in ids]
        text = tokenizer.decode(tokens)
        assert text.count(f"What is{asked} for?") == 2 and text.count(f"An{said} end.") == 2
        trained = tokenizer.decode(tokens[mask == 1])
        assert trained.count(f"An{said} end.") == 2 and "What is" not in trained


def test_letters_are_encoded_as_words_are(tmp_path: Path) -> None:
    """A message that spells no special token has the same ids on both ways."""
    for name, family in FAMILIES.items():
        tokenizer = load_tokenizer(write_model(family, tmp_path / name, marks=False))
        rendered = "".join(turn["content"] for turn in TURNS)
        for text in (rendered, f"{family.bos or ''}{rendered} {family.eos}\n{rendered}{family.eos} x"):
            ways = tokenizer._chat_ids
            plain = next(ways.encode([(text, [(3, 9)])]))
            by_hand = ways._encode_sections(text, [])
            assert plain[0].tolist() == by_hand[0], name
            assert plain[1].tolist() == _mark(np.array(by_hand[1]), [(3, 9)]).tolist()


def test_a_long_conversation_is_cut_where_no_id_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("chatml", "llama2", "gemma", "vicuna", "qwen3"):
        tokenizer = load_tokenizer(write_model(FAMILIES[name], tmp_path / name, marks=False))
        record = {"messages": TURNS}
        whole = encode(tokenizer, record)
        with monkeypatch.context() as short:
            short.setattr(chat_tokens, "_LONG_CHARACTERS", 8)
            pieces = encode(load_tokenizer(tmp_path / name), record)
        assert whole[0].tolist() == pieces[0].tolist() and whole[1].tolist() == pieces[1].tolist(), name
