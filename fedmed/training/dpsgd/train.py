"""DP-SGD at a client (Abadi et al. 2016), with the patient or the image as the unit.

At each step every unit is drawn with probability q on its own (Poisson sampling). A unit's
gradient is the *sum* of the gradients of its images in the step. It is clipped, all parameters
together, to an L2 norm of C. The clipped gradients are summed, Gaussian noise of standard deviation
z·C is added, and the result is divided by the *expected* number of units q·n, which is public;
an empty draw is a step of noise alone. So whether a unit counts, or counts for nothing, changes the
sum by at most C, the number n being known either way (zero-out), and the step is a Poisson-sampled
Gaussian mechanism with noise multiplier z.

The loss of an image is the sum of the binary cross-entropies of its known labels over the number
of targets. It depends on no other image, and neither does the network: batch norms are gone.
"""

import torch
from flwr.app import RecordDict
from torch import Tensor, nn

from fedmed import models
from fedmed.config import DPSGD, Client
from fedmed.core.seeding import fingerprint, seed_of
from fedmed.data.examples import Examples
from fedmed.privacy.budget import schedule
from fedmed.privacy.noise import source
from fedmed.training.augmentation import augment
from fedmed.training.dpsgd.clipping import ClippedSum
from fedmed.training.dpsgd.grouping import Rows
from fedmed.training.dpsgd.sampling import Sampler, add_draw
from fedmed.training.hooks import LocalHooks
from fedmed.training.sgd import optimizer_of


def train(
    network: nn.Module,
    examples: Examples,
    unit: Rows,
    how: Client,
    privacy: DPSGD,
    noise_multiplier: float,
    rule: LocalHooks,
    state: RecordDict,
    seed: int,
    identity: str = "",
) -> tuple[float, int]:
    """Train the network in place.

    Sampling is keyed by all that training starts from, and each step's noise by the sum under it as
    well: trainings that differ in anything have independent draws, and one that is made again has
    the same. Without noise nothing is hidden, and sampling is the same for all of one seed.

    Args:
        network: with the global weights and without batch norm; on its device.
        examples: the client's training rows.
        unit: of each row, coded from 0.
        how: local training's configuration; the batch size is the expected number of units.
        privacy: the mechanism's configuration.
        noise_multiplier: z.
        rule: what the strategy changes; it sees the noisy gradient and no data, and costs nothing.
        state: what the client keeps from round to round.
        seed: of sampling, noise, augmentation and dropout.
        identity: of the run's configuration, for what these arguments do not show, as a rule's own.

    Returns:
        The mean loss over the images drawn, and the number of steps. The loss is *not* private.
    """
    units = int(unit.max()) + 1
    device = next(network.parameters()).device
    rate, steps = schedule(how, units)
    secure = privacy.secure_noise
    release = []
    if noise_multiplier:
        settings = (identity, how.model_dump_json(), privacy.model_dump_json(), noise_multiplier)
        start = models.arrays_of(network)
        release = [fingerprint(*settings, start, state, unit, examples.blocks())]
    sampling = source(seed, device, secure, *release)
    sampler = Sampler(unit, rate, privacy.images_per_patient, sampling)
    optimizer = optimizer_of(network, how)
    rng = torch.Generator().manual_seed(seed_of(seed, "augmentation"))
    network.train()
    rule.start(network, state)
    clipped = ClippedSum(network, privacy.clip_norm)
    losses: list[Tensor] = []

    def load(which: Rows) -> tuple[Tensor, Tensor]:
        images, labels = examples.batch(which, device)
        return augment(images, examples.input, how.augment, rng), labels

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # layers such as dropout draw from the global generator
        for step in range(steps):
            clipped.total.zero_()
            with torch.autocast(device.type, torch.bfloat16, how.precision == "bfloat16"):
                losses += add_draw(clipped, sampler.draw(), load, privacy.physical_batch)
            if noise_multiplier:
                deviation = noise_multiplier * privacy.clip_norm
                draws = source(seed, device, secure, *release, step, clipped.total)
                clipped.total.add_(draws.normal(len(clipped.total)), alpha=deviation)
            clipped.total.div_(rate * units)
            clipped.write()
            rule.gradient(network)
            optimizer.step()
    rule.finish(network, state)
    return float(torch.cat(losses).mean()) if losses else float("nan"), steps
