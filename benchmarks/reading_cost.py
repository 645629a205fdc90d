"""What a reading costs on this machine, part by part, beside the least time that its arithmetic can take.

    python benchmarks/reading_cost.py --model /models/smollm2 --tokens 16Ki [--read]

For each precision: the rate of a square matrix product, attention's kernel in ns a score (one group of heads, causal),
and the CPU seconds of a reading of ``--tokens`` at the matrix rate: its least. The share of that rate which attention
reaches says how much any other kernel could save. ``--read`` also reads random tokens with the model, and takes the
time of all of it; a CPU without bfloat16 holds the weights in float32 there (``weights_held_in``). All times are CPU
seconds of one thread, the median of tries taken in turn, so another program on the machine disturbs them little
(measured: by up to a fifth). Prints JSON lines.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from ropewalk.attention.cpu_kernel import attend_tiles
from ropewalk.core.quantity import parse_count
from ropewalk.evaluate.items import Item, measure
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.open_model import open_model
from ropewalk.parallel.measure_rates import measure_products
from ropewalk.partition.tiles import TileMask
from ropewalk.plan.flops import token_flops
from ropewalk.plan.precision import choose_precision
from ropewalk.shape.read import read_shape

TRIES = 5
SCORE_FLOPS = 4
"""Of one score and one unit of a head's width: a multiplication and an addition in each of two products."""


def time_on_cpu(run: Callable[[], Any]) -> float:
    """CPU seconds of one run, the median, after one that is not counted."""
    run()
    seconds = []
    for _ in range(TRIES):
        begun = time.process_time()
        run()
        seconds.append(time.process_time() - begun)
    return median(seconds)


def measure_parts(model: Path, tokens: int, precision: str) -> dict[str, Any]:
    """Rates of products and of attention, and the seconds of a reading that follow from them."""
    shape = read_shape(model)
    dtype: torch.dtype = getattr(torch, precision)
    rate = measure_products(precision, torch.device("cpu"), clock=time.process_time)
    group = shape.heads // shape.kv_heads
    query = torch.randn(1, tokens, group, shape.head_dim, dtype=dtype)
    key = torch.randn(1, tokens, 1, shape.head_dim, dtype=dtype)
    mask = TileMask(causal=0, window=None)
    with torch.inference_mode():
        seconds = time_on_cpu(lambda: attend_tiles(query, key, key, mask=mask, scale=shape.head_dim**-0.5))
    scores = group * tokens * (tokens + 1) // 2
    work = token_flops(shape, tokens)
    linear, attention = (each * tokens / rate for each in (work.linear, work.attention))
    reached = SCORE_FLOPS * shape.head_dim * scores / seconds / rate
    return {
        "precision": precision,
        "tokens": tokens,
        "product_gflops": round(rate / 1e9, 1),
        "attention_ns_a_score": round(1e9 * seconds / scores, 2),
        "attention_share_of_rate": round(reached, 2),
        "least_seconds": round(linear + attention, 1),
        "expected_seconds": round(linear + attention / reached, 1),
    }


def read(model: Path, tokens: int, precision: str) -> dict[str, Any]:
    """CPU seconds of one reading of random tokens."""
    shape = read_shape(model)
    learner = open_model(ModelWithLoss, model, dtype=precision)
    item = Item(np.random.default_rng(1).integers(0, shape.vocabulary, tokens), np.zeros(tokens, dtype=np.int64))
    begun = time.process_time()
    measure(learner, [item], 1, name=precision)
    seconds = round(time.process_time() - begun, 1)
    return {"read_seconds": seconds, "weights_held_in": str(next(learner.parameters()).dtype).removeprefix("torch.")}


def main() -> None:
    """Print a line for each precision, that of the machine first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--tokens", type=parse_count, default=16384)
    parser.add_argument("--read", action="store_true", help="read with the model too; minutes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    chosen = choose_precision("auto", device="cpu")
    for precision in sorted(("float32", "bfloat16"), key=lambda each: each != chosen):
        line = measure_parts(given.model, given.tokens, precision) | {"chosen": precision == chosen}
        if given.read:
            line |= read(given.model, given.tokens, precision)
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
