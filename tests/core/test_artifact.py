"""A folder appears whole or not at all, and tells when it is damaged."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ropewalk.core.artifact import find_damage, hold, is_finished, new_folder, read_manifest, require_free
from ropewalk.core.error import UserError, explain_disk_fault


def make(folder: Path) -> None:
    with new_folder(folder, kind="test", inputs={"seed": 1}, facts=lambda: {"files": 2}) as work:
        (work / "inner").mkdir()
        (work / "a.txt").write_text("text")
        (work / "inner" / "b.bin").write_bytes(bytes(1000))


def test_a_finished_folder_has_what_its_manifest_says(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    make(folder)
    manifest = read_manifest(folder)
    assert is_finished(folder) and find_damage(folder) is None
    assert manifest["inputs"] == {"seed": 1} and manifest["facts"] == {"files": 2}
    assert set(manifest["files"]) == {"a.txt", "inner/b.bin"}
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    make(tmp_path / "made")
    with pytest.raises(FileExistsError):
        make(tmp_path / "made")
    (tmp_path / "copied").mkdir()
    (tmp_path / "copied" / "a.txt").write_text("half of a copy")
    with pytest.raises(UserError, match="something else is at the place of a folder"):
        make(tmp_path / "copied")
    assert (tmp_path / "copied" / "a.txt").read_text() == "half of a copy"


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "made", kind="test", inputs={}) as work:
        (work / "a.txt").write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_no_finished_folder_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from ropewalk.core.artifact import new_folder\n"
        "with new_folder(Path(sys.argv[1]), kind='test', inputs={}) as work:\n"
        "    (work / 'a.txt').write_text('half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "made")], check=False)
    assert not (tmp_path / "made").exists() and len(list(tmp_path.iterdir())) == 1
    make(tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_what_is_being_written_under_a_longer_name_is_left_alone(tmp_path: Path) -> None:
    with new_folder(tmp_path / "law-128k", kind="test", inputs={}) as work:
        (work / "a.txt").write_text("text")
        make(tmp_path / "law")
    assert is_finished(tmp_path / "law-128k") and is_finished(tmp_path / "law")


@pytest.mark.parametrize("name", ["a.txt", "inner/b.bin"])
def test_every_damage_is_found(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "made"
    make(folder)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert "digest" in (find_damage(folder) or "")
    (folder / name).write_bytes(whole[:-1])
    assert "bytes" in (find_damage(folder) or "")
    (folder / name).unlink()
    assert "missing" in (find_damage(folder) or "")


def test_an_unfinished_or_garbled_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not finished"):
        read_manifest(tmp_path)
    for content in ("{", "[]", '{"kind": "model"}'):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(UserError, match="cannot be read"):
            read_manifest(tmp_path)


def test_a_held_folder_keeps_another_process_out(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ropewalk.core.artifact import hold\n"
        "with hold(Path(sys.argv[1])): pass"
    )
    with hold(tmp_path):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and f"held by pid {os.getpid()}" in done.stderr
    with hold(tmp_path):
        pass


def test_a_full_disk_is_told_before_the_work(tmp_path: Path) -> None:
    require_free(tmp_path / "not" / "yet", 1)
    with pytest.raises(UserError, match="not enough free disk"):
        require_free(tmp_path, 1 << 60)


def test_a_held_folder_goes_again_unless_something_lies_in_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="first"), hold(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "note").touch()
        raise ValueError("first")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="second"), hold(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "work").mkdir()
        raise ValueError("second")
    with pytest.raises(ValueError, match="third"), hold(tmp_path / "a"):
        raise ValueError("third")
    assert (tmp_path / "a" / "b" / "work").is_dir()


def test_only_what_the_disk_refuses_is_the_user_s_to_mend(tmp_path: Path) -> None:
    fault = explain_disk_fault(OSError(errno.ENOSPC, "No space left on device", "shard"))
    assert fault is not None and (fault.where, fault.why) == ("shard", "No space left on device")
    assert explain_disk_fault(ConnectionResetError(errno.ECONNRESET, "reset")) is None
    assert explain_disk_fault(FileNotFoundError(errno.ENOENT, "gone", "ours")) is None
