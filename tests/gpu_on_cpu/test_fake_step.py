"""A step of Llama-3-8B's width on tensors without values, as one of 8 and of 64 ranks: its peak and its messages.

torch's MemTracker is the oracle of the plan's memory; a mode that counts messages is that of its traffic.
"""

import pytest

from programs import load_program


@pytest.mark.parametrize(("ranks", "recompute", "median_tokens"), [(8, "save_attention", 4096), (64, "full", None)])
def test_the_plan_knows_the_peak_and_each_byte_of_a_step(
    ranks: int, recompute: str, median_tokens: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The 64 ranks share heads in groups of 8. The program takes all 32 layers, for which it needs minutes."""
    program = load_program("gpu_fake_step", monkeypatch)
    case = program.Case(ranks, recompute, layers=4, median_tokens=median_tokens, chunk_tokens=64)
    tracked, planned = program.track_step(case), program.plan_step(case)
    assert planned.peak_bytes == pytest.approx(tracked.peak_bytes, rel=0.1)
    assert planned.state_bytes == tracked.state_bytes
    assert planned.context_bytes == tracked.context_bytes
