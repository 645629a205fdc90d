"""Short texts that differ from number to number, in English words and in Chinese characters."""

import numpy as np

WORDS = [
    "river",
    "stone",
    "lantern",
    "harbour",
    "maple",
    "copper",
    "silver",
    "winter",
    "garden",
    "morning",
    "letter",
    "bridge",
    "signal",
    "thunder",
    "pebble",
    "orchard",
    "meadow",
    "candle",
    "ribbon",
    "anchor",
    "valley",
    "willow",
    "cobalt",
    "ember",
    "quarry",
    "saddle",
    "timber",
    "violet",
    "walnut",
    "zephyr",
]
HAN = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜金生丽水玉出昆冈"


def sentence(number: int, words: int = 40) -> str:
    """``words`` English words."""
    return " ".join(np.random.default_rng(number).choice(WORDS, words))


def han(number: int, characters: int = 60) -> str:
    """``characters`` Chinese characters."""
    return "".join(np.random.default_rng(number).choice(list(HAN), characters))
