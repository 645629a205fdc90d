"""Settings of training a mixture of experts: whether its routers learn, and what keeps the experts' load even.

The balance loss is that of Switch Transformers (2101.03961), taken in each layer over all tokens of an optimizer step.
It is 1 where all experts of the layer are chosen alike. The z-loss is that of ST-MoE (2202.08906), and the bias that of
DeepSeek V3 (2408.15664, 2412.19437). At long contexts a stage is short, so all three are off unless they are asked for.
"""

from typing import Literal

from pydantic import Field, model_validator

from ropewalk.core.spec import Spec


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
