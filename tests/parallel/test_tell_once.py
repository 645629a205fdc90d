"""An error that all ranks of torchrun meet is told once, as one object for programs, whichever rank fails."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from forked_torchrun import run_as_torchrun
from ropewalk.parallel import tell_once


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
