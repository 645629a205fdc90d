"""The options of all verbs stand before or after the verb; each verb says what to do next, on standard error."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from ropewalk.cli.main import app
from ropewalk.cli.next_steps import NEXT, TAKING, say_next
from ropewalk.cli.options import print_result
from ropewalk.cli.usage import split_options
from ropewalk.core.error import UserError
from ropewalk.core.events import open_events
from ropewalk.core.progress import set_quiet
from ropewalk.recipe.load import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(autouse=True)
def loud_again(request: pytest.FixtureRequest) -> None:
    request.addfinalizer(lambda: (set_quiet(False), open_events(None)))


def list_verbs() -> set[str]:
    found = set[str]()
    commands: dict[str, Any] = getattr(get_command(app), "commands")  # noqa: B009
    for name, command in commands.items():
        inside = getattr(command, "commands", None)
        found |= {name} if inside is None else {f"{name} {each}" for each in inside}
    return found


def test_every_verb_says_what_to_do_next() -> None:
    assert list_verbs() == {name.removesuffix(" MODEL").removesuffix(" RECIPE") for name in NEXT}
    assert say_next(["run", "mine.yaml", "--strict"]) == NEXT["run"].format(recipe="mine.yaml")
    assert (
        say_next(["extend", "models/base", "out/extended", "rope.kind=yarn"]) == "ropewalk export out/extended --verify"
    )
    assert (
        say_next(["corpus", "tokenise", "r.yaml", "--share", "0/2"]) == "the other shares, then ropewalk prepare r.yaml"
    )
    told = say_next(["recommend-mix", "study.yaml", "general_loss<=+1%"])
    assert told is not None and "study.yaml" not in told, "a study takes no mix; the recipe does"
    assert say_next(["run", "--help"]) is None and say_next([]) is None


def test_the_next_command_repeats_the_overrides_that_were_given() -> None:
    recipe = "quickstart run=runs/killed 'stages.0.rope={kind: yarn}'"
    given = ["quickstart", "run=runs/killed", "stages.0.rope={kind: yarn}"]
    assert f"ropewalk export {recipe} --verify" in str(say_next(["run", *given]))
    assert say_next(["train", "--strict", *given]) == f"ropewalk evaluate {recipe}"
    assert say_next(["corpus", "tokenise", *given]) == f"the other shares, then ropewalk prepare {recipe}"
    assert say_next(["evaluate", *given]) == f"ropewalk export {recipe}, then ropewalk report {recipe}"
    checked = say_next(["check", "my recipe.yaml", "seed=2", "--why-not", "stages.0.lr=1e-5"])
    assert str(checked).startswith("ropewalk run 'my recipe.yaml' seed=2;"), "what a check asks about is no override"


def test_the_next_line_names_the_length_that_was_asked_for() -> None:
    told = say_next(["advise", "models/base", "out", "context_length=128Ki", "seed=2"])
    assert told == "put the recommended rope into a recipe: ropewalk new 128Ki --model models/base begins one"
    assert "context_length" not in str(say_next(["extend", "models/base", "out", "context_length=16Ki"]))


def list_options() -> set[str]:
    """The options of all verbs that take a value, but for those of every verb."""
    groups: list[Any] = [get_command(app)]
    found = set[str]()
    for group in groups:
        for command in group.commands.values():
            if hasattr(command, "commands"):
                groups.append(command)
            else:
                named = [each for each in command.params if each.param_type_name == "option" and not each.is_flag]
                found |= {name for each in named for name in each.opts}
    return found


def test_the_value_of_an_option_before_the_target_is_not_the_target() -> None:
    assert list_options() == TAKING
    told = say_next(["advise", "--probe", "book.txt", "--minutes", "5", "models/base", "context_length=128Ki"])
    assert str(told).endswith("ropewalk new 128Ki --model models/base begins one")
    assert say_next(["new", "--model", "Qwen/Qwen3-8B", "32Ki"]) == "ropewalk check 32Ki.yaml"
    for out in (["--out", "my one.yaml"], ["--out=my one.yaml"]):
        assert say_next(["new", *out, "32Ki"]) == say_next(["new", "32Ki", *out]) == "ropewalk check 'my one.yaml'"
    asked = ["check", "--why-not", "seed=2", "mine.yaml", "seed=2"]
    assert str(say_next(asked)).startswith("ropewalk run mine.yaml seed=2;"), "it was given, too"


@pytest.mark.parametrize(
    ("typed", "told", "left"),
    [
        (["evaluate", "models/a"], "--base", ""),
        (["evaluate", "models/a", "--base", "models/b"], "--suite ruler", "--base"),
        (["evaluate", "models/a", "--base=models/b", "--suite", "ruler"], "comparison", "--"),
        (["evaluate", "models/a", "--suite", "ruler"], "--base", "--suite"),
        (["export", "r.yaml", "--push", "me/model"], "ropewalk report r.yaml", "--push"),
        (["export", "models/a", "--push", "me/model"], "model card", "ropewalk report"),
        (["export", "models/a", "--push", "me/model", "--dry-run"], "without --dry-run", "ropewalk report"),
    ],
)
def test_the_next_line_does_not_ask_for_an_option_that_was_given(typed: list[str], told: str, left: str) -> None:
    line = str(say_next(typed))
    assert told in line and (not left or left not in line)


def test_a_verb_ends_with_the_next_one_and_its_output_is_the_result_alone(tmp_path: Path) -> None:
    out, events = tmp_path / "mine.yaml", tmp_path / "events.jsonl"
    done = CliRunner().invoke(app, ["new", "quickstart", "--out", str(out), "--events", str(events)])
    assert done.exit_code == 0 and done.stdout == f"{out}\n" and done.stderr == f"next: ropewalk check {out}\n"
    told = [json.loads(line) for line in events.read_text().splitlines()]
    assert [each["event"] for each in told] == ["started", "result", "said"] and told[1]["recipe"] == str(out)
    out.unlink()
    quiet = CliRunner().invoke(app, ["new", "quickstart", "--quiet", "--out", str(out)])
    assert quiet.exit_code == 0 and quiet.stdout == f"{out}\n" and quiet.stderr == ""


def test_a_result_as_json_is_json_where_a_number_is_infinite(capsys: pytest.CaptureFixture[str]) -> None:
    """As the interval of a single document, or the network of a machine that has none."""
    told = {"text": "", "high": math.inf, "scores": [{"low": -math.inf, "value": 1.5}, (math.nan, 2)], "中": 1}
    print_result(told, as_json=True)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found == {"high": None, "scores": [{"low": None, "value": 1.5}, [None, 2]], "中": 1}


def test_a_check_that_misses_text_does_not_say_run_at_once() -> None:
    recipe = RECIPES / "llama2-7b-16k.yaml"
    done = CliRunner().invoke(app, ["check", str(recipe), "run=runs/my one", "--offline"])
    assert done.exit_code == 0 and "no such file or folder" in done.stdout
    again = f"ropewalk run {recipe} 'run=runs/my one'"
    assert done.stderr.endswith(f"next: put there what the warnings say is missing, then {again}\n")


def test_a_shape_is_never_said_to_be_ready_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shipped shape has no weights: `new` names the hub's model, and `check` offers it."""
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(
        app, ["new", "128Ki", "--model", "Qwen/Qwen3-8B-Base", "--data", "my.jsonl", "--out", "r.yaml"]
    )
    assert "next: ropewalk check r.yaml --offline" in told.stderr and "warning: my.jsonl is not there" in told.stderr
    assert load_recipe(Path("r.yaml")).model == "Qwen/Qwen3-8B-Base@main"
    checked = CliRunner().invoke(app, ["check", "r.yaml", "model=Qwen/Qwen3-8B-Base"])
    assert checked.stderr.endswith("then ropewalk run r.yaml model=Qwen/Qwen3-8B-Base@main\n")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["new", "2Ki", "--dat", "x"], "did you mean --data? "),
        (["export", "x", "--pushh", "a/b"], "did you mean --push? "),
        (["check", "r.yaml", "--lr", "1"], "without dashes: lr=VALUE"),
        (["report", "models"], "it is a model folder"),
        (["check", "quickstart", "corpus.sources.0.name=语料"], "correct these keys"),
    ],
)
def test_what_was_probably_meant_is_offered(
    typed: list[str], offered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    refused = CliRunner().invoke(app, typed).exception
    assert isinstance(refused, UserError) and offered in refused.fix
    assert "name" not in refused.what or "may have letters a to z" in refused.why


def test_a_file_of_events_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["schema", "--events", str(tmp_path / "nowhere" / "events.jsonl")])
    assert isinstance(done.exception, UserError) and "--events" in done.exception.where


def test_options_of_all_verbs_are_found_wherever_they_stand() -> None:
    assert split_options(["run", "r.yaml", "--quiet", "--events", "e"]) == (
        ["--quiet", "--events", "e"],
        ["run", "r.yaml"],
    )
    assert split_options(["run", "--events=e", "--", "--quiet"]) == (["--events=e"], ["run", "--", "--quiet"])
    assert split_options(["run", "--events"]) == (["--events"], ["run"])
