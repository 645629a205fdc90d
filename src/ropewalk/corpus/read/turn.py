"""Reads one entry of a conversation, in the format of any trainer, as messages in the form that chat templates read.

The keys are those of OpenAI (``tool_calls``, content in parts), ShareGPT (``from``, ``value``) and Anthropic (blocks),
and the loss flags of the trainers. A field that is neither known nor empty raises ``UnreadError`` with its name.
"""

import json
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

Message = dict[str, Any]
"""Has ``role`` (system, developer, user, assistant, tool) and ``content``; where given, also ``reasoning_content``,
``tool_calls``, ``tool_call_id``, ``name``, and ``loss: False`` where a turn is not trained on."""
ANSWERS = "assistant"
ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "bot", "model", "ai"), ANSWERS),
    **dict.fromkeys(("function_call", "tool_call", "tool_calls"), "calls"),
    **dict.fromkeys(("tool", "function", "observation", "observations", "ipython"), "tool"),
    **dict.fromkeys(("function_response", "tool_response", "tool_result"), "tool"),
    "system": "system",
    "developer": "developer",
}
"""Roles by name, in lower case, with - and blanks as _. ``calls``: an answer whose text is its tool calls as JSON."""
EMPTY = "empty answer"
NO_CONVERSATION = "no conversation"
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_FLAGS = ("weight", "loss", "train")
_TEXT_PARTS = ("text", "input_text", "output_text")
INFORMATIVE = frozenset(
    {
        "id", "uuid", "idx", "index", "__index_level_0__", "hash", "message_id", "conversation_id", "conv_id",
        "dialog_id", "session_id", "prompt_id", "question_id", "parent_id", "source", "source_id", "data_source",
        "dataset", "dataset_name", "origin", "subset", "split", "url", "license", "licence", "lang", "language",
        "category", "domain", "topic", "task", "task_type", "tags", "metadata", "meta", "timestamp", "created",
        "created_at", "date", "time", "model", "model_name", "generator", "turn", "turns", "turn_id", "num_turns",
        "n_turns", "num_tokens", "token_count", "version", "finish_reason", "parallel_tool_calls", "cache_control",
    }
)  # fmt: skip
"""Fields that identify a record and its origin, and that are no content. They are accepted."""


class UnreadError(Exception):
    """A record cannot be read; the message names the field. The ledger counts by ``reason``."""

    def __init__(self, why: str, reason: str = NO_CONVERSATION) -> None:
        super().__init__(why)
        self.reason = reason


def is_empty(value: object) -> bool:
    """Whether a field has no content: None, blank text, or an empty list, object or tuple."""
    return value is None or (isinstance(value, str) and not value.strip()) or (value in ([], {}, ()))


def refuse_unknown(fields: Iterable[tuple[str, Any]], known: Iterable[str], ignored: Iterable[str], where: str) -> None:
    """Raise UnreadError for the first field that is neither known, nor informative, nor empty, nor ignored."""
    for name, value in fields:
        if name in known or is_empty(value) or name.casefold() in INFORMATIVE:
            continue
        if not any(fnmatchcase(name, pattern) for pattern in ignored):
            shown = json.dumps(value, ensure_ascii=False, default=str)[:60]
            raise UnreadError(
                f"{where} has a field {name!r} ({shown}) that is not read: if it is not needed, list it in "
                "options.ignore_fields of the source",
                f"field not read: {name}",
            )


def role_of(given: object) -> str | None:
    """The role that a name means, or None."""
    return ROLES.get(given.strip().casefold().replace("-", "_").replace(" ", "_")) if isinstance(given, str) else None


def read_turns(held: object, key: str, ignored: tuple[str, ...]) -> list[Message]:
    """The messages of a list of entries. The list may be given as a JSON string."""
    entries = parse_json(held, repr(key)) if isinstance(held, str) else held
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, Mapping) for entry in entries):
        raise UnreadError(f"{key!r} must be a list of messages; found {_describe(held)}")
    messages: list[Message] = []
    for number, entry in enumerate(entries):
        messages += _read_entry({name: entry[name] for name in entry if name not in ignored}, number, ignored)
    return messages


def read_calls(held: object, where: str) -> list[dict[str, Any]]:
    """Calls as templates read them: ``{function: {name, arguments: an object}}``. The given order of keys is kept."""
    calls = parse_json(held, where) if isinstance(held, str) else held
    if isinstance(calls, Mapping):
        calls = [calls]
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        raise UnreadError(f"{where} must be a list of calls, each an object; found {_describe(held)}")
    return [_read_call(call, f"{where}[{number}]") for number, call in enumerate(calls)]


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON string. Raises UnreadError where the string is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadError(f"{where} is text that is not JSON: {error}") from None


def _read_entry(entry: Mapping[str, Any], number: int, ignored: tuple[str, ...]) -> list[Message]:
    where = f"message {number}"
    named = [key for key in ("role", "from") if entry.get(key) is not None]
    if not named:
        pairs = [(role_of(key), key) for key in entry if role_of(key) in ("user", ANSWERS, "system")]
        if not pairs:
            raise UnreadError(f"{where} has no role or no text: it has neither 'role' nor 'from'")
        refuse_unknown(entry.items(), [key for _, key in pairs], ignored, where)
        return [{"role": role, "content": _read_text(entry[key], f"{where}'s {key}")} for role, key in pairs]
    given = entry[named[0]]
    role = role_of(given)
    if role is None:
        raise UnreadError(
            f"{where} has the role {given!r}, which is not one of {', '.join(sorted(ROLES))}", "unknown role"
        )
    text_key = next((key for key in ("content", "value") if entry.get(key) is not None), "content")
    known = {named[0], text_key, "tool_calls", "function_call", "tool_call_id", "name", *_THOUGHTS, *_FLAGS}
    refuse_unknown(entry.items(), known, ignored, where)
    told = _Told(where)
    if role == "calls":
        told.calls += read_calls(entry.get(text_key), f"{where}'s {text_key}")
        role = ANSWERS
    else:
        told.read_content(entry.get(text_key), f"{where}'s {text_key}")
    for key in _THOUGHTS:
        told.add_thoughts(entry.get(key), f"{where}'s {key}")
    for key in ("tool_calls", "function_call"):
        if not is_empty(entry.get(key)):
            told.calls += read_calls(entry[key], f"{where}'s {key}")
    return told.to_messages(role, entry)


class _Told:
    """Collects the content of one entry while its fields and parts are read."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.text: str | None = None
        self.thoughts: str | None = None
        self.calls: list[dict[str, Any]] = []
        self.results: list[Message] = []

    def read_content(self, content: object, where: str) -> None:
        """Read a content, which is text or a list of parts."""
        if isinstance(content, Mapping):
            content = [content]
        if not isinstance(content, list):
            if content is not None:
                self.text = _read_text(content, where)
            return
        for number, part in enumerate(content):
            self._read_part(part, f"{where}[{number}]")

    def add_thoughts(self, thoughts: object, where: str) -> None:
        """Add the thoughts of one field. Equal thoughts under two names are added once."""
        if is_empty(thoughts):
            return
        if not isinstance(thoughts, str):
            raise UnreadError(f"{where} must be text; found {_describe(thoughts)}")
        if self.thoughts is not None and self.thoughts != thoughts:
            raise UnreadError(f"{where} differs from other thoughts of the same message")
        self.thoughts = thoughts

    def _read_part(self, part: object, where: str) -> None:
        if isinstance(part, str):
            self.text = (self.text or "") + part
            return
        kind = part.get("type", "text" if "text" in part else None) if isinstance(part, Mapping) else None
        if not isinstance(part, Mapping) or not isinstance(kind, str):
            raise UnreadError(f"{where} is not a part of a message that can be read: {_describe(part)}")
        known = ["type"]
        if kind in _TEXT_PARTS:
            known.append("text")
            self.text = (self.text or "") + _read_text(part.get("text"), f"{where}'s text")
        elif kind == "thinking":
            known += ["thinking", "signature"]
            self.add_thoughts(part.get("thinking"), f"{where}'s thinking")
        elif kind == "tool_use":
            known += ["id", "name", "input"]
            function = {"name": part.get("name"), "arguments": part.get("input")}
            named = {"id": part["id"]} if part.get("id") else {}
            self.calls.append(_read_call({**named, "type": "function", "function": function}, where))
        elif kind == "tool_result":
            known += ["tool_use_id", "content", "is_error"]
            inner = _Told(where)
            inner.read_content(part.get("content"), f"{where}'s content")
            if inner.calls or inner.results or inner.thoughts:
                raise UnreadError(f"{where}'s content has parts that are not text")
            result = {"role": "tool", "content": inner.text or ""}
            self.results.append({**result, **_some(tool_call_id=part.get("tool_use_id"))})
        else:
            raise UnreadError(
                f"{where} is a part of type {kind!r}, but only text, calls and results can be read",
                f"part not read: {kind}",
            )
        refuse_unknown(part.items(), known, (), where)

    def to_messages(self, role: str, entry: Mapping[str, Any]) -> list[Message]:
        """The tool results in the message, then the message itself."""
        is_answer = role == ANSWERS
        if (self.calls or self.thoughts) and not is_answer:
            raise UnreadError(f"{self.where} has {'tool_calls' if self.calls else 'thoughts'} but is not an answer")
        if self.results and role not in ("user", "tool"):
            raise UnreadError(f"{self.where} has the result of a tool, but its role is {role!r}")
        message: Message = {"role": role, "content": self.text or ""}
        if self.thoughts is not None:
            message["reasoning_content"] = self.thoughts
        if self.calls:
            message["tool_calls"] = self.calls
        message |= _some(tool_call_id=entry.get("tool_call_id"), name=entry.get("name"))
        if not _is_trained(entry, is_answer, self.where):
            message["loss"] = False
        if self.text is None and not self.calls and not self.results:
            raise UnreadError(f"{self.where} has no role or no text")
        if is_answer and not message["content"].strip() and not self.calls:
            raise UnreadError(f"{self.where} is an empty answer without calls", EMPTY)
        return [*self.results, message] if self.text is not None or not self.results else self.results


def _read_call(call: Mapping[str, Any], where: str) -> dict[str, Any]:
    function = call.get("function", call)
    if isinstance(function, str) and "arguments" in call:
        function = {"name": function, "arguments": call["arguments"]}
        call = {key: call[key] for key in call if key != "arguments"}
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise UnreadError(f"{where} has no function name")
    around = {} if function is call else {key: call[key] for key in call if key not in ("name", "arguments")}
    if function is not call:
        refuse_unknown(call.items(), ("id", "type", "index", "function"), (), where)
    inner = [(key, value) for key, value in function.items() if key not in ("id", "type", "index")]
    refuse_unknown(inner, ("name", "arguments", "parameters"), (), where)
    key = "parameters" if "arguments" not in function and "parameters" in function else "arguments"
    arguments = function.get(key)
    if isinstance(arguments, str):
        arguments = parse_json(arguments, f"{where}'s {key}") if arguments.strip() else {}
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, Mapping):
        raise UnreadError(f"{where}'s {key} must be an object; found {_describe(arguments)}")
    made = {"name": function["name"], "arguments": dict(arguments)}
    if function is call:
        around = {**_some(id=call.get("id")), "type": "function", "function": None}
    return {name: made if name == "function" else value for name, value in around.items() if name != "index"}


def _is_trained(entry: Mapping[str, Any], is_answer: bool, where: str) -> bool:
    trained = True
    for key in _FLAGS:
        value = entry.get(key)
        if value is None:
            continue
        if isinstance(value, str) or value not in (0, 1):
            raise UnreadError(
                f"{where}'s {key} is {value!r}: only 0 (no loss) and 1 are supported", f"{key} not carried"
            )
        if value and not is_answer and key != "weight":
            raise UnreadError(
                f"{where}'s {key} asks for loss on a turn that is not an answer; with loss: all, everything is "
                "trained on"
            )
        trained = trained and bool(value)
    return trained


def _read_text(given: object, where: str) -> str:
    if not isinstance(given, str):
        raise UnreadError(f"{where} must be text; found {_describe(given)}")
    return given


def _some(**fields: object) -> dict[str, str]:
    """The fields that are not empty, as text, because ids are numbers in some files."""
    return {name: str(value) for name, value in fields.items() if not is_empty(value)}


def _describe(given: object) -> str:
    if isinstance(given, str | int | float | bool) or given is None:
        return json.dumps(given, ensure_ascii=False)[:60]
    return f"a {type(given).__name__}: {json.dumps(given, ensure_ascii=False, default=str)[:60]}"
