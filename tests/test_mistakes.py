"""What people most probably type wrong, in a recipe and on the command line: one error each, with its cure."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ropewalk.cli.main import main
from ropewalk.commands.check import check_recipe
from ropewalk.recipe.explain import find_places
from ropewalk.recipe.load import load_recipe
from ropewalk.recipe.other_trainers import NONE, OURS
from ropewalk.recipe.spec import Recipe

RECIPE = """\
model: tiny-base
run: runs/mine
corpus:
  sources:
    - {name: stories, embedded: stories_en, role: general, language: en, size_bytes: 1M}
  mix: {general: 1}
stages:
  - context_length: 2Ki
    rope: {kind: theta, theta: 1e6}
    tokens: 1M
    step_tokens: 8Ki
    lr: 6e-4
"""
Refuse = Callable[..., str]


@pytest.fixture
def refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """``refuse(*arguments) -> error``, beside a sound recipe.yaml."""
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(RECIPE)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["ropewalk", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        error = capsys.readouterr().err
        assert end.value.code == 2 and "Traceback" not in error, error
        said = error[error.index("ropewalk: ") :].splitlines()
        for word in ("where: ", "why:   ", "fix:   "):
            assert sum(line.startswith(f"  {word}") for line in said) == 1, error
        return error

    return run


TEXTS = {  # (old, new) in the recipe, and what the error must say
    "a tab": ("  mix:", "\tmix:", "replace the tab by spaces"),
    "a key twice": ("    lr: 6e-4", "    lr: 6e-4\n    lr: 1e-5", "'lr' is given twice"),
    "a key twice in braces": ("{general: 1}", "{general: 1, general: 2}", "'general' is given twice"),
    "no blank after the colon": ("run: runs/mine", "run:runs/mine", "with a space after the colon"),
    "a colon in a value": ("run: runs/mine", "run: runs: mine", "put quotes around a value that contains ': '"),
    "an open bracket": ("{general: 1}", "{general: 1", "close the bracket"),
    "an open quote": ("run: runs/mine", 'run: "runs/mine', "close the open quotes"),
    "a sign at the start": ("run: runs/mine", "run: @mine", "put quotes around a value that begins with"),
    "a percent sign at the start": ("run: runs/mine", "run: %mine", "put quotes around a value that begins with"),
    "an alias without anchor": ("run: runs/mine", "run: *mine", "before you use it"),
    "a tag": ("run: runs/mine", "run: !mine x", "remove the !tag"),
    "unlike indents": ("    tokens: 1M", "   tokens: 1M", "indent"),
    "a stage that is no list": ("  - context_length: 2", "    context_length: 2", "stages: must be a list, such as"),
    "no corpus": (RECIPE[RECIPE.index("corpus:") : RECIPE.index("stages:")], "", "corpus: missing"),
    "no stages": (RECIPE[RECIPE.index("stages:") :], "", "stages: missing"),
    "an empty section": (RECIPE[RECIPE.index("  sources:") : RECIPE.index("stages:")], "", "corpus: must be a mapping"),
    "no learning rate": ("    lr: 6e-4\n", "", "stages.0.lr: missing"),
    "a key of the wrong section": ("run: runs/mine", "run: runs/mine\nlr: 1e-5", "no such key here; it belongs at"),
    "a number where a folder stands": ("run: runs/mine", "run: 7", "a valid string; put it in quotes"),
    "a list where a folder stands": ("run: runs/mine", "run: [runs/mine]", "run: Input should be a valid string"),
    "a source that is no list": ("    - {name", "    {name", "corpus.sources: must be a list"),
    "a mix that is a list": ("mix: {general: 1}", "mix: [7, 2, 1]", "corpus.mix: must be a mapping"),
    "a wrong role": ("role: general", "role: sft", "did you mean instruction?"),
    "a word for a number": ("lr: 6e-4", "lr: small", "stages.0.lr: Input should be a valid number"),
    "a comma in a number": ("tokens: 1M", "tokens: '1,000,000'", "did you mean 1000000?"),
    "a small k": ("context_length: 2Ki", "context_length: 2k", "did you mean 2Ki (2,048) or 2000?"),
    "a byte's unit": ("context_length: 2Ki", "context_length: 2KiB", "did you mean 2Ki (2,048)?"),
    "a small b": ("tokens: 1M", "tokens: 1b", "did you mean 1B?"),
    "a negative count": ("tokens: 1M", "tokens: -5", "stages.0.tokens: Input should be greater than 0"),
    "yes for a count": ("tokens: 1M", "tokens: yes", "a yes/no is not a count"),
    "a list of one for two": (
        "language: en",
        "language: en, score: gzip, select: [{column: gzip, band: [20]}]",
        "corpus.sources.0.select.0.band.1: missing",
    ),
    "a method as a word": ("rope: {kind: theta, theta: 1e6}", "rope: yarn", "must be a mapping, such as {kind: ...}"),
    "a method without kind": ("{kind: theta, theta: 1e6}", "{theta: 1e6}", "stages.0.rope: its key `kind` is missing"),
    "another method's name": ("kind: theta", "kind: dynamic_ntk", "did you mean dynamic?"),
    "two methods in one": ("theta: 1e6", "theta: 1e6, factor: 4", "stages.0.rope.factor: there is no such key"),
    "empty": (RECIPE, "", "it is empty"),
    "only comments": (RECIPE, "# later\n", "it is empty"),
    "one text": (RECIPE, "model tiny-base", "with a space after the colon"),
    "a list": (RECIPE, "- model: tiny-base", "its top level is a list"),
}  # fmt: skip


@pytest.mark.parametrize("case", TEXTS)
def test_a_slip_in_the_file(case: str, refuse: Refuse) -> None:
    old, new, told = TEXTS[case]
    assert RECIPE.count(old) == 1
    Path("recipe.yaml").write_text(RECIPE.replace(old, new))
    assert told in refuse("check", "recipe.yaml")


COMMANDS = {
    "rnu recipe.yaml": "Did you mean 'run'?",
    "recipe.yaml": "give a command first: ropewalk run recipe.yaml",
    "run": "Missing argument 'RECIPE'",
    "run recipe.yaml --jsno": "--json",
    "check recipe.yaml --seed=1": "without dashes: seed=VALUE",
    "check recipe.yaml --stages.0.lr 1e-5": "without dashes: stages.0.lr=VALUE",
    "launch slurm recipe.yaml --nodes=two": "Invalid value for '--nodes'",
    "corpus inspct recipe.yaml": "Did you mean 'inspect'?",
    "check recipe": "did you mean recipe.yaml?",
    "check recpie.yaml": "did you mean recipe.yaml?",
    "check nothing.yaml": "or a shipped recipe",
    "check .": "did you mean recipe.yaml?",
    "check recipe.yaml stages.0.lr": "without spaces around the =",
    "check recipe.yaml stages.0.lr = 1e-5": "without spaces around the =",
    "check recipe.yaml =1": "it has no key before its =",
    "check recipe.yaml stages.lr=1e-5": "such as 0.lr",
    "check recipe.yaml stages[0].lr=1e-5": "write stages.0.lr=1e-5",
    "check recipe.yaml stages.1.lr=1e-5": "not one of the positions 0 to 0",
    "check recipe.yaml seed.deep=1": "'seed' is",
    "check recipe.yaml parallel.precision=bf16": "did you mean bfloat16?",
    "check recipe.yaml evaluate.precision=fp32": "did you mean float32?",
    "check recipe.yaml stages.0.schedule.shape=cosine_with_min_lr": "did you mean cosine?",
    "check recipe.yaml stages.0.learning_rate=1": "here it is stages[].lr",
    "check recipe.yaml trackers=wandb": "trackers: must be a list",
    "check recipe.yaml evaluate.lengths=4": "evaluate.lengths: must be a list",
    "check recipe.yaml model=tiny_base": "give a model folder, tiny-base",
    "schema recipes": "ropewalk schema recipe",
    "sweep recipe.yaml": "ropewalk run recipe.yaml",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_slip_on_the_command_line(command: str, refuse: Refuse) -> None:
    if "seed.deep" in command:
        Path("recipe.yaml").write_text(f"seed: 1\n{RECIPE}")
    assert COMMANDS[command] in refuse(*command.split())


PEERS = (
    "max_seq_length num_train_epochs per_device_train_batch_size rope_theta rope_scaling seq_len warmup_ratio dataset "
    "output_dir fp16 bf16 gradient_accumulation_steps learning_rate gradient_clipping save_steps report_to deepspeed "
    "attn_implementation optim resume_from_checkpoint load_in_4bit tensor_model_parallel_size lora_r model_name_or_path"
)


@pytest.mark.parametrize("name", PEERS.split())
def test_another_trainers_key_leads_to_ours(name: str, refuse: Refuse) -> None:
    for place in (name, f"stages.0.{name}"):
        error = refuse("check", "recipe.yaml", f"{place}=1")
        assert f"{place}: there is no such key; " in error
        assert (f"here it is {OURS[name][0]}" if name in OURS else NONE[name]) in error


FORMER = (  # keys of this project before its first release, and what they are called now
    ("stages.0.context", "stages[].context_length"),
    ("parallel.context", "parallel.context_parallel"),
    ("stages.0.skip", "stages[].pose"),
    ("stages.0.anneal_steps", "stages[].rope_interpolation_steps"),
    ("stages.0.micro_rows", "stages[].micro_batch_size"),
    ("stages.0.clip", "stages[].max_grad_norm"),
    ("stages.0.blend", "stages[].merge_with_base"),
    ("stages.0.until", "stages[].stop"),
    ("stages.0.promote", "stages[].gate"),
    ("stages.0.panel", "stages[].validation"),
    ("stages.0.panel_steps", "stages[].log_steps"),
    ("stages.0.keep", "stages[].save_total_limit"),
    ("stages.0.guard.skips", "stages[].guard.skipped_steps"),
    ("parallel.head_ranks", "parallel.ulysses_degree"),
)


@pytest.mark.parametrize(("former", "now"), FORMER)
def test_a_former_key_is_refused_with_the_new_one(former: str, now: str, refuse: Refuse) -> None:
    error = refuse("check", "recipe.yaml", f"{former}=1")
    assert f"{former}: there is no such key; " in error and now in error


def test_a_former_value_is_refused_with_the_new_one(refuse: Refuse) -> None:
    assert "did you mean needed_kv?" in refuse("check", "recipe.yaml", "parallel.exchange=needed")


def test_every_key_that_is_pointed_to_exists_and_none_of_ours_is_taken_for_anothers() -> None:
    known = find_places(Recipe)
    places = {place for found in known.values() for place in found}
    assert {key for key, _ in OURS.values()} <= places
    assert not set(OURS) & set(NONE)
    assert set(OURS) & set(known) <= {"max_steps"}, "only where our key of that name means something else"
    assert not set(NONE) & set(known)


def test_weight_decay_is_pointed_to_its_place(refuse: Refuse) -> None:
    assert "it belongs at stages[].weight_decay" in refuse("check", "recipe.yaml", "weight_decay=0.1")


@pytest.mark.parametrize(
    ("length", "meant"), [("2K", "2Ki (2,048)"), ("4000", "4Ki (4,096)"), ("16K", "16Ki (16,384)")]
)
def test_a_length_in_powers_of_ten_is_doubted(tmp_path: Path, length: str, meant: str) -> None:
    (tmp_path / "recipe.yml").write_text(RECIPE)
    sizes = [f"stages.0.context_length={length}", "stages.0.step_tokens=64Ki", "stages.0.tokens=8M"]
    told = check_recipe(load_recipe(tmp_path / "recipe.yml", sizes))["text"]
    assert f"did you mean {meant}?" in told
    assert "did you mean" not in check_recipe(load_recipe(tmp_path / "recipe.yml"))["text"]
