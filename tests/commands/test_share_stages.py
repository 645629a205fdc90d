"""Arms that begin alike train their beginning once, and end as if each had trained alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from ropewalk.commands.receipt import tell_receipt
from ropewalk.commands.run import do_part
from ropewalk.commands.share_stages import digest_stage, digest_text, link_finished
from ropewalk.commands.sweep import run_sweep
from ropewalk.core.error import UserError
from ropewalk.core.run_folder import RunFolder
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.sweep import load_sweep


def write_study(recipe: Recipe, folder: Path, model: Path) -> Path:
    """Two arms that differ only in how the last stage's weights are merged with the base."""
    data = recipe.to_json()
    data |= {"model": str(model), "stages": data["stages"][1:]}
    data["parallel"] |= {"ranks": 1, "context_parallel": 1}
    data["stages"][0] |= {"tokens": 1024, "gate": None}
    data["evaluate"] |= {"answers": 4, "documents": 2, "short_tokens": 128, "lengths": [1], "position_lengths": 1}
    (folder / "one.yaml").write_text(yaml.safe_dump(data))
    arms = {"most": ["stages.0.merge_with_base=0.9"], "half": ["stages.0.merge_with_base=0.5"]}
    sweep = {"recipe": "one.yaml", "study": str(folder / "study"), "arms": arms, "seeds": [1], "base": False}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(sweep, sort_keys=False))
    return path


def test_arms_that_begin_alike_train_once_and_end_as_if_alone(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    do_part("prepare", recipe)
    study = write_study(recipe, tmp_path, RunFolder(Path(recipe.run)).initial)
    results = json.loads(Path(run_sweep(study, [])["results"]).read_text())
    said = capsys.readouterr().err
    assert "stage 0: linked from seed-1/most/trained, not trained again" in said
    assert "seed-1/half/zero-shot: has the scores of seed-1/most/zero-shot" in said
    most, half = (RunFolder(tmp_path / f"study/cells/seed-1/{arm}/trained") for arm in ("most", "half"))
    name = "model.safetensors"
    assert (most.extended(0) / name).stat().st_ino == (half.extended(0) / name).stat().st_ino
    assert most.metrics.read_text() == half.metrics.read_text()
    assert (tmp_path / "study/pareto.svg").read_text().startswith("<svg")
    assert len(tell_receipt(most.root, None)["stages"]) == 1
    with pytest.raises(UserError, match="no receipt can be made") as refused:
        tell_receipt(half.root, None)
    assert "has no session of stage 0, whose steps were linked from another cell" in refused.value.why

    base = read_floats(RunFolder(Path(recipe.run)).initial / name)
    ours, theirs = (read_floats(run.trained(0) / name) for run in (half, most))
    for key, value in base.items():  # the weights of the last step, out of the blend of 0.9, make the blend of 0.5
        last = (theirs[key] - 0.1 * value) / 0.9
        np.testing.assert_allclose(ours[key], 0.5 * last + 0.5 * value, atol=1e-6)
    assert [cell["arm"] for cell in results["cells"]] == ["most", "half"] * 2


def read_floats(path: Path) -> dict[str, np.ndarray]:
    return {key: value.astype(np.float64) for key, value in load_file(path).items()}


def test_parts_are_shared_only_where_all_that_decides_them_is_equal(recipe: Recipe, tmp_path: Path) -> None:
    study = write_study(recipe, tmp_path, tmp_path)

    def digests(*overrides: str) -> tuple[str, str, str]:
        cell = load_sweep(study, overrides)[1][-1]
        stage = (digest_stage(cell.recipe, 0, written=written) for written in (False, True))
        return digest_text(cell.recipe), *stage

    text, trained, written = digests()
    assert digests("overrides=[stages.0.lr=0.002]")[0] == text
    for key in ("stages.0.lr=0.002", "parallel.states=host", "stages.0.tokens=2048"):
        assert digests(f"overrides=[{key}]")[1] != trained
    merged = digests("arms={half: [stages.0.merge_with_base=0.4]}")
    assert merged[1] == trained and merged[2] != written
    assert digests("seeds=[2]")[:2] != (text, trained) and digests("seeds=[2]")[0] == text


def test_a_folder_of_another_recipe_gives_nothing(recipe: Recipe, tmp_path: Path) -> None:
    """As after a change of the study: what stands there was made from another recipe."""
    study = write_study(recipe, tmp_path, tmp_path)
    cells = load_sweep(study)[1]
    donor = RunFolder(Path(cells[-2].recipe.run))
    donor.corpus.mkdir(parents=True)
    (donor.corpus / "manifest.json").write_text("{}")
    donor.recipe.write_text((tmp_path / "one.yaml").read_text())
    link_finished(cells[-1], cells[:-1])
    assert not RunFolder(Path(cells[-1].recipe.run)).corpus.exists()
