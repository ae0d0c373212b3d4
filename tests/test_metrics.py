"""Scores, against slow plain versions."""

import numpy as np
import pytest
import torch

from fedmed.evaluation.metrics import bce, macro, per_target
from fedmed.training.sgd import masked_bce


def auroc_by_pairs(score: np.ndarray, truth: np.ndarray) -> float:
    positive, negative = score[truth == 1], score[truth == 0]
    wins = (positive[:, None] > negative).sum() + 0.5 * (positive[:, None] == negative).sum()
    return float(wins / (len(positive) * len(negative)))


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (200, 4)).astype(np.float32)
    scores = np.clip(0.3 * labels + rng.random((200, 4)).round(1), 0, 1).astype(np.float32)
    labels[rng.random((200, 4)) < 0.2] = np.nan
    labels[:, 3] = np.where(np.isnan(labels[:, 3]), np.nan, 0)
    return scores, labels


def test_auroc_over_known_labels(scored: tuple[np.ndarray, np.ndarray]) -> None:
    scores, labels = scored
    values = per_target(scores, labels, ("a", "b", "c", "one class"))["auroc"]
    assert list(values) == ["a", "b", "c"]
    for i, name in enumerate(values):
        known = ~np.isnan(labels[:, i])
        assert values[name] == pytest.approx(auroc_by_pairs(scores[known, i], labels[known, i]))
    assert macro(values) == pytest.approx(np.mean(list(values.values())))
    assert np.isnan(macro({}))


def test_unknown_labels_do_not_train(scored: tuple[np.ndarray, np.ndarray]) -> None:
    scores, labels = scored
    logits = torch.from_numpy(scores).logit(eps=1e-3).requires_grad_()
    loss = masked_bce(logits, torch.from_numpy(labels))
    assert loss.item() == pytest.approx(bce(logits.detach().sigmoid().numpy(), labels), rel=1e-4)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert (logits.grad[torch.from_numpy(labels).isnan()] == 0).all()
    assert masked_bce(logits, torch.full_like(logits, float("nan"))).item() == 0
