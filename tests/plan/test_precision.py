"""``precision: auto`` is one decision: a plan counts the bytes that training holds."""

from pathlib import Path

import pytest
import torch

from planned_recipe import make_planned
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.mesh import make_mesh
from ropewalk.plan import precision as precision_of
from ropewalk.plan.fit import split_stage
from ropewalk.plan.hardware import KNOWN, describe_cpu
from ropewalk.plan.precision import choose_precision, multiplies_bfloat16
from ropewalk.recipe.spec import Parallel
from ropewalk.train.stage_context import choose_sharing
from search_cases import SHAPES

LLAMA = SHAPES["8b"]


@pytest.fixture
def flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in place of the one in which Linux lists a CPU's flags; not there yet."""
    monkeypatch.setattr(precision_of, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(precision_of, "multiplies_bfloat16", multiplies_bfloat16.__wrapped__)
    return tmp_path / "cpuinfo"


@pytest.mark.parametrize(
    ("text", "fast"),
    [
        (None, False),
        ("processor: 0\nflags\t\t: fpu avx2 avx512f\n", False),
        ("processor: 0\nflags\t\t: fpu avx512_bf16 avx2\n", True),
        ("flags: amx_bf16 amx_tile\n", True),
        ("bugs: avx512_bf16\nflags: fpu avx512_bf16_2\n", False),
    ],
)
def test_a_plan_and_training_decide_alike(text: str | None, fast: bool, flags: Path) -> None:
    if text is not None:
        flags.write_text(text)
    recipe = make_planned([{"context_length": 256, "rope": {"kind": "unchanged"}, "tokens": 256, "lr": 1e-4}])
    cpu, expected = describe_cpu(1e11, ranks=1, source="test"), "bfloat16" if fast else "float32"
    assert choose_precision("auto", device="cpu") == expected
    split = split_stage(Parallel(), recipe.stages[0], LLAMA, machine=cpu)
    assert split.element_bytes == (2 if fast else 4)
    given = Parallel(), Parallel(precision=expected)
    found = run_ranks(lambda: [choose_sharing(each, LLAMA, make_mesh(1, 1)).price for each in given], 1)
    assert found[0][0] == found[0][1], "what training counts with"


def test_a_gpu_multiplies_bfloat16_and_what_is_asked_for_is_taken(flags: Path) -> None:
    recipe = make_planned([{"context_length": 256, "rope": {"kind": "unchanged"}, "tokens": 256, "lr": 1e-4}])
    assert choose_precision("auto", device="cuda") == "bfloat16"
    assert split_stage(Parallel(), recipe.stages[0], LLAMA, machine=KNOWN["h100-sxm"]).element_bytes == 2
    assert choose_precision("float32", device="cuda") == "float32"
    assert choose_precision("bfloat16", device="cpu") == "bfloat16"


@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="this torch does not tell")
def test_torch_says_the_same_of_this_cpu() -> None:
    told = torch.cpu.get_capabilities()
    assert multiplies_bfloat16() == bool(told.get("avx512_bf16") or told.get("amx_bf16"))
