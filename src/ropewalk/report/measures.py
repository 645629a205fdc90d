"""From a run's records to the numbers of its pictures: shares, losses by position, retrieval maps, wavelengths."""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64

from ropewalk.report.charts import PositionLoss, RetrievalMap, SourcePart
from ropewalk.report.contents import Contents, StageContents
from ropewalk.report.verdict import position_buckets
from ropewalk.rope.frequency import plain_inv_freq, wavelengths
from ropewalk.rope.scaling import read_method


def length_marks(contents: Contents) -> dict[str, int]:
    """The lengths that pictures mark: the base's, where the run goes beyond it, and the one it trains at."""
    base, trained = contents.base_context_tokens, contents.context_tokens
    return {"trained at": trained} if base is None or base >= trained else {"base": base, "trained at": trained}


def read_mixture(contents: Contents, stage: StageContents) -> list[SourcePart]:
    """Every source that a stage's mix gives a share, in the recipe's order.

    A role's weight is spread over its sources by their tokens; a source that the mix names has its own.
    """
    mix = stage.spec["mix"] or contents.recipe["corpus"]["mix"]
    weights, taken = sum(mix.values()), stage.source_tokens
    total = max(1, sum(taken.values()))
    parts = []
    for name, facts in contents.sources.items():
        role, held = str(facts["role"]), int(facts["tokens"])
        peers = [its["tokens"] for other, its in contents.sources.items() if its["role"] == role and other not in mix]
        share = mix[name] if name in mix else mix.get(role, 0.0) * held / max(1, sum(peers))
        tokens = taken.get(name, 0)
        if share and held:
            parts.append(SourcePart(name, role, share / weights, tokens / total, tokens, tokens / held))
    return parts


def position_losses(contents: Contents) -> list[PositionLoss]:
    """Loss by position of every model that has any."""
    lines = []
    for model in contents.models:
        if buckets := position_buckets(contents, model):
            scores = [score for *_, score in buckets]
            lines.append(
                PositionLoss(
                    model=model,
                    buckets=[(first, end) for first, end, _ in buckets],
                    values=[score.value for score in scores],
                    lows=[score.low if math.isfinite(score.low) else score.value for score in scores],
                    highs=[score.high if math.isfinite(score.high) else score.value for score in scores],
                )
            )
    return lines


def retrieval_maps(contents: Contents, task: str) -> list[RetrievalMap]:
    """A task's right answers by length and depth, for every model that has them by depth; one grid for all."""
    cells = {
        model: {
            (score.context_tokens, score.depth): score.value
            for score in contents.find_scores(task, model=model)
            if score.depth is not None
        }
        for model in contents.models
    }
    lengths = sorted({tokens for grid in cells.values() for tokens, _ in grid})
    depths = sorted({depth for grid in cells.values() for _, depth in grid})
    return [
        RetrievalMap(
            model,
            lengths,
            depths,
            np.array([[grid.get((tokens, depth), np.nan) for depth in depths] for tokens in lengths]),
        )
        for model, grid in cells.items()
        if grid
    ]


def wavelengths_of(contents: Contents) -> dict[str, Float64[np.ndarray, "pairs"]]:
    """Tokens in a whole turn of each pair: of the base, where its theta is known, and of the last extended model."""
    extended = [stage for stage in contents.stages if stage.config]
    if not extended:
        return {}
    config = extended[-1].config
    after = _inv_freq(config)
    waves = {"extended": wavelengths(after)}
    kinds = {stage.spec["rope"]["kind"] for stage in extended}
    theta = extended[0].facts.get("base_theta")
    if contents.from_nothing:
        theta = contents.recipe["model"]["init"]["theta"]
    if kinds == {"unchanged"}:
        return waves
    return waves if theta is None else {"base": wavelengths(plain_inv_freq(float(theta), 2 * len(after))), **waves}


def _inv_freq(config: Mapping[str, object]) -> Float64[np.ndarray, "half"]:
    """Frequencies as a config.json of an extended model states them."""
    parameters = config["rope_parameters"]
    assert isinstance(parameters, dict)
    head_dim = int(
        str(config.get("head_dim") or int(str(config["hidden_size"])) // int(str(config["num_attention_heads"])))
    )
    theta = float(parameters["rope_theta"])
    return read_method(parameters, where="rope_parameters").inv_freq(theta, head_dim)
