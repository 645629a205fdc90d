"""Settings of training a mixture of experts: whether its routers learn, and what keeps the experts' load even.

The balance loss is that of Switch Transformers (2101.03961), taken in each layer over all tokens of an optimizer step.
It is 1 where all experts of the layer are chosen alike. The z-loss is that of ST-MoE (2202.08906), and the bias that of
DeepSeek V3 (2408.15664, 2412.19437). At long contexts a stage is short, so all three are off unless they are asked for.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field, model_validator

from ropewalk.core.error import UserError
from ropewalk.core.spec import Spec
from ropewalk.recipe.lora import MLP, Lora
from ropewalk.shape.families import require_row
from ropewalk.shape.model_shape import ModelShape

_LARGEST: Mapping[str, tuple[float, str]] = {
    "balance_loss": (0.1, "0.001 to 0.01; gpt-oss's coefficient of 0.9 is 0.1 here"),
    "z_loss": (0.1, "0.001 (ST-MoE, 2202.08906)"),
    "bias_update": (0.05, "0.001 (DeepSeek V3, 2412.19437)"),
}
"""Above these, routers learn an even load rather than the text; with them, the values that were published."""


class ExpertTraining(Spec):
    """``experts: {balance_loss: 0.001}`` of a stage: how the routers of a mixture of experts are trained."""

    router: Literal["trained", "frozen"] = "trained"
    """Whether the routers' weights learn; the gradient of the hidden states passes through them in either case."""
    balance_loss: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Adds this x the balance loss of each layer. ``router_aux_loss_coef`` c of transformers, for K experts a token and
    L layers, is about c x K / L here."""
    balance_counts: Literal["former_step", "step"] = "former_step"
    """The step whose choices weigh the balance loss. ``step`` is exact; with several micro-batches it reads all but the
    first twice, the first time without gradients."""
    z_loss: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Adds this x (log of the router's softmax denominator)^2, a mean over the tokens, of each layer."""
    bias_update: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """What each step adds to, or takes from, the bias of an expert's choice, where the class has one; 0 keeps them."""

    @property
    def learns(self) -> bool:
        """Whether anything but the loss of the text moves the routers or their biases."""
        return max(self.balance_loss, self.z_loss, self.bias_update) > 0

    @model_validator(mode="after")
    def _check_frozen(self) -> "ExpertTraining":
        if self.router == "frozen" and self.learns:
            raise ValueError(
                "router: frozen routers cannot be balanced; "
                "set balance_loss, z_loss and bias_update to 0, or train them"
            )
        return self


def refuse_misfits(rules: ExpertTraining | None, tile_tokens: int | str | None, shape: ModelShape) -> None:
    """Raise UserError for the first of ``find_misfits``; ``where`` is the key."""
    for key, reason in find_misfits(rules, tile_tokens, shape):
        raise UserError(f"{key} does not fit this model", where=key, why=reason, fix=f"remove {key} from the recipe")


_NO_DENOMINATOR = {
    "sigmoid": "score experts by sigmoids, which have no denominator",
    "given": "return probabilities, whose denominator is not known",
}
"""Scores of experts for which there is no z-loss, and why."""


def find_misfits(
    rules: ExpertTraining | None, tile_tokens: int | str | None, shape: ModelShape
) -> Iterator[tuple[str, str]]:
    """Yield each key of a recipe that a model of ``shape`` cannot obey, and the reason.

    ``rules`` are those of a stage, ``tile_tokens`` is ``parallel.mlp_tile_tokens``.
    """
    if shape.experts is None:
        if rules is not None:
            yield "experts", "the model is dense: it has no experts"
        return
    keys = require_row(shape.architecture).experts
    assert keys is not None
    if rules is not None and rules.bias_update and keys.balance_bias == "none":
        yield "experts.bias_update", "the routers of this class choose experts without a bias"
    if rules is not None and rules.z_loss and keys.scores in _NO_DENOMINATOR:
        yield "experts.z_loss", f"the routers of this class {_NO_DENOMINATOR[keys.scores]}"
    if isinstance(tile_tokens, int):
        yield "parallel.mlp_tile_tokens", "tokens are sorted by expert, all of a micro-batch at once"


def find_unusual(
    rules: ExpertTraining | None, lora: Lora | None, shape: ModelShape
) -> Iterator[tuple[str, str, str, str]]:
    """Yield the keys of a stage that a mixture obeys otherwise than it may seem: key, message, source and fix."""
    if shape.experts is None:
        return
    for key, (largest, published) in _LARGEST.items():
        value = getattr(rules, key, 0.0)
        if value > largest:
            message = f"{value:g} is above {largest:g}: the routers would learn an even load rather than the text"
            yield f"experts.{key}", message, f"published values are {published}", f"at most {largest:g}"
    if lora is not None and set(MLP) & set(lora.projections):
        message = (
            f"the experts of {shape.mixtures} of {shape.layers} layers get no adapters, and neither do the routers"
        )
        source = "adapters go to matrices that are modules (docs/experts.md)"
        yield "lora.modules", message, source, "lora.modules: [attention], or leave lora out and train all weights"
