"""Reads a record as one conversation (turns, tools and further fields), or refuses it with a reason.

Turns come from a list of messages, or from a prompt and its answer (each is text or messages), with the Alpaca fields
``input``, ``history`` and ``system``. A field that is neither known nor empty is refused by name. turn.py lists the
fields that are accepted.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from ropewalk.corpus.read.nested_keys import lift_fields
from ropewalk.corpus.read.turn import (
    ANSWERS,
    EMPTY,
    Message,
    UnreadError,
    is_empty,
    parse_json,
    read_turns,
    refuse_unknown,
)
from ropewalk.corpus.read_options import RecordOptions


class Conversation(TypedDict):
    """The input of a chat template, as JSON-like values."""

    messages: list[Message]
    tools: list[dict[str, Any]]
    arguments: dict[str, Any]
    """Further template variables, as in ``chat_template_kwargs``."""
    weight: float
    """0: the record states that no part of it is trained on."""


_HELD = {"chat_template_kwargs": "arguments"}
_SYSTEM = ("system", "system_prompt")
_TOOLS = ("tools", "functions")
_BESIDE = (*_SYSTEM, *_TOOLS, "chat_template_kwargs", "loss_weight")


def find_conversation(record: Mapping[str, Any], options: RecordOptions) -> Conversation:
    """The conversation of a record. Raises UnreadError, with the reason, where the record cannot be read."""
    return _read({str(key): value for key, value in record.items() if key not in options.ignore_fields}, options)


def beyond_pair(conversation: Conversation) -> list[str]:
    """Names of the parts of a conversation that are neither a question nor its answer."""
    messages = conversation["messages"]
    found = [name for name in ("tools", "chat_template_kwargs") if conversation[_HELD.get(name, name)]]  # type: ignore[literal-required]
    found += sorted({key for message in messages for key in message} - {"role", "content"})
    roles = [message["role"] for message in messages]
    if roles[0] in ("system", "developer"):
        found.append("a system prompt")
        roles = roles[1:]
    return found if roles == ["user", ANSWERS] else [*found, "more than two turns"]


def join_contents(conversation: Conversation) -> str:
    """The contents of all messages as one text, without their roles."""
    return "\n\n".join(message["content"] for message in conversation["messages"])


def map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """Apply ``change`` to every string in ``value``, including the keys of objects."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key) if isinstance(key, str) else key: map_strings(held, change) for key, held in value.items()}
    return [map_strings(held, change) for held in value] if isinstance(value, list | tuple) else value


def _read(record: Mapping[str, Any], options: RecordOptions) -> Conversation:
    ignored = options.ignore_fields
    if options.messages_key is not None:
        record, (key,) = lift_fields(record, options.messages_key)
        known: list[str] = [key]
        if key not in record:
            found = ", ".join(record)
            raise UnreadError(f"{options.messages_key!r} must be a list of messages; found keys {found}")
        messages = read_turns(record[key], key, ignored)
    else:
        record, (prompt_key, answer_key) = lift_fields(record, str(options.prompt_key), str(options.answer_key))
        known = [prompt_key, answer_key, "input", "history"]
        messages = _read_pair(record, prompt_key, answer_key, ignored)
    refuse_unknown(record.items(), [*known, *_BESIDE], ignored, "the record")
    beside = {key: None if key in known else record.get(key) for key in _BESIDE}
    messages = _with_system(messages, beside)
    if not any(message["role"] == ANSWERS for message in messages):
        raise UnreadError("there is no answer: no message has the role assistant")
    arguments = beside["chat_template_kwargs"]
    if not is_empty(arguments) and not isinstance(arguments, Mapping):
        raise UnreadError("'chat_template_kwargs' must be an object")
    return Conversation(
        messages=messages,
        tools=_read_tools(beside),
        arguments={key: value for key, value in (arguments or {}).items() if value is not None},
        weight=_read_weight(beside["loss_weight"]),
    )


def _read_pair(record: Mapping[str, Any], prompt_key: str, answer_key: str, ignored: tuple[str, ...]) -> list[Message]:
    question, answer = record.get(prompt_key), record.get(answer_key)
    for key, held in ((prompt_key, question), (answer_key, answer)):
        if not isinstance(held, str | list):
            found = f"keys {', '.join(record)}" if key not in record else f"a {type(held).__name__}"
            raise UnreadError(f"{key!r} must contain the text; found {found}")
    more = record.get("input") if "input" not in (prompt_key, answer_key) else None
    if not is_empty(more):
        if not isinstance(more, str) or not isinstance(question, str):
            raise UnreadError("'input' continues the prompt, and both must be text")
        question = f"{question}\n{more}" if question else more
    history = record.get("history") if "history" not in (prompt_key, answer_key) else None
    before = [] if is_empty(history) else _read_history(history, ignored)
    if isinstance(question, str):
        asked: list[Message] = [{"role": "user", "content": question}]
    else:  # messages before the completion are not trained on
        asked = [_untrained(message) for message in read_turns(question, prompt_key, ignored)]
    if isinstance(answer, str):
        if not answer.strip():
            raise UnreadError(f"{answer_key!r} is an empty answer", EMPTY)
        return [*before, *asked, {"role": ANSWERS, "content": answer}]
    return [*before, *asked, *read_turns(answer, answer_key, ignored)]


def _read_history(history: object, ignored: tuple[str, ...]) -> list[Message]:
    held = parse_json(history, "'history'") if isinstance(history, str) else history
    if isinstance(held, list) and all(isinstance(entry, Mapping) for entry in held):
        return read_turns(held, "history", ignored)
    if not isinstance(held, list) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(said, str) for said in pair)
        for pair in held
    ):
        raise UnreadError("'history' must be a list of pairs of question and answer, or of messages")
    if any(not answer.strip() for _, answer in held):
        raise UnreadError("'history' contains an empty answer", EMPTY)
    roles = ("user", ANSWERS)
    return [{"role": role, "content": said} for pair in held for role, said in zip(roles, pair, strict=True)]


def _untrained(message: Message) -> Message:
    return {**message, "loss": False} if message["role"] == ANSWERS else message


def _with_system(messages: list[Message], beside: Mapping[str, Any]) -> list[Message]:
    given = {key: beside[key] for key in _SYSTEM if not is_empty(beside[key])}
    for key, text in given.items():
        if not isinstance(text, str):
            raise UnreadError(f"{key!r} must be text")
    texts = set(given.values())
    if not texts:
        return messages
    if messages[0]["role"] in ("system", "developer"):
        texts.add(messages[0]["content"])
        if len(texts) == 1:
            return messages
    if len(texts) > 1:
        raise UnreadError(
            f"{' and '.join(map(repr, given))} and the messages each have a system prompt: there must be only one"
        )
    return [{"role": "system", "content": texts.pop()}, *messages]


def _read_tools(beside: Mapping[str, Any]) -> list[dict[str, Any]]:
    given = {key: beside[key] for key in _TOOLS if not is_empty(beside[key])}
    tools: list[dict[str, Any]] = []
    for key, held in given.items():
        listed = parse_json(held, repr(key)) if isinstance(held, str) else held
        listed = [listed] if isinstance(listed, Mapping) else listed if listed is not None else []
        if not isinstance(listed, list):
            raise UnreadError(f"{key!r} must be a list of tools")
        tools += [_read_tool(tool, f"{key}[{number}]") for number, tool in enumerate(listed)]
    if len(given) > 1:
        raise UnreadError(f"{' and '.join(map(repr, given))} are both present")
    return tools


def _read_tool(given: object, where: str) -> dict[str, Any]:
    tool = parse_json(given, where) if isinstance(given, str) else given
    if not isinstance(tool, Mapping):
        raise UnreadError(f"{where} is not an object that describes a tool")
    function = tool.get("function", tool)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UnreadError(f"{where} has no function name")
    if function is not tool:
        return dict(tool)
    renamed = {"parameters" if key == "input_schema" else key: value for key, value in tool.items() if key != "type"}
    return {"type": "function", "function": renamed}


def _read_weight(given: object) -> float:
    if given is None:
        return 1.0
    if isinstance(given, str | list | Mapping) or given not in (0, 1):
        raise UnreadError(
            f"'loss_weight' is {given!r}: only 1 (normal) and 0 (left out) are supported; put records of another "
            "weight into their own source, and give that source a weight in the mix",
            "loss_weight not carried",
        )
    return float(given)  # type: ignore[arg-type]
