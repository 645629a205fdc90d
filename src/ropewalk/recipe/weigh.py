"""Weights of a stage's tokens: a token counts for more if far context makes it likelier."""

from typing import Annotated

from pydantic import Field, model_validator

from ropewalk.core.quantity import PositiveCount
from ropewalk.core.spec import Spec


class LongCE(Spec):
    """Weigh a token's loss by min(p with all of its document / p with near context alone, ``most``).

    Fang et al., 2410.23771. Near context is read in blocks of a document that begin every ``stride_tokens``, each token
    in the block that gives it most: ``near_tokens`` or more before it, by less than a stride.
    """

    near_tokens: PositiveCount
    """Tokens of near context."""
    most: float = Field(default=5.0, gt=1)
    """Largest weight of a token."""
    readings: Annotated[PositiveCount, Field(ge=2)] = 2
    """Forward passes that this takes. The paper's strides of a quarter of the near context are 5."""

    @property
    def stride_tokens(self) -> int:
        return self.near_tokens // (self.readings - 1)

    @property
    def block_tokens(self) -> int:
        """Length of a block in tokens.

        A token with at most this much of its document before it has only near context. It keeps its weight.
        """
        return self.near_tokens + self.stride_tokens

    @model_validator(mode="after")
    def _check_stride(self) -> "LongCE":
        if self.near_tokens % (self.readings - 1):
            raise ValueError(f"{self.near_tokens} near_tokens make no {self.readings - 1} equal strides")
        return self
