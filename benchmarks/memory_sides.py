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

from packs import count_places, draw_pack
from ropewalk.model.attention_interface import NAME
from ropewalk.model.fusion import Fusion
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.parallel.fsdp import Precision
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.mesh import make_mesh
from ropewalk.parallel.peak import measure_peak_bytes
from ropewalk.partition import partition_tokens
from ropewalk.plan.rank_setup import RankSetup
from ropewalk.plan.savings import Savings
from ropewalk.rope.layers import plain_layers
from ropewalk.shape.model_shape import ModelShape
from ropewalk.train.optimizer import make_optimizer, set_learning_rate
from ropewalk.train.prepare_model import prepare_model

LLAMA, QWEN = "LlamaForCausalLM", "Qwen3ForCausalLM"
SHAPES = {
    "1M": ModelShape(LLAMA, 128, 4, 4, 32, 352, 4096, True, 1 << 20, plain_layers(3, 1e4)),  # the tiny base
    "25M": ModelShape(LLAMA, 384, 6, 2, 64, 1024, 32_000, True, 1 << 20, plain_layers(8, 1e6)),
    "0.6B": ModelShape(QWEN, 1024, 16, 8, 128, 3072, 151_936, True, 1 << 20, plain_layers(28, 1e6), qk_norm="head"),
    "1B": ModelShape(LLAMA, 2048, 32, 8, 64, 8192, 128_256, True, 1 << 20, plain_layers(16, 5e5)),
    **{
        f"8B width, {layers} layers": ModelShape(
            LLAMA, 4096, 32, 8, 128, 14_336, 32_000, False, 1 << 20, plain_layers(layers, 5e5)
        )
        for layers in (2, 4)
    },
    **{
        f"tiny, {layers} layers": ModelShape(LLAMA, 64, 4, 2, 16, 96, 128, False, 1 << 20, plain_layers(layers, 1e4))
        for layers in (2, 4)
    },
}


class Case(NamedTuple):
    """What a side is to run."""

    model: str
    tokens: int
    document_tokens: int
    """Length of the row's documents, all alike."""
    device: str
    steps: int
    median_tokens: int | None = None
    """If given, documents have log-normal lengths around it instead."""

    @property
    def shape(self) -> ModelShape:
        return SHAPES[self.model]

    @property
    def documents(self) -> np.ndarray:
        """Ids [1, tokens]."""
        if self.median_tokens is not None:
            return draw_pack(self.tokens, self.median_tokens)
        return (np.arange(self.tokens, dtype=np.int32) // self.document_tokens)[None]


def make_model(case: Case, attention: str) -> PreTrainedModel:
    torch.manual_seed(0)
    with torch.device(case.device):  # a GPU draws a large model's weights in no time
        return build_model(case.shape, attention)


def build_model(shape: ModelShape, attention: str) -> PreTrainedModel:
    """transformers' model of a Llama's or a Qwen3's shape, with random weights and the attention of that name."""
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
    if shape.architecture == LLAMA:
        return LlamaForCausalLM(LlamaConfig(**settings))
    return Qwen3ForCausalLM(Qwen3Config(**settings))


class Found(NamedTuple):
    """``peak_bytes`` has states included; ``seconds`` is the fastest step's."""

    peak_bytes: float
    seconds: float


def run_ours(case: Case, savings: Savings, *, threads: int) -> Found:
    """Our steps with ``savings``, on one rank."""
    return Found(*run_ranks(_run_ours, 1, case, savings, threads=threads, setup=RankSetup(case.device))[0])


def _run_ours(case: Case, savings: Savings) -> Found:
    learner, step = make_step(case, savings)
    marks = [time.perf_counter()]

    def train() -> None:
        for _ in range(case.steps):
            step()
            _mark(marks, case)

    return _find(train, learner, case, marks)


def make_step(
    case: Case, savings: Savings, *, precision: Precision | None = None, fusion: Fusion = "none"
) -> tuple[ModelWithLoss, Callable[[], None]]:
    """Our model on the one rank that runs, and a whole step of it; None is float32 on a CPU and bfloat16 on a GPU."""
    mesh = make_mesh(1, 1)
    learner = ModelWithLoss(make_model(case, NAME)).train()
    precision = precision or ("float32" if case.device == "cpu" else "bfloat16")
    prepare_model(learner, mesh, savings=savings, precision=precision, fusion=fusion)
    optimizer = make_optimizer(learner, weight_decay=0.0, betas=(0.9, 0.95))
    set_learning_rate(optimizer, 1e-5)
    partition = partition_tokens(case.documents, ranks=1)
    tokens, places = _draw_row(case)
    weights = np.append(places[1:] != 0, False).astype(np.float32)
    row = [torch.from_numpy(each).to(mesh.device) for each in (tokens, places, np.roll(tokens, -1), weights)]
    _make_moments(learner, optimizer)

    def step() -> None:
        (learner(*row, partition=partition)[0] / float(weights.sum())).backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return learner, step


def run_trainer(case: Case) -> Found:
    """The same of transformers' Trainer with its defaults, on the row as its flattening collator packs it."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    model = make_model(case, "sdpa")
    tokens, places = _draw_row(case)
    row = {"input_ids": tokens, "position_ids": places, "labels": np.where(places == 0, -100, tokens)}
    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            _mark(marks, case)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            _mark(marks, case)

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=1,
            max_steps=case.steps,
            learning_rate=1e-5,
            bf16=case.device == "cuda",
            use_cpu=case.device == "cpu",
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        rows = [{name: torch.from_numpy(each) for name, each in row.items()}] * case.steps
        trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[Clock()])
        _make_moments(model, trainer.create_optimizer())
        return _find(trainer.train, model, case, marks)


def _draw_row(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """The row's tokens, and their places in their documents."""
    tokens = np.random.default_rng(1).integers(0, case.shape.vocabulary, case.tokens)
    return tokens, count_places(case.documents)


def _find(train: Callable[[], object], model: torch.nn.Module, case: Case, marks: list[float]) -> Found:
    """Weights and moments stand before the first step: 12 bytes a parameter."""
    states = 12 * sum(weight.numel() for weight in model.parameters())
    peak = states + measure_peak_bytes(train, torch.device(case.device))
    return Found(peak, min(after - before for before, after in pairwise(marks)))


def _make_moments(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A step without a gradient, so that every step that is measured finds what all but a first one find."""
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    optimizer.zero_grad()


def _mark(marks: list[float], case: Case) -> None:
    if case.device == "cuda":
        torch.cuda.synchronize()
    marks.append(time.perf_counter())
