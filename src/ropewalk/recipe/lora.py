"""Settings of training with low-rank adapters: the matrices that get an adapter, and the weights trained in full.

The product of two thin matrices is added to each chosen matrix. The matrix itself stays frozen (Hu et al., 2106.09685).
``also_train`` has a default that is not obvious. At a longer context, adapters alone leave a gap to full training that
no rank closes. Training the embedding and the norms too closes it (LongLoRA, 2309.12307, section 3.3).
"""

from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ropewalk.core.error import UserError
from ropewalk.core.quantity import PositiveCount
from ropewalk.core.spec import Spec

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")

_OF_EXPERTS = ("experts", "router", "gate", "gate_up_proj", "experts.gate_up_proj", "experts.down_proj")
"""Names by which other trainers reach experts and routers."""

Module = Literal["attention", "mlp", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Whole = Literal["embeddings", "head", "norms"]


class Lora(Spec):
    """``lora: {rank: 16}`` of a stage: adapters are trained, and merged into the weights where the stage ends."""

    rank: PositiveCount = 16
    """Columns of an adapter's thin matrices."""
    alpha: float = Field(default=32.0, gt=0)
    """What an adapter says is multiplied by alpha / rank."""
    modules: Annotated[tuple[Module, ...], Field(min_length=1)] = ("attention", "mlp")
    """Matrices with an adapter, in every block."""
    also_train: tuple[Whole, ...] = ("embeddings", "norms")
    """What is trained whole. Where head and embedding are tied, either name means the one matrix that both are."""

    @field_validator("modules", mode="before")
    @classmethod
    def _refuse_experts(cls, modules: Any) -> Any:
        """Refuse experts with the reason: other trainers take them."""
        asked = [name for name in modules if name in _OF_EXPERTS] if isinstance(modules, list | tuple) else []
        if asked:
            raise ValueError(
                f"{asked[0]}: experts and routers get no adapters. peft would add each to a copy of all experts of a "
                "layer, in every forward. Name attention, or train without lora (docs/experts.md)"
            )
        return modules

    @property
    def projections(self) -> tuple[str, ...]:
        """The names of the matrices with an adapter, each once, in the order of a block."""
        named = {"attention": ATTENTION, "mlp": MLP}
        chosen = {name for module in self.modules for name in named.get(module, (module,))}
        return tuple(name for name in (*ATTENTION, *MLP) if name in chosen)

    @property
    def scale(self) -> float:
        """The factor of an adapter's product."""
        return self.alpha / self.rank


def require_peft() -> None:
    """Raise UserError if the package that puts adapters into a model is missing; nothing is imported."""
    if find_spec("peft") is None:
        raise UserError(
            "lora needs the package peft",
            where="stages: lora",
            why="the package peft is not installed",
            fix="pip install 'ropewalk[lora]', or leave lora out",
        )
