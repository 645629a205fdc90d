"""The words of tasks about a document, in English and Chinese. No wording is one of an evaluation (probe/)."""

from collections.abc import Mapping
from types import MappingProxyType

Wording = tuple[str, ...]
QUESTIONS: Mapping[str, Mapping[str, Wording]] = MappingProxyType(
    {
        "en": {
            "count": (
                "How often does “{a}” stand in the document up to here?",
                "Go through everything above and give the number of times “{a}” is written.",
                "Number of occurrences of “{a}” so far?",
                "Tally “{a}” from the beginning of this document to this line.",
            ),
            "order": (
                "Of “{a}” and “{b}”, which one does the document bring up earlier?",
                "“{a}” or “{b}”: which is met first by a reader who starts at the top?",
                "Two terms occur above, “{a}” and “{b}”. Name the earlier one.",
            ),
            "mention_first": (
                "Quote the sentence in which “{a}” comes up for the very first time.",
                "Where does “{a}” enter the document? Give that sentence.",
                "Write down the earliest sentence with “{a}”.",
            ),
            "mention_last": (
                "Quote the latest sentence so far with “{a}” in it.",
                "Where was “{a}” last seen? Give that sentence.",
                "Write down the final sentence above that has “{a}”.",
            ),
            "cloze": (
                "One word is left out of this sentence of the document: {a}\nPut it back.",
                "Complete a sentence from above: {a}\nMissing:",
                "The gap stands for a word used much earlier: {a}\nWhich?",
            ),
            "recall": (
                "A line above begins “{a}”. Go on to its end.",
                "Continue, exactly as above, from “{a}”.",
                "Finish this line as the document has it: {a}",
            ),
            "overwrite": (
                "“{a}” is set several times above. Give its final setting.",
                "After all changes, what stands behind “{a}”?",
                "Which setting of “{a}” is in force at the end?",
            ),
            "heading": (
                "“{a}” comes up first under one heading. Which?",
                "Name the heading over the earliest “{a}”.",
                "In whose section does “{a}” turn up before all others?",
            ),
            "heading_code": (
                "Which top-level class or function is the first to hold “{a}”?",
                "Name the definition at the left margin that has the earliest “{a}” in it.",
            ),
            "frequent": (
                "Which of these is written most often above: “{a}”, “{b}” or “{c}”?",
                "“{a}”, “{b}”, “{c}”: one of them outnumbers the other two. Which?",
            ),
        },
        "zh": {
            "count": (
                "到此为止，“{a}”在本文中写了几次？",
                "请数一数上文里的“{a}”，共有几处？",
                "“{a}”一词在以上全文里用过多少回？",
            ),
            "order": (
                "“{a}”与“{b}”，本文先提到哪一个？",
                "从头读起，先遇到的是“{a}”还是“{b}”？",
            ),
            "mention_first": (
                "请抄出本文最早写到“{a}”的那句话。",
                "“{a}”头一回见于哪一句？请照录。",
            ),
            "mention_last": (
                "请抄出上文里末一次写到“{a}”的句子。",
                "“{a}”最近一次见于哪一句？请照录。",
            ),
            "cloze": (
                "本文有一句缺了一个词：{a}\n请补上。",
                "下句空处的词前文早已用过：{a}\n应填：",
            ),
            "recall": (
                "上文有一行以“{a}”开头，请接着写完这一行。",
                "请照原文续写：{a}",
            ),
            "overwrite": (
                "“{a}”在上文几经改动，最终写成什么？",
                "以最末一处为准，“{a}”是什么？",
            ),
            "heading": (
                "“{a}”最先见于哪个标题之下？",
                "最早写到“{a}”的是哪一章、哪一节或哪一条？",
            ),
            "frequent": (
                "“{a}”“{b}”“{c}”三者，上文写得最勤的是哪个？",
                "论上文所用次数，“{a}”、“{b}”、“{c}”谁居首？",
            ),
        },
    }
)
ANSWERS: Mapping[str, Mapping[str, Wording]] = MappingProxyType(
    {
        "en": {
            "count": ("{x}", "{x} times", "It is there {x} times.", "I count {x}."),
            "order": ("{x}", "“{x}” is the earlier one.", "{x} comes up earlier."),
            "frequent": ("{x}", "“{x}” is written most."),
            "absent": ("not once", "0", "It does not occur."),
        },
        "zh": {
            "count": ("{x}", "{x}次", "共{x}处。"),
            "order": ("{x}", "先提到的是“{x}”。"),
            "frequent": ("{x}", "“{x}”写得最勤。"),
            "absent": ("没有", "0", "一次也没有。"),
        },
    }
)
"""Forms of answers; all other answers are quotations."""
REQUESTS = MappingProxyType(
    {
        "en": (
            "Here is a passage of a long document. Write {n} questions about it. A reader of the whole document must "
            "be able to tell what is meant, so name persons and things instead of saying “the passage”. Each answer "
            "is a few words, copied letter by letter out of the passage, and only these words are right. Reply with "
            'JSON and nothing else: [{{"question": "...", "answer": "..."}}]\n\n<passage>\n{text}\n</passage>'
        ),
        "zh": (
            "下面是一篇长文的一段。请就它写{n}个问题。读过全文的人应当看得懂所问的是什么，因此要写出人名、事物名，不要说“本段”。"
            "每个答案只有几个词，须从这段里逐字抄出，并且是唯一正确的。只用JSON作答，不写别的："
            '[{{"question": "……", "answer": "……"}}]\n\n<passage>\n{text}\n</passage>'
        ),
    }
)
"""What a model is asked that writes questions."""
GAP = MappingProxyType({"en": "____", "zh": "（　　）"})
