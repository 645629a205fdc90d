"""A batch of DataCollatorWithFlattening is taken as it is; a forward in training without cut is warned of once."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DataCollatorWithFlattening, LlamaConfig, LlamaForCausalLM, TrainingArguments

from ropewalk.core.error import UserError
from ropewalk.model.flattened import take_flattened
from ropewalk.model.hf_batch import read_whole_batch
from ropewalk.model.parallelize import parallelize
from ropewalk.model.supported import watch_arguments
from ropewalk.model.trainer import ContextParallelTrainer

DOCUMENTS = [{"input_ids": list(range(length)), "labels": list(range(length))} for length in (5, 3, 7)]


def make_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, max_position_embeddings=64, **shape))


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"return_flash_attn_kwargs": True, "return_seq_idx": True},
        {"return_position_ids": False, "return_seq_idx": True},
        {"return_position_ids": False, "return_flash_attn_kwargs": True},
    ],
)
def test_documents_are_found_and_filled_up(told: dict[str, bool]) -> None:
    given = DataCollatorWithFlattening(return_tensors="pt", **told)(DOCUMENTS)
    taken = take_flattened(given, ranks=4)
    batch = read_whole_batch({name: field.numpy() for name, field in taken.items()}, ranks=4)
    assert batch.tokens.shape == (1, 16) and batch.tokens[0, 15] == 0
    document = batch.document[0].tolist()
    assert [document.count(each) for each in dict.fromkeys(document)] == [5, 3, 7, 1] and document[15] == -1
    assert batch.positions[0].tolist()[:15] == [*range(5), *range(3), *range(7)]
    assert batch.label_count == 4 + 2 + 6, "the first token of a document has no label"


def test_the_trainer_trains_on_it_as_on_each_document_alone(tmp_path: Path) -> None:
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", per_device_train_batch_size=3)
    collator = DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_seq_idx=True)
    trainer = ContextParallelTrainer(make_model(), arguments, train_dataset=DOCUMENTS, data_collator=collator)
    loss = trainer.compute_loss(trainer.model.train(), collator(DOCUMENTS, return_tensors="pt"))
    alone = make_model()
    losses = []
    for each in DOCUMENTS:
        ids = torch.tensor([each["input_ids"]])
        losses.append(alone(input_ids=ids, labels=ids).loss * (ids.numel() - 1))
    assert loss.item() == pytest.approx(float(sum(losses).detach()) / 12, rel=1e-5)


def test_an_unknown_field_is_refused() -> None:
    given = DataCollatorWithFlattening(return_tensors="pt")(DOCUMENTS)
    with pytest.raises(UserError, match="the batch has weights"):
        take_flattened({**given, "weights": torch.ones(1)}, ranks=2)


def test_a_forgotten_cut_is_warned_of_once() -> None:
    model, ids = make_model(), torch.arange(8)[None]
    parallelize(model)
    watch_arguments(model, ranks=2)  # as parallelize does on two ranks

    def forward(**settings: Any) -> list[warnings.WarningMessage]:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            model.train(**settings)(input_ids=ids)
        return [each for each in heard if "without the arguments of cut" in str(each.message)]

    assert forward(mode=False) == [] and len(forward(mode=True)) == 1 and forward(mode=True) == []
