"""LongCE: a token's loss counts for more if full context makes the token likelier than truncated context."""

from typing import Annotated

from pydantic import Field, model_validator

from ropewalk.core.quantity import PositiveCount
from ropewalk.core.spec import Spec


class LongCE(Spec):
    """Weigh a token's loss by min(p with all of its document / p with truncated context, ``most``).

    Fang et al., 2410.23771. Truncated context is read in blocks of a document that begin every ``stride_tokens``. Each
    token is taken from the block that gives it most: at least ``truncated_tokens`` before it, less than a stride more.
    """

    truncated_tokens: PositiveCount
    """Tokens of truncated context."""
    most: float = Field(default=5.0, gt=1)
    """Largest weight of a token."""
    readings: Annotated[PositiveCount, Field(ge=2)] = 2
    """Forward passes that this takes. The paper's strides of a quarter of the truncated context are 5."""

    @property
    def stride_tokens(self) -> int:
        return self.truncated_tokens // (self.readings - 1)

    @property
    def block_tokens(self) -> int:
        """Length of a block in tokens.

        A token with at most this much of its document before it has only truncated context. It keeps its weight.
        """
        return self.truncated_tokens + self.stride_tokens

    @model_validator(mode="after")
    def _check_stride(self) -> "LongCE":
        if self.truncated_tokens % (self.readings - 1):
            raise ValueError(
                f"truncated_tokens: {self.truncated_tokens} tokens make no {self.readings - 1} equal strides"
            )
        return self
