"""The sides of memory.py: one model and one packed row, trained for a few steps by us and by transformers' Trainer.

Both start from the same random weights in float32 (on a GPU: bfloat16 products) and take whole steps: forward,
backward, clipping, AdamW. A side says what its tensors took at most, states included, or how long its steps lasted.
"""

import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from packs import count_places
from ropewalk.model.attend import NAME
from ropewalk.model.learner import Learner
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.mesh import make_mesh
from ropewalk.parallel.peak import measure_peak_bytes
from ropewalk.partition import partition_rows
from ropewalk.plan.savings import Savings
from ropewalk.shape.model_shape import ModelShape, plain_layers
from ropewalk.train.optimizer import make_optimizer, set_learning_rate
from ropewalk.train.place import place_learner

LLAMA, QWEN = "LlamaForCausalLM", "Qwen3ForCausalLM"
SHAPES = {
    "25M": ModelShape(LLAMA, 384, 6, 2, 64, 1024, 32_000, True, 1 << 20, plain_layers(8, 1e6)),
    "0.6B": ModelShape(QWEN, 1024, 16, 8, 128, 3072, 151_936, True, 1 << 20, plain_layers(28, 1e6), qk_norm="head"),
    "1B": ModelShape(LLAMA, 2048, 32, 8, 64, 8192, 128_256, True, 1 << 20, plain_layers(16, 5e5)),
}


class Case(NamedTuple):
    """What a side is to run."""

    model: str
    tokens: int
    document_tokens: int
    """Length of the row's documents, all alike."""
    device: str
    steps: int

    @property
    def shape(self) -> ModelShape:
        return SHAPES[self.model]

    @property
    def documents(self) -> np.ndarray:
        """Ids [1, tokens]."""
        return (np.arange(self.tokens, dtype=np.int32) // self.document_tokens)[None]


def make_model(case: Case, attention: str) -> PreTrainedModel:
    shape = case.shape
    settings: dict[str, Any] = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "intermediate_size": shape.mlp_width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.context_tokens,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.theta},
        "tie_word_embeddings": shape.tied,
        "attn_implementation": attention,
    }
    torch.manual_seed(0)
    if shape.architecture == LLAMA:
        return LlamaForCausalLM(LlamaConfig(**settings))
    return Qwen3ForCausalLM(Qwen3Config(**settings))


def run_ours(case: Case, what: str, savings: Savings, *, threads: int) -> float:
    """``peak`` bytes or ``seconds`` of a step with ``savings``, on one rank."""
    found: float = run_ranks(_run_ours, 1, case, what, savings, threads=threads)[0]
    return found


def _run_ours(case: Case, what: str, savings: Savings) -> float:
    mesh = make_mesh(1, 1)
    learner = Learner(make_model(case, NAME)).train()
    place_learner(learner, mesh, savings=savings, precision="float32" if case.device == "cpu" else "bfloat16")
    optimizer = make_optimizer(learner, weight_decay=0.0, betas=(0.9, 0.95))
    set_learning_rate(optimizer, 1e-5)
    partition = partition_rows(case.documents, ranks=1)
    tokens, places = _draw_row(case)
    weights = np.append(places[1:] != 0, False).astype(np.float32)
    row = [torch.from_numpy(each).to(mesh.device) for each in (tokens, places, np.roll(tokens, -1), weights)]

    def step() -> None:
        (learner(*row, partition=partition)[0] / float(weights.sum())).backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    if what == "peak":
        return _held_bytes(learner) + measure_peak_bytes(lambda: [step(), step()], mesh.device)
    return _time_steps(step, case)


def run_trainer(case: Case, what: str) -> float:
    """The same of transformers' Trainer with its defaults, on the row as its flattening collator packs it."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    model = make_model(case, "sdpa")
    tokens, places = _draw_row(case)
    row = {"input_ids": tokens, "position_ids": places, "labels": np.where(places == 0, -100, tokens)}
    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            _settle(case)
            marks.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=1,
            max_steps=2 if what == "peak" else case.steps + 1,
            learning_rate=1e-5,
            bf16=case.device == "cuda",
            use_cpu=case.device == "cpu",
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        rows = [{name: torch.from_numpy(each) for name, each in row.items()}] * (case.steps + 1)
        trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[Clock()])
        if what == "peak":
            return _held_bytes(model) + measure_peak_bytes(trainer.train, torch.device(case.device))
        trainer.train()
    return min(after - before for before, after in pairwise(marks))


def _draw_row(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and places of the row's only copy [tokens]."""
    tokens = np.random.default_rng(1).integers(0, case.shape.vocabulary, case.tokens)
    return tokens, count_places(case.documents)


def _held_bytes(model: torch.nn.Module) -> int:
    """Weights, which stand before the first step."""
    return sum(weight.nbytes for weight in model.parameters())


def _time_steps(step: Callable[[], None], case: Case) -> float:
    step()
    seconds = []
    for _ in range(case.steps):
        _settle(case)
        begun = time.perf_counter()
        step()
        _settle(case)
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def _settle(case: Case) -> None:
    if case.device == "cuda":
        torch.cuda.synchronize()
