"""``ropewalk corpus ...`` as a person types it: report, mix, one share of an array, export."""

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from made_texts import han, sentence
from ropewalk.cli.main import app
from ropewalk.core.error import UserError


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Two sources on the packaged base, not prepared yet."""
    for name, texts in {
        "web": [sentence(n, 200 + 900 * (n % 9 == 0)) for n in range(60)],
        "law": [han(n, 700) for n in range(40)],
    }.items():
        lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    content = {
        "model": "tiny-base",
        "run": str(tmp_path / "run"),
        "corpus": {
            "store": str(tmp_path / "store"),
            "sources": [
                {"name": "web", "path": str(tmp_path / "web.jsonl"), "role": "general", "language": "en"},
                {"name": "law", "path": str(tmp_path / "law.jsonl"), "role": "domain", "profile": "law"},
            ],
            "mix": {"general": 3, "domain": 1},
        },
        "stages": [
            {
                "context_length": 1024,
                "rope": {"kind": "theta", "theta": 1e6},
                "tokens": 40960,
                "step_tokens": 4096,
                "lr": 1e-3,
            }
        ],
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def say(*words: str) -> str:
    done = CliRunner().invoke(app, [*words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_what_rows_lack_is_told_by_prepare_report_and_check(recipe: Path, tmp_path: Path) -> None:
    """Before anything is trained: rows without a label, conversations that are left out, too little held-out text."""
    chats = [
        {
            "messages": [
                {"role": "user", "content": sentence(n, 900)},
                {"role": "assistant", "content": sentence(n + 99)},
            ]
        }
        for n in range(30)
    ]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    chat = {"name": "chat", "path": str(tmp_path / "chat.jsonl"), "role": "instruction"}
    content = yaml.safe_load(recipe.read_text())
    content["corpus"]["sources"].append(
        {**chat, "options": {"messages_key": "messages"}, "long_documents": "split"},
    )
    content["corpus"]["mix"]["instruction"] = 1
    recipe.write_text(yaml.safe_dump(content))
    assert "have no label" not in CliRunner().invoke(app, ["check", str(recipe)]).output, "nothing is known yet"
    prepared = CliRunner().invoke(app, ["prepare", str(recipe)], catch_exceptions=False).stderr
    for said in (prepared, say("check", str(recipe))):
        assert "sequences of chat (" in said and ") have no label" in said
        assert "of 64 held-out documents have 2048 tokens" in said and "evaluate.documents" in said
    assert ") have no label" in say("corpus", "report", str(recipe))
    assert ") have no label" in (tmp_path / "run" / "corpus.html").read_text()


def test_text_outside_the_mix_that_is_in_it_is_refused_at_each_start(recipe: Path, tmp_path: Path) -> None:
    """Else a second start would train, and the evaluation would refuse."""
    (tmp_path / "poem.jsonl").write_text((tmp_path / "web.jsonl").read_text().splitlines()[7] + "\n")
    foreign = f"evaluate.foreign=[{{name: poem, path: {tmp_path / 'poem.jsonl'}}}]"
    for _ in range(2):
        done = CliRunner().invoke(app, ["prepare", str(recipe), foreign])
        assert isinstance(done.exception, UserError), done.output
        assert done.exception.what == "foreign text poem is in the mix"


def test_shares_then_prepare_then_report_mix_and_export(recipe: Path, tmp_path: Path) -> None:
    # The first share has to wait for the other's survey; the last one surveyed goes on at once.
    for share, tasks, waits in (("0/2", 1, True), ("1/2", 2, False), ("0/2", 1, False)):
        done = json.loads(say("corpus", "tokenise", str(recipe), "--share", share, "--json"))
        assert (done["tasks"], done["waits"]) == (tasks, waits)
    say("prepare", str(recipe))
    made = json.loads(say("corpus", "report", str(recipe), "--json"))
    assert [Path(path).name for path in made["made"]] == ["corpus.html", "corpus.json", "corpus-card.md"]
    card = (tmp_path / "run" / "corpus-card.md").read_text()
    assert say("corpus", "card", str(recipe)).strip().endswith("corpus-card.md") and "| web | general |" in card
    survey = json.loads((tmp_path / "run" / "corpus.json").read_text())
    assert survey == made["survey"] and survey["stages"][0]["sequences"] == 40
    assert "Corpus of run" in (tmp_path / "run" / "corpus.html").read_text()

    weights = json.loads(say("corpus", "mix", str(recipe), "mix.domain=3", "lengths.0=1", "lengths.512=3", "--json"))
    shares = {part["name"]: part["share"] for part in weights["stages"][0]["strata"]}
    assert sum(share for name, share in shares.items() if name.startswith("law")) == pytest.approx(0.5)
    assert shares["web/512"] == pytest.approx(3 * shares["web/0"])
    own = "stages.0.lengths={0: 1, 512: 9}"  # a stage's weights stand before the corpus's
    weights = json.loads(
        say("corpus", "mix", str(recipe), "lengths.0=1", "lengths.512=3", own, "evaluate.answers=7", "--json")
    )
    shares = {part["name"]: part["share"] for part in weights["stages"][0]["strata"]}
    assert shares["web/512"] == pytest.approx(9 * shares["web/0"])
    assert "would be read more than" in say("corpus", "mix", str(recipe), "stages.0.tokens=90M")

    say("corpus", "export", str(recipe), str(tmp_path / "out"), "--format", "megatron")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("web.bin", "web.idx", "law.bin", "law.idx", "manifest.json", "corpus-card.md"),
    }
    assert (tmp_path / "out" / "corpus-card.md").read_text() == card
    with pytest.raises(UserError, match="there already"):
        say("corpus", "export", str(recipe), str(tmp_path / "out"), "--format", "olmo")
    for truncated, sample, why in (
        ("2", "1", "it has 4 to 256 tokens"),
        ("512", "1", "it has 4 to 256 tokens"),
        ("4k", "1", "did you mean 4Ki"),
        ("64", "0", "above 0 and at most 1"),
    ):
        asked = ["corpus", "score", str(recipe), "scores.jsonl", "--truncated", truncated, "--sample", sample]
        refused = CliRunner().invoke(app, asked)
        assert isinstance(refused.exception, UserError) and why in refused.exception.why
    dry = CliRunner().invoke(app, ["run", str(recipe), f"run={tmp_path / 'dry'}", "stages.0.tokens=90M"])
    assert isinstance(dry.exception, UserError) and "more than max_repeats" in dry.exception.why
    assert re.match(r"give it at most \d+\.\d+%, .*raise max_repeats to \d", dry.exception.fix)
    assert "== prepare" in dry.stderr and "== extend" not in dry.stderr, "nothing is done after text runs dry"
    again = CliRunner().invoke(app, ["prepare", str(recipe), f"run={tmp_path / 'dry'}", "stages.0.tokens=90M"])
    assert isinstance(again.exception, UserError), "a second try says the same, though the corpus is there"


def test_prepared_text_is_shown_where_a_stage_asks_for_more_than_there_is(recipe: Path, tmp_path: Path) -> None:
    """The stage is told as a warning, in the terminal and on the page, which shows what was prepared."""
    say("prepare", str(recipe))
    found = CliRunner().invoke(app, ["corpus", "report", str(recipe), "stages.0.tokens=40Mi"], catch_exceptions=False)
    told = found.stdout
    assert found.stderr.endswith(f"then ropewalk check {recipe} stages.0.tokens=40Mi\n") and "train" not in found.stderr
    assert told.startswith("warning: stage 0: source ") and " runs dry: its " in told and "\n  fix: " in told
    survey = json.loads((tmp_path / "run" / "corpus.json").read_text())
    assert survey["stages"] == [] and [each["stage"] for each in survey["undrawn"]] == [0]
    page = (tmp_path / "run" / "corpus.html").read_text()
    assert "The text cannot give the mix of stage 0." in page and "runs dry" in page and "Lengths" in page
    assert json.loads(say("corpus", "report", str(recipe), "--json"))["survey"]["undrawn"] == []
    with pytest.raises(UserError, match="a language has no weight"):  # which more text would not mend
        say("corpus", "report", str(recipe), "stages.0.languages={en: 1}")


@pytest.mark.parametrize("share", ["2/2", "x", "1", "-1/2"])
def test_a_share_that_is_none_is_refused(recipe: Path, share: str) -> None:
    with pytest.raises(UserError, match="this is not a valid share"):
        say("corpus", "tokenise", str(recipe), f"--share={share}")


@pytest.mark.parametrize("verb", ["report", "mix"])
def test_a_corpus_that_is_not_prepared_is_told(recipe: Path, verb: str) -> None:
    with pytest.raises(UserError, match="not done"):
        say("corpus", verb, str(recipe))


def test_a_format_that_nobody_knows_is_refused(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such format"):
        say("corpus", "export", str(recipe), str(tmp_path / "out"), "--format", "parquet")


@pytest.mark.parametrize("verb", ["report", "inspect", "card", "export"])
def test_a_corpus_of_version_0_1_is_to_be_prepared_again(recipe: Path, verb: str, tmp_path: Path) -> None:
    """There the split of each document had another name. What was written in the manifest stays as it was."""
    say("prepare", str(recipe))
    folder = tmp_path / "run" / "corpus"
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("web", "law"):
        (folder / name / "split.npy").rename(folder / name / "fate.npy")
        manifest["files"][f"{name}/fate.npy"] = manifest["files"].pop(f"{name}/split.npy")
    del manifest["digest"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    given = [str(tmp_path / "out"), "--format", "megatron"] if verb == "export" else []
    with pytest.raises(UserError, match="prepared by an earlier version") as refused:
        say("corpus", verb, str(recipe), *given)
    assert f"remove {folder}" in refused.value.fix and not (tmp_path / "out").exists()
