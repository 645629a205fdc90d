"""Parts of a softmax, merged, are the softmax."""

import pytest
import torch

from ropewalk.attention.merge import merge


@pytest.mark.parametrize("shift", [0.0, 80.0, -80.0])
def test_two_halves_are_the_whole(shift: float) -> None:
    torch.manual_seed(0)
    scores, values = torch.randn(7, 3, 20, dtype=torch.float64), torch.randn(20, 3, 4, dtype=torch.float64)
    scores[..., 12:] += shift

    def attend(part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        shares = scores[..., part].softmax(-1)
        return torch.einsum("rhk,khd->rhd", shares, values[part]), scores[..., part].logsumexp(-1)

    out, logsum = merge(*attend(slice(0, 12)), attend(slice(12, 20)))
    expected_out, expected_logsum = attend(slice(0, 20))
    torch.testing.assert_close(out, expected_out, atol=1e-14, rtol=1e-14)
    torch.testing.assert_close(logsum, expected_logsum, atol=1e-14, rtol=1e-14)


def test_bfloat16_parts_are_summed_in_the_first_ones_dtype() -> None:
    out, logsum = torch.zeros(2, 1, 4), torch.zeros(2, 1)
    merged, _ = merge(out, logsum, (torch.ones(2, 1, 4, dtype=torch.bfloat16), torch.zeros(2, 1)))
    assert merged.dtype == torch.float32 and torch.equal(merged, torch.full((2, 1, 4), 0.5))
