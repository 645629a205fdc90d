"""The plans that the docs quote are those of today: each quoted line is one that ``ropewalk check`` prints."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from planned_recipe import make_planned
from programs import load_program
from ropewalk.commands.check import check_recipe
from ropewalk.plan.forecast import forecast
from ropewalk.plan.plan import Split
from ropewalk.recipe.load import load_recipe
from ropewalk.shape.find import find_model
from ropewalk.shape.read import read_shape

ROOT = Path(__file__).parents[2]
STAGE = {"context_length": "128Ki", "rope": {"kind": "theta", "theta": 8e6}, "tokens": "20B"}
EIGHT = {"ranks": 8, "context_parallel": 8}


def read_page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def check_planned(model: str, device: str, stage: Mapping[str, object], **given: object) -> list[str]:
    why_not = given.pop("why_not", ())
    recipe = make_planned([{**STAGE, **stage}], model=model, hardware=f"{device} x 8", **given)
    return str(check_recipe(recipe, why_not=why_not)["text"]).splitlines()  # type: ignore[arg-type]


@pytest.mark.parametrize("degree", [1, 2, 4, 8])
def test_degrees_of_context_parallelism(degree: int) -> None:
    overrides = [f"parallel.context_parallel={degree}", "model=meta-llama/Llama-2-7b-hf"]
    plan = check_recipe(load_recipe(ROOT / "recipes" / "llama2-7b-32k.yaml", overrides))["text"].partition(
        "\nstage 1\n"
    )[2]
    speed, memory = re.findall(r"^speed +(\S+) tokens/s", plan, re.M)[0], re.findall(r"^memory +(.+)", plan, re.M)[0]
    peak, _, way = memory.partition(" per rank, recompute ")
    english, chinese = (read_page(f"{folder}/choose-context-parallel.md") for folder in ("how-to", "zh"))
    assert f"| {degree} | {peak} | {way.replace('save_attention', '`save_attention`')} | {speed} tokens/s |" in english
    assert re.search(rf"^\| {degree} \| {re.escape(peak)} \| [^|]+ \| {re.escape(speed)} tokens/s \|", chinese, re.M)


def test_a_whole_run() -> None:
    recipe = load_recipe(ROOT / "recipes" / "llama3-8b-128k.yaml", ["model=meta-llama/Meta-Llama-3-8B"])
    printed = check_recipe(recipe)["text"].splitlines()
    quoted = re.findall(r"^(?:total|prepare|limits|next) .+", read_page("plan-scale.md"), re.M)
    assert len(quoted) == 4 and [line for line in quoted if line not in printed] == []


def test_the_example_in_python() -> None:
    shape = read_shape(find_model("meta-llama/Llama-2-7b-hf", config_only=True))
    size = {"context_tokens": 16384, "tokens": 20_000_000_000, "step_tokens": 4_000_000, "ranks": 8}
    assert forecast(shape, **size, split=Split(context_ranks=8)).describe() in read_page("plan.md")  # type: ignore[arg-type]


def test_a_step_by_terms(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    program = load_program("forecast_step", monkeypatch)
    for prints in (program.print_step, program.print_million, program.print_others):
        prints()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    page = read_page("forecast.md").splitlines()
    assert len(rows) > 30 and [row for row in rows if row not in page] == []


def test_what_auto_and_other_values_take() -> None:
    asked = ["parallel.context_parallel=2", "parallel.recompute=full"]
    printed = check_planned("meta-llama/Meta-Llama-3-8B", "h100-sxm", {}, parallel="auto", why_not=asked)
    quoted = re.findall(r"^parallel\..+ as long.*", read_page("plan-search.md"), re.M)
    assert len(quoted) == 4 and [line for line in quoted if line not in printed] == []


def test_what_does_not_fit() -> None:
    printed = check_planned("meta-llama/Meta-Llama-3-70B", "h100-sxm", {"context_length": "1Mi"}, parallel=EIGHT)
    quoted = re.findall(r"^error: .+", read_page("plan.md"), re.M)
    assert len(quoted) == 1 and quoted[0] in printed


def test_windows() -> None:
    windowed = [{"window": "4Ki"}] * 3 + [{}]
    found = []
    for layers in ([{}], windowed):
        stage = {"step_tokens": "128Ki", "layers": layers}
        text = "\n".join(check_planned("meta-llama/Llama-3.1-8B", "h200-sxm", stage, parallel=EIGHT))
        found.append({name: re.findall(rf"^{name} +(.+)", text, re.M)[0] for name in ("arithmetic", "speed", "sent")})
    full, three = found
    page = read_page("plan.md")
    sent, speed = ([each[name].split(" for ")[0].split(" on ")[0] for each in found] for name in ("sent", "speed"))
    assert f"| keys sent per step of a sequence | {sent[0]} | {sent[1]} |" in page
    assert f"| speed | {speed[0]} | {speed[1]} |" in page
    flops = [re.sub(r"FLOP per token, (\d+)%", r"FLOP, \1 %", each["arithmetic"]) for each in (full, three)]
    assert f"| arithmetic per token | {flops[0]} | {flops[1].removesuffix(' attention')} |" in page
