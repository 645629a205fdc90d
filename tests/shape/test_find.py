"""A model's name leads to a folder, or to an error that says what names look like."""

from pathlib import Path

import pytest

from ropewalk.core.error import UserError
from ropewalk.shape.find import find_model


def test_models_are_found_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json"):
        find_model(tmp_path)
    for name in ("nowhere", "org/name", "org/name@"):
        with pytest.raises(UserError, match="there is no such folder"):
            find_model(name)
    (tmp_path / "config.json").write_text("{}")
    assert find_model(str(tmp_path)) == tmp_path
