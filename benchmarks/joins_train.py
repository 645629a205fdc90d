"""One arm of study_joins.py: its corpus, a short training of the tiny base from 512 to 2,048 tokens, and its measures.

The training is ropewalk's own: sequences, document masks, kernel, loss. All arms of a seed have the same base, rate and
number of sequences; they differ in the rules of the corpus.
"""

import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ropewalk.corpus.join.task_text import Text, read_terms
from ropewalk.corpus.join.tasks import Task, make_task
from ropewalk.corpus.mix.dataset import Dataset, open_dataset
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.corpus.task_rules import Family
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.tokenizer import Tokenizer, load_tokenizer
from ropewalk.evaluate.items import measure
from ropewalk.evaluate.length_gain import LongText, make_items
from ropewalk.model.extend import extend
from ropewalk.model.load import load_model
from ropewalk.model.model_with_loss import ModelWithLoss, head_of
from ropewalk.partition import partition_tokens
from ropewalk.rope.uniform import Theta
from ropewalk.shape.find import TINY_BASE

WINDOW, CONTEXT = 512, 2048
RATE, WARMUP = 6e-4, 0.06
KEEP_STEPS = 8
_WORDS = {"law": "zh", "code": "code", "book": "en"}
Measures = dict[str, float]


def open_base(out: Path) -> Path:
    """The tiny base with the positions of the quickstart."""
    folder = out / "base"
    if not folder.exists():
        extend(TINY_BASE, folder, rope=Theta(theta=1e6), context_tokens=CONTEXT)
    return folder


def make_corpus(out: Path, name: str, sources: Sequence[Mapping[str, Any]], tokenizer: Tokenizer) -> Corpus:
    """All texts of the files are trained on: what is asked about lies in files of its own."""
    given = [
        {"role": "general", "profile": "markup", "near_duplicates": 0.8, **each, "path": str(out / each["path"])}
        for each in sources
    ]
    spec = {"store": str(out / "store"), "sources": given, "mix": {each["name"]: 1 for each in given}, "held_out": 0}
    rules = CorpusSpec.model_validate({**spec, "repeated_sections": None, "worker_count": 1})
    return open_corpus(build(rules, tokenizer=tokenizer, seed=0, folder=out / name))


def open_rows(corpus: Corpus, rows: int, seed: int) -> Dataset:
    """The sequences of a training: each source's share is the same."""
    mix = dict.fromkeys(corpus.sources, 1.0)
    return open_dataset(corpus, mix=mix, context_tokens=CONTEXT, sequences=rows, seed=seed, stage=0, max_repeats=3)


def train(base: Path, dataset: Dataset, seed: int, *, rows_a_step: int, kept: Path) -> tuple[ModelWithLoss, Measures]:
    """Read all sequences once. Returns the model, and what the training took. ``kept`` is a file from which a training
    that was stopped goes on."""
    torch.manual_seed(seed)
    learner = ModelWithLoss(load_model(base)).train()
    optimizer = torch.optim.AdamW(learner.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.1)
    steps = dataset.sequences // rows_a_step
    first, before, loss = _load(kept, learner, optimizer)
    begin = time.process_time() - before
    for step in range(first, steps):
        if step % KEEP_STEPS == 0 and step > first:
            _save(kept, learner, optimizer, step, (time.process_time() - begin, loss))
        done = step / steps
        rate = RATE * min(1.0, (done + 1 / steps) / WARMUP) * (1 + math.cos(math.pi * done)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = dataset.batch(step * rows_a_step, rows_a_step)
        parts = partition_tokens(batch.document, ranks=1)
        fields = (batch.tokens.astype(np.int64), batch.positions.astype(np.int64), batch.labels.astype(np.int64))
        local = [torch.from_numpy(each.reshape(-1)[parts.owned(0)]) for each in (*fields, batch.weights)]
        total = learner(*local, partition=parts)[0]
        (total / float(batch.weights.sum())).backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss = float(total.detach()) / float(batch.weights.sum())
    if first < steps:
        _save(kept, learner, optimizer, steps, (time.process_time() - begin, loss))
    return learner.eval(), {"train_seconds": time.process_time() - begin, "train_loss": loss}


def _save(
    kept: Path, learner: ModelWithLoss, optimizer: torch.optim.Optimizer, step: int, told: tuple[float, float]
) -> None:
    tensors = {}
    for name, parameter in learner.causal.named_parameters():
        tensors[name] = parameter.detach()
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key} of {name}"] = value
    aside = kept.with_suffix(".part")
    save_file(tensors, aside, metadata={"step": str(step), "seconds": str(told[0]), "loss": str(told[1])})
    aside.replace(kept)


def _load(kept: Path, learner: ModelWithLoss, optimizer: torch.optim.Optimizer) -> tuple[int, float, float]:
    """The step at which the training goes on, the seconds before it and the last loss; 0 where it begins."""
    if not kept.exists():
        return 0, 0.0, math.nan
    with safe_open(kept, "pt") as file, torch.no_grad():
        for name, parameter in learner.causal.named_parameters():
            parameter.copy_(file.get_tensor(name))
            keys = ("step", "exp_avg", "exp_avg_sq")
            optimizer.state[parameter] = {key: file.get_tensor(f"{key} of {name}") for key in keys}
        told = file.metadata()
    return int(told["step"]), float(told["seconds"]), float(told["loss"])


def measure_gain(learner: ModelWithLoss, texts: Mapping[str, Sequence[np.ndarray]]) -> Measures:
    """For each kind of text: the loss of the last quarter with all before it, and with the base's window only."""
    found: Measures = {}
    for kind, tokens in texts.items():
        long = [LongText(kind, str(n), each.astype(np.int64)[:CONTEXT]) for n, each in enumerate(tokens)]
        items = make_items(long, truncated_tokens=WINDOW, last_tokens=CONTEXT // 4)
        sums = measure(learner, items, 2 * len(long), name=kind)
        whole, near = (float(sums.nll[at::2].sum() / sums.count[at::2].sum()) for at in (0, 1))
        found |= {f"{kind}: whole": whole, f"{kind}: window": near, f"{kind}: gain": near - whole}
    return found


def ask(
    learner: ModelWithLoss,
    texts: Mapping[str, Sequence[str]],
    families: Sequence[Family],
    untrained: Sequence[Family],
    tokenizer: Tokenizer,
) -> Measures:
    """Share of right answers of each family, in percent: of ``order`` and ``frequent`` the likeliest of two and three
    words, of the others all tokens. Up to two tasks of a family stand behind a document, one after the other."""
    right: dict[str, list[bool]] = {family: [] for family in families}
    for kind, own in texts.items():
        for number, text in enumerate(own):
            for tokens, answers in _lay_out(text, kind, number, families, tokenizer):
                logits = _read(learner, tokens)
                for family, at, answer, others in answers:
                    if not others:
                        guessed = logits[at - 1 : at - 1 + len(answer)].argmax(dim=-1).numpy()
                        right[family].append(bool((guessed == answer).all()))
                    else:
                        right[family].append(bool(logits[at - 1, answer[0]] > logits[at - 1, others].max()))
    pools = {**{family: found for family, found in right.items() if found}}
    pools["families that are not trained"] = [each for family in untrained for each in right[family]]
    return {f"asked: {name}": 100 * float(np.mean(found)) for name, found in pools.items()} | {
        f"asked: {name}, questions": len(found) for name, found in pools.items()
    }


Asked = tuple[Family, int, np.ndarray, list[int]]


def _lay_out(
    text: str, kind: str, number: int, families: Sequence[Family], tokenizer: Tokenizer
) -> Iterator[tuple[np.ndarray, list[Asked]]]:
    """A document with its questions, and where the answers begin; an answer is the bare word, whatever its form."""
    known, random = read_terms(text, _WORDS[kind]), np.random.default_rng([7, number])
    ids = [*tokenizer.encode(text)]
    if tokenizer.bos_id is not None and ids[0] != tokenizer.bos_id:
        ids.insert(0, tokenizer.bos_id)
    answers: list[Asked] = []
    for family in families:
        seen: set[tuple[str, ...]] = set()
        for _ in range(12):
            task = make_task(known, family, random)
            if task is None or task.about in seen or len(seen) == 2:
                continue
            seen.add(task.about)
            answer, *others = (tokenizer.encode_inside(word) for word in _choices(task, known))
            question = tokenizer.encode_inside(f"\n\n{task.question}\n")
            firsts = [int(each[0]) for each in others]
            if len(ids) + len(question) + len(answer) > CONTEXT or answer[0] in firsts:
                continue
            ids += [*question]
            answers.append((family, len(ids), answer, firsts))
            ids += [*answer]
    if answers:
        yield np.array(ids, dtype=np.int64), answers


def _choices(task: Task, text: Text) -> list[str]:
    """The bare answer, and the words between which it was to be chosen."""
    if task.family == "order":
        return sorted(task.about, key=text.text.index)
    if task.family == "frequent":
        return sorted(task.about, key=lambda word: -text.terms.count(word))
    number = re.search(r"\d+", task.answer) if task.family == "count" else None
    return [number[0] if number else task.answer]


def _read(learner: ModelWithLoss, tokens: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        parts = partition_tokens(np.zeros((1, len(tokens)), dtype=np.int32), ranks=1)
        hidden = learner.read(torch.from_numpy(tokens), torch.arange(len(tokens)), partition=parts)
        return hidden @ head_of(learner.causal).T


def read_tokenizer() -> Tokenizer:
    """The base's."""
    return load_tokenizer(TINY_BASE)
