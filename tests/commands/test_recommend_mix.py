"""A study's laws answer one question, are compared with a recipe, and watch a run; bad input is one clear error."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ropewalk.commands import recommend_mix as recommend_mix_module
from ropewalk.commands.check_mix_study import find_unmeasured
from ropewalk.commands.recommend_mix import recommend_mix
from ropewalk.core.error import UserError
from ropewalk.core.record import Metric
from ropewalk.evaluate.study_fit import MIX_FIT, StudyFit, find_measured, fit_study, read_study_fit
from ropewalk.recipe.load import load_recipe
from ropewalk.recipe.spec import Recipe
from ropewalk.train.mix_guard import make_guard

BUDGETS = (256e3, 512e3, 1e6, 2.2e6)
BASE = {"stories_en": 2.4, "code": 3.0}


def losses(domain: float, tokens: float) -> tuple[float, float]:
    """General and domain loss of a mix with 10 % instruction text, by a law that the fit can have."""
    ours = tokens / 1e6
    general = 2.2 + 0.06 / (1.0 - domain) ** 0.9 - 0.2 * (0.9 - domain) ** 0.4 / ours**0.3
    return general, 2.2 + 0.4 / (domain + 0.1) ** 0.5 + 0.2 * (domain / ours) ** 0.5


def make_results(*, wave: float = 0.0, base: bool = True) -> dict[str, Any]:
    cells: list[dict[str, Any]] = []
    for budget in BUDGETS:
        own = {"choices": {"budget": str(budget)}, "seed": 1, "tokens": budget}
        rows = [[f"short/{name}", "nats", 512, None, 9, loss, 0, 9] for name, loss in BASE.items()]
        cells += [{"kind": "base", "arm": None, "shares": {}, "scores": rows, **own}] if base else []
        for number, domain in enumerate((0.0, 0.1, 0.2, 0.4, 0.6)):
            general, special = losses(domain, budget)
            values = (general + wave * (-1) ** number, special)
            rows = [
                [f"short/{name}", "nats", 512, None, 9, loss, 0, 9] for name, loss in zip(BASE, values, strict=True)
            ]
            shares = {"general": 0.9 - domain, "domain": domain, "instruction": 0.1}
            cells.append({"kind": "trained", "arm": f"{domain}", "shares": shares, "scores": rows, **own})
    return {"cells": cells, "roles": {"stories_en": "general", "code": "domain"}, "model": "tiny-base"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, results = tmp_path_factory.mktemp("study"), make_results()
    (folder / "results.json").write_text(json.dumps(results))
    (folder / MIX_FIT).write_text(json.dumps(fit_study(results).to_json()))
    return folder


def test_the_answer_is_the_largest_share_that_keeps_the_limit(study: Path) -> None:
    limit = losses(0.5, 2.2e6)[0]
    found = recommend_mix(study, f"general_loss <= {limit:.6f}")
    value, low, high = found["share"]
    assert value == pytest.approx(0.5, abs=0.005) and low <= value <= high
    assert found["expected"]["domain"]["nats"][0] == pytest.approx(losses(0.5, 2.2e6)[1], abs=0.005)
    assert f"domain text: at most {value:.1%}" in found["text"] and "accepted" in found["text"]
    per_cent = 100 * (limit / BASE["stories_en"] - 1)
    assert recommend_mix(study / "results.json", f"general_loss<={per_cent:+.6f}%")["share"][0] == pytest.approx(
        value, abs=1e-3
    )


def test_the_losses_are_those_of_the_mix_that_is_told(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mix is for the low end of the interval, where the general loss is below its limit."""
    fit = read_study_fit(str(study))
    assert fit is not None
    terms = fit.laws["general"].terms.copy()
    terms[1:, 0] += np.linspace(-4e-3, 4e-3, len(terms) - 1)  # a law that noise has left less sure
    unsure = replace(fit, laws={**fit.laws, "general": replace(fit.laws["general"], terms=terms)})
    monkeypatch.setattr(recommend_mix_module, "fit_study", lambda results: unsure)
    limit = losses(0.4, 2.2e6)[0]
    found = recommend_mix(study, f"general_loss<={limit:.6f}")
    value, low, _ = found["share"]
    assert low < value - 0.005 and f"domain: {100 * low:.1f}" in found["text"]
    general, domain = (found["expected"][kind] for kind in ("general", "domain"))
    assert (domain["share"], general["share"]) == (low, pytest.approx(0.9 - low))
    assert general["nats"][0] < limit - 1e-3 and f"general loss there: {general['nats'][0]:.4f}" in found["text"]


@pytest.mark.parametrize(
    ("limit", "tokens", "said"),
    [
        ("domain_loss<=1%", None, "is not a limit"),
        ("general_loss<=+1 percent", None, "is not a limit"),
        ("general_loss<=1.0", None, "no measured share keeps this limit"),
        ("general_loss<=+1%", "20M", "lie outside of what was measured"),
        ("general_loss<=+1%", "many", "not a number of tokens"),
    ],
)
def test_what_cannot_be_answered_is_refused(study: Path, limit: str, tokens: str | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        recommend_mix(study, limit, tokens=tokens)


def test_no_answer_comes_from_a_refused_law_a_missing_base_or_an_unfinished_study(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no results yet"):
        recommend_mix(tmp_path, "general_loss<=+1%")
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        recommend_mix(tmp_path, "general_loss<=+1%")
    (tmp_path / "results.json").write_text(json.dumps(make_results(wave=0.1)))
    with pytest.raises(UserError, match="do not predict what was held out"):
        recommend_mix(tmp_path, "general_loss<=+1%")
    (tmp_path / "results.json").write_text(json.dumps(make_results(base=False)))
    with pytest.raises(UserError, match="no base to compare with"):
        recommend_mix(tmp_path, "general_loss<=+1%")


def test_a_refused_law_leaves_what_the_measured_mixes_say(tmp_path: Path) -> None:
    results = make_results(wave=0.1)
    (tmp_path / "results.json").write_text(json.dumps(results))
    first, second, third, fourth = (
        losses(share, 2.2e6)[0] + 0.1 * (-1) ** number for number, share in enumerate((0.0, 0.1, 0.2, 0.4))
    )
    assert second < first < third and fourth < first
    with pytest.raises(UserError) as refused:
        recommend_mix(tmp_path, f"general_loss<={first + 1e-6:.7f}")
    assert "after 2.2M tokens, the measured mixes with 80% general text or more kept the limit" in refused.value.fix
    with pytest.raises(UserError) as refused:
        recommend_mix(tmp_path, f"general_loss<={first - 1e-6:.7f}")
    assert "no measured mix kept the limit" in refused.value.fix
    assert find_measured(results, limit=9.0, tokens=300e3) == (pytest.approx(0.3), 256e3)


def load(study: Path, *overrides: str) -> Recipe:
    return load_recipe(Path("quickstart"), [f"mix_study={study}", *overrides])


def test_check_warns_beyond_what_the_study_measured(study: Path, tmp_path: Path) -> None:
    assert list(find_unmeasured(load_recipe(Path("quickstart")))) == []
    assert list(find_unmeasured(load(study))) == []
    general, found = find_unmeasured(load(study, "corpus.mix={general: 2, domain: 7, instruction: 1}"))
    assert "20.0% general text" in general.message
    assert (
        found.key == "stages.0.mix" and "70.0% domain text lies outside of the study's 0.0% to 60.0%" in found.message
    )
    (found,) = find_unmeasured(load(study, "stages.0.tokens=20M"))
    assert found.key == "stages.0.tokens" and "outside of the study's 256K to 2.2M" in found.message
    (found,) = find_unmeasured(load(study, "model=other"))
    assert "not this base" in found.message
    with pytest.raises(UserError, match="the ratio study has no laws"):
        list(find_unmeasured(load(tmp_path)))
    (tmp_path / MIX_FIT).write_text(json.dumps(fit_study(make_results(wave=0.1)).to_json()))
    (found,) = find_unmeasured(load(tmp_path))
    assert "its laws are not used" in found.message
    assert load(study).digest == load_recipe(Path("quickstart")).digest


def test_a_run_warns_once_where_a_loss_leaves_its_interval(study: Path) -> None:
    recipe = load(study)
    guard = make_guard(read_study_fit(recipe.mix_study), recipe, 0)
    assert guard is not None

    def judge(step: int, general: float) -> list[str]:
        domain = losses(0.2, step * 8192)[1] / BASE["code"] - 1
        values = {"change/short/stories_en": general, "change/short/code": domain, "short/code": 9.0}
        return list(guard.judge([Metric(0, step, f"held_out/{name}", value, "1") for name, value in values.items()]))

    expected = losses(0.2, 100 * 8192)[0] / BASE["stories_en"] - 1
    assert judge(100, expected) == []
    assert judge(10, expected + 0.1) == [], "fewer tokens than the study's smallest budget"
    (said,) = judge(100, expected + 0.05)
    assert "WARNING: after 819K tokens the general loss is" in said and "of the base's" in said
    assert judge(120, expected + 0.05) == [], "one warning is enough"
    fit: StudyFit | None = read_study_fit(recipe.mix_study)
    assert make_guard(fit, recipe, 1) is None and make_guard(None, recipe, 0) is None
    assert make_guard(fit, load(study, "model=other"), 0) is None
