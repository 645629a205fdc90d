"""Rotary positions: how a position becomes angles, for each published method that reaches a longer context.

A method is a frozen value, such as ``Theta``, ``Linear``, ``Yarn`` or ``LongRope``. It is completed for a base and a
length, and gives its inverse frequencies. The room also says what a method reaches, advises one, searches the factors
of LongRoPE, and draws the positions of PoSE. Needs no torch.
"""

from typing import TYPE_CHECKING

from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk.rope.candidates import Candidate as Candidate
    from ropewalk.rope.candidates import Survey as Survey
    from ropewalk.rope.candidates import survey_candidates as survey_candidates
    from ropewalk.rope.dynamic import Dynamic as Dynamic
    from ropewalk.rope.dynamic import LongRope as LongRope
    from ropewalk.rope.frequency import plain_inv_freq as plain_inv_freq
    from ropewalk.rope.frequency import wavelengths as wavelengths
    from ropewalk.rope.layers import LayerPosition as LayerPosition
    from ropewalk.rope.layers import LayerRule as LayerRule
    from ropewalk.rope.layers import stretch_layers as stretch_layers
    from ropewalk.rope.longrope_search import search_factors as search_factors
    from ropewalk.rope.method import BaseRope as BaseRope
    from ropewalk.rope.method import Method as Method
    from ropewalk.rope.resonance import Resonance as Resonance
    from ropewalk.rope.scaling import Rope as Rope
    from ropewalk.rope.scaling import read_method as read_method
    from ropewalk.rope.uniform import Linear as Linear
    from ropewalk.rope.uniform import Nope as Nope
    from ropewalk.rope.uniform import Ntk as Ntk
    from ropewalk.rope.uniform import Proportional as Proportional
    from ropewalk.rope.uniform import Theta as Theta
    from ropewalk.rope.uniform import Unchanged as Unchanged
    from ropewalk.rope.yarn import Llama3 as Llama3
    from ropewalk.rope.yarn import NtkByParts as NtkByParts
    from ropewalk.rope.yarn import Yarn as Yarn
else:
    __all__, __getattr__, __dir__ = export_lazily(
        __name__,
        {
            "candidates": ("Candidate", "Survey", "survey_candidates"),
            "dynamic": ("Dynamic", "LongRope"),
            "frequency": ("plain_inv_freq", "wavelengths"),
            "layers": ("LayerPosition", "LayerRule", "stretch_layers"),
            "longrope_search": ("search_factors",),
            "method": ("BaseRope", "Method"),
            "resonance": ("Resonance",),
            "scaling": ("Rope", "read_method"),
            "uniform": ("Linear", "Nope", "Ntk", "Proportional", "Theta", "Unchanged"),
            "yarn": ("Llama3", "NtkByParts", "Yarn"),
        },
    )
