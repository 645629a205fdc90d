"""ContextParallelTrainer: what it refuses, and on four ranks the same weights and losses as on one.

examples/trainer.py, which tests/test_examples.py runs, compares two ranks that share all sequences with one.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from forked_torchrun import run_as_torchrun
from ropewalk.core.error import UserError
from ropewalk.model.trainer import ContextParallelTrainer

PROGRAM = """
import gc
import sys
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments
from ropewalk import ContextParallelTrainer

context = int(sys.argv[1])
arguments = TrainingArguments(
    use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True, max_steps=3, logging_steps=1,
    per_device_train_batch_size=int(sys.argv[2]), per_device_eval_batch_size=1, gradient_accumulation_steps=2,
)
torch.manual_seed(0)
shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, max_position_embeddings=64, **shape))
rows = torch.randint(64, (20, 64))
labels = rows.masked_fill(torch.rand(20, 64) < torch.rand(20, 1), -100)
data = [{"input_ids": row, "labels": label} for row, label in zip(rows, labels)]
world = dist.get_world_size()
mesh = init_device_mesh("cpu", (world // context, context), mesh_dim_names=("data", "context"))
trainer = ContextParallelTrainer(model, arguments, mesh=mesh, train_dataset=data[:16], eval_dataset=data[16:])
trainer.train()
loss = trainer.evaluate()["eval_loss"]
if dist.get_rank() == 0:
    print("norm", float(torch.cat([each.flatten() for each in model.parameters()]).double().norm()), "loss", loss)
accelerator = trainer.accelerator
accelerator.free_memory()
del trainer, model
gc.collect()  # see examples/trainer.py
accelerator.end_training()
"""


def run(ranks: int, context: int, batch: int, folder: Path) -> tuple[float, float]:
    path = folder / "program.py"
    path.write_text(PROGRAM)
    # accelerate keeps in the process what it found; a rank begins without it.
    done = run_as_torchrun(
        (str(path), str(context), str(batch)), ranks, folder, before=lambda: AcceleratorState._reset_state(True)
    )
    assert set(done.codes) == {0}, (done.codes, done.errors[-3000:])
    (line,) = [each for each in done.out.splitlines() if each.startswith("norm")]
    _, norm, _, loss = line.split()
    return float(norm), float(loss)


def test_data_ranks_of_context_groups_train_as_one_rank(tmp_path: Path) -> None:
    """The sequences have very different numbers of labels, and the sampler shuffles."""
    assert run(4, 2, 1, tmp_path) == pytest.approx(run(1, 1, 2, tmp_path), rel=1e-6)


def make(**changes: Any) -> ContextParallelTrainer:
    own = {key: changes.pop(key) for key in ("compute_metrics", "compute_loss_func") if key in changes}
    arguments = TrainingArguments(use_cpu=True, report_to="none", **changes)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, max_position_embeddings=64, **shape))
    data = [{"input_ids": torch.arange(8), "labels": torch.arange(8)}]
    return ContextParallelTrainer(model, arguments, train_dataset=data, **own)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"compute_metrics": print}, "compute_metrics"),
        ({"compute_loss_func": print}, "compute_loss_func"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({"average_tokens_across_devices": False}, "average_tokens_across_devices"),
        ({"include_num_input_tokens_seen": "all"}, "include_num_input_tokens_seen"),
        ({"accelerator_config": {"split_batches": True}}, "accelerator_config"),
    ],
)
def test_what_would_change_its_meaning_is_refused(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=named):
        make(output_dir=str(tmp_path), **changes)


def test_logits_of_whole_sequences_are_refused(tmp_path: Path) -> None:
    trainer = make(output_dir=str(tmp_path))
    with pytest.raises(UserError, match="predict"):
        trainer.predict([])
