"""A tokenizer of a few single characters, as a base folder has one."""

from pathlib import Path

from tokenizers import Tokenizer, models

VOCABULARY = 97


def write_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE(vocab={chr(33 + index): index for index in range(VOCABULARY - 1)}, merges=[]))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    # Odd spacing on purpose: the copy must keep it.
    text = '{"eos_token": "<|endoftext|>",   "model_max_length": 32,\r\n "tokenizer_class": "PreTrainedTokenizerFast"}'
    (folder / "tokenizer_config.json").write_bytes(text.encode())
