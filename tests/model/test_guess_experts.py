"""How a router scores experts is read off its own weights, and only where they can tell."""

import pytest
import torch
from transformers import LlamaForCausalLM

from ropewalk.core.error import UserError
from ropewalk.model.guess_experts import find_scores

LOGITS = torch.tensor([[0.5, -1.0, 0.25, 2.0], [1.5, 0.0, -0.5, 0.75]])
CHOSEN = torch.tensor([[3, 0], [0, 3]])


def test_weights_of_two_experts_tell_the_scores() -> None:
    scores = {"softmax": LOGITS.softmax(-1), "sigmoid": LOGITS.sigmoid(), "given": LOGITS.abs()}
    for way, each in scores.items():
        logits = each if way == "given" else LOGITS
        assert find_scores(LlamaForCausalLM, logits, 2.5 * each.gather(-1, CHOSEN), CHOSEN) == way


def test_weights_that_any_scores_would_give_are_refused() -> None:
    """One expert for each token has all of the weight, and equal logits have equal weights, however they are scored."""
    one = CHOSEN[:, :1]
    for logits, chosen in ((LOGITS.abs(), one), (torch.ones(2, 4), CHOSEN)):
        with pytest.raises(UserError, match="do not tell how it scores"):
            find_scores(LlamaForCausalLM, logits, logits.sigmoid().gather(-1, chosen), chosen)


def test_other_weights_are_refused() -> None:
    with pytest.raises(UserError, match="otherwise than by a softmax"):
        find_scores(LlamaForCausalLM, LOGITS, LOGITS.square().gather(-1, CHOSEN), CHOSEN)
