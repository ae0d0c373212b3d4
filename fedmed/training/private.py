"""Patient-level DP-SGD of anyone's model and data, without a federation (Abadi et al. 2016)."""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from fedmed import models
from fedmed.core.errors import ConfigError, DataError
from fedmed.core.seeding import fingerprint
from fedmed.core.spelling import alike
from fedmed.privacy import accounting
from fedmed.privacy.assumptions import caveats
from fedmed.privacy.events import Event
from fedmed.privacy.noise import source
from fedmed.training.dpsgd.clipping import ClippedSum, image_losses
from fedmed.training.dpsgd.grouping import Rows
from fedmed.training.dpsgd.sampling import Sampler, add_draw


class Items(Protocol):
    """A dataset as PyTorch has them: a length, and items by their number."""

    def __len__(self) -> int:
        """Return how many items there are."""

    def __getitem__(self, index: int, /) -> Any:
        """Return an image and its label, of the same shapes in every item."""


@dataclass(frozen=True)
class Spent:
    """What a private training has released.

    Attributes:
        event: its steps. Trainings on the same patients add up:
            ``fedmed.epsilon([one.event, other.event], delta)``.
        delta: of (ε, δ).
        epsilon: of each patient, infinite without noise.
        caveats: what makes the guarantee less than it seems, a sentence each.
    """

    event: Event
    delta: float
    epsilon: float
    caveats: tuple[str, ...]


def train_privately(
    model: nn.Module,
    dataset: Items,
    patients: Sequence[Hashable],
    optimizer: torch.optim.Optimizer,
    *,
    delta: float,
    clip_norm: float,
    batch_size: int,
    steps: int,
    epsilon: float | None = None,
    noise_multiplier: float | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = image_losses,
    physical_batch: int = 64,
    seed: int | None = None,
) -> Spent:
    """Train a model in place, so that nothing in it tells whether a patient's images counted.

    At each step every patient is drawn on their own with probability q = ``batch_size`` /
    patients. The gradient of a patient, summed over all of their images, is clipped to an L2 norm
    of C. The clipped gradients are summed, Gaussian noise of standard deviation z·C is added, the
    result is divided by ``batch_size`` and handed to the optimizer. The guarantee is (ε, δ)-DP for
    data sets in which one patient counts, or counts for nothing. The number of patients is public,
    and so are the weights and the optimizer's state that training starts from.

    Args:
        model: on its device; without batch norm or whatever else mixes images, and with all of its
            parameters to be trained.
        dataset: items of an image and a label, which batches are made of; a data loader's batches
            are not drawn as the guarantee needs it.
        patients: whose each item of the dataset is.
        optimizer: of the model's parameters.
        delta: of (ε, δ), in (0, 1); far below one over the number of patients.
        clip_norm: C, above 0.
        batch_size: how many patients a step is expected to have.
        steps: how many steps are made.
        epsilon: not to be exceeded; the noise is found. Give it or ``noise_multiplier``.
        noise_multiplier: z, at least 0.
        loss: gives each image's loss, n, from the model's outputs and the labels, n×… both; an
            image's depends on no other image. The binary cross-entropy over several findings, with
            labels n×T of 1, 0 and NaN where not known, when left out.
        physical_batch: how many images are in memory at a time; decides nothing else.
        seed: of sampling and noise, for a training that repeats; whoever knows it can subtract the
            noise. Draws are then keyed by weights and data too, which takes one more pass. None
            for draws of the operating system, which do not repeat.

    Returns:
        What it has cost.

    Raises:
        FedmedError: of arguments that give no guarantee.
    """
    _check_numbers(delta, clip_norm=clip_norm, batch_size=batch_size, steps=steps)
    _check_numbers(delta, physical_batch=physical_batch)
    _check_model(model, optimizer)
    unit = _coded(patients, len(dataset))
    n = int(unit.max()) + 1
    rate = min(1.0, batch_size / n)
    event = _event(rate, steps, epsilon, noise_multiplier, delta)
    z, device = event.noise_multiplier, next(model.parameters()).device

    def load(which: Sequence[int] | Rows) -> tuple[Tensor, Tensor]:
        images, labels = default_collate([dataset[int(i)] for i in which])
        return images.to(device), labels.to(device)

    release: list[str] = []
    if seed is not None and z:
        start = models.arrays_of(model)
        release = [fingerprint(z, rate, clip_norm, start, unit, _content(load, len(dataset)))]
    secure, key = seed is None, seed or 0
    sampler = Sampler(unit, rate, None, source(key, device, secure, *release))
    clipped = ClippedSum(model, clip_norm, _one_each(loss))
    training = model.training
    model.train()
    for step in range(steps):
        clipped.total.zero_()
        add_draw(clipped, sampler.draw(), load, physical_batch)
        if z:
            draws = source(key, device, secure, *release, step, clipped.total)
            clipped.total.add_(draws.normal(len(clipped.total)), alpha=z * clip_norm)
        clipped.total.div_(rate * n)
        clipped.write()
        optimizer.step()
    optimizer.zero_grad()
    model.train(training)
    said = caveats({"patient": delta}, {"patient": n})
    return Spent(event, delta, accounting.epsilon([event], delta), said)


def _check_numbers(delta: float, **positive: float) -> None:
    if not 0 < delta < 1:
        raise ConfigError(f"delta: in (0, 1), got {delta}")
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"{name}: above 0 and finite, got {value}")


def _check_model(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    models.check_private(model)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            raise ConfigError(
                f"model: {name} is not to be trained; train on what the frozen part gives instead"
            )
    theirs = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if theirs != {id(p) for p in model.parameters()}:
        raise ConfigError("optimizer: takes all of the model's parameters and no other")


def _coded(patients: Sequence[Hashable], images: int) -> Rows:
    """Return the patient of each image, counted from 0."""
    if len(patients) != images or not images:
        raise DataError(f"patients: {len(patients)} are told for {images} images; one an image")
    if any(patient is None or patient != patient for patient in patients):
        raise DataError("patients: one is None or NaN; each image is somebody's")
    if same := alike(patient for patient in patients if isinstance(patient, str)):
        raise DataError(
            f"patients: {same[0]!r} and {same[1]!r} differ only by what a spreadsheet may change; "
            "write one as the other, or number them if they are other people"
        )
    codes = {patient: code for code, patient in enumerate(dict.fromkeys(patients))}
    return np.array([codes[patient] for patient in patients])


def _event(
    rate: float, steps: int, epsilon: float | None, noise_multiplier: float | None, delta: float
) -> Event:
    if (epsilon is None) == (noise_multiplier is None):
        raise ConfigError("epsilon: give it or noise_multiplier, and not both")
    if epsilon is not None and not epsilon > 0:
        raise ConfigError(f"epsilon: above 0, got {epsilon}")
    if noise_multiplier is not None and not 0 <= noise_multiplier < math.inf:
        raise ConfigError(f"noise_multiplier: at least 0 and finite, got {noise_multiplier}")
    event = Event(0, "patient", noise_multiplier or 0.0, rate, steps=steps)
    if epsilon is None:
        return event
    z = accounting.noise_for(event, epsilon, delta)
    return Event(0, "patient", z, rate, steps=steps)


def _content(load: Callable[[Sequence[int]], tuple[Tensor, Tensor]], images: int) -> Iterator[Any]:
    for i in range(images):
        yield from load([i])


def _one_each(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss; what gives no loss an image would clip nobody's gradient."""

    def each(outputs: Tensor, labels: Tensor) -> Tensor:
        losses = loss(outputs, labels)
        if losses.shape != labels.shape[:1]:
            raise ConfigError(
                f"loss: gives {tuple(losses.shape)} for {len(labels)} images; one each, as "
                "reduction='none' does"
            )
        return losses

    return each
