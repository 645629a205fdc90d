"""The page of supported models, made from the rows and from what the suite checks: ``make conformance`` writes it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conformance.tiny_families import CONTEXT_TOKENS, make_settings
from ropewalk.core.error import UserError
from ropewalk.rope.scaling import Linear, Llama3, Ntk, Rope, Theta, Yarn
from ropewalk.shape.families import SUPPORTED
from ropewalk.shape.family import Family
from ropewalk.shape.layer_keys import spell_layers
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import parse_shape
from ropewalk.shape.wrappers import WRAPPERS, Wrapper

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- table: made by make conformance -->", "<!-- end of the table -->"
METHODS: dict[str, Rope] = {
    "theta": Theta(theta=1e6),
    "linear": Linear(),
    "ntk": Ntk(),
    "yarn": Yarn(),
    "llama3": Llama3(),
}

_NOPE = {
    "never": "-",
    "switch": "by a list",
    "full": "those without a window",
    "embedding_type": "all, unless `position_embedding_type` is rope",
    "always": "all",
    "null_theta": "all, where `rope_theta` is null",
    "full_beside_windows": "those without a window, where others have one",
}


def make_table() -> str:
    """The two tables of the page, in markdown."""
    head = "| class | model_type | blocks | RoPE turns | layers without RoPE | after the head | stretched by |"
    lines = [head, "|---|---|---|---|---|---|---|", *map(describe, sorted(SUPPORTED, key=str.lower))]
    lines += ["", "Multimodal checkpoints whose text part is trained:", ""]
    lines += ["| class | model_type of its text, unless the file names another |", "|---|---|"]
    lines += [f"| `{name}` | `{row.text}` |" for name, row in sorted(WRAPPERS.items()) if runs_here(row)]
    return "\n".join(lines) + "\n"


def runs_here(wrapper: Wrapper) -> bool:
    """Whether the class that computes a wrapper's usual text part is supported."""
    return wrapper.text in wrapper.runs or wrapper.text in {family.model_type for family in SUPPORTED.values()}


def make_windowless(architecture: str) -> dict[str, Any]:
    """The settings of the tiny model, without windows where the class can do without, as most bases have it."""
    family, settings = SUPPORTED[architecture], make_settings(architecture)
    if family.windows == "all" or family.window_switch:
        settings |= {"sliding_window": None, "use_sliding_window": False}
        settings.pop("layer_types", None)
    return settings


def describe(architecture: str) -> str:
    family = SUPPORTED[architecture]
    shape = parse_shape(make_windowless(architecture), "config.json")
    cells = (
        f"`{architecture}`",
        f"`{family.model_type}`",
        ", ".join(describe_blocks(family, shape)),
        describe_turning(family),
        _NOPE[family.nope],
        ", ".join(describe_head(family)) or "-",
        describe_methods(architecture, shape),
    )
    return "| " + " | ".join(cells) + " |"


def describe_blocks(family: Family, shape: ModelShape) -> Iterator[str]:
    if family.experts and family.experts.switch:
        yield "dense, or experts beside the MLP"
    else:
        yield "mixture of experts" if family.experts else "dense"
    if family.latent:
        yield "latent attention"
    if shape.recurrent is not None:
        kind = shape.recurrent.kind.replace("_", " ")
        yield f"{kind} beside attention" if shape.attention_layers == shape.layers else f"{kind} layers"
    if family.mlp == "plain":
        yield "plain MLP"
    if family.windows != "none":
        yield "windows"
    if family.sinks:
        yield "sinks"


def describe_turning(family: Family) -> str:
    if family.nope == "always":
        return "nothing"
    if family.latent:
        return "`qk_rope_head_dim`" + ("" if family.cos_sin == "halves" else f" ({family.cos_sin})")
    share = f"{family.rotary_share:g} of a head by default" if family.partial else "all of a head"
    return share + ("" if family.cos_sin == "halves" else f" ({family.cos_sin})")


def describe_head(family: Family) -> Iterator[str]:
    if family.logit_scale is not None:
        verb, by = "divided" if family.logit_divides else "multiplied", " / width" if family.logit_by_width else ""
        yield f"{verb} by `{family.logit_scale[0]}`{by}"
    if family.logit_cap is not None:
        yield f"capped by `{family.logit_cap[0]}`"


def describe_methods(architecture: str, shape: ModelShape) -> str:
    """The methods that the tiny model of the suite takes; ``own`` where no class of transformers can describe them."""
    found = []
    for name, method in METHODS.items():
        try:
            stretched = shape.stretch((), rope=method, context_tokens=4 * CONTEXT_TOKENS).positions
        except UserError:
            continue
        native = spell_layers(make_windowless(architecture), stretched, context_tokens=4 * CONTEXT_TOKENS).native
        found.append(name if native else f"{name} (own)")
    if not found and not shape.base_rope.turns:
        return "nothing: the context length alone is raised"
    return ", ".join(found) or "a pattern of layers only"


def write(page: Path) -> None:
    """Put the tables into the page."""
    text = page.read_text()
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    page.write_text(f"{before}\n\n{make_table()}\n{after}")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE)
