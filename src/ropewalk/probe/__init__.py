"""Prompts with known answers, made from a seed: passkey, needle, key-value recall, and tasks of RULER.

A prompt is text and the places of its answers. The room knows no model and no tokenizer, and needs no torch.
"""

from typing import TYPE_CHECKING

from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk.probe.held_out_tasks import HeldOutTask as HeldOutTask
    from ropewalk.probe.key_value import KeyValue as KeyValue
    from ropewalk.probe.key_value import make_key_value_prompt as make_key_value_prompt
    from ropewalk.probe.kinds import Probe as Probe
    from ropewalk.probe.kinds import make_prompt as make_prompt
    from ropewalk.probe.needle import Needle as Needle
    from ropewalk.probe.needle import make_needle_prompt as make_needle_prompt
    from ropewalk.probe.passkey import Passkey as Passkey
    from ropewalk.probe.passkey import make_passkey_prompt as make_passkey_prompt
    from ropewalk.probe.prompt import Prompt as Prompt
    from ropewalk.probe.ruler import CommonWords as CommonWords
    from ropewalk.probe.ruler import NeedleAmongNeedles as NeedleAmongNeedles
    from ropewalk.probe.ruler import VariableTracking as VariableTracking
    from ropewalk.probe.ruler_task import RulerTask as RulerTask
    from ropewalk.probe.word_tasks import WordTask as WordTask
else:
    __all__, __getattr__, __dir__ = export_lazily(
        __name__,
        {
            "held_out_tasks": ("HeldOutTask",),
            "key_value": ("KeyValue", "make_key_value_prompt"),
            "kinds": ("Probe", "make_prompt"),
            "needle": ("Needle", "make_needle_prompt"),
            "passkey": ("Passkey", "make_passkey_prompt"),
            "prompt": ("Prompt",),
            "ruler": ("CommonWords", "NeedleAmongNeedles", "VariableTracking"),
            "ruler_task": ("RulerTask",),
            "word_tasks": ("WordTask",),
        },
    )
