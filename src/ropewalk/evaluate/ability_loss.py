"""Loss of short answers (arithmetic, cloze) at the base's own context, in pairs: a probe of what a model forgot."""

from dataclasses import dataclass

import numpy as np

from ropewalk.core.progress import say
from ropewalk.core.seed import stream
from ropewalk.corpus.tokens.tokenizer import Tokenizer
from ropewalk.evaluate.items import Item
from ropewalk.evaluate.loss_by_source import LossBySource
from ropewalk.evaluate.retrieval import encode_prompt
from ropewalk.parallel.collective import rank_and_ranks
from ropewalk.probe.ability import ABILITY_NAMES, make_ability_prompts


@dataclass(frozen=True)
class AbilityLoss(LossBySource):
    """Prompts of each ability, of which the answers' tokens count; a group is a prompt."""

    name = "abilities"
    kind = "ability"


def plan_ability_loss(tokenizer: Tokenizer, *, context_tokens: int, prompts: int, seed: int) -> AbilityLoss | None:
    """At most ``prompts`` prompts of each ability; one that exceeds ``context_tokens`` is left out, and told."""
    items: list[Item] = []
    sources: dict[str, tuple[int, int]] = {}
    for name in ABILITY_NAMES:
        made = make_ability_prompts(name, stream("evaluate", "ability", name, seed), prompts=prompts)
        encoded = [encode_prompt(prompt, tokenizer) for prompt in made]
        if not encoded:
            continue
        if max(len(tokens) for tokens, _ in encoded) > context_tokens:
            if not rank_and_ranks()[0]:
                say(f"ability {name} is not measured: its prompts are longer than {context_tokens} tokens")
            continue
        first = len(items)
        items += [
            Item(tokens, np.where(asked >= 0, first + number, -1)) for number, (tokens, asked) in enumerate(encoded)
        ]
        sources[name] = first, len(items)
    languages = {name: "zh" if name.endswith("_zh") else "en" for name in sources}
    return AbilityLoss(items, sources, languages, context_tokens) if sources else None
