"""A plan that does not fit is an error that says what is too small, and the next thing to change, which then fits."""

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from planned_recipe import make_planned
from ropewalk.cli.main import app
from ropewalk.plan.forecast import forecast_recipe
from ropewalk.plan.unfit import find_unfit
from ropewalk.recipe.spec import Recipe
from ropewalk.rope.layers import plain_layers
from ropewalk.shape.model_shape import ModelShape

LLAMA_8B = ModelShape("LlamaForCausalLM", 4096, 32, 8, 128, 14_336, 128_256, False, 8192, plain_layers(32, 5e5))
LLAMA_70B = ModelShape("LlamaForCausalLM", 8192, 64, 8, 128, 28_672, 128_256, False, 8192, plain_layers(80, 5e5))
MILLION = "1Mi"


def make_recipe(hardware: object, length: str, parallel: dict[str, Any], **given: object) -> Recipe:
    stage = {"context_length": length}
    return make_planned([stage], hardware=hardware, parallel={"precision": "bfloat16", **parallel}, **given)


def with_words(recipe: Recipe, words: str) -> Recipe:
    """The recipe with the first offer of an error typed after it."""
    data = recipe.to_json()
    for path, value in re.findall(r"([\w.]+)=(\S+?)(?:,|$| )", words + " "):
        *folders, key = path.split(".")
        place = data
        for name in folders:
            place = place[int(name) if name.isdigit() else name]
        place[key] = value
    return Recipe.model_validate(data)


CASES = [
    # hardware, length, parallel, what is said to lack, what is offered first
    ("h100-sxm x 8", MILLION, {"ranks": 8}, "of a h100-sxm", "parallel.context_parallel="),
    ("h100-sxm x 8", "128Ki", {"ranks": 8, "recompute": "none"}, "activations", "parallel.recompute=auto"),
    ("h100-sxm x 8", "2Mi", {"ranks": 8, "context_parallel": 8, "exchange": "needed_kv"}, "one block",
     "parallel.exchange=auto"),
    ("h100-sxm x 8", "128Ki", {"ranks": 8, "context_parallel": 2, "states": "device", "recompute": "none"},
     "activations", "parallel.recompute=auto"),
    ("h100-sxm x 8", "32Ki", {"ranks": 8, "replicas": 8, "states": "device"}, "states", "parallel.states=auto"),
    ("h100-sxm x 4", "32Ki", {"ranks": 4, "replicas": 4, "states": "8bit"}, "states", "parallel.replicas=1"),
    ("a100-sxm-40 x 8", "512Ki", {"ranks": 8}, "of a a100-sxm-40", "parallel.context_parallel="),
    ("4090 x 1", "512Ki", {"ranks": 1}, "of host memory", "parallel.ranks="),
    ("l40s x 2", MILLION, {"ranks": 2, "context_parallel": 2}, "of", "parallel.ranks="),
    ("v100-sxm-16 x 8", "256Ki", {"ranks": 8, "context_parallel": 1}, "of a v100-sxm-16", "parallel.context_parallel="),
    ({"memory": "80Gi", "flops": "400T", "count": 8, "host_memory": "64Gi"}, "512Ki",
     {"ranks": 8, "states": "host", "offload": "inputs", "recompute": "full"}, "of host memory", "parallel."),
    ("h100-sxm x 8", "128Ki", {"ranks": 16, "context_parallel": 8, "replicas": 16, "states": "device"},
     "states", "parallel."),
]  # fmt: skip


@pytest.mark.parametrize(("hardware", "length", "parallel", "lack", "offer"), CASES)
def test_what_does_not_fit_is_an_error_with_a_change_that_fits(
    hardware: object, length: str, parallel: dict[str, Any], lack: str, offer: str
) -> None:
    recipe = make_recipe(hardware, length, parallel)
    plans = forecast_recipe(recipe, LLAMA_8B)
    (finding,) = find_unfit(recipe, LLAMA_8B, plans)
    assert finding.level == "error" and finding.key == "stages.0"
    assert lack in finding.message
    first = finding.message.rpartition("; set ")[2].partition(", or ")[0]
    assert first.startswith(offer), finding.message
    changed = with_words(recipe, first)
    assert changed != recipe and find_unfit(changed, LLAMA_8B, forecast_recipe(changed, LLAMA_8B)) == []


def test_a_70b_model_at_a_million_tokens_on_eight_h100() -> None:
    """Its states on the host are 1.1 TB and the inputs of its blocks 1.4 TB, more than a node of 2 TB may use."""
    recipe = make_recipe("h100-sxm x 8", MILLION, {"ranks": 8, "context_parallel": 8})
    (plan,) = forecast_recipe(recipe, LLAMA_70B)
    assert dict(plan.rows())["fits"] == "no: it needs 289 GiB of the 175 GiB of the host that a rank may use"
    (finding,) = find_unfit(recipe, LLAMA_70B, [plan])
    assert "host memory" in finding.message and "nodes=2" in finding.message
    assert "of a h100-sxm" not in finding.message, "MLP tiles, which are open, make room on the device"
    assert "or set stages.0.context_length=" in finding.message
    offers = finding.message.rpartition("; set ")[2].split(", or set ")
    for words in offers:
        changed = with_words(recipe, words)
        assert find_unfit(changed, LLAMA_70B, forecast_recipe(changed, LLAMA_70B)) == []


def test_what_fits_is_no_error_and_a_pinned_setting_tells_its_price() -> None:
    recipe = make_recipe("h100-sxm x 8", "32Ki", {"ranks": 8, "context_parallel": 8, "recompute": "full"})
    plans = forecast_recipe(recipe, LLAMA_8B)
    assert find_unfit(recipe, LLAMA_8B, plans) == []
    assert re.fullmatch(r"recompute: full is slower than auto by 1\.\d+ x; auto: recompute none", plans[0].pinned)
    free = make_recipe("h100-sxm x 8", "32Ki", {"ranks": 8, "context_parallel": 8})
    assert forecast_recipe(free, LLAMA_8B)[0].pinned == ""


def test_check_ends_with_exit_code_2() -> None:
    recipe = str(Path(__file__).parents[2] / "recipes" / "qwen3-8b-128k.yaml")
    arguments = ["model=Qwen/Qwen3-8B-Base", "hardware=h100-sxm x 8", "parallel.replicas=8", "parallel.states=device"]
    done = CliRunner().invoke(app, ["check", recipe, *arguments])
    assert done.exit_code == 2 and "it does not fit" in done.output and "2 errors" in done.output
