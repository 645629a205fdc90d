"""Every trainer's format becomes the same conversation, and what is not read is refused by its name."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from chat_templates import FAMILIES, write_model
from ropewalk.core.record import Document
from ropewalk.corpus.read.chat import MESSAGES, UNTRAINED, lay_out
from ropewalk.corpus.read.conversation import find_conversation
from ropewalk.corpus.read.source import read_items
from ropewalk.corpus.read.turn import UnreadError
from ropewalk.corpus.read_options import RecordOptions
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.reject import Reject
from ropewalk.corpus.tokens.tokenizer import Tokenizer, load_tokenizer

ASKED, SAID = {"role": "user", "content": "Weather?"}, {"role": "assistant", "content": "Rain."}
CALL = {"function": {"name": "w", "arguments": {"city": "Paris"}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
TEXT = json.dumps(CALL["function"]["arguments"])
RESULT = {"role": "tool", "content": "22"}
TYPED = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", **CALL}]}
USE = {"type": "tool_use", "id": "1", "name": "w", "input": {"city": "Paris"}}
BLOCK = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "22"}]}
ALPACA = {"prompt_key": "instruction", "answer_key": "output", "template": "chat"}
SHAREGPT = {"messages_key": "conversations"}


def read(record: dict[str, Any], **options: Any) -> Any:
    """The conversation, or why there is none."""
    try:
        return find_conversation(record, RecordOptions.model_validate({"messages_key": "messages", **options}))
    except UnreadError as error:
        return str(error)


def pair(record: dict[str, Any], **options: Any) -> Any:
    return find_conversation(record, RecordOptions.model_validate({**ALPACA, **options}))


def source(**options: Any) -> Source:
    return Source.model_validate(
        {"name": "s", "role": "instruction", "path": "x", "faults": "skip", "options": options}
    )


def document(held: Any) -> Document:
    return Document("said", "s", "instruction", "en", "1", metadata={MESSAGES: held})


@pytest.mark.parametrize(
    ("messages", "read_as"),
    [
        ([ASKED, {**CALLING, "content": None}, RESULT, SAID], [ASKED, CALLING, RESULT, SAID]),
        ([ASKED, {**CALLING, "tool_calls": [{"function": {"name": "w", "arguments": TEXT}}]}], [ASKED, CALLING]),
        ([ASKED, {"role": "assistant", "function_call": {"name": "w", "arguments": TEXT}}], [ASKED, TYPED]),
        ([ASKED, {"role": "assistant", "tool_calls": [{"name": "w", "arguments": TEXT}]}], [ASKED, TYPED]),
        ([ASKED, {"role": "Assistant", "content": [{"type": "text", "text": "Ra"}, "in."]}], [ASKED, SAID]),
        ([{**ASKED, "name": None, "tool_calls": []}, {**SAID, "weight": 1, "loss": True}], [ASKED, SAID]),
        ([ASKED, {**SAID, "weight": 0}], [ASKED, {**SAID, "loss": False}]),
        ([ASKED, {**SAID, "train": False}], [ASKED, {**SAID, "loss": False}]),
        ([ASKED, {**SAID, "loss": 0}], [ASKED, {**SAID, "loss": False}]),
        ([ASKED, {**SAID, "thinking": "hm"}], [ASKED, {**SAID, "reasoning_content": "hm"}]),
        ([ASKED, {**SAID, "reasoning": "hm", "id": "7", "model": "x"}], [ASKED, {**SAID, "reasoning_content": "hm"}]),
        ([{"Human": "Weather?", "assistant": "Rain."}], [ASKED, SAID]),
        (json.dumps([ASKED, SAID]), [ASKED, SAID]),
        ([{"role": "DEVELOPER", "content": "x"}, ASKED, SAID], [{"role": "developer", "content": "x"}, ASKED, SAID]),
        (
            [
                ASKED,
                {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, USE]},
                {"role": "user", "content": [BLOCK, {"type": "text", "text": "Go on."}]},
                SAID,
            ],
            [
                ASKED,
                {**CALLING, "reasoning_content": "hm", "tool_calls": [{"id": "1", "type": "function", **CALL}]},
                {**RESULT, "tool_call_id": "1"},
                {"role": "user", "content": "Go on."},
                SAID,
            ],
        ),
    ],
)  # fmt: skip
def test_messages_of_every_format(messages: Any, read_as: list[dict[str, Any]]) -> None:
    held = read({"messages": messages})
    assert not isinstance(held, str), held
    assert held["messages"] == read_as


def test_sharegpt_keeps_calls_results_system_and_tools() -> None:
    turns = [
        {"from": "Human", "value": "Weather?"},
        {"from": "function_call", "value": '{"name": "w", "arguments": {"city": "Paris"}}'},
        {"from": "observation", "value": "22"},
        {"from": "bing", "value": "Rain."},
    ]
    held = read({"system": "Be brief.", "tools": '[{"name": "w"}]', "conversations": turns}, **SHAREGPT)
    system = {"role": "system", "content": "Be brief."}
    assert held["messages"] == [system, ASKED, TYPED, RESULT, SAID]
    assert held["tools"] == [{"type": "function", "function": {"name": "w"}}]


def test_alpaca_keeps_input_history_and_system() -> None:
    record = {"instruction": "Translate.", "input": "天", "output": "sky", "system": "S", "history": [["q", "a"]]}
    told = [(message["role"], message["content"]) for message in pair(record)["messages"]]
    assert told == [
        ("system", "S"),
        ("user", "q"),
        ("assistant", "a"),
        ("user", "Translate.\n天"),
        ("assistant", "sky"),
    ]


def test_the_answers_of_a_prompt_are_not_trained_on() -> None:
    held = pair({"instruction": [ASKED, SAID, ASKED], "output": [SAID], "history": None})
    assert [message.get("loss", True) for message in held["messages"]] == [True, False, True, True]


@pytest.mark.parametrize(
    ("record", "named"),
    [
        ({"messages": [ASKED, SAID], "images": ["a.png"]}, "images"),
        ({"messages": [ASKED, SAID], "rejected": "x"}, "rejected"),
        ({"messages": [ASKED, SAID], "system": ["x"]}, "system"),
        ({"messages": [{"role": "system", "content": "a"}, ASKED, SAID], "system": "b"}, "there must be only one"),
        ({"messages": [ASKED, {**SAID, "weight": 0.5}]}, "weight"),
        ({"messages": [{**ASKED, "train": True}, SAID]}, "train"),
        ({"messages": [ASKED, {**SAID, "train_detail": [{}]}]}, "train_detail"),
        ({"messages": [ASKED, SAID], "loss_weight": 0.5}, "loss_weight"),
        ({"messages": [ASKED, {"role": "narrator", "content": "x"}]}, "narrator"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, SAID]}, "image_url"),
        ({"messages": [{"role": "user", "content": [{"type": "audio", "audio": "x"}]}, SAID]}, "audio"),
        ({"messages": [ASKED, {**SAID, "content": ""}]}, "empty answer"),
        ({"messages": [ASKED, {**SAID, "content": None, "tool_calls": []}]}, "no text"),
        ({"messages": [ASKED, {**CALLING, "tool_calls": [{"name": "w", "arguments": "{city"}]}]}, "arguments"),
        ({"messages": [ASKED, {**CALLING, "tool_calls": [{"name": "w", "arguments": "[1]"}]}]}, "arguments"),
        ({"messages": [{**ASKED, "tool_calls": [CALL]}, SAID]}, "tool_calls"),
        ({"messages": [ASKED, {**SAID, "reasoning": "a", "thinking": "b"}]}, "thinking"),
        ({"messages": [ASKED, {"from": "function_call", "value": "call it"}]}, "value"),
        ({"messages": [ASKED, SAID], "tools": "search"}, "tools"),
        ({"messages": [ASKED, SAID], "tools": [{"description": "x"}]}, "tools[0]"),
        ({"messages": "no list"}, "messages"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_by_name(record: dict[str, Any], named: str) -> None:
    why = read(record)
    assert isinstance(why, str) and named in why


def test_fields_are_ignored_where_the_source_says_so() -> None:
    record = {"messages": [ASKED, {**SAID, "score": 3, "reasoning": "hm"}], "score_a": 1, "images": ["x"], "id": 7}
    assert "score_a" in read(record, ignore_fields=["images", "score"])
    held = read(record, ignore_fields=["images", "score*", "reasoning"])
    assert held["messages"] == [ASKED, SAID]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("models")
    return {name: load_tokenizer(write_model(FAMILIES[name], folder / name, marks=False)) for name in FAMILIES}


def test_a_loss_weight_of_0_and_turns_without_loss_are_told(models: dict[str, Tokenizer]) -> None:
    template, untrained = models["chatml"].chat(plain=False), {**SAID, "weight": 0}
    for record in ({"messages": [ASKED, SAID], "loss_weight": 0}, {"messages": [ASKED, untrained]}):
        outcome = lay_out(document(read(record)), template, source(messages_key="messages", template="chat"))
        assert isinstance(outcome, Reject) and outcome.reason == UNTRAINED and outcome.why


@pytest.mark.parametrize(
    ("loss", "trained"), [("responses", "Rain.<|im_end|>Yes.<|im_end|>"), ("last", "Yes.<|im_end|>")]
)
def test_turns_without_loss_are_written_and_not_trained_on(
    models: dict[str, Tokenizer], loss: str, trained: str
) -> None:
    wrong = {"role": "assistant", "content": "Snow.", "weight": 0}
    held = read({"messages": [ASKED, wrong, ASKED, SAID, ASKED, {"role": "assistant", "content": "Yes."}]})
    outcome = lay_out(
        document(held), models["chatml"].chat(plain=False), source(messages_key="m", template="chat", loss=loss)
    )
    assert isinstance(outcome, Document) and outcome.loss_spans is not None and "Snow." in outcome.text
    assert "".join(outcome.text[a:b] for a, b in outcome.loss_spans) == trained


@pytest.mark.parametrize(
    ("family", "messages", "tools", "named"),
    [
        ("chatml", [ASKED, {**SAID, "reasoning_content": "hm"}], [], "message 1's reasoning_content"),
        ("chatml", [ASKED, CALLING, RESULT, SAID], [], "message 1's tool_calls"),
        ("chatml", [ASKED, SAID], [{"name": "w"}], "no tools"),
        ("chatml", [{**ASKED, "name": "Ann"}, SAID], [], "message 0's name"),
        ("gemma", [{"role": "system", "content": "x"}, ASKED, SAID], [], "no system"),
        ("qwen3", [ASKED, {**SAID, "reasoning_content": "hm"}, ASKED, SAID], [], "message 1's reasoning_content"),
        ("qwen3", [ASKED, {**SAID, "content": "<think>hm</think>Rain."}, ASKED, SAID], [], "message 1's content"),
    ],
)
def test_what_a_template_leaves_out_is_named(
    models: dict[str, Tokenizer], family: str, messages: list[Any], tools: list[Any], named: str
) -> None:
    held = read({"messages": messages, "tools": tools})
    template = models[family].chat(plain=False)
    outcome = lay_out(document(held), template, source(messages_key="messages", template="chat"))
    assert isinstance(outcome, Reject) and named in outcome.why
    if family == "qwen3":  # earlier thoughts are not trained on then, so that the template may take them out
        outcome = lay_out(document(held), template, source(messages_key="messages", template="chat", loss="last"))
        assert isinstance(outcome, Document)


def test_a_short_string_that_is_left_out_is_not_found_elsewhere(models: dict[str, Tokenizer]) -> None:
    """Vicuna's template knows no result of a tool, and 22 stands in the answer too."""
    for messages, named in (
        ([ASKED, SAID, RESULT, {**SAID, "content": "It is 22 or 22."}], "message 2's content"),
        ([{**RESULT, "content": "US"}, ASKED, SAID], "message 0's content"),
    ):
        template = models["vicuna"].chat(plain=False)
        held = document(read({"messages": messages}))
        outcome = lay_out(held, template, source(messages_key="messages", template="chat"))
        assert isinstance(outcome, Reject) and named in outcome.why
        assert outcome.reason == "left out by the template: content"


def test_the_ledger_names_what_was_not_read(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    records = [{"images": ["x"]}, {"note": "y"}, {}, {"messages": [ASKED, {"role": "narrator", "content": "x"}]}]
    path.write_text("".join(json.dumps({"messages": [ASKED, SAID], **record}) + "\n" for record in records))
    items = list(read_items(source(messages_key="messages").model_copy(update={"path": str(path)}), 0))
    reasons = [item.reason for item in items if isinstance(item, Reject)]
    assert reasons == ["field not read: images", "field not read: note", "unknown role"]


def test_thoughts_between_tags_may_be_moved_by_the_template(models: dict[str, Tokenizer]) -> None:
    held = read({"messages": [ASKED, {**SAID, "content": "<think>It pours</think> Rain."}]})
    template = models["qwen3"].chat(plain=False)
    outcome = lay_out(document(held), template, source(messages_key="messages", template="chat"))
    assert isinstance(outcome, Document) and "<think>\nIt pours\n</think>\n\n Rain." in outcome.text


@pytest.mark.parametrize("extra", [{"reasoning_content": "hm"}, {"tool_calls": [CALL]}])
def test_the_plain_template_refuses_what_it_has_no_place_for(models: dict[str, Tokenizer], extra: Any) -> None:
    template = models["chatml"].chat(plain=True)
    outcome = lay_out(document(read({"messages": [ASKED, {**SAID, **extra}]})), template, source(messages_key="m"))
    assert isinstance(outcome, Reject) and next(iter(extra)) in outcome.why


class Fuzzed:
    """A record in some format, and each string in it that says something, with the field it stands in."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.leaves: list[tuple[str, str]] = []
        self.options: dict[str, Any] = {"template": "chat"}
        self.record = self.random.choice([self._openai, self._sharegpt, self._alpaca, self._anthropic])()
        if self._perhaps(0.15):
            key = self.random.choice(["images", "score", "chosen", "audio", "id", "source"])
            self.record[key] = self._say(key)
        if self._perhaps(0.2):
            self.options["ignore_fields"] = self.random.choice([["images"], ["score", "cho*"], ["reasoning"]])

    def _perhaps(self, chance: float) -> bool:
        return self.random.random() < chance

    def _say(self, field: str) -> str:
        mark = self.random.choice(["", " 天", '"q"', "\n\n- a", " <b>", "\\n", " <|im_end|>", "  ", "</s>", "é"])
        text = f"w{len(self.leaves)}x{self.random.randrange(10**6)}{mark} end"
        self.leaves.append((field, text))
        return text

    def _call(self, field: str) -> dict[str, Any]:
        arguments = {self._say(field): self.random.choice([self._say, lambda field: [self._say(field)], len])(field)}
        held = json.dumps(arguments) if self._perhaps(0.3) else arguments
        return {"type": "function", "function": {"name": self._say(field), "arguments": held}}

    def _openai(self) -> dict[str, Any]:
        self.options["messages_key"] = "messages"
        messages: list[dict[str, Any]] = []
        if self._perhaps(0.3):
            messages.append({"role": self.random.choice(["system", "Developer"]), "content": self._say("content")})
        for _ in range(self.random.randrange(1, 4)):
            text = self._say("content")
            messages.append(
                {"role": "user", "content": [{"type": "text", "text": text}] if self._perhaps(0.2) else text}
            )
            if self._perhaps(0.3):
                messages.append({"role": "assistant", "content": None, "tool_calls": [self._call("tool_calls")]})
                messages.append({"role": "tool", "content": self._say("content"), "tool_call_id": "1"})
            answer: dict[str, Any] = {"role": "assistant", "content": self._say("content")}
            if self._perhaps(0.2):
                key = self.random.choice(["reasoning_content", "reasoning", "thinking"])
                answer[key] = self._say(key)
            if self._perhaps(0.1):
                answer[self.random.choice(["refusal", "note"])] = self._say("refusal")
            if self._perhaps(0.1):
                answer["weight"] = self.random.choice([0, 1, 0.5])
            messages.append(answer)
        record: dict[str, Any] = {"messages": json.dumps(messages) if self._perhaps(0.1) else messages}
        if self._perhaps(0.3):
            record["tools"] = [{"name": self._say("tools"), "description": self._say("tools")}]
        return record

    def _sharegpt(self) -> dict[str, Any]:
        self.options["messages_key"] = "conversations"
        turns = []
        for _ in range(self.random.randrange(1, 4)):
            turns.append({"from": self.random.choice(["human", "USER", "narrator"]), "value": self._say("from")})
            if self._perhaps(0.2):
                call = {"name": self._say("value"), "arguments": {"a": self._say("value")}}
                turns.append({"from": "function_call", "value": json.dumps(call)})
                turns.append({"from": "observation", "value": self._say("value")})
            turns.append({"from": self.random.choice(["gpt", "ChatGPT", "bing"]), "value": self._say("value")})
        return {"conversations": turns, "system": self._say("system") if self._perhaps(0.5) else ""}

    def _alpaca(self) -> dict[str, Any]:
        self.options |= {"prompt_key": "instruction", "answer_key": "output"}
        if self._perhaps(0.3):
            self.options["template"] = "plain"
        record: dict[str, Any] = {"instruction": self._say("instruction"), "output": self._say("output")}
        for key in ("input", "system"):
            record |= {key: self._say(key)} if self._perhaps(0.5) else {}
        if self._perhaps(0.3):
            record["history"] = [[self._say("history"), self._say("history")]]
        return record

    def _anthropic(self) -> dict[str, Any]:
        self.options["messages_key"] = "messages"
        use = {"type": "tool_use", "id": "1", "name": self._say("content"), "input": {"a": self._say("content")}}
        thought = [{"type": "thinking", "thinking": self._say("thinking")}] if self._perhaps(0.5) else []
        result = {"type": "tool_result", "tool_use_id": "1", "content": self._say("content")}
        said = {"type": "text", "text": self._say("content")}
        return {
            "system": self._say("system"),
            "messages": [
                {"role": "user", "content": self._say("content")},
                {"role": "assistant", "content": [*thought, use]},
                {"role": "user", "content": [result]},
                {"role": "assistant", "content": [said]},
            ],
        }


FIELDS = (
    *("images", "score", "chosen", "audio", "refusal", "note", "weight", "narrator", "tools", "tool_calls", "content"),
    *("reasoning_content", "reasoning", "history", "thinking", "system", "more"),
)


def test_no_string_of_any_record_is_lost_in_silence(models: dict[str, Tokenizer], tmp_path: Path) -> None:
    """Each stands in the document's text, or its field is ignored or informative, or a reject names a field."""
    outcomes = {"written": 0, "refused": 0}
    for seed in range(400):
        made, name = Fuzzed(seed), ("qwen3", "llama2", "smollm3", "hermes")[seed % 4]
        path = tmp_path / "one.jsonl"
        path.write_text(json.dumps(made.record) + "\n")
        (item,) = read_items(source(**made.options).model_copy(update={"path": str(path)}), 0)
        if isinstance(item, Document) and MESSAGES in item.metadata:
            item = lay_out(item, models[name].chat(plain=False), source(**made.options))
        if isinstance(item, Reject):
            outcomes["refused"] += 1
            assert any(field in item.why for field in FIELDS) or "take turns" in item.why, item.why
            continue
        outcomes["written"] += 1
        plain = item.text.replace("\ue0f0", "").replace("\ue0f1", "")
        ignored = made.options.get("ignore_fields", [])
        for field, leaf in made.leaves:
            if field in ignored or field in ("id", "source") or ("cho*" in ignored and field == "chosen"):
                continue
            spelled = (leaf, json.dumps(leaf, ensure_ascii=False)[1:-1])
            assert any(form.strip() in plain for form in spelled), (field, leaf, plain)
    assert min(outcomes.values()) > 80, outcomes
