"""A recipe is read, overridden and refused with the key, the reason and the cure."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from ropewalk.core.error import UserError
from ropewalk.core.spec import Spec
from ropewalk.recipe.benchmarks import BenchmarkKind
from ropewalk.recipe.explain import find_places
from ropewalk.recipe.key_effects import find_changes
from ropewalk.recipe.load import load_recipe, parse_recipe, parse_stage, read_data
from ropewalk.recipe.part_digests import digest_parts, extend_part, train_part
from ropewalk.recipe.recipe_file import list_file_keys
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.sweep import Sweep
from ropewalk.rope.yarn import Yarn

RECIPE = """
model: base
run: runs/test
corpus:
  sources: [{name: text, path: text.jsonl, role: general}]
  mix: {general: 1}
stages:
  - {context_length: 16Ki, rope: {kind: theta, theta: 1e6}, tokens: 20B, step_tokens: 4Mi, lr: 2e-5}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_quantities_and_exponents_are_read(path: Path) -> None:
    stage = load_recipe(path).stages[0]
    assert (stage.context_length, stage.tokens, stage.step_tokens, stage.lr) == (16384, 20 * 10**9, 1 << 22, 2e-5)


def test_overrides_reach_every_depth(path: Path) -> None:
    recipe = load_recipe(path, ["stages.0.rope.theta=2e6", "parallel.ranks=8", "corpus.mix.general=3", "run=elsewhere"])
    assert recipe.stages[0].rope.theta == 2e6 and recipe.parallel.ranks == 8
    assert recipe.corpus.mix == {"general": 3} and recipe.run == "elsewhere"


def test_the_digest_is_of_what_decides_the_result(path: Path) -> None:
    digest = load_recipe(path).digest
    assert load_recipe(path, ["run=elsewhere"]).digest == digest
    assert load_recipe(path, ["strict=true"]).digest == digest and load_recipe(path, ["strict=true"]).strict
    assert load_recipe(path, ["seed=1"]).digest != digest
    assert load_recipe(path, ["stages.0.context_length=16384"]).digest == digest


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("stages.0.rope.tehta=1", "theta"),
        ("paralel.ranks=2", "parallel"),
        ("stages.0.lr=fast", "lr"),
        ("stages.0.lr=-1", "lr"),
        ("stages.0.context_length=16ki", "context_length"),
        ("stages.0.tokens=1.5", "tokens"),
        ("corpus.mix={general: 0}", "mix"),
        ("corpus.mix={genral: 1}", "genral"),
        ("corpus.sources=[]", "sources"),
        ("corpus.sources.0.role=expert", "role"),
        ("stages.3.lr=1", "positions"),
        ("seed.deep=1", "seed"),
        ("seed", "path=value"),
        ("stages.0.rope={kind: magic}", "rope"),
        ("parallel.ranks=yes", "ranks"),
        ("run=2024-01-01", "put it in quotes"),
        ("run=~/run", "a folder named ~"),
        ("run=.", "run: give a folder of its own"),
        ("corpus.store=~/store", "corpus.store: ~/store would be"),
        ("hardware=h100-sxm x 0", "hardware: a node has at least one device"),
        ("stages.0.betas=[0.9, 1]", "stages.0.betas.1"),
        ("stages.0.gate={otherwise: warn}", "a gate without a condition"),
        ("evaluate.lengths=[]", "evaluate.lengths: has too few entries"),
        ("evaluate.lengths=[1, 4, 1]", "evaluate.lengths: 1 is given twice"),
        ("evaluate.pairs=[8, 4]", "evaluate.pairs: the fewest come first"),
        ("evaluate.pairs=[4, 41]", "the most are 40"),
        ("evaluate.grid={fillers: [words, words]}", "evaluate.grid.fillers: words is given twice"),
        ("evaluate.ruler={tasks: [vt, vt]}", "evaluate.ruler.tasks: vt is given twice"),
        ("trackers=[wandb, wandb]", "trackers: wandb is given twice"),
        ("evaluate.probes=[{kind: needle}, {kind: needle, questions: 2}]", "needle would name two scores"),
        ("evaluate.probes=[{kind: key_value, pairs: [20, 30]}]", "key_value would name two scores"),
        ("evaluate={ruler: {tasks: [vt]}, probes: [{kind: ruler, task: vt}]}", "ruler_vt would name two scores"),
    ],
)
def test_what_is_wrong_is_named(path: Path, override: str, named: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(path, [override])
    assert named in str(caught.value)


@pytest.mark.parametrize("kind", get_args(BenchmarkKind))
def test_a_run_folder_s_recipe_is_read_back_with_all_its_keys(path: Path, kind: str) -> None:
    """A run continues from the recipe in its folder, which has every key, with those that a kind does not use."""
    demos = ", demos: demos.jsonl" if kind == "helmet_rag" else ""
    given = [f"evaluate.benchmarks=[{{kind: {kind}, path: data.json{demos}}}]", "evaluate.grid={}", "evaluate.ruler={}"]
    recipe = load_recipe(path, [*given, "stages.0.lora={}", "stages.0.gate={retrieval: 0.9}", "hardware=h100-sxm x 8"])
    assert parse_recipe(yaml.safe_load(yaml.safe_dump(recipe.to_json())), where="run/recipe.yaml") == recipe


def test_files_that_are_no_recipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml")
    for text, named in [
        (b"a: [", "YAML"),
        (b"- 1", "mapping"),
        (b"\xff\xfe", "UTF-8"),
        (b"seed: 1\nseed: 2", "given twice"),
        (b"model: !!python/object/apply:os.system [ls]", "YAML"),
    ]:
        (tmp_path / "bad.yaml").write_bytes(text)
        with pytest.raises(UserError, match=named):
            load_recipe(tmp_path / "bad.yaml")


def test_a_stage_can_stand_alone() -> None:
    stage = parse_stage(["context_length=16Ki", "rope.kind=theta", "rope.theta=1e6"])
    assert stage.context_length == 16384 and stage.rope.kind == "theta"
    with pytest.raises(UserError, match="rope"):
        parse_stage(["context_length=16Ki"])


@pytest.mark.parametrize(
    ("kind", "pages"), [(Recipe, ("recipe", "corpus*", "probe", "rope*")), (Sweep, ("study",))], ids=("recipe", "study")
)
def test_every_key_is_on_the_pages_that_errors_point_to(kind: type[Spec], pages: tuple[str, ...]) -> None:
    docs = Path(__file__).parents[2] / "docs"
    words = set(re.findall(r"\w+", "".join(found.read_text() for page in pages for found in docs.glob(f"{page}.md"))))
    assert set(find_places(kind)) - words == set()


def test_an_override_changes_one_stage_and_not_those_that_share_its_alias(tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "recipes" / "tiny-programme.yaml"
    plain, recipe = load_recipe(path), load_recipe(path, ["stages.1.rope.theta=3e6"])
    assert recipe.stages[1].rope != plain.stages[1].rope
    assert [recipe.stages[stage] for stage in (0, 2)] == [plain.stages[stage] for stage in (0, 2)]


def test_an_override_of_a_kind_tells_what_it_inherits(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = {
        "rope": {"kind": "theta", "theta": 1e6},
        "stages": [{"rope": {"kind": "yarn", "beta_fast": 24, "factor": 2}}],
    }
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data))

    def tell(*overrides: str) -> str:
        read_data(tmp_path / "data.yaml", overrides)
        return capsys.readouterr().err

    assert (
        tell("rope.kind=yarn")
        == "rope: yarn inherits theta: 1000000.0 from the file; rope={kind: yarn} leaves it out\n"
    )
    assert "ntk_by_parts inherits beta_fast: 24 from" in tell(
        "stages.0.rope.kind=ntk_by_parts", "stages.0.rope.factor=4"
    )
    for silent in ("rope.kind=theta", "rope={kind: yarn}", "run=a"):
        assert tell(silent) == ""
    assert tell("rope.kind=yarn", "rope.theta=1e5") == ""


def test_probes_that_differ_in_their_names_stand_together(path: Path) -> None:
    load_recipe(path, ["evaluate.probes=[{kind: needle}, {kind: needle, language: zh}, {kind: key_value, hops: 2}]"])


def test_a_recipe_that_is_written_stretches_a_scaled_base_as_before(path: Path, tmp_path: Path) -> None:
    """A key that was not given is the base's; written with its default, it would be that of plain RoPE."""
    lines = "stages.0.layers=[{rope: {kind: yarn}}, {window: 64, rope: unchanged}, {}]"
    recipe = load_recipe(path, ["stages.0.rope={kind: yarn, theta: null}", lines])
    (tmp_path / "written.yaml").write_text(yaml.safe_dump(list_file_keys(recipe)))
    again = load_recipe(tmp_path / "written.yaml")
    assert again == recipe and again.digest == recipe.digest
    base = Yarn(factor=4, original_tokens=4096, beta_fast=16, truncate=False).as_base(
        1e6, head_dim=128, context_tokens=16384
    )
    for each in (recipe, again):
        for rope in (each.stages[0].rope, each.stages[0].layers[0].rope):
            assert rope is not None
            stretched = rope.complete(base, 65536)
            assert isinstance(stretched, Yarn) and (stretched.beta_fast, stretched.truncate) == (16, False)


def test_two_stretches_have_two_digests(path: Path, tmp_path: Path) -> None:
    """On a base without rounding a key that is given as true rounds, and one that is left out does not."""
    silent, given = (load_recipe(path, [f"stages.0.rope={{kind: yarn{more}}}"]) for more in ("", ", truncate: true"))
    base = Yarn(factor=4, original_tokens=4096, truncate=False).as_base(1e6, head_dim=128, context_tokens=16384)
    one, other = (each.stages[0].rope.complete(base, 65536).inv_freq(1e6, 128) for each in (silent, given))
    assert abs(one / other - 1).max() > 0.01, "two models"
    assert silent.to_json() == given.to_json() and silent.digest != given.digest
    differ = {name for name, digest in digest_parts(given).items() if digest_parts(silent)[name] != digest}
    assert {extend_part(0), train_part(0)} <= differ
    (change,) = find_changes(silent, given)
    assert (change.path, change.given, change.side) == ("stages.0.rope.given", ["truncate"], "positions")
    for each in (silent, given):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(list_file_keys(each)))
        assert load_recipe(tmp_path / "recipe.yaml").digest == each.digest
    older = load_recipe(path, [f"stages.0.rope={json.dumps(silent.to_json()['stages'][0]['rope'])}"])
    assert older.digest == silent.digest, "a run folder of version 0.1 has every key, and its run goes on"
