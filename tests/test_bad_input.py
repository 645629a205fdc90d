"""Whatever a user gives that cannot be used: one error of four lines, exit code 2, and a disk as it was before."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tokenizers import Tokenizer, models

from made_texts import sentence
from ropewalk.cli.main import main
from ropewalk.core.artifact import hold
from ropewalk.core.error import UserError
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.recipe import lora

THETA = {"context_length": 128, "rope": {"kind": "theta", "theta": 1e5}}
EXTEND = ["out", "context_length=128", "rope.kind=theta", "rope.theta=1e5"]
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with a recipe, a source of 100 documents, and a base whose weights are never read."""
    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "base")
    lines = [json.dumps({"text": sentence(number, 50)}) for number in range(100)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    recipe = {
        "model": "base",
        "run": "deep/run",
        "corpus": {
            "store": "store",
            "sources": [{"name": "prose", "path": "text.jsonl", "role": "general", "language": "en"}],
            "mix": {"general": 1},
        },
        "stages": [{**THETA, "tokens": 4096, "step_tokens": 512, "lr": 1e-3}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


def write_base(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").touch()
    tokenizer = Tokenizer(models.BPE(vocab={chr(32 + index): index for index in range(95)} | {"\n": 95}, merges=[]))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')


@pytest.fixture
def call(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """``call(*arguments) -> (exit code, standard output, standard error)``."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ropewalk", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return (int(end.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def refuse(home: Path, call: Call) -> Callable[..., str]:
    """``refuse(*arguments) -> error``: the command ends as bad input ends, and leaves the disk as it was."""

    def check(*arguments: str) -> str:
        before = tree(home)
        code, out, error = call(*arguments)
        assert code == 2 and out == "" and "Traceback" not in error, error
        said = error[error.index("ropewalk: ") :].splitlines()
        for word in ("where: ", "why:   ", "fix:   "):
            assert sum(line.startswith(f"  {word}") for line in said) == 1, error
        assert tree(home) == before and ".tmp-" not in error
        return error

    return check


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def write_shards_without_the_second() -> None:
    Path("base/model.safetensors").rename(Path("base", SHARDS[0]))
    index = {"weight_map": {"model.norm.weight": SHARDS[0], "lm_head.weight": SHARDS[1]}}
    Path("base/model.safetensors.index.json").write_text(json.dumps(index))


RECIPES = {
    "missing": (lambda: Path("recipe.yaml").unlink(), "No such file"),
    "a folder": (lambda: (Path("recipe.yaml").unlink(), Path("recipe.yaml").mkdir()), "Is a directory"),
    "not UTF-8": (lambda: Path("recipe.yaml").write_bytes(b"run: \xff"), "the recipe is not UTF-8"),
    "empty": (lambda: Path("recipe.yaml").write_text(""), "the recipe is not a mapping"),
    "not YAML": (lambda: Path("recipe.yaml").write_text("run: a\nseed: [1"), "recipe.yaml, line 2, column 9"),
    "a key twice": (lambda: Path("recipe.yaml").write_text("run: a\nrun: b\n"), "the key 'run' is given twice"),
}


@pytest.mark.parametrize("case", RECIPES)
def test_a_recipe_that_cannot_be_read(case: str, refuse: Callable[..., str]) -> None:
    break_it, message = RECIPES[case]
    break_it()
    for verb in ("run", "prepare", "check"):
        assert message in refuse(verb, "recipe.yaml")


KEYS = {
    "stages.0.lrr=1": "stages.0.lrr: there is no such key; did you mean lr?",
    "stages.0.lr=fast": "stages.0.lr: Input should be a valid number",
    "stages.0.context_length=1e400": "stages.0.context_length: 1e400 is too large",
    "stages.0.context_length=1e18": "the target is too long",
    "stages.0.rope.theta=1e400": "stages.0.rope.theta: ",
    "stages.0.rope={kind: yarn, factor: 1e400}": "stages.0.rope.factor: ",
    "stages.0.rope={kind: linear, factor: 1e300}": "stages.0.rope.factor: Input should be less than or equal to",
    "stages.0.context_length=1.5": "stages.0.context_length: 1.5 is not a whole number",
    "seed=[1]": "seed: Input should be a valid integer",
    "corpus.mix.general=0": "mix has no weight above 0",
    "corpus.mix.general=-1": "mix.general is -1",
    "corpus.mix.law=1": "known are: general, ",
    "stages.0.mix={general: 0}": "stages.0.mix has no weight above 0",
    "stages.0.mix={law: 1}": "stages.0.mix.law is neither a source",
    "stages.0.lengths={8Ki: 1}": "stages.0.lengths has no weight for documents below 8192 tokens",
    "stages.0.languages={zh: 0}": "stages.0.languages has no weight above 0",
    "stages.0.loss_weights={law: 1}": "stages.0.loss_weights.law names no source",
    "stages.0.rope.kind=yam": "stages.0.rope.kind: 'yam' is not one of 'unchanged', ",
    "stages.0.rope.kind=yarm": "did you mean yarn?",
    "stages.0.rope={theta: 1e6}": "stages.0.rope: its key `kind` is missing",
    "stages.0.rope={kind: theta, theta: far}": "stages.0.rope.theta: Input should be a valid number",
    "stages.0.rope=yarn": "stages.0.rope: must be a mapping",
    "stages.0.theta=1e6": "no such key here; it belongs at model.init.theta, stages[].rope.theta",
    "stages.0.stop={metric: foo, value: 1, max_steps: 2}": "'foo' is not an averaged metric",
    "corpus.mix.Web=x": "corpus.mix.Web: Input should be a valid number",
    "corpus.sources.0.profile=lawx": "corpus.sources.0.profile: Input should be 'prose_en', 'prose_zh'",
    "corpus.sources.0.profile={like: lawx}": "corpus.sources.0.profile.like: Input should be 'prose_en'",
    "corpus.sources.0.options.encodin=utf8": "sources.0.options.encodin: there is no such key; did you mean encoding?",
    "corpus.sources.0.options.encoding=utf0": "sources.0.options.encoding: 'utf0' is not an encoding",
    "corpus.sources.0.options.encoding=hex": "sources.0.options.encoding: 'hex' is not an encoding of text",
    "corpus.sources.0={name: a, embedded: b, role: general}": "there is no embedded source 'b'",
    "corpus.sources.0={name: a, embedded: stories_en, role: general}": "you must choose its size",
    "stages.3.lr=1": "'3' is not one of the positions 0 to 0",
    "seed": "it has no =",
    "seed=[": "this is not YAML",
    "model={init: {layer: 2}}": "model.init.layer: there is no such key; did you mean layers?",
    "parallel.rank=2": "parallel.rank: there is no such key; did you mean ranks?",
    "corpus.sources.0.join={by: book, sort: n}": "join.sort: there is no such key; there are attend, by, header",
    "model=[1]": "model: Input should be a valid string",
    "parallel.ranks=0": "parallel.ranks: a count must be 1 or more; auto leaves it open",
    "parallel.context_parallel=3": "1 rank cannot be divided into groups of 3 context ranks",
    "model=nowhere/at-all": "nowhere/at-all is not a model",
}


@pytest.mark.parametrize("override", KEYS)
def test_a_key_or_a_value_that_makes_no_sense(override: str, refuse: Callable[..., str]) -> None:
    error = refuse("prepare", "recipe.yaml", override)
    assert KEYS[override] in error and "stages: " not in error
    assert not any(name in error for name in ("model.ModelSource", "profile.Profile", "profile.literal", "theta.theta"))


def test_a_recipe_is_no_study_and_a_study_no_recipe(refuse: Callable[..., str]) -> None:
    assert "this is a recipe, not a study" in refuse("sweep", "recipe.yaml")
    Path("study.yaml").write_text("recipe: recipe.yaml\nstudy: s\narms: {a: []}\n")
    assert "ropewalk sweep study.yaml" in refuse("run", "study.yaml")
    error = refuse("sweep", "study.yaml", "seds=[1]")
    assert "the study has faults in seds" in error and "did you mean seeds?" in error


SOURCES = {
    "missing": (None, "no such file or folder"),
    "broken JSON": (
        b'{"text": "whole"}\n{"text": broken}\n',
        "broken JSON line in source prose\n  where: {}, line 2, byte 27",
    ),
    "invalid UTF-8": (
        b'{"text": "whole"}\n{"text": "\xff"}\n',
        "invalid UTF-8 in source prose\n  where: {}, line 2, byte 28",
    ),
    "empty": (b"", "source prose has no document"),
    "blank lines": (b"\n \n", "source prose has no document"),
    "not records": (b"[1]\n", "not a record"),
    "another key": (b'{"body": "x"}\n', "'text' must contain the text; found keys body"),
    "another type": (b'{"text": 7}\n', "found a int"),
}


@pytest.mark.parametrize("case", SOURCES)
def test_text_that_cannot_be_read(case: str, home: Path, refuse: Callable[..., str]) -> None:
    content, message = SOURCES[case]
    path = home / "bad.jsonl"
    if content is not None:
        path.write_bytes(content)
    for verb in ("prepare", "run"):
        assert message.format(path) in refuse(verb, "recipe.yaml", f"corpus.sources.0.path={path}")


def test_after_bad_text_the_mended_recipe_runs_in_the_same_folder(call: Call, refuse: Callable[..., str]) -> None:
    with Path("text.jsonl").open("a") as file:
        file.write("\n{broken\n")
    assert "faults: skip" in refuse("prepare", "recipe.yaml")
    code, out, _ = call("prepare", "recipe.yaml", "corpus.sources.0.faults=skip")
    assert code == 0 and out == "deep/run/corpus\n"


BASES: dict[str, tuple[Callable[[], Any], str]] = {
    "no config": (lambda: Path("base/config.json").unlink(), "base has no config.json"),
    "a broken config": (lambda: Path("base/config.json").write_text("{"), "config.json cannot be read"),
    "unsupported": (
        lambda: Path("base/config.json").write_text(json.dumps({**CONFIG, "architectures": ["Zamba2ForCausalLM"]})),
        "Zamba2",
    ),
    "a missing shard": (write_shards_without_the_second, f"base/{SHARDS[1]}\n  why:   the index has 2 files"),
    "a broken index": (lambda: Path("base/model.safetensors.index.json").write_text("[]"), "not an index of weights"),
    "no weights": (lambda: Path("base/model.safetensors").unlink(), "no safetensors weights"),
    "no tokenizer": (lambda: Path("base/tokenizer.json").unlink(), "base/tokenizer.json"),
    "a small vocabulary": (
        lambda: Path("base/config.json").write_text(json.dumps({**CONFIG, "vocab_size": 90})),
        "tokenizer and model do not match",
    ),
    "an unknown activation": (
        lambda: Path("base/config.json").write_text(json.dumps({**CONFIG, "hidden_act": "swoosh"})),
        "hidden_act is not usable",
    ),
    "a broken tokenizer": (lambda: Path("base/tokenizer.json").write_text("{"), "a tokenizer cannot be read"),
}


@pytest.mark.parametrize("case", BASES)
def test_a_model_that_cannot_be_used_is_refused_before_any_text_is_read(case: str, refuse: Callable[..., str]) -> None:
    break_it, message = BASES[case]
    break_it()
    assert message in refuse("prepare", "recipe.yaml")
    assert message in refuse("run", "recipe.yaml")


def test_extending_what_cannot_be_extended(refuse: Callable[..., str]) -> None:
    assert "the folder for the extended model is missing" in refuse("extend", "base")
    assert "there already" in refuse("extend", "base", "base", *EXTEND[1:])
    assert "context_length: missing" in refuse("extend", "base", "out")
    write_shards_without_the_second()
    assert SHARDS[1] in refuse("extend", "base", *EXTEND)


@pytest.mark.parametrize("key", ["run", "corpus.store"])
def test_a_folder_that_is_a_file(key: str, refuse: Callable[..., str]) -> None:
    Path("taken").touch()
    assert "this folder cannot be made" in refuse("prepare", "recipe.yaml", f"{key}=taken")
    assert "this folder cannot be made" in refuse("prepare", "recipe.yaml", f"{key}=taken/below")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
@pytest.mark.parametrize("key", ["run", "corpus.store"])
def test_a_folder_that_cannot_be_written(key: str, refuse: Callable[..., str]) -> None:
    Path("closed").mkdir(mode=0o500)
    assert "Permission denied" in refuse("prepare", "recipe.yaml", f"{key}=closed")
    assert "Permission denied" in refuse("prepare", "recipe.yaml", f"{key}=closed/below")


def leave_free(monkeypatch: pytest.MonkeyPatch, *, free_bytes: int) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 40, (1 << 40) - free_bytes, free_bytes))


def test_a_disk_without_room(refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    leave_free(monkeypatch, free_bytes=1 << 20)
    assert "256 MiB needed, 1 MiB free" in refuse("prepare", "recipe.yaml")


def test_a_disk_that_fills_up_on_the_way(refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def save(*_: Any, **__: Any) -> None:
        leave_free(monkeypatch, free_bytes=0)
        raise OSError("4096 requested and 512 written")  # numpy's words for it, without an errno

    monkeypatch.setattr(np, "save", save)
    error = refuse("prepare", "recipe.yaml")
    assert "the disk is full\n  where: " in error and "/store/.shards/" in error and "512 written" in error


@pytest.mark.parametrize("folder", ["deep/run", "store"])
def test_a_folder_in_use(folder: str, home: Path, refuse: Callable[..., str]) -> None:
    (home / folder).mkdir(parents=True)
    with hold(home / folder):
        error = refuse("prepare", "recipe.yaml")
    assert "the folder is in use" in error and f"pid {os.getpid()} on" in error


def test_adapters_without_their_package(refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "find_spec", lambda _: None)
    assert "lora needs the package peft" in refuse("run", "recipe.yaml", "stages.0.lora.rank=4")


def test_another_recipe_before_any_step_says_what_is_made_anew(call: Call) -> None:
    """What training would be lost by is refused: commands/test_grow.py."""
    assert call("prepare", "recipe.yaml")[0] == 0
    code, _, error = call("prepare", "recipe.yaml", "seed=5")
    assert code == 0 and "the recipe has changed: seed (0 there, 5 here)\nmade again because of this: corpus;" in error
    keys = ("max_grad_norm", "micro_batch_size", "lr", "log_steps")
    code, _, error = call("prepare", "recipe.yaml", "seed=6", *(f"stages.0.{key}=2" for key in keys))
    assert code == 0 and "the recipe has changed: seed (5 there, 6 here), stages.0.lr" in error


def test_check_tells_what_positions_become(call: Call) -> None:
    told = "stage 0 positions: 0: yarn factor 2 theta 10000 -> 100000 over the original 64"
    code, out, error = call("check", "recipe.yaml", "stages.0.rope.kind=yarn")
    assert code == 0 and told in out
    assert "stages.0.rope: yarn inherits theta: 100000.0 from the file" in error


def test_a_damaged_corpus_folder(call: Call) -> None:
    assert call("prepare", "recipe.yaml")[0] == 0
    Path("deep/run/corpus/corpus.json").write_text("x")
    with pytest.raises(UserError, match=r"corpus\.json has 1 bytes"):
        open_corpus(Path("deep/run/corpus"))


def test_special_tokens_in_a_text_are_text(home: Path, call: Call) -> None:
    text = "A page that says <|endoftext|> in its middle, and goes on: " + sentence(900, 50)
    with Path("text.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"text": text}))
    assert call("prepare", "recipe.yaml", "corpus.held_out=0")[0] == 0
    corpus = open_corpus(home / "deep/run/corpus")
    documents = list(corpus.train("prose"))
    assert len(documents) == 101
    assert all(np.flatnonzero(tokens == corpus.eos_id).tolist() == [len(tokens) - 1] for tokens in documents)
    letters = json.loads(Path("base/tokenizer.json").read_text())["model"]["vocab"]
    spelled = [letters[character] for character in "<|endoftext|>"]
    assert any(list(tokens[i : i + 13]) == spelled for tokens in documents for i in range(len(tokens)))


INTERRUPTED = """
import os, signal
from ropewalk.cli.main import main
from ropewalk.corpus.prepare.tokenized import Gathered
plain, taken = Gathered.take, []
def take(*args):
    plain(*args)
    taken.append(args)
    if len(taken) == 50:
        os.kill(os.getpid(), signal.SIGINT)
Gathered.take = take
main()
"""
"""The command gets the signal between two of its documents, however fast the machine is."""


def test_ctrl_c_leaves_nothing_half_done_and_going_on_gives_the_same_bytes(home: Path, call: Call) -> None:
    before = tree(home)
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job ignores it, and so would children
    command = [sys.executable, "-c", INTERRUPTED, "prepare", "recipe.yaml"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    out, error = process.communicate()
    assert process.returncode == 75 and out == "" and "Traceback" not in error
    assert error.endswith("stopped on request, and saved: the same command continues from here\n")
    assert not list((home / "store").rglob(".tmp-*"))  # what is finished stays
    assert {path: content for path, content in tree(home).items() if "/store" not in path} == before
    assert call("prepare", "recipe.yaml")[0] == 0
    assert call("prepare", "recipe.yaml", "run=whole/run", "corpus.store=other")[0] == 0
    gone_on, whole = tree(home / "store"), tree(home / "other")
    assert list(gone_on.values())[1:] == list(whole.values())[1:]  # the lock, first, names the process
