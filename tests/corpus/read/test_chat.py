"""Conversations have the ids that transformers gives them, and only what is answered is trained on."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as Bpe

from ropewalk.core.error import UserError
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.read_options import RecordOptions
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.tokenizer import Tokenizer, load_tokenizer

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{{ message.content | trim + '<|im_end|>' + '\n' }}{% endfor %}"
)
LLAMA2 = (
    "{% for message in messages %}{% if message['role'] not in ['user', 'assistant'] %}"
    "{{ raise_exception('only user and assistant') }}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + message['content'] | trim + ' [/INST]' }}{% else %}"
    "{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MESSAGES = [
    {"role": "system", "content": "You are kind."},
    {"role": "user", "content": "  What is <|im_end|> for?\n"},
    {"role": "assistant", "content": "It ends a turn: 天地."},
    {"role": "user", "content": "And 2024?"},
    {"role": "assistant", "content": "A year."},
]


@pytest.fixture(scope="module")
def chat_folder(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests' tokenizer with two more special tokens and a chat template."""
    folder = tmp_path_factory.mktemp("chat") / "model"
    folder.mkdir()
    bpe = Bpe.from_file(str(tokenizer_folder / "tokenizer.json"))
    bpe.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in ("<|im_start|>", "<|im_end|>")]
    )
    bpe.save(str(folder / "tokenizer.json"))
    config = json.loads((tokenizer_folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": CHATML}))
    return folder


def with_template(folder: Path, template: str | None) -> Tokenizer:
    held = load_tokenizer(folder)
    return Tokenizer.from_json({**held.to_json(), "chat_template": template})


def make(tmp_path: Path, tokenizer: Tokenizer, records: list[dict[str, Any]], **keys: Any) -> Corpus:
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    source = {"name": "chat", "path": str(path), "role": "instruction", **keys}
    spec = CorpusSpec.model_validate(
        {"store": str(tmp_path / "store"), "sources": [source], "mix": {"chat": 1}, "held_out": 0}
    )
    return open_corpus(build(spec, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus"))


def test_ids_are_those_of_transformers_but_for_forged_tokens(chat_folder: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = load_tokenizer(chat_folder)
    options = {"messages_key": "messages", "template": "chat"}
    harmless = [{**message, "content": message["content"].replace("<|im_end|>", "that")} for message in MESSAGES]
    corpus = make(tmp_path, tokenizer, [{"messages": harmless}], options=options)
    tokens, mask = corpus.train("chat").read(0)
    theirs = transformers.AutoTokenizer.from_pretrained(chat_folder)
    truth = theirs.apply_chat_template(harmless, tokenize=True, return_dict=False)
    ends = [tokenizer._bpe.token_to_id(name) for name in ("<|im_start|>", "<|im_end|>")]
    assert [token for token in tokens if token in ends] == [token for token in truth if token in ends]
    assert tokenizer.decode(tokens[1:-1]) == theirs.decode(truth)
    parts = np.split(np.arange(len(tokens)), np.flatnonzero(np.diff(mask)) + 1)
    answers = [tokenizer.decode(tokens[part]) for part in parts if mask[part[0]]]
    assert answers == ["<|begin|>", "It ends a turn: 天地.<|im_end|>", "A year.<|im_end|>", "<|endoftext|>"]
    assert mask[-1] == 1 and tokens[-1] == tokenizer.eos_id


def test_a_message_cannot_forge_a_special_token(chat_folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(chat_folder)
    end = tokenizer._bpe.token_to_id("<|im_end|>")
    forged = [*MESSAGES[:1], {"role": "user", "content": "a \ue0f0<|im_end|>\ue0f1 b <|im_end|> c"}, *MESSAGES[2:]]
    options = {"messages_key": "messages", "template": "chat"}
    corpus = make(tmp_path, tokenizer, [{"messages": forged}], options=options)
    tokens, _ = corpus.train("chat").read(0)
    assert (tokens == end).sum() == 5
    assert tokenizer.decode(tokens).count("<|im_end|>") == 7


def test_marks_in_a_plain_text_are_text(chat_folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(chat_folder)
    text = "a web page with \ue0f0<|im_end|>\ue0f1 in it, and more words so that it is kept. " * 3
    corpus = make(tmp_path, tokenizer, [{"text": text}])
    tokens, _ = corpus.train("chat").read(0)
    assert (tokens == tokenizer._bpe.token_to_id("<|im_end|>")).sum() == 0


@pytest.mark.parametrize("loss", ["responses", "all"])
def test_the_loss_is_on_responses_or_on_all(chat_folder: Path, tmp_path: Path, loss: str) -> None:
    tokenizer = load_tokenizer(chat_folder)
    options = {"messages_key": "messages", "loss": loss}
    corpus = make(tmp_path, tokenizer, [{"messages": MESSAGES}], options=options)
    tokens, mask = corpus.train("chat").read(0)
    trained = tokenizer.decode(tokens[mask == 1])
    if loss == "all":
        assert mask.all() and "System: You are kind.\n\nUser:" in trained
    else:
        assert trained == "<|begin|>It ends a turn: 天地.A year.<|endoftext|>"


def test_llama_2_gets_no_second_border(chat_folder: Path, tmp_path: Path) -> None:
    tokenizer = with_template(chat_folder, LLAMA2)
    options = {"prompt_key": "q", "answer_key": "a", "template": "chat"}
    corpus = make(tmp_path, tokenizer, [{"q": "Why is it?", "a": "Because it is."}], options=options)
    tokens, mask = corpus.train("chat").read(0)
    assert tokenizer.decode(tokens) == "<|begin|>[INST] Why is it? [/INST] Because it is. <|endoftext|>"
    assert tokenizer.decode(tokens[mask == 1]) == "<|begin|> Because it is. <|endoftext|>"


def test_what_a_template_refuses_is_told_or_counted(chat_folder: Path, tmp_path: Path) -> None:
    tokenizer = with_template(chat_folder, LLAMA2)
    options = {"messages_key": "messages", "template": "chat"}
    records = [{"messages": MESSAGES}, {"messages": MESSAGES[3:]}]
    with pytest.raises(UserError, match="cannot be used") as caught:
        make(tmp_path, tokenizer, records, options=options)
    assert "only user and assistant" in caught.value.why
    corpus = make(tmp_path, tokenizer, records, options=options, faults="skip")
    assert corpus.ledger["chat"]["dropped"]["conversation refused"]["documents"] == 1
    assert corpus.facts("chat").documents == 1


def test_a_template_that_rewrites_messages_is_refused(chat_folder: Path, tmp_path: Path) -> None:
    tokenizer = with_template(chat_folder, CHATML.replace("| trim", "| upper"))
    options = {"messages_key": "messages", "template": "chat"}
    with pytest.raises(UserError, match="cannot be used") as caught:
        make(tmp_path, tokenizer, [{"messages": MESSAGES}], options=options)
    assert "changes or leaves out text of messages" in caught.value.why


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"text": "x"}, "found keys text"),
        ({"messages": []}, "must be a list"),
        ({"messages": [{"role": "user"}]}, "no text"),
        ({"messages": [{"role": "user", "content": "x"}]}, "there is no answer"),
        ({"messages": [{"role": "assistant", "content": "\ud800"}]}, "surrogate"),
    ],
)
def test_records_that_are_no_conversation_are_refused(
    chat_folder: Path, tmp_path: Path, record: dict[str, Any], why: str
) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps(record) + "\n")
    with pytest.raises(UserError, match="no conversation") as caught:
        make_from(path, tmp_path, load_tokenizer(chat_folder))
    assert why in caught.value.why


def make_from(path: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = {"name": "chat", "path": str(path), "role": "instruction", "options": {"messages_key": "messages"}}
    spec = CorpusSpec.model_validate({"store": str(tmp_path / "store"), "sources": [source], "mix": {"chat": 1}})
    build(spec, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus")


def test_sharegpt_is_read_too(chat_folder: Path, tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "Where is it?"}, {"from": "gpt", "value": "Here it is."}]
    options = {"messages_key": "conversations", "template": "chat"}
    corpus = make(tmp_path, load_tokenizer(chat_folder), [{"conversations": talk}], options=options)
    tokens, _ = corpus.train("chat").read(0)
    assert "<|im_start|>assistant\nHere it is.<|im_end|>" in load_tokenizer(chat_folder).decode(tokens)


def test_a_model_without_a_template_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no chat template"):
        make(tmp_path, tokenizer, [{"messages": MESSAGES}], options={"messages_key": "messages", "template": "chat"})


def test_a_plain_prompt_is_trained_on_where_all_is(chat_folder: Path, tmp_path: Path) -> None:
    options = {"prompt_key": "q", "answer_key": "a", "loss": "all"}
    corpus = make(tmp_path, load_tokenizer(chat_folder), [{"q": "Why is it?", "a": "Since."}], options=options)
    assert corpus.train("chat").read(0)[1].all()


@pytest.mark.parametrize(
    "options",
    [
        {"template": "chat"},
        {"messages_key": "m", "prompt_key": "q", "answer_key": "a"},
        {"loss": "last"},
        {"ignore_fields": ["x"]},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"needs messages_key|exclude|need conversations"):
        RecordOptions.model_validate(options)


def test_a_model_may_have_another_template_for_tools(chat_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(chat_folder, tmp_path / "model"))
    (folder / "additional_chat_templates").mkdir()
    with_tools = "{{ 'Tools: ' + tools | tojson + ' ' }}" + CHATML
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text(with_tools)
    options = {"messages_key": "messages", "template": "chat"}
    records = [{"messages": MESSAGES, "tools": [{"name": "clock"}]}, {"messages": MESSAGES[3:]}]
    corpus = make(tmp_path, load_tokenizer(folder), records, options=options)
    texts = [load_tokenizer(folder).decode(corpus.train("chat").read(number)[0]) for number in range(2)]
    assert sorted("Tools" in text for text in texts) == [False, True]
    config = json.loads((folder / "tokenizer_config.json").read_text())
    named = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": with_tools}]
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": named}))
    shutil.rmtree(folder / "additional_chat_templates")
    assert load_tokenizer(folder).tool_template == with_tools
