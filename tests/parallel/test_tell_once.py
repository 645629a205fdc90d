"""An error that all ranks of torchrun meet is told once, as one object for programs, whichever rank fails."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from forked_torchrun import run_as_torchrun
from ropewalk.cli import main, options
from ropewalk.core.error import UserError
from ropewalk.parallel import tell_once
from ropewalk.recipe import schema


def end_rank_0() -> None:
    if os.environ["RANK"] == "0":
        os._exit(0)


@pytest.mark.parametrize("before", [lambda: None, end_rank_0], ids=["all ranks", "all but rank 0"])
def test_one_rank_tells(before: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tell_once, "_GRACE_SECONDS", 0.5)
    monkeypatch.setattr(tell_once, "_TELL_SECONDS", 0.1)
    done = run_as_torchrun(("-m", "ropewalk", "train", "none.yaml", "--json"), 3, tmp_path, before=before)
    assert done.codes == ((0, 2, 2) if before is end_rank_0 else (2, 2, 2))
    assert json.loads(done.out)["error"]["what"] == "the recipe cannot be read"
    assert done.errors.count("ropewalk: the recipe cannot be read") == 1


def fail_rank_1(waits: int, starts: tuple[int, int]) -> Callable[[], None]:
    """Rank 1 meets an error of its own in ``schema``; rank ``waits`` works until the other one has told its end."""
    file, told = ("errors-1.txt", "not readable") if waits == 0 else ("out-0.txt", "kind")

    def work(kind: str) -> dict[str, str]:
        while os.environ["RANK"] == str(waits) and told not in Path(file).read_text():
            time.sleep(0.02)
        if os.environ["RANK"] == "1":
            raise UserError("it is not readable", where="here", why="of the test", fix="none")
        return {"kind": kind}

    def before() -> None:
        os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["TORCHELASTIC_MAX_RESTARTS"] = map(str, starts)
        schema.make_schema = work  # type: ignore[assignment]

    return before


@pytest.mark.parametrize(
    ("waits", "starts", "key"),
    [(1, (0, 0), "kind"), (0, (0, 0), "error"), (0, (0, 2), "kind")],
    ids=["after the result", "before the result", "before torchrun starts the ranks again"],
)
def test_standard_output_has_one_object_though_one_rank_fails(
    waits: int, starts: tuple[int, int], key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tell_once, "_GRACE_SECONDS", 0.2)
    monkeypatch.setattr(tell_once, "_TELL_SECONDS", 0.1)
    done = run_as_torchrun(("-m", "ropewalk", "schema", "--json"), 2, tmp_path, before=fail_rank_1(waits, starts))
    assert done.codes == (0, 2) and list(json.loads(done.out)) == [key]
    assert done.errors.count("ropewalk: it is not readable") == 1, "standard error always has it"
    assert done.errors.count("the result is not printed") == (key == "error")


def test_an_error_after_the_result_is_no_second_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without torchrun: as where the targets of ``--strict`` cannot be read after the run."""

    def verb(**_: str) -> None:
        options.print_result({"text": "", "made": 1}, as_json=True)
        raise UserError("the scores cannot be read", where="scores.jsonl", why="of the test", fix="none")

    monkeypatch.setattr(main, "app", verb)
    monkeypatch.setattr(sys, "argv", ["ropewalk", "report", "r.yaml", "--strict", "--json"])
    for _ in range(2):  # a second command line of the same process
        with pytest.raises(SystemExit, match="2"):
            main.main()
        said = capsys.readouterr()
        assert json.loads(said.out) == {"made": 1} and "ropewalk: the scores cannot be read" in said.err


def test_without_torchrun_and_without_its_store_everyone_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tell_once.is_teller()
    monkeypatch.setenv("RANK", "1")
    assert tell_once.is_teller(), "no store is shared"
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setattr(tell_once, "_JOIN_SECONDS", 0.1)
    assert tell_once.is_teller(), "torchrun has ended"


def test_a_claim_of_an_earlier_start_is_not_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    for name, value in (("RANK", "1"), ("TORCHELASTIC_USE_AGENT_STORE", "True"), ("MASTER_ADDR", "localhost"),
                        ("MASTER_PORT", str(store.port))):  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tell_once, "_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(tell_once, "_TELL_SECONDS", 0.0)
    assert tell_once.is_teller() and not tell_once.is_teller()
    monkeypatch.setattr(tell_once, "_OLD_SECONDS", 0.0)
    assert tell_once.is_teller()
