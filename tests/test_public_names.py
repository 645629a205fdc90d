"""The public face: the names that others may rely on, each there, explained, and loaded only when it is asked for."""

import subprocess
import sys

import pytest

import ropewalk

PUBLIC = [
    "ContextParallel",
    "UserError",
    "attend",
    "check_recipe",
    "chunked_cross_entropy",
    "local_shard",
    "extend",
    "load_model",
    "load_recipe",
    "parallelize",
    "partition_tokens",
    "read_shape",
    "run_recipe",
]


def test_the_list_is_this_one() -> None:
    assert ropewalk.__all__ == PUBLIC and set(PUBLIC) <= set(dir(ropewalk))
    with pytest.raises(AttributeError, match="no attribute 'stretch'"):
        ropewalk.stretch  # noqa: B018


@pytest.mark.parametrize("name", PUBLIC)
def test_each_name_is_its_room_s_own_and_says_what_it_does(name: str) -> None:
    found = getattr(ropewalk, name)
    assert found.__name__ == name and found.__module__.startswith("ropewalk.") and found.__doc__


def test_names_of_the_torch_free_half_bring_no_torch() -> None:
    code = "import sys, ropewalk; ropewalk.load_recipe, ropewalk.partition_tokens, ropewalk.check_recipe; "
    code += "print('torch' in sys.modules); ropewalk.attend; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
