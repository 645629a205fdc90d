"""A checkout that was never installed has no version, and runs."""

from pathlib import Path

from ropewalk.core.versions import NOT_INSTALLED, find_versions


def test_a_package_that_is_not_installed_has_no_version() -> None:
    found = find_versions(["torch", "no-package-has-this-name"])
    assert found["torch"][0].isdigit() and found["no-package-has-this-name"] == NOT_INSTALLED


def test_nothing_else_asks_for_a_version() -> None:
    """Else a training ends where the project stands on the path of a machine, as in the report of a GPU."""
    source = Path(__file__).parents[2] / "src" / "ropewalk"
    texts = {path.name: path.read_text(encoding="utf-8") for path in source.rglob("*.py")}
    assert [name for name, text in texts.items() if "metadata import version\n" in text] == []
    assert [name for name, text in texts.items() if "PackageNotFoundError" in text] == ["versions.py"]
