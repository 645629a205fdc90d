"""Trains a tokenizer for a model that starts from scratch: byte-level BPE, trained on the corpus.

Any text has ids, since all 256 bytes are in the vocabulary. A run of Han characters is split from other characters, so
a Chinese sentence never merges with Latin letters. Every digit is a token, so a number takes as many tokens as digits.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from ropewalk.core.artifact import new_folder
from ropewalk.core.error import UserError
from ropewalk.core.strict_json import spell_json

BEGIN, END = "<|begin|>", "<|endoftext|>"
SMALLEST = 258
"""All 256 bytes and the two border tokens."""
# The split pattern of GPT-4's tokenizer, with separate rules for Han runs and combining marks.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{Han}+|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}&&[^\p{Han}]]+|\p{N}"
    r"| ?[^\s\p{L}\p{N}\p{M}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(texts: Iterable[str], *, vocabulary: int, folder: Path) -> Path:
    """Train on ``texts`` and write tokenizer.json and tokenizer_config.json into the new ``folder``. Returns it.

    Id 0 is EOS and id 1 is BOS, put first as in Llama: attention that finds no relevant token rests on a first token
    that is always the same. Raises UserError where ``vocabulary`` cannot hold all bytes and borders, or where the texts
    are too few for that many tokens.
    """
    if vocabulary < SMALLEST:
        raise UserError(
            "the vocabulary is too small",
            where="tokenizer",
            why=f"{vocabulary} tokens cannot contain the 256 bytes and the begin and end of a document",
            fix=f"give at least {SMALLEST}",
        )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.encode_special_tokens = True
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in (END, BEGIN)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    if bpe.get_vocab_size() < vocabulary:
        raise UserError(
            "there is too little text for the vocabulary",
            where="tokenizer",
            why=f"it gives only {bpe.get_vocab_size()} tokens, not {vocabulary}",
            fix="add text, or ask for a smaller vocabulary",
        )
    bpe.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, 1)])
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": None,
        "bos_token": BEGIN,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": True,
        "add_eos_token": False,
    }
    with new_folder(folder, kind="tokenizer", inputs={"vocabulary": vocabulary}) as work:
        bpe.save(str(work / "tokenizer.json"))
        (work / "tokenizer_config.json").write_text(spell_json(config, indent=1) + "\n", encoding="utf-8")
    return folder
