"""The live page of a run: on loopback only, from the records, made again when they change, and never written."""

import http.client
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from forked_verb import start_verb
from invented_run import RECIPE, make_rows, write_scores
from ropewalk.commands.watch import RunServer
from ropewalk.core.error import UserError
from ropewalk.core.record import Score, append_metrics
from ropewalk.recipe.load import load_recipe
from ropewalk.report import live_report
from ropewalk.report.page import write_report

HOSTILE = '</title><script>alert(1)</script>"><svg onload=alert(1)>\x1b[31m\u202e'


def begin_run(folder: Path, *, model: str = "tiny-base") -> Path:
    """A run folder before its first record: the recipe alone."""
    folder.mkdir()
    recipe = load_recipe(RECIPE).to_json() | {"model": model}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True))
    return folder


@contextmanager
def serving(run: Path) -> Iterator[RunServer]:
    with RunServer(run, busy_share=1.0) as server:
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        yield server
        server.stop()
        thread.join()


def ask(url: str, path: str = "/", *, method: str = "GET", host: str | None = None) -> tuple[int, str, str]:
    """(status, policy or other headers, text)."""
    place = url.removeprefix("http://").rstrip("/")
    connection = http.client.HTTPConnection(place, timeout=60)
    connection.request(method, path, headers={"Host": host or place})
    answer = connection.getresponse()
    found = answer.status, str(answer.headers), answer.read().decode()
    connection.close()
    return found


def list_files(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_the_page_follows_the_records_from_before_the_first_one(tmp_path: Path) -> None:
    run = begin_run(tmp_path / "run")
    before = list_files(run)
    with serving(run) as server:
        status, headers, first = ask(server.url)
        assert status == 200 and "no-store" in headers and "No step has been taken yet." in first
        state = ask(server.url, "/state")[2]
        assert f'!=="{state}"' in first
        assert ask(server.url) == (status, headers, first) or ask(server.url)[2] == first
        assert list_files(run) == before, "nothing is written"
        append_metrics(run / "metrics.jsonl", make_rows({"topics": 1.0}, steps=3))
        assert ask(server.url, "/state")[2] != state
        assert "No step has been taken yet." not in ask(server.url)[2]
        (run / "scores.json").write_text("[{")
        damaged = ask(server.url)[2]
        assert "cannot be read" in damaged and "scores.json" in damaged
        write_scores(
            run / "scores.json", [Score("base", "ruler/vt", "string_match", 512, None, "en", 8, 0.5, 0.2, 0.8)]
        )
        assert "ruler" not in damaged and "vt" in ask(server.url)[2].partition('id="written"')[2]


def test_a_watched_page_is_the_report_and_one_script_that_its_policy_names(tmp_path: Path) -> None:
    run = begin_run(tmp_path / "run", model=HOSTILE)
    page = live_report.LiveReport(run).update()
    written = write_report(run).read_text()
    script, policy = page.partition("<script>")[2].partition("</script>")[0], page.partition('Policy" content="')[2]
    assert page.count("<script") == 1 and "<script" not in written
    digest = policy.partition("script-src '")[2].partition("'")[0]
    rest = page.replace(f"<script>{script}</script>\n", "").replace(f"script-src '{digest}'; connect-src 'self'; ", "")
    assert rest.replace(" The page is made again when these files change.", "") == written
    assert digest.startswith("sha256-") and "\x1b" not in page and "\u202e" not in page


def test_other_sites_files_and_methods_get_nothing(tmp_path: Path) -> None:
    run = begin_run(tmp_path / "run")
    with serving(run) as server:
        assert server.url.startswith("http://127.0.0.1:")
        for path in ("/recipe.yaml", "/../recipe.yaml", "/state/", "/%2e%2e/recipe.yaml", "/?x"):
            assert ask(server.url, path)[0] == 404, path
        assert ask(server.url, host="evil.example")[0] == 403
        assert ask(server.url, method="POST")[0] == 501
        port = int(server.url.rstrip("/").rpartition(":")[2])
        with pytest.raises(UserError, match=f"port {port} cannot be had"):
            RunServer(run, port=port)
    with pytest.raises(UserError, match="not a run folder"):
        RunServer(tmp_path)


def test_pages_take_a_share_of_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    made: list[float] = []

    def make(run: Path, *, live: str) -> str:
        made.append(now[0])
        now[0] += 2.0
        return live

    monkeypatch.setattr(live_report, "make_page", make)
    monkeypatch.setattr(live_report, "render", str)
    monkeypatch.setattr(live_report.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(live_report, "find_state", lambda run: str(now[0]))
    watched = live_report.LiveReport(tmp_path, busy_share=0.1)
    for now[0] in (3.0, 19.9, 20.0, 30.0, 39.9, 40.0):
        watched.update()
    assert made == [0.0, 20.0, 40.0]


@pytest.mark.parametrize("ends", ["once", "interrupted"])
def test_the_command_ends_after_the_page_or_on_an_interrupt(tmp_path: Path, ends: str) -> None:
    run, addresses = begin_run(tmp_path / "run"), tmp_path / "events.jsonl"
    verb = start_verb(
        ["watch", str(run), "--events", str(addresses), *(["--once"] * (ends == "once"))], tmp_path / "log"
    )
    until = time.monotonic() + 120
    while not (addresses.is_file() and '"url"' in addresses.read_text()) and time.monotonic() < until:
        time.sleep(0.02)
    url = addresses.read_text().partition('"url": "')[2].partition('"')[0]
    assert "run" in ask(url)[2]
    if ends == "interrupted":
        os.kill(verb.process.pid or 0, signal.SIGINT)
    assert verb.wait() == 0 and "Traceback" not in verb.said and "stopping" not in verb.said
