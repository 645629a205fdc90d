"""The scores of LongBench v2, LongBench Pro and HELMET written a second time, step by step, from their published rules.

Sources, read on 2026-11-29; the rules are retold here, no line is theirs:
v2: THUDM/LongBench, pred.py of the v2 release, ``extract_answer`` and ``query_llm``;
Pro: caskcsg/longcontext, LongBench-Pro/modules/utils.py and ``calculate_metric`` of modules/evaluation.py;
HELMET: princeton-nlp/HELMET, utils.py (``normalize_answer``, ``parse_output``, ``calculate_metrics``) and data.py
(``default_post_process``, ``load_json_kv``, ``load_ruler``).
"""

import math
import string


def choose_letter(response: str) -> str | None:
    """v2: stars go; the first "The correct answer is (X)", and only if there is none the first without brackets."""
    text = response.strip().replace("*", "")
    for opening, closing in (("The correct answer is (", ")"), ("The correct answer is ", "")):
        start = text.find(opening)
        while start >= 0:
            rest = text[start + len(opening) :]
            if rest and rest[0] in "ABCD" and rest[1:].startswith(closing):
                return rest[0]
            start = text.find(opening, start + 1)
    return None


def keep_ends(tokens: list[int], most: int) -> list[int]:
    """v2 and Pro: of a prompt that is too long, its first and its last half."""
    if len(tokens) <= most:
        return tokens
    half = most // 2
    return tokens[:half] + tokens[len(tokens) - half :]


def list_lines(prediction: str) -> list[str]:
    """Pro: what follows the last [Answer], or where there is none the last [答案]; else all. Lines, folded."""
    for mark in ("[Answer]", "[答案]"):
        if mark in prediction:
            prediction = prediction[len(prediction) - prediction[::-1].index(mark[::-1]) :]
            break
    return [" ".join(line.split()) for line in prediction.strip().lower().split("\n")]


def score_pro(metric: str, answers: list[str], prediction: str) -> float:
    """Pro: an empty prediction is 0, and so is one whose score is not in [0, 1] (an assertion fails there)."""
    if prediction == "":
        return 0.0
    wanted = [" ".join(answer.lower().split()) for answer in answers]
    value = {"accuracy": _accuracy, "f1": _f1, "subem": _subem, "pairs": _pairs, "ndcg": _ndcg}[metric](
        wanted, list_lines(prediction)
    )
    return value if 0 <= value <= 1 else 0.0


def _accuracy(wanted: list[str], lines: list[str]) -> float:
    return 1.0 if wanted[0] == lines[0] else 0.0


def _subem(wanted: list[str], lines: list[str]) -> float:
    return len([each for each in wanted if each in lines]) / len(wanted)


def _f1(wanted: list[str], lines: list[str]) -> float:
    both = {each for each in wanted if each in lines}
    if not both:
        return 0.0
    precision, recall = len(both) / len(set(lines)), len(both) / len(set(wanted))
    return 2 * precision * recall / (precision + recall)


def _pairs(wanted: list[str], lines: list[str]) -> float:
    if len(wanted) < 2 or len(lines) < 2:
        return 0.0
    right = 0
    for i, first in enumerate(wanted):
        for second in wanted[i + 1 :]:
            if first in lines and second in lines:
                right += _last(lines, first) < _last(lines, second)
    return right / (len(lines) * (len(lines) - 1) / 2)


def _ndcg(wanted: list[str], lines: list[str]) -> float:
    """The cut of trec_eval's NDCG at the number of references; where a line returns, its last score stands."""
    gain: dict[str, int] = {}
    for i, each in enumerate(wanted):
        gain[each] = len(wanted) - i
    ranked = sorted(set(lines), key=lambda line: _last(lines, line))
    got = sum(gain.get(line, 0) / math.log2(2 + i) for i, line in enumerate(ranked[: len(wanted)]))
    best = sum(worth / math.log2(2 + i) for i, worth in enumerate(sorted(gain.values(), reverse=True)[: len(wanted)]))
    return got / best


def _last(lines: list[str], line: str) -> int:
    return max(i for i, each in enumerate(lines) if each == line)


def normalize(text: str) -> list[str]:
    """HELMET: lower case, no ASCII punctuation, no articles; the words that are left."""
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return _drop_articles(kept).split()


def _drop_articles(text: str) -> str:
    found, word = "", ""
    for letter in [*text, "\0"]:
        if letter.isalnum() or letter == "_":
            word += letter
        else:
            found, word = found + (" " if word in ("a", "an", "the") else word) + letter, ""
    return found.rstrip("\0")


def score_substring(answers: list[str], output: str, *, prefix: str) -> float:
    """HELMET: the better of the whole output and of what is parsed from it, for the best of the answers."""
    texts = [output, parse_line(output, prefix)]
    return float(any(" ".join(normalize(each)) in " ".join(normalize(text)) for each in answers for text in texts))


def parse_line(output: str, prefix: str) -> str:
    """HELMET: the rest of the line after the first prefix, else the first line; a prefix that returns is cut off."""
    place = output.lower().find(prefix.lower())
    line = (output[place + len(prefix) :] if place >= 0 else output).split("\n")[0].strip()
    return line[len(prefix) :].strip() if line.lower().startswith(prefix.lower()) else line


def score_recall(answers: list[str], output: str) -> float:
    """HELMET, RULER's needles: the share of answers in the output, without regard to case."""
    return len([each for each in answers if each.lower() in output.lower()]) / len(answers)
