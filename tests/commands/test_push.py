"""`export --push` against a stub of the hub's API on a free port: what is sent, and what a refusal means."""

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError
from typer.testing import CliRunner

from invented_run import write_run
from ropewalk.cli.main import app
from ropewalk.commands.push import push_folder
from ropewalk.core.error import UserError
from ropewalk.corpus.read.source import read_source
from ropewalk.corpus.spec import Source
from ropewalk.shape.find import TINY_BASE, find_model
from ropewalk.shape.hub import explain_refusal


class Hub:
    """A hub that keeps what it is sent, and answers with ``status`` once it is set."""

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.refusal: tuple[int, str] | None = None
        self.url = ""

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, str], Any]:
        if self.refusal is not None:
            return self.refusal[0], {"X-Error-Code": self.refusal[1]}, {"error": "no"}
        if path == "/api/repos/create":
            self.made.append(json.loads(body))
            return 200, {}, {"url": f"{self.url}/me/model"}
        if "/preupload/" in path:
            names = [each["path"] for each in json.loads(body)["files"]]
            return (
                200,
                {},
                {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]},
            )
        if "/commit/" in path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            return 200, {}, {"commitUrl": f"{self.url}/me/model/commit/1", "commitOid": "1", "pullRequestUrl": None}
        return 200, {}, {"errors": [], "warnings": []}  # the card's check


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    held = Hub()

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, value = held.answer(self.path, body)
            told = json.dumps(value).encode()
            self.send_response(status)
            for name, text in {**headers, "Content-Type": "application/json", "Content-Length": str(len(told))}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(told)

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    held.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    monkeypatch.setattr("huggingface_hub.hf_api.is_xet_available", lambda: False)  # its store has another protocol
    yield held
    server.shutdown()
    server.server_close()


def push(hub: Hub, folder: Path = TINY_BASE, **changes: Any) -> dict[str, Any]:
    asked = {"run": None, "private": True, "dry_run": False, "endpoint": hub.url, "token": "hf_stub", **changes}
    return push_folder(folder, "me/model", **asked)


def test_every_file_and_a_card_are_sent_to_a_private_repository(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(TINY_BASE, folder, ignore=shutil.ignore_patterns("README.md"))
    for internal in (".lock", ".cache/state.bin", "sub/.cache/state.bin", "manifest.json"):
        (folder / internal).parent.mkdir(parents=True, exist_ok=True)
        (folder / internal).write_text("/home/me")
    sent = push(hub, folder, run=write_run(tmp_path / "quickstart"))
    assert hub.made[0]["name"] == "model" and hub.made[0]["organization"] == "me"
    assert hub.made[0].get("visibility", "private" if hub.made[0].get("private") else "") == "private"
    there = {path.name: path.read_bytes() for path in TINY_BASE.iterdir() if path.name in sent["files"]}
    assert {name: content for name, content in hub.files.items() if name != "README.md"} == there
    assert {"config.json", "model.safetensors"} <= there.keys() == sent["files"].keys()
    card = hub.files["README.md"].decode()
    assert card.startswith("---\n") and "## Positions and stages" in card, "it is made from the run's records"
    plain = push(hub, folder, dry_run=True)["card"]
    assert "It reads 512 tokens" in plain and "How it was trained is not known here" in plain and "vllm serve" in plain
    assert sent["url"].endswith("me/model") and "model card" in sent["text"]


def test_a_dry_run_needs_no_hub(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(TINY_BASE), "--push", "me/model", "--dry-run", "--json"])
    told = json.loads(done.stdout)["pushed"]
    assert done.exit_code == 0 and told["sent"] is False and "model.safetensors" in told["files"]
    for arguments in (["--dry-run"], ["--push", "model"], ["--push", "me/model", "OUT"]):
        done = CliRunner().invoke(app, ["export", str(TINY_BASE), *arguments])
        assert isinstance(done.exception, UserError), arguments
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no safetensors weights"):
        push_folder(tmp_path, "me/model", run=None, private=True, dry_run=True)


def test_what_is_pushed_may_be_a_shipped_recipe_and_a_wrong_path_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "export").mkdir(parents=True)
    (tmp_path / "run" / "export" / "config.json").write_text("{}")
    for target, why in {
        "quickstart": "missing or unfinished",  # the recipe is found; its run is not there yet
        "WRONG/PATH": "no such file or folder",
        "quikstart": "did you mean quickstart",
        "run": "its model is run/export",
    }.items():
        done = CliRunner().invoke(app, ["export", target, "--push", "me/model", "--dry-run"])
        assert isinstance(done.exception, UserError) and why in str(done.exception), done.exception
    done = CliRunner().invoke(app, ["export", "WRONG/PATH", "--verify"])
    assert isinstance(done.exception, UserError) and "no such file or folder" in done.exception.why
    done = CliRunner().invoke(app, ["export", "tiny-base", "--push", "me/model", "--dry-run"])
    assert done.exit_code == 0 and "model.safetensors" in done.stdout and "1 file," not in done.stdout


@pytest.mark.parametrize(
    ("status", "code", "why"),
    [
        (403, "GatedRepo", "accepted the terms"),
        (404, "RepoNotFound", "the name is wrong, or it is private"),
        (403, "", r"refuses this account \(HTTP 403\)"),
        (429, "", "too many requests"),
    ],
)
def test_a_refusal_says_what_to_do(hub: Hub, status: int, code: str, why: str) -> None:
    hub.refusal = (status, code)
    with pytest.raises(UserError, match=why) as refused:
        push(hub)
    assert "hf auth login" in refused.value.fix and refused.value.where == "--push"


def test_a_hub_that_cannot_be_reached_is_told(hub: Hub) -> None:
    hub.url = "http://127.0.0.1:1"
    with pytest.raises(UserError, match="cannot be written"):
        push(hub)


def test_a_gated_dataset_and_a_gated_base_say_what_to_do(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both libraries raise an error of their own because of the hub's refusal."""
    hub.refusal = (403, "GatedRepo")
    refused = None
    try:
        HfApi(endpoint=hub.url).model_info("org/base")
    except GatedRepoError as error:
        refused = error
    assert refused is not None

    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("Dataset 'org/text' is gated") from refused

    monkeypatch.setattr("datasets.load_dataset", refuse)
    source = Source(name="text", hub="org/text", role="general")
    with pytest.raises(UserError, match="accepted the terms") as raised:
        next(iter(read_source(source, seed=0)))
    assert "page of org/text" in raised.value.fix

    def fail(*_: Any, **__: Any) -> None:
        raise refused

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(UserError, match="accepted the terms") as raised:
        find_model("meta-llama/Llama-3.1-8B@main", config_only=True)
    assert "check and advise need the shape only: model=meta-llama/Llama-3.1-8B; check also" in raised.value.fix
    assert explain_refusal(OSError("no route to host"), "me/model") is None
