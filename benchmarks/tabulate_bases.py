"""Into docs/bases.md, between its marks: the shapes that ropewalk ships, with what their config.json says.

    python benchmarks/tabulate_bases.py

A test holds the page against the shipped files.
"""

from pathlib import Path

from page_tables import write_tables
from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_length
from ropewalk.rope.scaling import Nope
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import read_shape
from ropewalk.shape.shipped import BASES, read_sources

PAGE = Path(__file__).parents[1] / "docs" / "bases.md"
WAITING = "waits for its family"
_TITLES = ("base", "class", "parameters", "context", "theta", "rope", "layers", "of", "known as")


def tabulate() -> str:
    """A row for each shipped shape, in the order of their names."""
    rows = [_TITLES, ("---",) * len(_TITLES)]
    for name, source in sorted(read_sources().items(), key=lambda item: item[0].lower()):
        kind = source["how"].partition(":")[0]
        rows.append((f"`{name}`", *_describe(name), source["read"], kind))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _describe(name: str) -> tuple[str, ...]:
    try:
        shape = read_shape(BASES / name)
    except UserError as error:
        kind = error.what.partition(" ")[0].removesuffix("ForCausalLM")
        return (kind, *["-"] * 4, f"{WAITING}: {error.why}")
    stretched = shape.stretched
    return (
        shape.architecture.removesuffix("ForCausalLM"),
        f"{shape.parameters:,}",
        format_length(shape.context_tokens),
        f"{stretched.theta:,.0f}",
        stretched.rope.kind.replace("unchanged", "plain"),
        _count_layers(shape),
    )


def _count_layers(shape: ModelShape) -> str:
    """The number of layers, of each kind where there are several."""
    windows = [layer.window_tokens for layer in shape.positions]
    words = [
        f"{windows.count(window)} with a window of {format_length(window)}"
        for window in sorted({window for window in windows if window is not None})
    ]
    without = sum(isinstance(layer.rope, Nope) for layer in shape.positions)
    words += [f"{without} without RoPE"] if without else []
    words += [f"{shape.mixtures} with {shape.experts.count} experts"] if shape.experts else []
    return f"{shape.layers}{': ' if words else ''}{', '.join(words)}"


if __name__ == "__main__":
    write_tables(PAGE, tabulate(), "bases")
