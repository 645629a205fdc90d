"""All probes as one type for a recipe, and one function that makes their prompts."""

from typing import Annotated

import numpy as np
from pydantic import Field

from ropewalk.probe import key_value, needle, passkey, ruler
from ropewalk.probe.held_out_tasks import HeldOutTask, make_held_out_prompt
from ropewalk.probe.prompt import Prompt
from ropewalk.probe.ruler_lists import make_common_words_sample, make_frequent_words_sample, make_variable_sample
from ropewalk.probe.ruler_needles import make_needle_sample
from ropewalk.probe.ruler_questions import make_question_sample
from ropewalk.probe.ruler_task import RulerSample, RulerTask
from ropewalk.probe.word_tasks import WordTask, make_word_prompt

Probe = Annotated[
    key_value.KeyValue
    | passkey.Passkey
    | needle.Needle
    | ruler.VariableTracking
    | ruler.CommonWords
    | ruler.NeedleAmongNeedles
    | RulerTask
    | WordTask
    | HeldOutTask,
    Field(discriminator="kind"),
]


def name_probe(probe: Probe) -> str:
    """The name of its scores: ``key_value_2_hops``, ``passkey_zh``, ``ruler_vt``, ``word_task_copy``."""
    name: str = probe.kind
    if isinstance(probe, key_value.KeyValue) and probe.hops > 1:
        name += f"_{probe.hops}_hops"
    if isinstance(probe, RulerTask | WordTask):
        name += f"_{probe.task}"
    if isinstance(probe, HeldOutTask):
        name = probe.task
    language = getattr(probe, "language", "en")
    return name if language == "en" else f"{name}_{language}"


def count_answers(probe: Probe) -> float:
    """The mean number of answers of a prompt that has room for all facts of its probe."""
    match probe:
        case key_value.KeyValue():
            return probe.questions or sum(probe.pairs) / 2
        case needle.Needle():
            return probe.questions
        case ruler.VariableTracking():
            return probe.hops + 1
        case ruler.CommonWords():
            return probe.common
        case WordTask():
            return sum(probe.keys) / 2
        case RulerTask():
            return {"vt": 5, "cwe": 10, "fwe": 3, "niah_multivalue": 4, "niah_multiquery": 4}.get(probe.task, 1)
        case passkey.Passkey() | ruler.NeedleAmongNeedles() | HeldOutTask():
            return 1


def make_prompt(probe: Probe, rng: np.random.Generator, *, words: int) -> Prompt:
    """A prompt of a probe of any kind, of at most ``words`` words; raises UserError if they are too few."""
    match probe:
        case key_value.KeyValue():
            return key_value.make_key_value_prompt(probe, rng, words=words)
        case passkey.Passkey():
            return passkey.make_passkey_prompt(probe, rng, words=words)
        case needle.Needle():
            return needle.make_needle_prompt(probe, rng, words=words)
        case ruler.VariableTracking():
            return ruler.track_variables(probe, rng, words=words)
        case ruler.CommonWords():
            return ruler.find_common_words(probe, rng, words=words)
        case ruler.NeedleAmongNeedles():
            return ruler.find_needle_among_needles(probe, rng, words=words)
        case WordTask():
            return make_word_prompt(probe, rng, words=words)
        case HeldOutTask():
            return make_held_out_prompt(probe, rng, words=words)
        case RulerTask():
            return make_ruler_sample(probe, rng, words=words).prompt


def make_ruler_sample(spec: RulerTask, rng: np.random.Generator, *, words: int) -> RulerSample:
    """A sample of one of RULER's tasks, of at most ``words`` words; raises UserError if they are too few."""
    match spec.task:
        case "vt":
            return make_variable_sample(spec, rng, words=words)
        case "cwe":
            return make_common_words_sample(spec, rng, words=words)
        case "fwe":
            return make_frequent_words_sample(spec, rng, words=words)
        case "qa_1" | "qa_2":
            return make_question_sample(spec, rng, words=words)
        case _:
            return make_needle_sample(spec, rng, words=words)
