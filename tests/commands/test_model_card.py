"""A model card says what the run's records say, the hub can read its head, and names from outside break nothing."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from invented_run import write_run
from ropewalk.commands.model_card import make_card
from ropewalk.core.run_folder import CORPUS_CONTENT, RunFolder
from ropewalk.report.contents import read_run
from ropewalk.report.verdict import judge_measures
from ropewalk.shape.find import TINY_BASE


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "quickstart")


def test_a_card_has_base_positions_stages_text_measures_and_commands(run: Path) -> None:
    card, contents = ModelCard(make_card(run, TINY_BASE)), read_run(run)
    assert card.data.library_name == "transformers" and card.data.base_model is None, "the packaged base is on no hub"
    assert "license" not in card.data.to_dict(), "nobody has said what it is"
    assert set(card.data.language) <= {"en", "zh"} and "long-context" in card.data.tags
    text = card.text
    for heading in ("## Positions and stages", "## Text", "## Measured", "## Serve it"):
        assert text.count(heading) == 1
    for stage in contents.stages:
        assert f"| {stage.number} | " in text and f"{stage.steps:,}" in text
    for name, facts in contents.sources.items():
        (row,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
        assert row.endswith(f"| {facts.get('license') or 'not known'} |")
    (header,) = [line for line in text.splitlines() if line.startswith("| measure |")]
    assert header.index("base") < header.index("zero-shot") < header.index("extended")
    assert all(verdict.name in text for verdict in judge_measures(contents))
    assert "vllm serve FOLDER" in text and str(TINY_BASE) not in text


def test_a_checkpoint_gets_no_figures_of_the_last_model(run: Path) -> None:
    text = make_card(run, TINY_BASE, checkpoint="stage 0, step-00000050")
    assert "These are the weights of stage 0, step-00000050" in text and "## Measured" not in text


def test_names_from_outside_end_no_cell_and_no_head(run: Path) -> None:
    path = RunFolder(run).recipe
    recipe = yaml.safe_load(path.read_text())
    recipe["model"] = "evil | name\n---\nlicense: mit\n<script>"
    path.write_text(yaml.safe_dump(recipe))
    card = ModelCard(make_card(run, TINY_BASE))
    assert "license" not in card.data.to_dict()
    assert "from `evil \\| name" in card.text and "<script>" not in card.text
    assert not any(line.startswith(("---", "license")) for line in card.text.splitlines())


def test_the_head_has_only_what_the_hub_takes(run: Path) -> None:
    """A base without its revision, and codes of languages: else the hub refuses the whole push."""
    path, content = RunFolder(run).recipe, RunFolder(run).corpus / CORPUS_CONTENT
    recipe, held = yaml.safe_load(path.read_text()), json.loads(content.read_text())
    recipe["model"] = "org/base@0123abc"
    path.write_text(yaml.safe_dump(recipe))
    next(iter(held["sources"].values()))["facts"]["languages"] = {
        name: {"documents": 1, "tokens": 9} for name in ("yue", "code", "none", "other", "latin", "en")
    }
    content.write_text(json.dumps(held))
    head = ModelCard(make_card(run, TINY_BASE)).data
    assert head.base_model == "org/base" and {"en", "yue"} <= set(head.language) <= {"en", "yue", "zh"}


def test_a_run_whose_corpus_was_removed_has_a_card_without_licences(run: Path) -> None:
    shutil.rmtree(RunFolder(run).corpus)
    card = make_card(run, TINY_BASE)
    assert "Where a licence is not known" in card and "| tokens read |" in card


def test_a_run_without_scores_has_a_card_without_measures(run: Path) -> None:
    RunFolder(run).scores.unlink()
    assert "## Measured" not in make_card(run, TINY_BASE)
    assert json.loads((TINY_BASE / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
