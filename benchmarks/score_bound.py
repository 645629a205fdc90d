"""How well any estimate from a tenth of the reading could order documents by their gain: bounds from all exact gains.

    python benchmarks/score_bound.py --data FOLDER [--model FOLDER] [--documents 160] [--truncated 64] [--share 0.1]

Every token's gain is read exactly, as in the whole reading. Then an estimate gets the gains of n tokens of each
document, drawn freely, where n is more than a share of the cost can buy: half its tokens, as if a token could be read
with full and with truncated context without a token before it. What these tokens do not say is filled in by linear
regressions of a token's gain on what is counted without a model, or on more than that; they are fitted to all exact
gains (of the other documents, in ten folds), and how far the sample is trusted is chosen by the answer. So no
estimate of this kind from a real sample orders better. Prints a JSON line for each kind and number of tokens: the mean
of Spearman's correlation with the whole gain over --draws draws, and its deviation.
"""

import argparse
import json
from itertools import combinations_with_replacement, pairwise
from pathlib import Path

import numpy as np

import ropewalk
from ropewalk.evaluate.gain_regression import count_repeats, find_rarity
from ropewalk.evaluate.gain_sections import count_whole
from ropewalk.evaluate.items import Item, measure
from ropewalk.evaluate.length_gain import LongText, make_items
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.open_model import open_model
from ropewalk.shape.read import read_shape
from score_sample import collect, spearman

FOLDS, RIDGE = 10, 3.0
TRUSTS = np.linspace(0, 1, 41)
MUST_REACH = 0.9


def read_exactly(learner: ModelWithLoss, texts: list[LongText], truncated: int) -> list[np.ndarray]:
    """Of each text the loss of every counted token with full and with truncated context, ``[tokens, 2]``."""
    firsts = np.cumsum([0, *(len(text.tokens) - truncated for text in texts)])
    items: list[Item] = []
    for number, text in enumerate(texts):
        for item in make_items([text], truncated_tokens=truncated):
            group = np.full(len(item.tokens), -1, dtype=np.int64)
            counted = np.flatnonzero(item.group >= 0)
            is_full = item.group[counted[0]] == 0
            if is_full:
                done = 0
            places = counted - truncated if is_full else done + np.arange(len(counted))
            done += 0 if is_full else len(counted)
            group[counted] = 2 * (firsts[number] + places) + (0 if is_full else 1)
            items.append(Item(item.tokens, group))
    sums = measure(learner, items, 2 * int(firsts[-1]), name="exact gains")
    assert (sums.count == 1).all()
    losses = np.asarray(sums.nll, dtype=np.float64).reshape(-1, 2)
    return [losses[first:last] for first, last in pairwise(firsts.tolist())]


def expect(known: list[np.ndarray], gains: list[np.ndarray]) -> list[np.ndarray]:
    """What a regression on ``known`` expects of every token's gain, fitted to the other documents."""
    made: list[np.ndarray] = [np.empty(0)] * len(gains)
    fold = np.random.default_rng(3).permutation(len(gains)) % FOLDS
    for number in range(FOLDS):
        others = [at for at in range(len(gains)) if fold[at] != number]
        table, answer = np.concatenate([known[at] for at in others]), np.concatenate([gains[at] for at in others])
        level, spread = table.mean(axis=0), table.std(axis=0) + 1e-9
        table = (table - level) / spread
        factors = np.linalg.solve(table.T @ table + RIDGE * np.eye(table.shape[1]), table.T @ (answer - answer.mean()))
        for at in np.flatnonzero(fold == number).tolist():
            made[at] = answer.mean() + (known[at] - level) / spread @ factors
    return made


def order(gains: list[np.ndarray], expected: list[np.ndarray], tokens: list[int], draws: int) -> tuple[float, float]:
    """Spearman's correlation of the best estimate from ``tokens`` tokens of each document: the mean of all that is
    expected, and what the drawn tokens differ from it, trusted as the answer says is best."""
    whole = np.array([gain.mean() for gain in gains])
    rest = [gain - hope for gain, hope in zip(gains, expected, strict=True)]
    base = np.array([hope.mean() for hope in expected])
    rng, found = np.random.default_rng(0), []
    for _ in range(draws):
        drawn = np.array(
            [rng.permutation(own)[:count].mean() if count else 0.0 for own, count in zip(rest, tokens, strict=True)]
        )
        found.append([spearman(base + trust * drawn, whole) for trust in TRUSTS])
    table = np.array(found)
    best = table.mean(axis=0).argmax()
    return float(table[:, best].mean()), float(table[:, best].std())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=Path(ropewalk.__file__).parent / "model" / "tiny_base")
    parser.add_argument("--documents", type=int, default=160)
    parser.add_argument("--context", type=int, help="tokens of a document that are read; by default the model's")
    parser.add_argument("--truncated", type=int, default=64)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--draws", type=int, default=20)
    given = parser.parse_args()
    context = given.context or read_shape(given.model).context_tokens
    texts = collect(given.data, given.model, given.documents, context, 2 * given.truncated)
    learner = open_model(ModelWithLoss, given.model, dtype="float32")
    losses = read_exactly(learner, texts, given.truncated)
    gains = [each[:, 1] - each[:, 0] for each in losses]
    rarity = find_rarity([text.tokens for text in texts])
    counts = [
        count_repeats(text.tokens, truncated_tokens=given.truncated, rarity=rarity)[given.truncated :] for text in texts
    ]
    products = [
        np.stack([each[:, a] * each[:, b] for a, b in combinations_with_replacement(range(each.shape[1]), 2)], axis=1)
        for each in counts
    ]
    names = sorted({text.source for text in texts})
    sources = [np.eye(len(names))[names.index(text.source)] for text in texts]
    level = [np.repeat(each[None], len(gain), axis=0) for each, gain in zip(sources, gains, strict=True)]
    plain = [np.concatenate(parts, axis=1) for parts in zip(counts, level, strict=True)]
    rich = [np.concatenate(parts, axis=1) for parts in zip(plain, products, strict=True)]
    full = [
        np.concatenate([each, loss[:, :1], each * loss[:, :1]], axis=1)
        for each, loss in zip(plain, losses, strict=True)
    ]
    kinds = {
        "nothing else": [np.zeros(len(gain)) for gain in gains],
        "counts of what returns, sources": expect(plain, gains),
        "the same with all their products": expect(rich, gains),
        "counts, sources, and the full-context loss of every token": expect(full, gains),
    }
    lengths = {"truncated_tokens": given.truncated, "context_tokens": context}
    bought = [int(given.share * count_whole(len(text.tokens), **lengths) / 2) for text in texts]
    within = np.mean([gain.var() for gain in gains]) ** 0.5
    facts = {"model": given.model.name, "documents": len(texts), "context_tokens": context,
             "truncated_tokens": given.truncated, "token_deviation": round(float(within), 3),
             "document_deviation": round(float(np.std([gain.mean() for gain in gains])), 3)}  # fmt: skip
    sizes = {"none": [0] * len(bought), "bought": bought, "twice that": [2 * each for each in bought]}
    for kind, expected in kinds.items():
        for name, tokens in sizes.items():
            if not (any(tokens) or any(hope.any() for hope in expected)):
                continue  # nothing is known, so nothing is ordered
            value, spread = order(gains, expected, tokens, given.draws)
            print(json.dumps({**facts, "filled_in_by": kind, "tokens": name,
                              "mean_tokens": round(float(np.mean(tokens)), 1),
                              "spearman": round(value, 3), "deviation": round(spread, 3),
                              "must_reach": MUST_REACH}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
