"""Each rule of the field speaks when it is broken and is silent when it is not."""

from collections.abc import Mapping
from typing import Any

import pytest

from llama2 import LLAMA2_7B
from ropewalk.core.error import UserError
from ropewalk.recipe.check import check
from ropewalk.recipe.check_joins import check_joins
from ropewalk.recipe.finding import Finding
from ropewalk.recipe.load import parse_recipe
from ropewalk.recipe.offer_ranks import offer_ranks
from ropewalk.recipe.stretch import describe_stages
from ropewalk.shape.read import parse_shape

STAGE = {
    "context_length": "16Ki",
    "rope": {"kind": "theta", "theta": 1e6},
    "tokens": "20B",
    "step_tokens": "4Mi",
    "lr": 2e-5,
}
SOURCES = [
    {"name": "web", "path": "a", "role": "general", "language": "en"},
    {"name": "books", "path": "b", "role": "general", "language": "zh"},
    {"name": "law", "path": "c", "role": "domain", "language": "zh"},
    {"name": "chat", "path": "d", "role": "instruction", "language": "en"},
]
MIX = {"general": 7, "domain": 2, "instruction": 1}


def find(stage: Mapping[str, Any] = {}, mix: Mapping[str, float] = MIX, **rest: Any) -> list[Finding]:
    data = {
        "model": "base",
        "run": "run",
        "corpus": {
            "sources": rest.pop("sources", SOURCES),
            "mix": dict(mix),
            **rest.pop("rules", {}),
        },
        "stages": rest.pop("stages", [{**STAGE, **stage}]),
        **rest,
    }
    return check(parse_recipe(data, where="test"), parse_shape(LLAMA2_7B, where="test"))


def test_the_mission_s_own_recipe_breaks_no_rule() -> None:
    assert find() == []


@pytest.mark.parametrize(
    ("stage", "level", "named"),
    [
        ({"context_length": "2Ki"}, "error", "less than the 4Ki"),
        ({"context_length": "32Ki"}, "warning", "27,114"),
        ({"rope": {"kind": "theta", "theta": 2e4}}, "warning", "similar tokens attract each other only up to"),
        ({"context_length": "4Ki", "rope": {"kind": "theta", "theta": 5e5}}, "warning", "reads 4Ki already"),
        ({"lr": 3e-4}, "warning", "above 2e-05"),
        ({"schedule": {"shape": "cosine", "decay": 0.3}}, "warning", "decay has no effect on cosine"),
        ({"schedule": {"shape": "wsd", "warmup": 0.5, "decay": 0.6}}, "error", "0.5, and decay, 0.6, overlap"),
        ({"tokens": "100M", "step_tokens": "64Ki"}, "warning", "38 %"),
        ({"tokens": "1B", "step_tokens": "20Mi"}, "warning", "47 steps"),
        ({"step_tokens": "8Ki"}, "error", "data ranks have no work"),
        ({"tokens": "3M", "step_tokens": "24Ki"}, "warning", "91 steps"),  # of two sequences each
        ({"tokens": "100M", "step_tokens": "20Ki"}, "warning", "16.4K tokens, not 20.5K"),
    ],
)
def test_a_stage_that_breaks_a_rule(stage: dict[str, Any], level: str, named: str) -> None:
    found = find(stage)
    assert any(finding.level == level and named in finding.message and finding.source for finding in found), found


@pytest.mark.parametrize(
    ("mix", "named"),
    [
        ({"general": 1, "domain": 99}, "5%"),
        ({"general": 4, "domain": 5, "instruction": 1}, "critical mixture ratio of 47.8%"),
    ],
)
def test_a_mix_that_forgets(mix: dict[str, float], named: str) -> None:
    assert any(named in finding.message for finding in find(mix=mix))


def test_a_new_language_asks_for_more_replay() -> None:
    sources = [source for source in SOURCES if source["name"] != "books"]
    assert any("25%" in finding.message for finding in find(mix={"general": 1, "domain": 9}, sources=sources))


def test_a_stage_that_skips_is_held_to_its_reach() -> None:
    short = {"context_length": "2Ki", "step_tokens": "4Mi"}
    assert find({**short, "pose": {"reach": "16Ki"}}) == [], "rows may be shorter than what the base was trained at"
    found = find({**short, "pose": {"reach": "3Ki"}})
    assert [(f.level, f.key) for f in found] == [("error", "stages.0.pose.reach")] and "less than the 4Ki" in found[
        0
    ].message
    assert any("27,114" in f.message for f in find({**short, "pose": {"reach": "32Ki"}}))


def test_factors_that_are_still_to_be_searched_break_no_rule_yet() -> None:
    found = find({"rope": {"kind": "longrope", "search": {}}})
    assert [f.level for f in found] == ["warning"] and "4,327" in found[0].message, "as far as YaRN"


def test_ranks_must_divide() -> None:
    assert [f.level for f in find(parallel={"ranks": 6, "context_parallel": 4})] == ["error"]
    assert [f.key for f in find(parallel={"ranks": 6, "replicas": 4}) if f.level == "error"] == ["parallel.replicas"]


def test_blocks_that_the_model_does_not_have_are_not_recomputed() -> None:
    assert not [f for f in find(parallel={"ranks": 8, "recompute_blocks": 32}) if f.level == "error"]
    (error,) = [f for f in find(parallel={"ranks": 8, "recompute_blocks": 33}) if f.level == "error"]
    assert error.key == "parallel.recompute_blocks" and "33 blocks" in error.message and "up to 32" in error.message
    for settings, named in (
        ({"recompute_blocks": 0}, "parallel.recompute_blocks"),
        ({"recompute_blocks": -2}, "parallel.recompute_blocks"),
        ({"recompute": "none", "recompute_blocks": 4}, "with recompute: none there are no such blocks"),
        ({"offload": "inputs", "recompute_blocks": 1}, "keeps its input on the device"),
    ):
        with pytest.raises(UserError, match=named):
            find(parallel={"ranks": 8, **settings})


def test_adapters_need_a_trained_model_and_a_trained_embedding_its_rate() -> None:
    init = {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "mlp_width": 48, "context_length": 4096}
    found = find({"lora": {}}, model={"init": {**init, "tokenizer": 500}})
    assert [f.key for f in found if f.level == "error"] == ["stages.0.lora"]
    assert not [f for f in find({"lora": {}}) if f.level == "error"]
    with pytest.raises(UserError, match="embedding_lr"):
        find({"lora": {"also_train": ["norms"]}, "embedding_lr": 2.0})


def test_a_learnt_bias_is_not_deterministic() -> None:
    for bias, expected in (("fire", True), ("alibi", False)):
        found = find({"layers": [{"bias": bias}, {}]}, parallel={"deterministic": True})
        assert any("is not deterministic" in f.message and f.level == "error" for f in found) == expected
    assert not any(f.level == "error" for f in find({"layers": [{"bias": "fire"}, {}]}, parallel={}))


def test_a_bias_needs_whole_rows() -> None:
    biased = {"layers": [{"bias": "alibi"}, {}]}
    shared = find(biased, parallel={"ranks": 2, "context_parallel": 2})
    assert any(
        f.level == "error" and f.key == "stages.0.layers" and "2 ranks share each sequence" in f.message for f in shared
    )
    assert not any(f.level == "error" for f in find(biased, parallel={"ranks": 2, "context_parallel": 1}))


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ({"embedded": "stories_fr"}, "no embedded source 'stories_fr'"),
        ({"embedded": "stories_en", "size_bytes": "1M", "options": {"wordz": 3}}, "wordz: Extra inputs"),
        ({"embedded": "stories_en"}, "size_bytes: 4M"),
    ],
)
def test_text_that_ropewalk_cannot_make_is_known_before_any_is_read(source: dict[str, Any], named: str) -> None:
    found = find(sources=[*SOURCES, {"name": "made", "role": "general", **source}])
    assert [(f.level, f.key) for f in found] == [("error", "corpus.sources.4")] and named in found[0].message


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"join": {"related": {"target_tokens": "64Ki"}}}, "up to 64Ki tokens, and the longest sequences 16Ki"),
        ({"tasks": {}}, "part questions from their text"),
        ({"tasks": {"most_tokens": "16Ki", "share": 0.15}}, "15% of the tokens are tasks"),
        ({"fill_in_middle": {}}, "part a middle from its place"),
        ({"tasks": {"most_tokens": "16Ki"}}, ""),
        ({"join": {"related": {"target_tokens": "16Ki"}}}, ""),
    ],
)
def test_what_a_sequence_cuts_apart(keys: dict[str, Any], named: str) -> None:
    found = find(sources=[{**SOURCES[0], **keys}, *SOURCES[1:]])
    assert all(each.level == "warning" and each.key.startswith("corpus.sources.0.") for each in found)
    assert [named in each.message for each in found] == [True] * bool(named)


def test_the_fix_of_tasks_in_too_long_documents_is_a_recipe_without_that_warning() -> None:
    """Also where no task would fit any more, since ``from_tokens`` is above the longest sequence."""
    stage = {"context_length": "2Ki", "rope": {"kind": "unchanged"}}
    recipe = {"model": "base", "run": "run", "stages": [{**STAGE, **stage}]}
    corpus = {"sources": [{**SOURCES[0], "tasks": {}}, *SOURCES[1:]], "mix": MIX}
    (told,) = [*check_joins(parse_recipe({**recipe, "corpus": corpus}, where="test"))]
    overrides = told.fix.split()
    assert overrides == ["corpus.sources.0.tasks.most_tokens=2Ki", "corpus.sources.0.tasks.from_tokens=1Ki"]
    corpus["sources"][0] = {**SOURCES[0], "tasks": dict(each.rpartition(".")[2].split("=") for each in overrides)}
    assert not [*check_joins(parse_recipe({**recipe, "corpus": corpus}, where="test"))]


def test_a_source_without_any_weight_is_told() -> None:
    def told(mix: Mapping[str, float], **rest: Any) -> list[str]:
        return [f.key for f in find(mix=mix, **rest) if "no stage trains on" in f.message]

    assert told({"general": 7, "law": 2}) == ["corpus.sources.3"]
    assert told({"general": 7, "law": 2, "chat": 0}) == [], "0 says that it is meant"
    assert told({"general": 7, "law": 2}, stages=[STAGE, {**STAGE, "mix": {"instruction": 1}}]) == []


@pytest.mark.parametrize(("given", "meant"), [("32K", "32Ki"), ("1M", "1Mi"), ("1500K", "1500Ki")])
def test_a_length_in_powers_of_ten_is_told_with_the_power_of_two(given: str, meant: str) -> None:
    (told,) = [f for f in find({"context_length": given}) if "did you mean" in f.message]
    assert told.fix == f"stages.0.context_length={meant}"


def test_text_that_has_no_weight_is_no_replay() -> None:
    """Law is Chinese: books are its replay only where they are read; English law needs none of them."""

    def asks(mix: Mapping[str, float], **rest: Any) -> list[str]:
        return [f.message for f in find(mix=mix, **rest) if "replay" in f.message]

    assert asks({"general": 2, "domain": 8}) == [], "20 % in the same language"
    assert "25%" in asks({"web": 2, "domain": 8})[0] and "25%" in asks({"general": 2, "books": 0, "domain": 8})[0]
    english = [*SOURCES, {"name": "law_en", "path": "e", "role": "domain", "language": "en"}]
    only = {"languages": {"en": 1, "other": 0}}
    assert (
        asks({"web": 2, "domain": 8}, sources=english)
        != asks({"web": 2, "domain": 8}, sources=english, rules=only)
        == []
    )


@pytest.mark.parametrize(
    ("evaluate", "keys"),
    [
        ({}, []),
        ({"lengths": [1, 2]}, ["evaluate.lengths"]),
        ({"lengths": [1, 8]}, ["evaluate.lengths"]),
        ({"position_lengths": 2}, ["evaluate.position_lengths"]),
        ({"lengths": [1], "position_lengths": 3}, ["evaluate.lengths", "evaluate.position_lengths"]),
    ],
)
def test_what_is_measured_reaches_the_trained_length(evaluate: dict[str, Any], keys: list[str]) -> None:
    found = find(evaluate=evaluate)
    assert [f.key for f in found] == keys and all(f.level == "warning" and "16Ki" in f.message for f in found)


def test_the_length_of_a_stage_that_skips_is_its_reach() -> None:
    found = find({"context_length": "2Ki", "step_tokens": "4Mi", "pose": {"reach": "32Ki"}})
    assert "evaluate.position_lengths" in [f.key for f in found]
    assert not any(f.key == "evaluate.lengths" for f in found)


KEPT = {"window": 1024, "rope": "unchanged"}
LAYERS: dict[str, tuple[list[dict[str, Any]], str, str]] = {
    "a pattern that does not divide": ([KEPT] * 5, "error", "the pattern has 5 lines, and the model 32 layers"),
    "a window larger than the target": ([{"window": "32Ki"}], "error", "32Ki tokens do not fit into 16Ki"),
    "a method on top of another": ([{"rope": {"kind": "theta", "theta": 1e3}}], "error", "1000 is below the base's"),
    "a stretched window": ([{"window": 1024}, {}], "warning", "a window of 1Ki have no distance above the base's 4Ki"),
    "rope lost": ([KEPT, {"rope": "nope"}], "warning", "16 of 32 layers were trained with RoPE"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_pattern_that_breaks_a_rule(name: str) -> None:
    layers, level, named = LAYERS[name]
    found = [
        finding
        for finding in find({"layers": layers, "tokens": "4B"})
        if finding.key.startswith("stages.0.layers") or finding.key == "stages.0.rope.theta"
    ]
    assert [finding.level for finding in found] == [level] and named in found[0].message, found


def test_patterns_that_break_no_rule() -> None:
    assert find({"layers": [KEPT, KEPT, KEPT, {}]}) == [], "as OLMo 3 and Gemma 3"
    assert find({"layers": [KEPT, {"rope": "nope"}], "tokens": "20B"}) == [], "20B tokens are enough to forget RoPE"
    assert find({"layers": [{"window": "8Ki"}, {}]}) == [], "a window beyond the base's context needs its stretch"


def test_a_stage_finds_what_the_one_before_it_left() -> None:
    hybrid = {**STAGE, "layers": [KEPT, KEPT, KEPT, {}]}
    longer = {**STAGE, "context_length": "32Ki", "rope": {"kind": "theta", "theta": 5e6}}
    assert find(stages=[hybrid, longer], evaluate={"position_lengths": 8}) == []
    found = find(stages=[{**hybrid, "layers": [KEPT] * 5}, {**longer, "context_length": "2Ki"}])
    assert [finding.key for finding in found] == ["stages.0.layers"], "nothing is known of what would come after"
    windows = {**STAGE, "layers": [KEPT]}
    found = find(stages=[windows, longer], evaluate={"position_lengths": 8})
    assert [(f.level, f.key) for f in found] == [("error", "stages.1.rope.kind")]
    assert "every layer has a window" in found[0].message


def test_a_base_that_reads_the_target_already_is_told_of() -> None:
    scaled = {"rope_scaling": {"type": "linear", "factor": 4.0}, "max_sequence_length": 16384}
    recipe = parse_recipe(
        {
            "model": "base",
            "run": "run",
            "corpus": {"sources": SOURCES, "mix": MIX},
            "stages": [
                {**STAGE, "rope": {"kind": "linear"}},
                {**STAGE, "context_length": "64Ki", "rope": {"kind": "linear"}},
            ],
        },
        where="test",
    )
    shape = parse_shape(LLAMA2_7B | scaled, where="test")
    told = [(finding.key, finding.message) for finding in check(recipe, shape)]
    assert (
        "stages.0.rope",
        "the base already reads 16Ki with its own linear, so linear has no effect for 16Ki",
    ) in told
    assert list(describe_stages(recipe, shape)) == [
        ["0-31: linear factor 4 over the original 4Ki"],
        ["0-31: linear factor 4 -> 16 over the original 4Ki"],
    ]


def test_ranks_are_counted_against_the_sequences_that_a_step_takes() -> None:
    """58Ki of 16Ki are four sequences to a run, the nearest number, so four data ranks have work."""
    stage, parallel = {"step_tokens": "58Ki", "tokens": "1B"}, {"ranks": 4, "context_parallel": 1}
    assert not [each for each in find(stage, parallel=parallel) if each.level == "error"]
    recipe = parse_recipe(
        {"model": "base", "run": "run", "corpus": {"sources": SOURCES, "mix": MIX}, "stages": [{**STAGE, **stage}]},
        where="test",
    )
    assert recipe.stages[0].step_sequences == offer_ranks(recipe, 8) == 4
    (found,) = (each for each in find(stage, parallel={**parallel, "ranks": 8}) if each.level == "error")
    assert "a step has 4 sequences" in found.message
