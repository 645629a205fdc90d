"""transformers' Trainer (with accelerate), every row cut over all ranks. torchrun --nproc-per-node 2 FILE"""

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from ropewalk import parallelize

CONTEXT, VOCABULARY = 128, 256


class ContextTrainer(Trainer):
    """Gives every context rank the same rows, and its model each rank's share of them."""

    def get_train_dataloader(self):
        return DataLoader(self.train_dataset, batch_size=self.args.per_device_train_batch_size)  # undealt, in one order

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        kwargs = share.cut(**inputs)
        if num_items_in_batch is not None:  # labels of all micro-batches of the step, counted once on every rank
            kwargs["num_items_in_batch"] = num_items_in_batch / share.ranks
        outputs = model(**kwargs)
        loss = outputs.loss * share.ranks  # DDP takes the mean over ranks, and theirs are parts of one mean
        return (loss, outputs) if return_outputs else loss


if __name__ == "__main__":
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "logging_steps": 1, "max_steps": 4}
    arguments = TrainingArguments(use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True, **settings)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, **shape))
    share = parallelize(model, dist.group.WORLD)
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(VOCABULARY, (16, CONTEXT))]
    (trainer := ContextTrainer(model, arguments, train_dataset=rows)).train()
    if dist.get_rank() == 0:
        print(f"norm of the weights: {torch.cat([each.flatten() for each in model.parameters()]).norm():.7f}")
    trainer.accelerator.free_memory()  # without both lines torch aborted at exit in one run of eight
    trainer.accelerator.end_training()
