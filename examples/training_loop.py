"""A Hugging Face model in a plain loop, every row cut over all ranks. torchrun --nproc-per-node 2 FILE"""

import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM

from ropewalk import parallelize

ROWS, CONTEXT, VOCABULARY, STEPS = 2, 128, 256, 5


def main() -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)  # the same weights on every rank
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, **shape))
    share = parallelize(model, dist.group.WORLD)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    text = torch.Generator().manual_seed(1)  # the same rows on every rank, too: each takes its share of each row
    positions = torch.cat([torch.arange(48), torch.arange(CONTEXT - 48)]).expand(ROWS, -1)  # two documents a row
    for step in range(STEPS):
        tokens = torch.randint(VOCABULARY, (ROWS, CONTEXT), generator=text)
        loss = model(**share.cut(tokens, labels=tokens, position_ids=positions)).loss  # this rank's part of the mean
        loss.backward()
        share.sum_gradients(model.parameters())
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        if dist.get_rank() == 0:
            print(f"step {step}: loss {mean.item():.5f}, gradient {norm.item():.5f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
