"""Write the contents of a skipped step to a file: sequences, sources, text, loss and gradient norm.

The file is for a human reader and for ``ropewalk replay``.
"""

from pathlib import Path
from typing import Any

from ropewalk.checkpoint.state import TrainState
from ropewalk.core.artifact import write_whole
from ropewalk.core.run_folder import StageFolder
from ropewalk.core.strict_json import spell_json
from ropewalk.corpus.mix.dataset import Dataset
from ropewalk.corpus.tokens.tokenizer import Tokenizer, load_tokenizer


def write_skipped(state: TrainState, folder: StageFolder, *, dataset: Dataset, sequences: int, reason: str) -> Path:
    """Write the step that ``state`` has just skipped into the stage's ``folder``; return the file. One rank calls it.

    The file name holds the step and the first sequence. The step alone is not enough: after a rollback the same step
    has other sequences.
    """
    first = state.cursor - sequences
    loss, norm, _ = state.recent[-1]
    tokenizer = load_tokenizer(folder.extended)
    record = {
        "stage": state.stage,
        "step": state.step,
        "reason": reason,
        "loss": loss,
        "grad_norm": norm,
        "rollbacks": state.rollbacks,
        "first_sequence": first,
        "sequences": [_describe(dataset, number, tokenizer) for number in range(first, state.cursor)],
    }
    path = folder.skipped / f"step-{state.step:08}-sequence-{first:010}.json"
    path.parent.mkdir(exist_ok=True)
    write_whole(path, spell_json(record, indent=1, ensure_ascii=False))
    return path


def _describe(dataset: Dataset, number: int, tokenizer: Tokenizer) -> dict[str, Any]:
    source, segments = dataset.locate(number)
    ids = dataset.batch(number, 1).tokens[0].tolist()
    texts, at = [], 0
    for segment in segments:
        texts.append({**segment, "text": tokenizer.decode(ids[at : at + segment["tokens"]])})
        at += segment["tokens"]
    return {"sequence": number, "source": source, "segments": texts}
