"""The proof of an export: a fresh process without ropewalk gets the same logits from the folder.

Our loader is used there only for a folder that no class of transformers runs. Our logits come from the path of
training: partition, our attention, our loader. Both sides run in float32 on the exported weights, so the difference is
rounding alone, for every stored type. The fresh process also continues a prompt longer than the base's context, with a
cache of keys as in servers: one forward over a whole text does not prove that.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, Shaped
from safetensors.torch import load_file, save_file
from torch import Tensor

from ropewalk.core.artifact import is_finished, read_manifest
from ropewalk.core.error import UserError
from ropewalk.core.seed import stream
from ropewalk.model.architectures import logits_of
from ropewalk.model.engines import LOADER, is_native
from ropewalk.model.folder import read_config
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.open_model import open_model
from ropewalk.parallel.device import rank_device
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.verify_folder import require_intact
from ropewalk.partition import partition_tokens
from ropewalk.plan.memory import WHOLE_BYTES
from ropewalk.plan.rank_setup import RankSetup
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import read_shape
from ropewalk.shape.wrappers import list_marks

PARITY = 1e-5
_PROMPT_BEYOND, _WRITTEN = 5, 3
_Request = dict[str, Shaped[Tensor, "..."]]
"""What plain_reload.py is asked, or answers, by name."""


@dataclass(frozen=True, slots=True)
class Generated:
    """Tokens that a fresh process wrote after a prompt, and the largest difference of their logits from ours."""

    prompt_tokens: int
    written_tokens: int
    difference: float


def verify_both(
    folder: Path, *, device: torch.device | None = None, ranks: int = 1
) -> tuple[dict[int, float], Generated | None]:
    """``verify_export`` and ``verify_generation`` with one fresh process, which loads the model once."""
    device = device or rank_device()
    require_intact(folder)
    texts, prompt = _plan_texts(folder, None), _plan_generation(folder)
    answers = _ask_fresh_process(folder, [*texts, *([] if prompt is None else [prompt])], device)
    differences = _judge_texts(folder, texts, answers[: len(texts)], device, ranks)
    return differences, None if prompt is None else _judge_generation(folder, prompt, answers[-1], device, ranks)


def verify_export(
    folder: Path, *, places: tuple[int, ...] | None = None, device: torch.device | None = None, ranks: int = 1
) -> dict[int, float]:
    """The norm-relative difference of logits between this code and a fresh process, by place in a random text.

    ``places`` default to 0, the end of the base's context, the token after it, and the end of the new context. Where a
    text's length decides its frequencies, a text as long as the base's context is compared too. Both sides run on
    ``device``; None is this process's own. Our side of a large model is sharded over ``ranks``; the fresh process holds
    all of it, as its user would. Raises UserError where a difference exceeds 1e-5, and where the folder does not load
    or does not match its manifest.
    """
    device = device or rank_device()
    require_intact(folder)
    texts = _plan_texts(folder, places)
    return _judge_texts(folder, texts, _ask_fresh_process(folder, texts, device), device, ranks)


def verify_generation(folder: Path, *, device: torch.device | None = None, ranks: int = 1) -> Generated | None:
    """Let a fresh process write a few tokens after a prompt longer than the base's context, and compare with ours.

    Returns None for a context of hardly more tokens than are written. Raises UserError as ``verify_export`` does, and
    where generation_config.json ends texts before the context ends. ``device`` is as there.
    """
    device = device or rank_device()
    prompt = _plan_generation(folder)
    if prompt is None:
        return None
    return _judge_generation(folder, prompt, _ask_fresh_process(folder, [prompt], device)[0], device, ranks)


def _plan_texts(folder: Path, places: tuple[int, ...] | None) -> list[_Request]:
    """A random text with the places to compare; where its length decides its frequencies, also its beginning."""
    shape = read_shape(folder)
    before, after = _context_lengths(folder, shape)
    chosen = places or tuple(sorted({0, before - 1, min(before, after - 1), after - 1}))
    text = _draw_text(folder, shape, max(chosen) + 1)
    planned = [{"tokens": text, "places": torch.tensor(chosen)}]
    if any(layer.rope.depends_on_length for layer in shape.positions):
        short = [place for place in chosen if place < before]
        planned.append({"tokens": text[:before], "places": torch.tensor(short)})
    return planned


def _judge_texts(
    folder: Path, texts: list[_Request], answers: list[_Request], device: torch.device, ranks: int
) -> dict[int, float]:
    """The largest difference at each place; UserError where one is too large."""
    found: dict[int, float] = {}
    for asked, theirs in zip(texts, answers, strict=True):
        places = asked["places"].tolist()
        ours = _compute_ours(folder, asked["tokens"], places, device, ranks)
        for place, difference in zip(places, _difference(ours, theirs["logits"]).tolist(), strict=True):
            found[place] = max(found.get(place, 0.0), difference)
    worst = max(found, key=lambda place: found[place])
    if not found[worst] <= PARITY:
        raise _differs(folder, f"logits at position {worst} differ by {found[worst]:.2e} of their norm")
    return found


def _plan_generation(folder: Path) -> _Request | None:
    """A prompt that is longer than the base's context; None where the new context has no room for that."""
    shape = read_shape(folder)
    before, after = _context_lengths(folder, shape)
    _check_limit(folder / "generation_config.json", after)
    prompt_tokens = min(before + _PROMPT_BEYOND, after - _WRITTEN)
    if prompt_tokens < 1:
        return None
    prompt = _draw_text(folder, shape, prompt_tokens)
    # A cache keeps keys with the frequencies of a shorter text, so methods that depend on length run without one.
    by_length = any(layer.rope.depends_on_length for layer in shape.positions)
    asked = {"tokens": prompt, "generate": torch.tensor(_WRITTEN), "cached": torch.tensor(not by_length)}
    marks = list_marks(read_config(folder))
    return asked | ({"avoid": torch.tensor(marks)} if marks else {})


def _draw_text(folder: Path, shape: ModelShape, tokens: int) -> Int64[Tensor, "tokens"]:
    """Random tokens. None of them stands for a picture or sound, which a multimodal class reads in its own way."""
    text, marks = stream("verify").integers(shape.vocabulary, size=tokens), list_marks(read_config(folder))
    plain = next(token for token in range(shape.vocabulary) if token not in marks)
    return torch.from_numpy(np.where(np.isin(text, marks), plain, text))


def _judge_generation(folder: Path, asked: _Request, theirs: _Request, device: torch.device, ranks: int) -> Generated:
    prompt_tokens = len(asked["tokens"])
    # [prompt] and [written] -> [prompt + written]
    text = torch.cat([asked["tokens"], theirs["written"]])
    ends = [prompt_tokens + step for step in range(_WRITTEN)]
    whole = [(ends[-1], ends)] if asked["cached"] else [(end, [end]) for end in ends]
    # texts x [places, ids] -> [written, ids]
    ours = torch.cat(
        [_compute_ours(folder, text[:end], [place - 1 for place in places], device, ranks) for end, places in whole]
    )
    difference = float(_difference(ours, theirs["logits"]).max())
    if not difference <= PARITY:
        why = f"logits of tokens generated after {prompt_tokens} differ by {difference:.2e} of their norm"
        raise _differs(folder, why)
    return Generated(prompt_tokens, _WRITTEN, difference)


def _check_limit(path: Path, context_tokens: int) -> None:
    limit = json.loads(path.read_text()).get("max_length") if path.is_file() else None
    if isinstance(limit, int) and limit < context_tokens:
        raise UserError(
            "the maximal length of generation is below the context length",
            where=f"{path}: max_length",
            why=f"it is {limit}, but the model reads {context_tokens} tokens",
            fix=f"set it to {context_tokens}, or remove it",
        )


def _differs(folder: Path, why: str) -> UserError:
    return UserError(
        "the exported model differs from the trained model",
        where=str(folder),
        why=f"{why}, more than {PARITY:g}",
        fix="compare the transformers versions; report this with the folder's config.json",
    )


def _context_lengths(folder: Path, shape: ModelShape) -> tuple[int, int]:
    """The base's context and the folder's own; config.json alone does not always give the second."""
    facts = read_manifest(folder)["facts"] if is_finished(folder) else {}
    after = int(facts.get("context_tokens", shape.context_tokens))
    return int(facts.get("base_context_tokens", after)), after


def _difference(
    ours: Float32[Tensor, "places ids"], theirs: Float32[Tensor, "places ids"]
) -> Float64[Tensor, "places"]:
    difference: Tensor = (ours.double() - theirs.double()).norm(dim=1) / theirs.double().norm(dim=1)
    return difference


def _compute_ours(
    folder: Path, text: Int64[Tensor, "tokens"], places: list[int], device: torch.device, ranks: int
) -> Float32[Tensor, "places ids"]:
    setup = RankSetup("cuda" if device.type == "cuda" else "cpu")
    large = 4 * read_shape(folder).parameters > WHOLE_BYTES  # a small one would be whole on each of them
    asked = {"tokens": text, "places": torch.tensor(places)}
    ours: list[Tensor] = run_ranks(compute_logits, ranks if large else 1, folder, asked, setup=setup)
    return ours[0]


def _ask_fresh_process(folder: Path, requests: list[_Request], device: torch.device) -> list[_Request]:
    """The answers of one process, which ends before ours are computed: a device need not hold the model twice."""
    program, loader = Path(__file__).with_name("plain_reload.py"), [] if is_native(folder) else [LOADER]
    with tempfile.TemporaryDirectory(prefix="ropewalk-verify-") as scratch:
        files = program, folder, scratch, device
        for number, request in enumerate(requests):
            save_file(request, Path(scratch) / f"request-{number}")
        command = [sys.executable, "-P", *map(str, files), *loader]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stderr.strip().splitlines() if done.returncode > 0 else []
            ended = f"the process ended with code {done.returncode}; -9 is what a system without memory left gives it"
            raise UserError(
                f"the export does not load in {LOADER if loader else 'plain transformers'}",
                where=str(folder),
                why=said[-1] if said else ended,
                fix="export again; if the error stays, report this with the folder's config.json",
            )
        return [load_file(Path(scratch) / f"answer-{number}") for number in range(len(requests))]


class _Logits(ModelWithLoss):
    """A model whose forward gives logits."""

    def forward(  # type: ignore[override]
        self, tokens: Int64[Tensor, "tokens"], places: Int64[Tensor, "places"]
    ) -> Float32[Tensor, "places ids"]:
        partition = partition_tokens(np.zeros((1, len(tokens)), np.int32), ranks=1)
        hidden = self.read(tokens, torch.arange(len(tokens), device=tokens.device), partition=partition)
        # [tokens, width] -> [places, width], then the head -> [places, ids]
        return logits_of(self.causal, hidden[places])


@torch.no_grad()
def compute_logits(
    folder: Path, request: dict[str, Shaped[Tensor, "..."]], *, whole_bytes: int = WHOLE_BYTES
) -> Float32[Tensor, "places ids"]:
    """Our logits of ``request["tokens"]`` at its ``places``, by the path of training. Every rank computes all."""
    learner = open_model(_Logits, folder, dtype="float32", whole_bytes=whole_bytes)
    device = next(learner.parameters()).device
    logits: Float32[Tensor, "places ids"] = learner(request["tokens"].to(device), request["places"].to(device))
    return logits.cpu()
