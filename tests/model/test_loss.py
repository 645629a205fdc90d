"""The chunked loss against torch's cross-entropy in float64: value, nll, both gradients, every kind of chunk."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from count_waits import CountReads, CountWaits
from emulated_gpu import emulate
from gpus import needs_gpu
from ropewalk.model import loss as loss_module
from ropewalk.model.loss import LossRules, chunked_cross_entropy, score_labels
from ropewalk.parallel.launch import run_ranks
from ropewalk.plan.rank_setup import RankSetup


def problem(dtype: torch.dtype, tokens: int = 37, vocabulary: int = 50) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, 16, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    head = torch.randn(vocabulary, 16, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    labels = torch.randint(vocabulary, (tokens,), generator=generator, dtype=torch.int32)
    weights = torch.rand(tokens, generator=generator)
    weights[::3] = 0
    weights[16:24] = 0
    labels[weights == 0] = -1
    return hidden, head, labels, weights


def truth(hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Per-token nll in float64, all logits at once."""
    return cross_entropy(hidden.double() @ head.double().T, labels.long(), reduction="none", ignore_index=-1)


@pytest.mark.parametrize(
    ("chunk_tokens", "vocabulary"),
    [(1, 50), (8, 50), (37, 50), (1000, 50), pytest.param(37, 100_000, id="several blocks of logits")],
)
def test_value_and_gradients_in_float64(chunk_tokens: int, vocabulary: int) -> None:
    hidden, head, labels, weights = problem(torch.float64, vocabulary=vocabulary)
    nll = truth(hidden, head, labels, weights)
    (0.3 * (nll * weights).sum()).backward()
    expected = hidden.grad, head.grad
    hidden.grad = head.grad = None
    loss, ours = chunked_cross_entropy(hidden, head, labels, weights, chunk_tokens=chunk_tokens)
    assert loss.dtype == ours.dtype == torch.float64
    torch.testing.assert_close(ours, nll.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(loss.detach(), (nll * weights).sum().detach(), rtol=1e-12, atol=1e-12)
    (0.3 * loss).backward()
    torch.testing.assert_close(hidden.grad, expected[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(head.grad, expected[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("vocabulary", [50, 100_000])
def test_lower_precision_stays_close(dtype: torch.dtype, tolerance: float, vocabulary: int) -> None:
    hidden, head, labels, weights = problem(dtype, vocabulary=vocabulary)
    loss, _ = chunked_cross_entropy(hidden, head, labels, weights, chunk_tokens=24)
    loss.backward()
    exact_hidden, exact_head = hidden.detach().double().requires_grad_(), head.detach().double().requires_grad_()
    expected = (truth(exact_hidden, exact_head, labels, weights) * weights).sum()
    expected.backward()
    assert loss.dtype == torch.float32 and hidden.grad.dtype == head.grad.dtype == dtype
    assert abs(loss.item() / expected.item() - 1) < tolerance
    for ours, exact in ((hidden.grad, exact_hidden.grad), (head.grad, exact_head.grad)):
        assert (ours.double() - exact).norm() / exact.norm() < tolerance


def test_tied_weights_get_both_gradients() -> None:
    _, table, labels, weights = problem(torch.float64)
    tokens = torch.arange(37) % 50
    nll = truth(table[tokens], table, labels, weights)
    (nll * weights).sum().backward()
    expected, table.grad = table.grad, None
    loss, _ = chunked_cross_entropy(table[tokens], table, labels, weights, chunk_tokens=8)
    loss.backward()
    torch.testing.assert_close(table.grad, expected, rtol=1e-12, atol=1e-12)


def test_frozen_inputs_and_no_gradient_at_all() -> None:
    hidden, head, labels, weights = problem(torch.float32)
    for wants_hidden, wants_head in ((True, False), (False, True)):
        first, second = hidden.detach().requires_grad_(wants_hidden), head.detach().requires_grad_(wants_head)
        chunked_cross_entropy(first, second, labels, weights)[0].backward()
        assert (first.grad is not None, second.grad is not None) == (wants_hidden, wants_head)
    with torch.no_grad():
        loss, nll = chunked_cross_entropy(hidden, head, labels, weights)
    assert not loss.requires_grad and not nll.requires_grad


def test_nothing_to_learn_is_zero_with_zero_gradients() -> None:
    hidden, head, labels, _ = problem(torch.float32)
    loss, nll = chunked_cross_entropy(hidden, head, labels, torch.zeros(37))
    loss.backward()
    assert loss.item() == 0 and not nll.any() and not hidden.grad.any() and not head.grad.any()


def test_correct_is_the_argmax_on_weighted_tokens() -> None:
    hidden, head, labels, weights = problem(torch.float32)
    best = (hidden @ head.T).argmax(dim=1)
    labels[::2] = best[::2].to(torch.int32)
    _, _, correct = score_labels(hidden, head, labels, weights, rules=LossRules(8))
    assert torch.equal(correct, (labels == best) & (weights > 0)) and correct.any()


@pytest.mark.parametrize("chunk_tokens", [8, 1000])
def test_z_loss_against_autograd(chunk_tokens: int) -> None:
    hidden, head, labels, weights = problem(torch.float64)
    nll = truth(hidden, head, labels, weights)
    log_sum = (hidden @ head.T).logsumexp(1)
    expected = ((nll + 0.01 * log_sum.square()) * weights).sum()
    slopes = torch.autograd.grad(expected, (hidden, head))
    loss, ours, _ = score_labels(hidden, head, labels, weights, rules=LossRules(chunk_tokens, z_loss=0.01))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours, nll.detach(), rtol=1e-12, atol=1e-12)
    for mine, exact in zip(torch.autograd.grad(loss, (hidden, head)), slopes, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-12, atol=1e-12)


def test_indices_that_come_with_the_batch_change_nothing() -> None:
    """And the loss then reads nothing back: neither in a chunk nor before."""
    hidden, head, labels, weights = problem(torch.float64)
    results, waits = [], []
    for counted in (None, weights.nonzero().squeeze(1)):
        with CountWaits() as watched, CountReads(watched) as reads:
            loss, nll, correct = score_labels(hidden, head, labels, weights, rules=LossRules(4), counted=counted)
            loss.backward()
        results.append([loss.detach(), nll, correct, hidden.grad, head.grad])
        waits.append(watched.waits + reads.reads)
        hidden.grad = head.grad = None
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    assert waits[0] and not waits[1], waits


def test_a_gpu_adds_up_the_gradient_of_the_head_without_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sum in float32 over all chunks; a CPU rounds each chunk's product to bfloat16 first."""
    products = [torch.randn(2, 40, 40).bfloat16().unbind() for _ in range(32)]
    expected = sum(left.double() @ right.double() for left, right in products)
    errors = []
    for adds_widely in (True, False):
        monkeypatch.setattr(loss_module, "_adds_widely", lambda _, answer=adds_widely: answer)
        total = torch.zeros(40, 40)
        with emulate():
            for left, right in products:
                loss_module.add_product(total, left, right)
        errors.append(((total - expected).norm() / expected.norm()).item())
    assert errors[0] < 1e-6 < 1e-4 < errors[1], errors


class OnGpu(Tensor):
    """A tensor that says that it is on a GPU."""

    is_cuda = True  # type: ignore[assignment]


def test_a_gpu_takes_larger_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int | None] = []

    def note(*fields: Any) -> tuple[Tensor, Tensor, Tensor]:
        given.append(fields[-1].chunk_tokens)
        return torch.zeros(()), torch.zeros(1), torch.zeros(1, dtype=torch.bool)

    monkeypatch.setattr(loss_module, "_ChunkedCrossEntropy", SimpleNamespace(apply=note))
    hidden, head, labels, weights = torch.zeros(1, 2), torch.zeros(3, 2), torch.zeros(1).long(), torch.ones(1)
    for rows, rules in ((hidden, None), (hidden.as_subclass(OnGpu), None), (hidden, LossRules(7))):
        score_labels(rows, head, labels, weights, rules=rules, counted=labels)
    assert given == [1024, 4096, 7]


@pytest.mark.gpu
@needs_gpu
def test_a_product_is_added_widely_on_a_gpu() -> None:
    run_ranks(add_product_on_a_gpu, 1, setup=RankSetup("cuda"))


def add_product_on_a_gpu() -> None:
    left, right = (torch.randn(size, device="cuda", dtype=torch.bfloat16) for size in ((300, 64), (64, 200)))
    total = torch.randn(300, 200, device="cuda")
    expected = total.double() + left.double() @ right.double()
    loss_module.add_product(total, left, right)
    assert (total.double() - expected).norm() <= 1e-6 * expected.norm()
