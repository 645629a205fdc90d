"""The words of the synthetic probes: keys, values and filler, disjoint, each common enough to become one token.

Every word is written with one leading space, Han symbols too. So a byte-level BPE that has seen some of this text gives
each word one token, and spans of answers fall on token borders.
"""

from dataclasses import dataclass

from ropewalk.probe.prompt import Language


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Disjoint words: the keys of questions, their answers, the filler between them, and the words of questions."""

    keys: tuple[str, ...]
    values: tuple[str, ...]
    filler: tuple[str, ...]
    recall: str
    most: str
    """Before a key: its most frequent value is asked."""


_KEYS = """
lamp river stone chair bread clock cloud horse ship tower garden bridge mirror candle basket window hammer needle
blanket ladder drum kettle barrel anchor feather saddle pillow wagon bottle ribbon lantern shovel compass helmet carpet
whistle
pocket button guitar castle
"""
_VALUES = """
red blue green yellow purple orange silver golden crimson violet amber ivory scarlet bronze copper pearl black white
brown gray pink olive coral indigo maroon beige emerald ruby sapphire azure lilac mauve teal navy tan rose cream rust
plum jade
"""
_FILLER = """
the of and to in that was with for on as at by from they this had not are but his her said she him one all when there
would which so then into them were some out more time up down over after before only other about new just under between
still while again never through where each both very
"""

_ENGLISH = Vocabulary(
    keys=tuple(_KEYS.split()),
    values=tuple(_VALUES.split()),
    filler=tuple(_FILLER.split()),
    recall="recall",
    most="most",
)

_CHINESE = Vocabulary(
    keys=tuple("灯河椅面钟云马船塔桥镜烛篮窗锤针毯梯鼓壶桶锚羽鞍枕车瓶带铲盔笛袋扣琴城伞梳剪碗盘"),
    values=tuple("红蓝绿黄紫橙银金青粉黑白棕灰褐赤碧翠丹朱铜铁玉珠松竹梅兰菊荷桃杏枣橘柳桂枫荞麦稻"),
    filler=tuple(
        "的了在是我有和就不人都一这上也很到说要去你会着没看好自那来他时们出对里后以可过下还得么之为与从用又但只因如已更最再把被让向比多小大"
    ),
    recall="问",
    most="常",
)

VOCABULARIES: dict[Language, Vocabulary] = {"en": _ENGLISH, "zh": _CHINESE}
