"""What moments in 8 bits cost: steps of AdamW over one model with float32 moments and with bytes, in turns.

    python benchmarks/optimizer.py [--model 25M] [--turns 10] [--threads 1]
    python benchmarks/optimizer.py --device cuda --model 1B

Gradients are random and stay what they are; a step reads, moves and writes all weights and moments. Both sides are
first held together: after one step from moments of 0 the weights must be nearly the same. One JSON line.
"""

import argparse
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from memory_sides import SHAPES, Case, make_model
from race import race, tell
from ropewalk.parallel.launch import run_ranks
from ropewalk.plan.rank_setup import RankSetup
from ropewalk.train.optimizer import make_optimizer, set_learning_rate

SIDES = {"float32": False, "8bit": True}
RATE = 1e-4
MOST_APART = 0.2 * RATE
"""Of the weights after a first step, on average: a first moment in 8 bits errs by a few per cent."""


def make_side(model: str, device: str, *, eight_bit: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    made = make_model(Case(model, 1024, 1024, device, 1), "sdpa").to(device)
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(device)
    optimizer = make_optimizer(made, weight_decay=0.1, betas=(0.9, 0.95), eight_bit=eight_bit)
    set_learning_rate(optimizer, RATE)
    return made, optimizer


def measure(model: str, device: str, turns: int) -> Mapping[str, Any]:
    sides = {name: make_side(model, device, eight_bit=eight_bit) for name, eight_bit in SIDES.items()}
    for _, optimizer in sides.values():
        optimizer.step()
    pairs = zip(*(made.parameters() for made, _ in sides.values()), strict=True)
    apart = max(float((one.detach() - other.detach()).abs().mean()) for one, other in pairs)
    assert apart <= MOST_APART, f"weights are {apart:g} apart after a step"
    return race({name: optimizer.step for name, (_, optimizer) in sides.items()}, turns=turns, device=device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="25M")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args()
    found = run_ranks(
        lambda: measure(given.model, given.device, given.turns), 1, threads=given.threads, setup=RankSetup(given.device)
    )[0]
    parameters = SHAPES[given.model].parameters
    tell(
        "a step of AdamW, moments in 8 bits",
        "torch's fused AdamW, moments in float32",
        ours=found["8bit"],
        theirs=found["float32"],
        unit="s",
        must_reach=None,
        parameters=parameters,
        threads=given.threads,
        more_ns_per_parameter=(found["8bit"] - found["float32"]) / parameters * 1e9,
    )


if __name__ == "__main__":
    main()
