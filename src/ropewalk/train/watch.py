"""What a person sees of a running stage: one line with the loss, the rate, the gradient, the speed, the mix."""

from collections.abc import Iterable, Mapping

from ropewalk.core.quantity import format_amount
from ropewalk.core.record import Row


def describe_step(rows: Iterable[Row], mix: Mapping[str, float]) -> str:
    """``loss 3.214  lr 0.0001  grad 0.91  12.3K tokens/s  imbalance 1.02  law 20%``; ``mix`` is tokens so far."""
    values = {row.name: row.value for row in rows}
    parts = [
        f"loss {values['loss/train']:.3f}" if "loss/train" in values else f"SKIPPED ({values['skipped']:.0f})",
        f"lr {values['lr']:.2g}",
        f"grad {values['grad_norm']:.2f}" if "grad_norm" in values else "grad not used",
        f"{format_amount(values['tokens_per_second'])} tokens/s",
        f"imbalance {values['imbalance']:.2f}",
    ]
    total = sum(mix.values())
    if total:
        parts.append(" ".join(f"{name} {tokens / total:.0%}" for name, tokens in mix.items()))
    return "  ".join(parts)
