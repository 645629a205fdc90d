"""transformers' Trainer (with accelerate), every sequence shared by all ranks. torchrun --nproc-per-node 2 FILE"""

import gc

import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from ropewalk import ContextParallelTrainer

CONTEXT, VOCABULARY = 128, 256


def main() -> None:
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "logging_steps": 1, "max_steps": 4}
    arguments = TrainingArguments(use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True, **settings)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, **shape))
    sequences = [{"input_ids": each, "labels": each} for each in torch.randint(VOCABULARY, (19, CONTEXT))]
    trainer = ContextParallelTrainer(model, arguments, train_dataset=sequences[:16], eval_dataset=sequences[16:])
    trainer.train()
    if dist.get_rank() == 0:
        print(f"norm of the weights: {torch.cat([each.flatten() for each in model.parameters()]).norm():.7f}")
    loss = trainer.evaluate()["eval_loss"]
    if dist.get_rank() == 0:
        print(f"loss of the sequences that were held out: {loss:.6f}")
    accelerator = trainer.accelerator
    accelerator.free_memory()
    del trainer, model
    gc.collect()  # DDP goes before its group: it would free the group with Python's lock, which gloo's thread waits for
    accelerator.end_training()


if __name__ == "__main__":
    main()
