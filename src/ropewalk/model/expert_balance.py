"""The balance of experts over all tokens of an optimizer step, whatever ranks and micro-batches they lie on.

For a layer with E experts, of which each of the step's T tokens chooses K, the loss is ``E / (K T^2) x sum_e C_e S_e``:
C_e counts the choices of expert e, S_e sums its probabilities. It is 1 where all experts are chosen alike. C has no
gradient, so once C of the whole step is known, each rank adds the gradient of its own tokens alone, and the parts add
up exactly. The loss of transformers counts only the local batch, and lets the layers cancel each other.

A hook at each router counts, and adds the gradient to the router's logits in the backward pass. So neither activation
recomputation nor the chunked loss changes. A recomputed router runs twice: choices are counted only inside ``read``,
which ends with the forward. Padding counts nowhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn

from ropewalk.model.architectures import blocks_of, family_of
from ropewalk.model.compiled import stay_outside
from ropewalk.model.expert_files import CHOICE_BIAS
from ropewalk.recipe.expert_training import ExpertTraining


class Router(NamedTuple):
    """The router of a layer with experts, and the module with the biases of its choice (None: the class has none)."""

    layer: int
    module: nn.Module
    experts: int
    biased: nn.Module | None


def find_routers(model: Any) -> list[Router]:
    """Return the routers of a transformers ``model``, first layer to last; none for a dense model.

    A router's forward returns logits [tokens, experts], or probabilities where its row says so, and weights and numbers
    of the chosen experts [tokens, chosen].
    """
    found, family = [], family_of(model)
    if family is None or family.experts is None:
        return []
    for layer, block in enumerate(blocks_of(model)):
        for mixture in block.modules():
            if "experts" not in dict(mixture.named_children()):
                continue
            router = mixture.get_submodule(family.experts.router)
            biased = next((each for each in mixture.modules() if hasattr(each, CHOICE_BIAS)), None)
            experts: Any = mixture.get_submodule("experts")
            found.append(Router(layer, router, experts.num_experts, biased))
    return found


def _find_scores(model: Any) -> str:
    """How the routers of ``model`` score experts (ExpertKeys.scores)."""
    family = family_of(model)
    assert family is not None and family.experts is not None
    return family.experts.scores


def hold_choice_biases(model: nn.Module) -> None:
    """Make biases of the choice buffers, which are whole and in float32 on every rank, where a class has parameters.

    ERNIE's are parameters without a gradient. Sharding would round them with the weights. Names do not change.
    """
    for module in model.modules():
        bias = module._parameters.pop(CHOICE_BIAS, None)
        if bias is not None:
            module.register_buffer(CHOICE_BIAS, bias.detach())


class Reading(NamedTuple):
    """One forward of a step: which of its tokens are no padding, and whether their choices are counted."""

    real: Bool[Tensor, "local"]
    counts: bool


class ExpertBalance:
    """Counts the experts' load of a step, and adds the gradients of its losses, by hooks at the routers of a model.

    ``table`` has the sums of this rank's tokens, one row per layer with experts: the counts C_e [experts], the sums of
    probabilities S_e [experts], and the sum of squared log-sum-exps. ``shares`` are C_e / (K T), as the gradient uses
    them. At first all are equal, which gives no gradient.
    """

    def __init__(self, model: Any, rules: ExpertTraining) -> None:
        self.rules, self._model = rules, model
        self.routers = find_routers(model)
        (experts,) = {router.experts for router in self.routers}
        self.shares = torch.full((len(self.routers), experts), 1 / experts, dtype=torch.float64)
        self.table: Float64[Tensor, "layers sums"] | None = None
        self.tokens = 0.0
        self.reading: Reading | None = None
        self.last: StepBalance | None = None
        self.active = False
        self.scores = _find_scores(model)
        for row, router in enumerate(self.routers):
            router.module.register_forward_hook(_Watch(self, row))

    @property
    def pulls(self) -> bool:
        """Whether the routers get gradients of their own in this step."""
        return self.active and max(self.rules.balance_loss, self.rules.z_loss) > 0

    @contextmanager
    def step(self, tokens: float) -> Iterator[None]:
        """Inside, forwards belong to a step of ``tokens`` tokens over all ranks, without padding."""
        self.table, self.tokens, self.active = None, max(tokens, 1.0), True
        try:
            yield
        finally:
            self.active = False

    @contextmanager
    def read(self, real: Bool[Tensor, "local"], *, counts: bool = True) -> Iterator[None]:
        """Inside, the forward reads tokens of which ``real`` are no padding; ``counts``: they have not been counted."""
        self.reading = Reading(real, counts)
        try:
            yield
        finally:
            self.reading = None

    @torch.no_grad()
    def count(self, row: int, logits: Float[Tensor, "local experts"], chosen: Int64[Tensor, "local chosen"]) -> None:
        """Add the tokens of a forward to the table."""
        assert self.reading is not None
        experts = logits.shape[1]
        if self.table is None:
            self.table = logits.new_zeros(len(self.routers), 2 * experts + 1, dtype=torch.float64)
        real, exact, sums = self.reading.real.double(), _widen(logits), self.table[row]
        # [local] -> [local, chosen] -> [local * chosen]
        sums[:experts].scatter_add_(0, chosen.flatten(), real[:, None].expand(chosen.shape).flatten())
        sums[experts:-1] += real @ self._score(exact).double()
        sums[-1] += real @ exact.logsumexp(1).square().double()

    def slope(
        self, row: int, logits: Float[Tensor, "local experts"], real: Bool[Tensor, "local"]
    ) -> Float[Tensor, "local experts"]:
        """Return the gradient of this rank's part of the losses of a layer, with respect to the router's logits."""
        with torch.enable_grad():
            leaf = _widen(logits).requires_grad_()
            loss = (leaf.logsumexp(1).square() * real).sum() * self.rules.z_loss
            each = self._score(leaf) @ self.shares[row].to(leaf)  # [local, experts] -> [local]
            loss = loss + (each * real).sum() * self.rules.balance_loss * leaf.shape[1]
            (found,) = torch.autograd.grad(loss / self.tokens, leaf)
        return found.to(logits.dtype)

    def _score(self, logits: Float[Tensor, "local experts"]) -> Float[Tensor, "local experts"]:
        """The router's probabilities: those of all experts of a token add up to 1, also where scores are sigmoids."""
        if self.scores == "softmax":
            return logits.softmax(1)
        if self.scores == "given":
            return logits
        scores = logits.sigmoid()
        return scores / scores.sum(1, keepdim=True)

    def describe(self, total: Float64[Tensor, "layers sums"]) -> "StepBalance":
        """Return what ``total``, the sum of the tables of all ranks, says."""
        total, experts = total.cpu(), (total.shape[1] - 1) // 2
        counts, scores = total[:, :experts], total[:, experts:-1]
        choices = counts.sum(1, keepdim=True).clamp(min=1.0)
        return StepBalance(
            shares=counts / choices,
            losses=experts * (counts / choices * scores).sum(1) / self.tokens,
            z_losses=total[:, -1] / self.tokens,
        )

    def finish(self, found: "StepBalance") -> None:
        """Take over what a step that was taken has found: its shares for the next step, and new biases of the choice.

        An expert with less than the mean load gets ``bias_update`` more, one with a greater load gets less.
        """
        if self.keeps_shares:
            self.shares = found.shares.to(self.table.device if self.table is not None else self.shares.device)
        if self.rules.bias_update:
            moves = self.rules.bias_update * torch.sign(1.0 / found.shares.shape[1] - found.shares)
            biases = list(self.biases.values())
            for bias, move in zip(biases, moves.to(biases[0].device), strict=True):
                bias += move.to(bias).view_as(bias)

    @property
    def keeps_shares(self) -> bool:
        """Whether the shares of a step weigh the loss of the next."""
        return self.rules.balance_loss > 0 and self.rules.balance_counts == "former_step"

    @property
    def biases(self) -> dict[str, Float[Tensor, "..."]]:
        """The biases of the choice by their names in the model, one for each layer with experts that has them."""
        paths = {module: path for path, module in self._model.named_modules()}
        biased = [router.biased for router in self.routers if router.biased is not None]
        return {f"{paths[each]}.{CHOICE_BIAS}": each.get_buffer(CHOICE_BIAS) for each in biased}


@dataclass(frozen=True, slots=True)
class StepBalance:
    """The load of the experts in a step over all ranks, one row per layer with experts.

    ``shares`` are each expert's share of all choices. ``losses`` are the balance losses, 1 where all shares are equal.
    """

    shares: Float64[Tensor, "layers experts"]
    losses: Float64[Tensor, "layers"]
    z_losses: Float64[Tensor, "layers"]

    @property
    def loads(self) -> Float64[Tensor, "layers"]:
        """The busiest expert's load, divided by the mean."""
        return self.shares.amax(1) * self.shares.shape[1]


@dataclass(frozen=True, slots=True)
class _Watch:
    """A hook after the forward of the router in row ``row``."""

    balance: ExpertBalance
    row: int

    @stay_outside
    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """The output, whose weights now lead to the losses of these logits in the backward pass."""
        logits, weights, chosen = output
        if self.balance.reading is not None and self.balance.reading.counts:
            self.balance.count(self.row, logits, chosen)
        if self.balance.pulls and torch.is_grad_enabled():
            weights = _Pull.apply(weights, logits, self.balance, self.row)
        return logits, weights, chosen


class _Pull(torch.autograd.Function):
    """Passes the weights of the chosen experts on; its backward adds the losses' gradient to that of the logits."""

    @staticmethod
    def forward(
        ctx: Any,
        weights: Float[Tensor, "local chosen"],
        logits: Float[Tensor, "local experts"],
        balance: ExpertBalance,
        row: int,
    ) -> Float[Tensor, "local chosen"]:
        ctx.save_for_backward(logits)
        ctx.balance, ctx.row = balance, row
        ctx.reading = balance.reading  # None in the second run of a recomputed block, whose context is not used
        return weights.view_as(weights)

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad: Float[Tensor, "local chosen"]
    ) -> tuple[Float[Tensor, "..."] | None, ...]:
        (logits,) = ctx.saved_tensors
        return grad, ctx.balance.slope(ctx.row, logits, ctx.reading.real), None, None


def _widen(logits: Float[Tensor, "local experts"]) -> Float[Tensor, "local experts"]:
    return logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
