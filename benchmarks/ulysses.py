"""The peer: DeepSpeed's Ulysses, in ranks of its own that take turns with ours.

DeepSpeed wants an environment of its own, so each of our ranks starts one process of DeepSpeed's Python and speaks to
it in lines: ``run`` does the work once, ``result`` answers where its tensors lie. To make that environment:

    python -m venv DIR && DIR/bin/pip install torch transformers einops wheel setuptools
    DS_BUILD_OPS=0 DS_ACCELERATOR=cpu DIR/bin/pip install --no-build-isolation deepspeed==0.19.8

This file is both ends: imported here it is ``Ulysses``, started by the other Python it is the peer.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class Ulysses:
    """This rank's process of the peer; ``work`` is "attention" or "step", with what that needs to know."""

    def __init__(self, python: Path, folder: Path, work: str, **settings: Any) -> None:
        rank, ranks = dist.get_rank(), dist.get_world_size()
        seat = {"rank": rank, "ranks": ranks, "folder": str(folder), "work": work, **settings}
        environment = os.environ | {"DS_ACCELERATOR": settings["device"], "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [python, __file__, json.dumps(seat)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / f"{work}-{rank}.log").open("w"),
            env={key: value for key, value in environment.items() if key not in ("RANK", "WORLD_SIZE")},
            text=True,
        )
        self._hear()

    def run(self) -> None:
        """The work once."""
        self._ask("run")

    def result(self) -> dict[str, Tensor]:
        """What the last run left on this rank."""
        return load_file(self._ask("result"))

    def close(self) -> None:
        """End the process; its rank-mates end together."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline().strip()
        if not answer:
            raise RuntimeError(f"DeepSpeed's rank ended; see {self._process.args}")
        return answer


def find_version(python: Path | None) -> str | None:
    """The version of DeepSpeed that ``python`` has, None without one."""
    if python is None:
        return None
    ask = [python, "-c", "from importlib.metadata import version; print(version('deepspeed'))"]
    found = subprocess.run(ask, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def _attend(seat: dict[str, Any]) -> tuple[Callable[[], None], Callable[[], dict[str, Tensor]]]:
    """One layer's attention over one document, each rank with an equal range of it."""
    from deepspeed.sequence.layer import DistributedAttention

    share = slice(*(each * seat["tokens"] // seat["ranks"] for each in (seat["rank"], seat["rank"] + 1)))
    whole = load_file(seat["inputs"])
    inputs = [whole[name][None, share].to(seat["device"]) for name in ("query", "key", "value", "grad")]
    grad = inputs.pop()
    ulysses = DistributedAttention(_attend_locally, dist.group.WORLD, scatter_idx=2, gather_idx=1)
    left: dict[str, Tensor] = {}

    def run() -> None:
        leaves = [each.detach().requires_grad_() for each in inputs]
        out = ulysses(*leaves, 0)
        grads = torch.autograd.grad(out, leaves, grad)
        left.update(zip(("out", "d_query", "d_key", "d_value"), (out.detach(), *grads), strict=True))

    return run, lambda: {name: each[0].cpu().contiguous() for name, each in left.items()}


def _attend_locally(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    heads_first = (each.transpose(1, 2) for each in (query, key, value))
    return scaled_dot_product_attention(*heads_first, is_causal=True, enable_gqa=True).transpose(1, 2)


def _step(seat: dict[str, Any]) -> tuple[Callable[[], None], Callable[[], dict[str, Tensor]]]:
    """A whole step of the trainee on one document."""
    from packs import draw_pack
    from trainee import make_ulysses_step

    step = make_ulysses_step(draw_pack(seat["tokens"], None), dtype=seat["dtype"], device=seat["device"])
    losses: list[Tensor] = []
    return lambda: losses.append(step()), lambda: {"losses": torch.stack(losses).cpu()}


def _be_peer(seat: dict[str, Any]) -> None:
    speak = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # DeepSpeed talks on stdout
    torch.set_num_threads(1)
    backend = "gloo" if seat["device"] == "cpu" else "cpu:gloo,cuda:nccl"
    if seat["device"] == "cuda":
        torch.cuda.set_device(seat["rank"])
    rendezvous = f"file://{seat['folder']}/{seat['work']}-store"
    dist.init_process_group(backend, init_method=rendezvous, rank=seat["rank"], world_size=seat["ranks"])
    import deepspeed

    deepspeed.init_distributed(backend.rsplit(":")[-1], auto_mpi_discovery=False)
    run, result = {"attention": _attend, "step": _step}[seat["work"]](seat)
    print("ready", file=speak, flush=True)
    for line in sys.stdin:
        if line.strip() == "run":
            run()
            if seat["device"] == "cuda":
                torch.cuda.synchronize()
            print("done", file=speak, flush=True)
        else:
            path = f"{seat['folder']}/{seat['work']}-{seat['rank']}.safetensors"
            save_file(result(), path)
            print(path, file=speak, flush=True)
    dist.barrier()


if __name__ == "__main__":
    _be_peer(json.loads(sys.argv[1]))
