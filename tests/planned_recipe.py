"""A recipe that is only planned: its model, text and run folder do not exist."""

from collections.abc import Mapping, Sequence

from ropewalk.recipe.spec import Recipe

STAGE: Mapping[str, object] = {"context_length": "32Ki", "rope": {"kind": "theta", "theta": 1e7}, "tokens": "1B",
                               "step_tokens": "4Mi", "lr": 1e-5}  # fmt: skip


def make_planned(stages: Sequence[Mapping[str, object]] = ({},), **given: object) -> Recipe:
    """A recipe with a stage for each of ``stages``, which says what differs from ``STAGE``; ``given`` are its keys."""
    sources = [{"name": "web", "path": "text", "role": "general"}]
    corpus = {"store": "store", "sources": sources, "mix": {"general": 1}}
    each = [{**STAGE, **stage} for stage in stages]
    return Recipe.model_validate({"model": "base", "run": "runs/test", "corpus": corpus, "stages": each, **given})
