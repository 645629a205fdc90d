"""Asks a model behind an OpenAI-compatible endpoint, each request once: an answer is kept in a file before it is used.

The file is named by a digest of the request. So a run that stops half-way goes on with what is missing, and nothing is
asked, or paid for, twice. A key goes into the header of a request and nowhere else.

Of a million passages a few are refused: a filter finds them offensive, or they are too long. That is kept as well, if
the model answers other requests, or no run would ever come to its end. Where all are refused, the request is wrong.
"""

import http.client
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from ropewalk.core.artifact import write_whole
from ropewalk.core.digest import digest_value
from ropewalk.core.error import UserError
from ropewalk.core.progress import say_once
from ropewalk.core.quantity import format_count
from ropewalk.core.read_json import read_written
from ropewalk.core.secret import read_secret
from ropewalk.core.strict_json import spell_json
from ropewalk.corpus.task_rules import WrittenRules
from ropewalk.corpus.text.reject import spell_name

_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 60.0
_BUSY = 429
_OF_THE_PROMPT = (400, 413, 422)
"""Codes that may be about one prompt alone."""
_QUOTED = 200


class _StayHere(HTTPRedirectHandler):
    """A redirect would send the key to another host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class _NoAnswerError(Exception):
    """Why a request has no answer."""


class _RefusedError(_NoAnswerError):
    """Why there is none to this request, though others may have one."""


class _NoTextError(ValueError):
    """A completion without a text."""


class Endpoint:
    """A model that answers prompts; the answers are in ``folder``."""

    def __init__(self, rules: WrittenRules, folder: Path, *, where: str) -> None:
        self._rules, self._folder, self._where = rules, folder, where
        self._opener, self._has_answered = build_opener(_StayHere()), False
        for unfinished in folder.glob("*/.tmp-*"):  # of a process that was killed: one at a time holds the store
            unfinished.unlink()

    def ask(self, prompts: Sequence[str]) -> list[tuple[str, str | None]]:
        """For each prompt the digest of its request, and the model's answer; None where it refuses this request.

        Raises UserError where it gives no answer, and where it refuses all requests so far.
        """
        bodies = [self._write_body(prompt) for prompt in prompts]
        named = {digest_value(body): body for body in bodies}
        missing = {name: body for name, body in named.items() if not self._file(name).exists()}
        if missing:
            key = None if self._rules.key_from is None else read_secret(self._rules.key_from, where=self._where)
            failed: list[str] = []
            refused: dict[str, str] = {}
            with ThreadPoolExecutor(self._rules.at_once) as pool:
                ends = failed, refused
                fetching = [pool.submit(self._fetch, name, body, key, *ends) for name, body in missing.items()]
            for each in fetching:
                each.result()  # a disk that is full
            if failed:  # what was on its way is kept, too
                raise self._refuse(failed[0])
            self._keep_refused(refused, [name for name in named if name not in refused])
        answers: dict[str, str | None] = {name: read_written(self._file(name))["answer"] for name in named}
        self._has_answered |= any(answer is not None for answer in answers.values())
        return [(name, answers[name]) for name in map(digest_value, bodies)]

    def _keep_refused(self, refused: Mapping[str, str], others: Sequence[str]) -> None:
        """Keep that requests are refused, by name with the reason, if the model answers ``others`` or one before.

        Raises UserError where it answers none.
        """
        for name, why in refused.items():
            answered = (read_written(self._file(other))["answer"] is not None for other in others)
            if not (self._has_answered or any(answered)):
                raise self._refuse(why)
            say_once(f"{self._where}: the model refuses a request, and is not asked it again: {why}")
            self._keep(name, None)

    def _write_body(self, prompt: str) -> dict[str, Any]:
        return {
            **self._rules.options,
            "model": self._rules.model,
            "messages": [{"role": "user", "content": prompt}],
        }

    def _file(self, name: str) -> Path:
        return self._folder / name[:2] / f"{name}.json"

    def _fetch(
        self, name: str, body: Mapping[str, Any], key: str | None, failed: list[str], refused: dict[str, str]
    ) -> None:
        """Keep the answer to a request, or say why there is none. After a failure no request is begun."""
        if failed:
            return
        try:
            answer = self._post(body, key)
        except _RefusedError as error:
            refused[name] = str(error)
        except _NoAnswerError as error:
            failed.append(str(error))
        else:
            self._keep(name, answer)

    def _keep(self, name: str, answer: str | None) -> None:
        self._file(name).parent.mkdir(parents=True, exist_ok=True)
        kept = {"model": self._rules.model, "answer": answer}
        write_whole(self._file(name), spell_json(kept, ensure_ascii=False) + "\n")

    def _post(self, body: Mapping[str, Any], key: str | None) -> str:
        """Send a request until it is answered, ``tries`` times. Raises _NoAnswerError."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        request = Request(f"{self._rules.endpoint}/chat/completions", spell_json(body).encode(), headers, method="POST")
        kind: type[_NoAnswerError] = _NoAnswerError
        for turn in range(1, self._rules.tries + 1):
            kind = _NoAnswerError
            pause = min(_PAUSE_SECONDS * 2 ** (turn - 1), _LONGEST_PAUSE_SECONDS)
            try:
                with self._opener.open(request, timeout=self._rules.timeout_s) as response:
                    return _read_answer(json.loads(response.read()))
            except HTTPError as error:
                why = f"HTTP {error.code} {error.reason}: {_quote(error)}".strip(": ")
                why = why.replace(key, "(the key)") if key else why
                if error.code != _BUSY and error.code < 500:
                    raise (_RefusedError if error.code in _OF_THE_PROMPT else _NoAnswerError)(why) from None
            except (URLError, http.client.HTTPException, OSError) as error:
                why = str(getattr(error, "reason", error)) or type(error).__name__
            except (ValueError, RecursionError) as error:
                kind = _RefusedError if isinstance(error, _NoTextError) else _NoAnswerError
                why = f"its answer is not that of a chat: {error}"
            if turn < self._rules.tries:
                time.sleep(pause)
        raise kind(f"{why} ({format_count(self._rules.tries, 'try')})")

    def _refuse(self, why: str) -> UserError:
        kept = sum(1 for _ in self._folder.glob("*/*.json"))
        return UserError(
            "the endpoint that writes questions gave no answer",
            where=f"{self._where}: {self._rules.endpoint}",
            why=why,
            fix=f"start it, or mend its address, model or key, and run the same command again: it keeps "
            f"{format_count(kept, 'answer')}, and asks only for the missing ones",
        )


def _quote(error: HTTPError) -> str:
    """The begin of what came with an HTTP error; empty where the connection breaks before."""
    try:
        return error.read(_QUOTED).decode(errors="replace")
    except (http.client.HTTPException, OSError):
        return ""


def _read_answer(content: Any) -> str:
    """The text of a chat completion. Raises ValueError for any other content."""
    try:
        answer = content["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        raise ValueError("no choices[0].message.content") from None
    if not isinstance(answer, str):
        raise _NoTextError("choices[0].message.content is no text")
    return spell_name(answer)  # a server may cut a character in two
