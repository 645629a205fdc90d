"""Shares against the feed's own, wavelengths against RoPE's, maps against the scores that they are made of."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from ropewalk.core.artifact import seal
from ropewalk.core.error import UserError
from ropewalk.recipe.load import parse_recipe
from ropewalk.report.contents import read_run
from ropewalk.report.inputs import make_mixture
from ropewalk.report.measures import length_marks, read_mixture, retrieval_maps, turnings_of
from ropewalk.rope.frequency import plain_inv_freq
from ropewalk.rope.layers import LayerPosition
from ropewalk.rope.scaling import Nope, Unchanged, Yarn


def test_planned_shares_are_those_that_training_noted(run: Path) -> None:
    """Languages, lengths and dry strata decide them too, so no mix is read a second time."""
    noted = {"topics": 0.4, "stories_zh": 0.5, "licences": 0.1}
    (run / "stages" / "0" / "mix.json").write_text(json.dumps(noted))
    contents = read_run(run)
    parts = read_mixture(contents, contents.stages[0])
    assert {part.source: part.planned for part in parts if part.source in noted} == noted
    (run / "stages" / "0" / "mix.json").unlink()
    contents = read_run(run)
    parts = read_mixture(contents, contents.stages[0])
    assert parts and all(np.isnan(part.planned) for part in parts)
    section = make_mixture(contents)
    assert section.pictures == [] and [row[2] for row in section.tables[0].rows] == [""] * len(parts)


def test_realised_shares_are_tokens_over_all_panels(run: Path) -> None:
    contents = read_run(run)
    parts = read_mixture(contents, contents.stages[0])
    assert sum(part.realised for part in parts) == pytest.approx(1)
    topics = parts[0]
    assert topics.repeats == topics.tokens / contents.sources["topics"]["tokens"]
    assert topics.tokens == sum(row.value for row in contents.stages[0].rows if row.name == "tokens/source/topics")


def test_turns_before_and_after(run: Path) -> None:
    base, extended = turnings_of(read_run(run))
    assert (base.name, extended.name, base.main, extended.main) == ("base", "extended", False, True)
    assert np.allclose(base.inv_freq, plain_inv_freq(1e4, 32)) and base.theta == pytest.approx(1e4)
    assert np.allclose(extended.inv_freq, plain_inv_freq(1e6, 32)) and extended.theta == pytest.approx(1e6)


def test_where_layers_differ_those_that_see_all_tokens_are_drawn(run: Path) -> None:
    window = LayerPosition(rope=Unchanged(), theta=1e4, window_tokens=128)
    layers = [
        window,
        LayerPosition(rope=Nope(), theta=1e4),
        LayerPosition(rope=Yarn(factor=4, theta=1e4, original_tokens=512), theta=1e4),
    ]
    manifest = run / "stages" / "0" / "extended" / "manifest.json"
    noted = json.loads(manifest.read_text())
    noted["inputs"]["positions"] = [layer.model_dump(mode="json") for layer in layers]
    manifest.write_text(json.dumps(noted))
    _, extended = turnings_of(read_run(run))
    assert np.allclose(extended.inv_freq, layers[2].inv_freq(32)) and extended.theta is None


def test_damaged_positions_are_named(run: Path) -> None:
    manifest = run / "stages" / "0" / "extended" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"unchanged"', '"unheard of"'))
    with pytest.raises(UserError, match=r"extended/manifest\.json"):
        read_run(run)


def test_nothing_is_drawn_before_anything_is_extended(run: Path) -> None:
    shutil.rmtree(run / "stages")
    assert turnings_of(read_run(run)) == []


def test_marks_are_the_lengths_before_and_after(run: Path) -> None:
    assert length_marks(read_run(run)) == {"base": 512, "trained at": 2048}


def test_maps_have_a_hole_where_nothing_was_measured(run: Path) -> None:
    contents = read_run(run)
    fewer = [score for score in contents.scores if not (score.context_tokens == 4096 and score.depth == 0.5)]
    object.__setattr__(contents, "scores", fewer)
    base, zero_shot, extended = retrieval_maps(contents, "retrieval/key_value")
    assert zero_shot.model == "zero-shot"
    assert base.model == "base" and base.depths == [0.1, 0.3, 0.5, 0.7, 0.9]
    assert base.lengths == [512, 1024, 2048, 4096]
    assert np.isnan(extended.accuracy[3]).tolist() == [depth == 0.5 for depth in base.depths]


def test_the_digest_is_the_recipes_own(run: Path) -> None:
    recipe = parse_recipe(yaml.safe_load((run / "recipe.yaml").read_text()), where="tests")
    assert read_run(run).recipe_digest == recipe.digest
    text = (run / "recipe.yaml").read_text()
    data = yaml.safe_load(text)
    data["stages"][0]["rope"] = {"kind": "yarn"}  # a run folder has the given keys of a rope alone
    (run / "recipe.yaml").write_text(yaml.safe_dump(data))
    try:
        assert read_run(run).recipe_digest == parse_recipe(data, where="tests").digest
    finally:
        (run / "recipe.yaml").write_text(text)


def test_versions_are_those_that_the_run_noted(run: Path) -> None:
    assert read_run(run).versions["transformers"] == "5.23.0"
    (run / "manifest.json").unlink()
    contents = read_run(run)
    assert "numpy" in contents.versions and list(contents.versions) == sorted(contents.versions)
    seal(run, kind="run", inputs={}, facts={"torch": "9"}, names=["recipe.yaml"])
    assert read_run(run).versions == {"torch": "9"}
