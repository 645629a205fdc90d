"""The run folder that the tests of the report begin with."""

from pathlib import Path

import pytest

from invented_run import write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run, written anew for each test, which may take files away."""
    return write_run(tmp_path / "quickstart")
