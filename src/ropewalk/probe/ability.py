"""Short prompts for abilities that training at long context may cost: arithmetic, and facts to complete (cloze).

They are read at the base's own context. Each line of a prompt has one answer, so the lines before it show the form.
Every fact is asked once, so no two prompts share one.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import numpy as np

from ropewalk.probe.prompt import Prompt

AbilityName = Literal["arithmetic", "cloze", "cloze_zh"]
ABILITY_NAMES: tuple[AbilityName, ...] = get_args(AbilityName)
_LINES = 6

_FACTS = """
The capital of France is| Paris
The capital of Japan is| Tokyo
The capital of Italy is| Rome
The capital of Egypt is| Cairo
The capital of Russia is| Moscow
The capital of Germany is| Berlin
The capital of Spain is| Madrid
The capital of China is| Beijing
The opposite of hot is| cold
The opposite of black is| white
The opposite of day is| night
The opposite of open is| closed
The opposite of old is| young
The opposite of left is| right
The opposite of up is| down
The opposite of war is| peace
Monday comes before| Tuesday
The day after Saturday is| Sunday
The month after April is| May
The month before August is| July
The first month of the year is| January
A week has seven| days
An hour has sixty| minutes
A minute has sixty| seconds
A triangle has three| sides
A spider has eight| legs
Bees make| honey
Cows give| milk
Hens lay| eggs
Birds build| nests
Fish breathe with| gills
We see with our| eyes
We hear with our| ears
Ice is frozen| water
Wine is made from| grapes
Bread is baked from| flour
Paper is made from| wood
The earth turns around the| sun
Around the earth turns the| moon
In autumn leaves fall from the| trees
A king wears a| crown
A doctor works in a| hospital
A teacher works in a| school
A judge works in a| court
To write a letter, one needs paper and a| pen
To open a locked door, one needs a| key
When it rains, one takes an| umbrella
Grass is| green
Snow is| white
Blood is| red
Coal is| black
Two and two is| four
Half of ten is| five
Ten times ten is| hundred
The past of go is| went
The past of see is| saw
The plural of mouse is| mice
The plural of child is| children
The author of Hamlet is| Shakespeare
The theory of relativity is by| Einstein
"""
_FACTS_ZH = """
中国的首都是|北京
法国的首都是|巴黎
日本的首都是|东京
英国的首都是|伦敦
热的反义词是|冷
黑的反义词是|白
大的反义词是|小
高的反义词是|低
新的反义词是|旧
快的反义词是|慢
左的反面是|右
白天过去是|黑夜
星期一之后是|星期二
三月之后是|四月
一年有十二个|月
一个星期有七|天
一个小时有六十|分钟
一分钟有六十|秒
春天之后是|夏天
秋天之后是|冬天
太阳从东方升起，从西方|落下
水结成|冰
雪是|白色的
草是|绿色的
血是|红色的
蜜蜂酿|蜜
母鸡下|蛋
奶牛产|奶
鱼生活在|水里
鸟儿有两只|翅膀
人有两只|眼睛
三角形有三条|边
二加二等于|四
十的一半是|五
床前明月光，疑是地上|霜
白日依山尽，黄河入海|流
春眠不觉晓，处处闻啼|鸟
学而时习之，不亦说|乎
三人行，必有我|师
红楼梦的作者是|曹雪芹
中国最长的河是|长江
世界上最高的山是|珠穆朗玛峰
医生在医院工作，老师在|学校
下雨天出门要带|伞
开锁要用|钥匙
写字要用|笔
吃饭要用|筷子
马铃薯也叫|土豆
"""


def make_ability_prompts(name: AbilityName, rng: np.random.Generator, *, prompts: int) -> list[Prompt]:
    """At most ``prompts`` prompts of six lines each; of cloze as many as there are facts for."""
    if name == "arithmetic":
        return [_join(list(_write_sums(rng))) for _ in range(prompts)]
    facts = [line.split("|") for line in (_FACTS if name == "cloze" else _FACTS_ZH).strip().splitlines()]
    drawn = [(facts[i][0], facts[i][1]) for i in rng.permutation(len(facts)).tolist()]
    whole = len(drawn) // _LINES
    return [_join(drawn[_LINES * n : _LINES * (n + 1)]) for n in range(min(prompts, whole))]


def _write_sums(rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Sums, differences and products of small numbers, in turn."""
    for number in range(_LINES):
        one, other = (int(each) for each in rng.integers(2, 50, size=2))
        sign = "+-*"[number % 3]
        if sign == "*":
            one, other = one % 10, other % 10
        if sign == "-":
            one, other = max(one, other), min(one, other)
        value = {"+": one + other, "-": one - other, "*": one * other}[sign]
        yield f"{one} {sign} {other} =", f" {value}"


def _join(lines: Sequence[tuple[str, str]]) -> Prompt:
    text, answers = "", []
    for question, answer in lines:
        begin = len(text) + len(question)
        answers.append((begin, begin + len(answer)))
        text += f"{question}{answer}\n"
    return Prompt(text, tuple(answers), tuple(0.0 for _ in answers))
