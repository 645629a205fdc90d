"""What each method does to a real model at a longer context, before any training and after a short one.

    ropewalk import SmolLM2-135M-Instruct.Q4_1.gguf /models/smollm2
    python benchmarks/real_model.py OUT --model /models/smollm2 --text books.jsonl --budget-minutes 120
    python benchmarks/real_model.py OUT --model /models/smollm2 --text books.jsonl --train full --budget-minutes 240
    python benchmarks/tabulate_real_model.py OUT/readings.jsonl docs/real-model.md

Every reading (one text or prompt, read by one model) is one line of OUT/readings.jsonl, written when it is done. The
same command continues after a stop, and no reading is done twice. Readings come in rounds: each model reads its first
text, then each its second, so a stop leaves a table whose cells have equally many texts. All models read the same
tokens. The figures come from ropewalk's own extend, evaluate and train. ``--kinds questions`` is a third of the passes:
one for a text gives its loss by position and answers of three kinds (real_model_questions.py).
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from real_model_questions import KINDS as ANSWERS
from real_model_questions import ask_about
from ropewalk.commands.advise_probe import read_probe_texts
from ropewalk.core.artifact import is_finished
from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_length, parse_count
from ropewalk.core.record import Document
from ropewalk.corpus.read.source import read_source
from ropewalk.corpus.spec import Source
from ropewalk.corpus.tokens.tokenizer import Tokenizer, load_tokenizer
from ropewalk.evaluate.items import Item, Sums, measure
from ropewalk.evaluate.loss_by_position import PositionLoss
from ropewalk.evaluate.retrieval import plan_retrieval
from ropewalk.model.extend import extend
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.open_model import open_model
from ropewalk.plan.precision import Precision, choose_precision
from ropewalk.probe.key_value import KeyValue
from ropewalk.probe.kinds import Probe
from ropewalk.probe.needle import Needle
from ropewalk.rope.candidates import survey_candidates
from ropewalk.shape.read import read_shape

ROUNDS, QUESTIONS = 4, 16  # 64 answers a cell from 4 prompts
PROBES: dict[str, Probe] = {
    "key_value": KeyValue(pairs=(QUESTIONS, QUESTIONS)),
    "needle": Needle(questions=QUESTIONS, distractors=QUESTIONS - 1),
}
KINDS = ("questions", "loss", *PROBES)
SEED = 20_261_129
FRONT_CHARACTERS = 20_000  # title and table of contents, which a model predicts at 0.7 nats
TOKEN_CHARACTERS = 5  # more than an English token has; what follows the measured pieces is for training


@dataclass(frozen=True)
class Reading:
    """One text or prompt for one model. ``arm`` is a method, or after training ``METHOD+full@TOKENS``, and with
    training sequences shorter than the target ``METHOD+full-ROW@TOKENS``."""

    number: int
    kind: str
    arm: str
    target: int
    tokens: int

    @property
    def key(self) -> list[Any]:
        return [self.number, self.kind, self.arm, self.target, self.tokens]


def name_dtype(learner: ModelWithLoss) -> str:
    """What the weights of an opened model are held in, such as ``float32``: not always what was asked for."""
    return str(next(learner.parameters()).dtype).removeprefix("torch.")


def read_book(path: Path) -> str:
    """The longest document of a file."""
    source = Source(name="book", path=str(path), role="general")
    return max((item.text for item in read_source(source, seed=0) if isinstance(item, Document)), key=len)


def list_readings(
    base_tokens: int, targets: list[int], arms: dict[int, list[str]], kinds: tuple[str, ...] = KINDS[:1]
) -> Iterator[Reading]:
    """All readings in the order of their worth: targets, rounds, short before long, and within a kind all arms."""
    for target in targets:
        for number in range(ROUNDS):
            if target == targets[0]:  # the base within its own context
                for tokens in (base_tokens // 4, base_tokens // 2, base_tokens):
                    for kind in (kind for kind in kinds if kind in PROBES):
                        yield Reading(number, kind, "unchanged", target, tokens)
            for kind in kinds:
                for arm in arms[target]:
                    yield Reading(number, kind, arm, target, target)


class Bench:
    """The models, the texts and the file of readings."""

    def __init__(
        self,
        out: Path,
        model: Path,
        text: Path,
        targets: list[int],
        methods: list[str],
        precision: Precision,
        kinds: tuple[str, ...],
    ) -> None:
        self.out, self.model, self.text, self.targets, self.kinds = out, model, text, targets, kinds
        self.precision = choose_precision(precision, device="cpu")
        self.base_tokens = read_shape(model).context_tokens
        self.tokenizer: Tokenizer = load_tokenizer(model)
        self.methods, self.threads = methods, torch.get_num_threads()
        self.file = out / "readings.jsonl"
        out.mkdir(parents=True, exist_ok=True)

    def survey(self, target: int) -> dict[str, Any]:
        """The chosen methods by their short names; ``theta`` is the first theta that advise would take."""
        found = survey_candidates(read_shape(self.model).base_rope, target)
        named: dict[str, Any] = {}
        for each in found.candidates:
            named.setdefault(each.name.partition(" ")[0], each.method)
        if unknown := [name for name in self.methods if name not in named]:
            raise UserError(
                f"no method {', '.join(unknown)} for {format_length(target)}",
                where="--methods",
                why=f"this base has {', '.join(named)} there",
                fix="leave it out",
            )
        return {name: named[name] for name in self.methods}

    def folder(self, arm: str, target: int) -> Path:
        method, _, trained = arm.partition("+")
        out = self.out / "models" / f"{method}-{format_length(target)}"
        if trained:
            return self.out / "trained" / f"{arm}-{format_length(target)}"
        if not is_finished(out):
            extend(self.model, out, rope=self.survey(target)[method], context_tokens=target)
        return out

    def arms(self, target: int) -> list[str]:
        trained = sorted(self.out.glob(f"trained/*-{format_length(target)}/manifest.json"))
        return [*self.survey(target), *(path.parent.name.rpartition("-")[0] for path in trained)]

    def done(self) -> set[str]:
        """The keys of all readings. Raises UserError if they have another precision: arms are compared in pairs."""
        lines = map(json.loads, self.file.read_text().splitlines() if self.file.exists() else [])
        found = {json.dumps(line["key"]): line["precision"] for line in lines}
        if other := set(found.values()) - {self.precision}:
            raise UserError(
                f"{self.file} was read in {', '.join(sorted(other))}, and this call reads in {self.precision}",
                where="--precision",
                why="methods are compared on the same text in the same precision",
                fix=f"--precision {min(other)}, or another folder",
            )
        return set(found)

    def measure(self, reading: Reading) -> dict[str, Any]:
        learner, name = self.learner(reading.arm, reading.target), f"{reading.arm}: {reading.kind} {reading.tokens}"
        if reading.kind == "questions":
            document = self.texts()[reading.number][: reading.tokens]
            asked = ask_about(document, self.tokenizer, base_tokens=self.base_tokens, number=reading.number)
            whole, alone = (measure(learner, [each], asked.groups, name=name) for each in (asked.whole, asked.alone))
            positions, answers = slice(asked.positions), slice(asked.positions, None)
            return _list_sums(whole, positions) | {
                "borders": asked.borders,
                "depths": asked.depths,
                "kinds": ANSWERS,
                "answers": _list_sums(whole, answers),
                "alone": _list_sums(alone, answers),
            }
        item, groups, borders = self.item(reading.kind, reading.number, reading.tokens)
        sums = measure(learner, [item], groups, name=name)
        return _list_sums(sums, sums.count > 0) | {"borders": borders}

    @cache  # noqa: B019  one object for the whole program
    def learner(self, arm: str, target: int) -> ModelWithLoss:
        """The opened model of an arm; all of them together take a few times the model's bytes."""
        learner = open_model(ModelWithLoss, self.folder(arm, target), dtype=self.precision)
        if (held := name_dtype(learner)) != self.precision:
            raise UserError(
                f"this machine reads in {held}, not in {self.precision}",
                where="--precision",
                why="its CPU multiplies no bfloat16, and each reading names the precision that it was read in",
                fix=f"--precision {held}",
            )
        return learner

    def item(self, kind: str, number: int, tokens: int) -> tuple[Item, int, list[int]]:
        """The text, its groups, and for a loss the positions at which its groups begin and end."""
        if kind == "loss":
            document = self.texts()[number][:tokens]
            whole = PositionLoss([document], self.base_tokens, tokens // self.base_tokens)
            return whole.items[0], whole.groups, whole.borders
        planned = self.prompts(kind, tokens)
        return planned[number], 1 + max(int(item.group.max()) for item in planned), []

    @cache  # noqa: B019
    def texts(self) -> list[np.ndarray]:
        cut = self.out / "measured.txt"
        cut.write_text(read_book(self.text)[FRONT_CHARACTERS : self.measured_end])
        found = read_probe_texts(cut, self.tokenizer, tokens=max(self.targets), documents=ROUNDS)
        assert len(found) == ROUNDS, "the book is too short for the longest target"
        return found

    def unread(self) -> str:
        """The part of the book after the measured one."""
        return read_book(self.text)[self.measured_end :]

    @property
    def measured_end(self) -> int:
        """The character of the book at which the measured part ends."""
        return FRONT_CHARACTERS + TOKEN_CHARACTERS * ROUNDS * max(self.targets)

    @cache  # noqa: B019
    def prompts(self, kind: str, tokens: int) -> list[Item]:
        found = plan_retrieval(
            PROBES[kind], self.tokenizer, lengths=[tokens], answers=ROUNDS * QUESTIONS, depths=1, seed=SEED
        )
        assert found is not None and len(found.items) == ROUNDS
        return found.items


def _list_sums(sums: Sums, groups: Any) -> dict[str, list[float]]:
    return {name: getattr(sums, name)[groups].tolist() for name in ("count", "nll", "correct")}


def read_all(bench: Bench, end: float) -> bool:
    """Do the readings that are missing until ``end``; True if none is left. A reading is begun only if it will fit."""
    arms = {target: bench.arms(target) for target in bench.targets}
    done, paid = bench.done(), {}
    for reading in list_readings(bench.base_tokens, bench.targets, arms, bench.kinds):
        if json.dumps(reading.key) in done:
            continue
        begun, cpu = time.monotonic(), time.process_time()
        if begun + paid.get(reading.tokens, 0.0) > end:
            return False
        entry = bench.measure(reading)
        seconds = paid[reading.tokens] = time.monotonic() - begun
        entry |= {"key": reading.key, "seconds": round(seconds, 1), "threads": torch.get_num_threads()}
        entry["cpu_seconds"] = round(time.process_time() - cpu, 1)
        if reading.kind not in PROBES:  # other targets cut the book elsewhere: only equal texts make a pair
            entry["begin"] = reading.number * max(bench.targets)
        entry |= {"precision": bench.precision, "date": time.strftime("%Y-%m-%d %H:%M"), "model": bench.model.name}
        with bench.file.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        print(f"{reading.key} {seconds:.0f} s", flush=True)
    return True


def main() -> None:
    """Read what is missing, or train one arm, within the budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, required=True, help="a folder that ropewalk import has written")
    parser.add_argument("--text", type=Path, required=True, help=".jsonl or .txt with long English documents")
    parser.add_argument("--targets", default="16Ki,32Ki")
    parser.add_argument("--methods", default="unchanged,theta,ntk,yarn")
    parser.add_argument("--kinds", default=KINDS[0], help=f"of {', '.join(KINDS)}")
    parser.add_argument(
        "--precision", choices=get_args(Precision), default="auto", help="auto: what this CPU is fast in"
    )
    parser.add_argument("--train", choices=("full", "lora"), help="train at the first target instead")
    parser.add_argument("--train-method", default="theta", help="whose model is trained; one of --methods")
    parser.add_argument("--row", type=parse_count, help="tokens of a training sequence; below the target with PoSE")
    parser.add_argument("--budget-minutes", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.budget_minutes
    torch.set_num_threads(given.threads)
    targets = [parse_count(each) for each in given.targets.split(",")]
    kinds = tuple(given.kinds.split(","))
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"--kinds: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    bench = Bench(
        given.out,
        given.model.resolve(),
        given.text.resolve(),
        targets,
        given.methods.split(","),
        given.precision,
        kinds,
    )
    if given.train:
        from real_model_train import train  # its recipe

        train(bench, given.train, method=given.train_method, row=given.row or targets[0], end=end)
    elif not read_all(bench, end):
        print("the budget is spent; the same command continues", file=sys.stderr)


if __name__ == "__main__":
    main()
