"""Shares against the feed's own, wavelengths against RoPE's, maps against the scores that they are made of."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from ropewalk.core.artifact import seal
from ropewalk.corpus.mix import source_shares
from ropewalk.recipe.load import parse_recipe
from ropewalk.report.contents import read_run
from ropewalk.report.measures import length_marks, read_mixture, retrieval_maps, wavelengths_of
from ropewalk.rope.frequency import plain_inv_freq, wavelengths


@pytest.mark.parametrize(
    "mix",
    [
        {"general": 7, "domain": 2, "instruction": 1},
        {"general": 5, "code": 3, "key_value": 1},
        {"domain": 1, "code": 2, "licences": 0},
    ],
)
def test_planned_shares_are_the_feeds(run: Path, mix: dict[str, float]) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["stages"][0]["mix"] = mix
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    contents = read_run(run)
    truth = source_shares(
        mix,
        roles={name: facts["role"] for name, facts in contents.sources.items()},
        tokens={name: facts["tokens"] for name, facts in contents.sources.items()},
    )
    parts = read_mixture(contents, contents.stages[0])
    assert {part.source: part.planned for part in parts} == pytest.approx(truth)


def test_realised_shares_are_tokens_over_all_panels(run: Path) -> None:
    contents = read_run(run)
    parts = read_mixture(contents, contents.stages[0])
    assert sum(part.realised for part in parts) == pytest.approx(1)
    topics = parts[0]
    assert topics.repeats == topics.tokens / contents.sources["topics"]["tokens"]
    assert topics.tokens == sum(row.value for row in contents.stages[0].rows if row.name == "tokens/source/topics")


def test_wavelengths_before_and_after(run: Path) -> None:
    waves = wavelengths_of(read_run(run))
    assert np.allclose(waves["base"], wavelengths(plain_inv_freq(1e4, 32)))
    assert np.allclose(waves["extended"], wavelengths(plain_inv_freq(1e6, 32)))


def test_a_base_of_unknown_theta_is_not_drawn(run: Path) -> None:
    manifest = run / "stages" / "0" / "extended" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("base_theta", "other"))
    assert list(wavelengths_of(read_run(run))) == ["extended"]


def test_marks_are_the_lengths_before_and_after(run: Path) -> None:
    assert length_marks(read_run(run)) == {"base": 512, "trained at": 2048}


def test_maps_have_a_hole_where_nothing_was_measured(run: Path) -> None:
    contents = read_run(run)
    fewer = [score for score in contents.scores if not (score.context_tokens == 4096 and score.depth == 0.5)]
    object.__setattr__(contents, "scores", fewer)
    base, extended = retrieval_maps(contents, "retrieval/key_value")
    assert base.model == "base" and base.depths == [0.1, 0.3, 0.5, 0.7, 0.9]
    assert base.lengths == [512, 1024, 2048, 4096]
    assert np.isnan(extended.accuracy[3]).tolist() == [depth == 0.5 for depth in base.depths]


def test_the_digest_is_the_recipes_own(run: Path) -> None:
    recipe = parse_recipe(yaml.safe_load((run / "recipe.yaml").read_text()), where="tests")
    assert read_run(run).recipe_digest == recipe.digest


def test_versions_are_those_that_the_run_noted(run: Path) -> None:
    assert read_run(run).versions["transformers"] == "5.23.0"
    (run / "manifest.json").unlink()
    contents = read_run(run)
    assert "numpy" in contents.versions and list(contents.versions) == sorted(contents.versions)
    seal(run, kind="run", inputs={}, facts={"torch": "9"}, names=["recipe.yaml"])
    assert read_run(run).versions == {"torch": "9"}
