"""How the files and records of a source, or of a dataset on the hub, are read: the keys under ``options``."""

import codecs
from typing import Any, Literal

from pydantic import field_validator, model_validator

from ropewalk.core.spec import Spec

_OF_PYTHON = ("idna", "mbcs", "oem", "punycode", "raw-unicode-escape", "undefined", "unicode-escape")
"""Encodings that Python has for its own use, and no text is in."""


def name_encoding(told: str) -> str | None:
    """The name under which Python has the encoding of text that is called ``told``; None where it has none."""
    try:
        b"\0\0\0\0".decode(told)  # lookup alone finds codecs that are not of text, such as hex
        name = codecs.lookup(told).name
    except (LookupError, ValueError):
        return None
    return None if name in _OF_PYTHON else name


class RecordOptions(Spec):
    """How a record becomes a document, where one text field is not all."""

    prompt_key: str | None = None
    """With ``answer_key``: the document is the prompt, a line break and the answer; only the answer is trained on."""
    answer_key: str | None = None
    messages_key: str | None = None
    """The document is a conversation: a list of ``{role, content}`` or ``{from, value}``, or one as a JSON string."""
    template: Literal["plain", "chat"] = "plain"
    """How a conversation (or prompt and answer) is written: ``chat`` is the model's own chat template."""
    loss: Literal["responses", "last", "all"] = "responses"
    """What of a conversation is trained on: its answers, the last of them, or everything."""
    ignore_fields: tuple[str, ...] = ()
    """Fields of records and messages that are left out on purpose: names, or patterns (``score_*``) of unknown ones."""

    @property
    def is_chat(self) -> bool:
        """Whether records are conversations that are laid out when they are tokenised."""
        return self.messages_key is not None or self.template == "chat"

    @model_validator(mode="after")
    def _check_pair(self) -> "RecordOptions":
        if (self.prompt_key is None) != (self.answer_key is None):
            raise ValueError("prompt_key and answer_key must be given together")
        if self.messages_key is not None and self.prompt_key is not None:
            raise ValueError("messages_key and prompt_key exclude each other")
        if self.template == "chat" and self.messages_key is None and self.prompt_key is None:
            raise ValueError("template: chat needs messages_key, or prompt_key and answer_key")
        if (self.loss != "responses" or self.ignore_fields) and self.messages_key is None and self.prompt_key is None:
            raise ValueError(
                "loss and ignore_fields need conversations: give messages_key, or prompt_key and answer_key"
            )
        return self


class FileOptions(RecordOptions):
    """Options of a source with a ``path``."""

    document: Literal["file", "line"] = "file"
    """What a document of a text file is: all of it, or each line."""
    encoding: str = "utf-8"
    """Of text files and JSON lines, such as ``gb18030``; a byte-order mark says more."""
    split: str = "train"
    """Which part of a dataset that `datasets` saved to disk."""

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, given: str) -> str:
        if (name := name_encoding(given)) is None:
            raise ValueError(f"{given!r} is not an encoding of text that Python knows")
        return name

    @model_validator(mode="before")
    @classmethod
    def _tell_moved(cls, given: Any) -> Any:
        if isinstance(given, dict) and "join" in given:
            raise ValueError(
                "options.join is now `join` of the source: {by: folder, package or repository, order: dependency}; "
                "and `line` is options.document: line"
            )
        return given


class HubOptions(RecordOptions):
    """Options of a source on the hub."""

    config: str | None = None
    split: str = "train"
    revision: str | None = None
    """A commit, so that the same recipe reads the same text."""


_MISSPELT = {"cn": "zh", "chinese": "zh", "jp": "ja", "japanese": "ja", "korean": "ko", "german": "de", "french": "fr"}


def check_language(given: str) -> str:
    """``given``, if it is spelt as the code of a language. Raises ValueError for a name or the code of a country, which
    no profile, weight or task knows."""
    first = given.replace("_", "-").partition("-")[0].lower()
    meant = _MISSPELT.get(first)
    if meant or (first not in ("code", "none") and not (2 <= len(first) <= 3 and first.isascii() and first.isalpha())):
        raise ValueError(f"it is the code of a language, such as {meant or 'en'}, and not {given!r}")
    return given
