"""Questions of a model behind a local HTTP server that fails half-way: nothing is asked twice, answers are checked."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from corpus.conftest import write_records
from made_texts import WORDS, han
from ropewalk.core.error import UserError
from ropewalk.core.seed import stream
from ropewalk.corpus.join import endpoint as endpoint_module
from ropewalk.corpus.join.task_text import read_terms
from ropewalk.corpus.join.written_questions import QuestionWriter, cut_passages, judge_question, parse_reply
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.corpus.task_rules import WrittenRules
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.tokenizer import Tokenizer

KEY = "sk-this-must-not-be-written-anywhere"
Reply = tuple[int, Any]


class Stub:
    """Answers as ``reply`` says; remembers what it was sent, and what it answered with 200."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.answered: Counter[str] = Counter()
        self.reply: Callable[[int, str], Reply] = lambda _, prompt: (200, quote(prompt))
        lock, stub = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                prompt = body["messages"][0]["content"]
                with lock:
                    stub.sent.append({"path": self.path, **body})
                    stub.keys.add(self.headers["Authorization"])
                    code, content = stub.reply(len(stub.sent), prompt)
                    stub.answered[prompt] += code == 200
                if code == 0:
                    self.close_connection = True  # without a word
                    return
                if content is None:  # a body that breaks off
                    self.send_response(code)
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    self.wfile.write(b"ff\r\n{")
                    return
                made = {"choices": [{"message": {"content": content}}]} if isinstance(content, str) else content
                sent = json.dumps(made).encode()
                self.send_response(code)
                if code == 302:
                    self.send_header("Location", "http://localhost:1/elsewhere")
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("QUESTIONS_KEY", KEY)
    monkeypatch.setattr(endpoint_module, "_PAUSE_SECONDS", 0.0)
    made = Stub()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def quote(prompt: str) -> str:
    """One right question about a passage, and one with an answer that is not there, in a fence as models write it."""
    line = prompt.partition("<passage>\n")[2].split("\n")[0]
    right = {"question": f"What follows after {line[:12]}?", "answer": line[13:40]}
    wrong = {"question": "Who?", "answer": "nobody of that name"}
    return f"Here they are:\n```json\n{json.dumps([right, wrong])}\n```"


def text_of(number: int) -> str:
    random = stream("written", number)
    return "\n".join(" ".join(random.choice(WORDS, 12).tolist()) + f" {number}-{at}." for at in range(40))


def make(
    folder: Path, tokenizer: Tokenizer, stub: Stub, name: str = "corpus", *, share: float = 0.2, **written: Any
) -> Corpus:
    folder.mkdir(exist_ok=True)
    path = write_records(folder, "x.jsonl", [{"text": text_of(number)} for number in range(5)])
    rules = {"endpoint": stub.address, "model": "some-model", "key_from": "QUESTIONS_KEY", "sections": 2, "tries": 2}
    rules["section_characters"] = 1000
    tasks = {"share": share, "documents": 1, "from_tokens": 100, "families": [], "written": {**rules, **written}}
    source = {"name": "x", "path": str(path), "role": "general", "language": "en", "profile": "markup", "tasks": tasks}
    made = {"store": str(folder / "store"), "mix": {"x": 1}, "repeated_sections": None, "worker_count": 1}
    spec = CorpusSpec.model_validate({**made, "sources": [{**source, "near_duplicates": None}], "held_out": 0.1})
    return open_corpus(build(spec, tokenizer=tokenizer, seed=0, folder=folder / name))


def tasks_of(corpus: Corpus) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (corpus.folder / "x" / "tasks.jsonl").read_text().splitlines()]


def test_answers_stand_in_the_document_and_say_who_wrote_them(stub: Stub, tokenizer: Tokenizer, tmp_path: Path) -> None:
    corpus = make(tmp_path, tokenizer, stub)
    found, documents = tasks_of(corpus), corpus.train("x")
    told = corpus.ledger["x"]["joins"]
    assert len(found) == told["train"]["tasks"] == told["written"]["kept"] > 6
    assert told["written"] == {
        "requests": len(stub.sent),
        "kept": len(stub.sent),
        "the answer is not in the passage": len(stub.sent),
    }
    for task in found:
        whole = tokenizer.decode(documents.read(task["document"])[0][1:-1])
        before = whole[: whole.index(f"\n\n{task['question']}\n{task['answer']}")]
        assert task["answer"] in before[: int(0.75 * len(before))]
        kept = tmp_path / "store" / "written-questions" / task["request"][:2] / f"{task['request']}.json"
        assert task["answer"] in json.loads(kept.read_text())["answer"] and task["model"] == "some-model"
    assert {sent["path"] for sent in stub.sent} == {"/v1/chat/completions"} and stub.keys == {f"Bearer {KEY}"}
    assert all(sent["model"] == "some-model" and sent["temperature"] == 0 for sent in stub.sent)


def test_questions_that_find_no_room_are_counted(
    stub: Stub, tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = make(tmp_path, tokenizer, stub, share=0.02, at_once=64)
    # more at once than a document has is told
    assert "tasks.written.at_once is 64, but a document has 2 requests (sections)" in capsys.readouterr().err
    told, used = corpus.ledger["x"]["joins"]["written"], len(tasks_of(corpus))
    assert told["kept"] == used > 0
    assert told["beyond the share or most_tokens"] == told["requests"] - used > 0


@pytest.mark.parametrize("fault", [(500, {}), (0, None)])
def test_a_run_that_fails_half_way_goes_on_and_asks_nothing_twice(
    stub: Stub, tokenizer: Tokenizer, tmp_path: Path, fault: Reply
) -> None:
    whole = make(tmp_path / "whole", tokenizer, stub)
    asked = {sent["messages"][0]["content"] for sent in stub.sent}
    stub.sent.clear()
    stub.answered.clear()
    failing = len(asked) // 2
    stub.reply = lambda number, prompt: fault if number > failing else (200, quote(prompt))
    with pytest.raises(UserError, match=rf"gave no answer.*\n(.*\n)*.*it keeps {failing} answers"):
        make(tmp_path / "half", tokenizer, stub)
    assert not (tmp_path / "half" / "corpus").exists()
    left = next((tmp_path / "half" / "store" / "written-questions").iterdir()) / ".tmp-0123.json-node7-21"
    left.write_text('{"model": ')  # by a process that was killed as it wrote it
    stub.reply = lambda _, prompt: (200, quote(prompt))
    before = len(stub.sent)
    corpus = make(tmp_path / "half", tokenizer, stub)
    assert {*stub.answered} == asked and len(stub.sent) - before == len(asked) - failing
    assert set(stub.answered.values()) == {1}
    assert corpus.digest == whole.digest and tasks_of(corpus) == tasks_of(whole) and not left.exists()
    again, sent = make(tmp_path / "half", tokenizer, stub, "again", endpoint="http://127.0.0.1:9/v1"), len(stub.sent)
    assert again.digest == corpus.digest and len(stub.sent) == sent  # all answers are in the store
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) > 10 and not any(KEY.encode() in path.read_bytes() for path in kept)


@pytest.mark.parametrize(
    "fault", [(429, {}), (503, {}), (0, None), (500, None), (200, None), (200, {"error": "overloaded"}), (200, "")]
)
def test_a_request_without_an_answer_is_sent_again(stub: Stub, tmp_path: Path, fault: Reply) -> None:
    rules = WrittenRules(endpoint=stub.address, model="m", tries=3, at_once=2)
    stub.reply = lambda number, prompt: fault if number < 3 else (200, prompt.upper())
    endpoint = endpoint_module.Endpoint(rules, tmp_path, where="x")
    found = [answer for _, answer in endpoint.ask(["one", "two", "one"])]
    if fault == (200, ""):  # an empty answer is one: its questions are counted as none
        assert len(stub.sent) == 2 and found == ["", "", ""]
    else:
        assert len(stub.sent) == 4 and found == ["ONE", "TWO", "ONE"]
    assert stub.keys == {None} and len([*tmp_path.glob("*/*.json")]) == 2
    assert [answer for _, answer in endpoint.ask(["two"])] == found[1:2] and len(stub.sent) in (2, 4)


def test_what_waiting_does_not_mend_is_not_tried_again(stub: Stub, tokenizer: Tokenizer, tmp_path: Path) -> None:
    for code, name in ((401, "a"), (302, "b")):
        stub.sent.clear()
        stub.reply = lambda *_, code=code: (code, {"error": "no such key"})
        with pytest.raises(UserError, match=f"HTTP {code}") as caught:
            make(tmp_path / name, tokenizer, stub, at_once=1)
        assert len(stub.sent) == 1 and KEY not in str(caught.value)


@pytest.mark.parametrize(
    "refusal", [(400, {"error": "content_filter"}), (200, {"choices": [{"message": {"content": None}}]})]
)
def test_a_passage_that_the_model_refuses_is_counted_and_not_asked_again(
    stub: Stub, tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str], refusal: Reply
) -> None:
    whole = make(tmp_path / "whole", tokenizer, stub)
    assert "at_once" not in capsys.readouterr().err.replace(str(tmp_path), "")
    refused = stub.sent[2]["messages"][0]["content"]
    stub.reply = lambda _, prompt: refusal if prompt == refused else (200, quote(prompt))
    corpus = make(tmp_path / "part", tokenizer, stub)
    told, all_told = (each.ledger["x"]["joins"]["written"] for each in (corpus, whole))
    assert told["the model refused the request"] == 1 and told["requests"] == all_told["requests"]
    assert len(tasks_of(corpus)) == told["kept"] == all_told["kept"] - 1
    sent = len(stub.sent)
    assert make(tmp_path / "part", tokenizer, stub, "again").digest == corpus.digest and len(stub.sent) == sent


def test_where_every_request_is_refused_the_request_is_wrong(stub: Stub, tokenizer: Tokenizer, tmp_path: Path) -> None:
    stub.reply = lambda *_: (400, {"error": "unknown option"})
    with pytest.raises(UserError, match="unknown option"):
        make(tmp_path, tokenizer, stub)
    assert not [*tmp_path.rglob("written-questions/*/*.json")]
    stub.reply = lambda _, prompt: (200, quote(prompt))
    assert "the model refused the request" not in make(tmp_path, tokenizer, stub).ledger["x"]["joins"]["written"]


def test_a_missing_key_is_told_before_anything_is_sent(
    stub: Stub, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QUESTIONS_KEY")
    with pytest.raises(UserError, match="QUESTIONS_KEY holds no key"):
        make(tmp_path, tokenizer, stub)
    assert not stub.sent


PASSAGE = "The lamp of Orla is kept in the seventh drawer.\nNobody opens it.\n" * 2


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        ({"question": "Where is Orla's lamp?", "answer": "the seventh drawer"}, None),
        ({"question": "Where is Orla's lamp?", "answer": "the Seventh Drawer"}, "the answer is not in the passage"),
        ({"question": "What lies far behind?", "answer": "the end"}, "the answer is not in the passage"),
        ({"question": "Is it the seventh drawer?", "answer": "seventh"}, "the question holds the answer"),
        ({"question": "Where?", "answer": 7}, "no question or no answer"),
        ({"question": " ", "answer": "drawer"}, "no question or no answer"),
        ({"answer": "drawer"}, "no question or no answer"),
        ({"question": "Seen?", "answer": "drawer"}, "asked before"),
        ({"question": "x" * 700, "answer": "drawer"}, "too long"),
        (json.loads('{"question": "Where \\ud83d?", "answer": "drawer"}'), "half a surrogate pair"),
        ("drawer", "no list of questions"),
    ],
)
def test_questions_are_judged(pair: Any, reason: str | None) -> None:
    text = read_terms(PASSAGE + "filling. " * 40 + "the end", "en")
    assert judge_question(pair, text, PASSAGE, known={"Seen?": None}) == reason


def test_half_a_character_of_an_answer_is_spelled_and_kept(stub: Stub, tmp_path: Path) -> None:
    rules = WrittenRules(endpoint=stub.address, model="m", tries=1)
    stub.reply = lambda *_: (200, "half \ud83d")
    for _ in range(2):
        assert [text for _, text in endpoint_module.Endpoint(rules, tmp_path, where="x").ask(["one"])] == [
            r"half \ud83d"
        ]
    assert len(stub.sent) == 1


def test_what_models_reply() -> None:
    pair = {"question": "q", "answer": "a"}
    for reply in (json.dumps([pair]), f"```\n{json.dumps([pair])}\n```", f"Sure!\n```json\n{json.dumps([pair])}```"):
        assert [*parse_reply(reply)] == [pair]
    for reply in ("", "no", "{}", "[]", "[" * 100_000, "null", '[{"question": "q"'):
        assert [*parse_reply(reply)] == [None]


def test_questions_beyond_the_number_asked_for_are_counted(stub: Stub, tmp_path: Path) -> None:
    rules = WrittenRules(endpoint=stub.address, model="m", questions=1, sections=1)
    stub.reply = lambda _, prompt: (200, json.dumps([*parse_reply(quote(prompt))] * 2))
    writer = QuestionWriter(rules, endpoint_module.Endpoint(rules, tmp_path, where="x"))
    assert len(writer.write(read_terms(text_of(0), "en"))) == 1
    assert writer.counts == {"requests": 1, "kept": 1, "more than were asked for": 3}


def test_passages_lie_in_the_first_three_quarters() -> None:
    for whole in (han(3, 9000), "\n".join(text_of(number) for number in range(9)), "short"):
        text = read_terms(whole, "en")
        found = cut_passages(text, count=4, characters=700)
        assert all(passage in whole[: text.early] and len(passage) <= 700 for passage in found)
        assert len(found) == (4 if "\n" in whole else 1)
        assert np.all(np.diff([whole.index(passage) for passage in found]) > 0)


@pytest.mark.parametrize(
    ("rules", "fault"),
    [
        ({"endpoint": "localhost:8000"}, "an address such as"),
        ({"endpoint": "https://user:secret@host/v1"}, "an address holds no key"),
        ({"endpoint": "http://host/v1", "key_from": "X"}, "over https"),
        ({"endpoint": "http://localhost:1/v1", "options": {"stream": True}}, "are set by ropewalk"),
    ],
)
def test_rules_that_make_no_sense(rules: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        WrittenRules.model_validate({"model": "m", **rules})
