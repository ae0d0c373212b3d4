"""What a run's guarantees rest on, in sentences for the ledger and the summary."""

from collections.abc import Mapping

from fedmed.config import DPSGD, Config
from fedmed.core.units import named
from fedmed.privacy.disclosure import Disclosure
from fedmed.privacy.events import PrivateStrategy

SEEDED = "noise comes from the run's seed: whoever knows the seed can subtract it"
SECURE = (
    "noise is drawn from the operating system, in floating point as a sum of four draws against "
    "attacks on its last bits, in integers as they are; the run cannot be repeated"
)
ALWAYS = (
    "the test patients are public: their scores are released without noise",
    "the run directory is the simulation's record and is not released but for the weights, the "
    "test scores and the ledger",
    "this is the loss of this run alone: other runs on the same patients add to it, a search for "
    "hyperparameters among them",
)


def caveats(deltas: Mapping[str, float], units: Mapping[str, int]) -> tuple[str, ...]:
    """Return what is wrong with a δ that is not small against one over the number of units.

    It is a caveat and no refusal, since published protocols have such (FLamby's δ = 0.1 for 30
    patients), and a reproduction must be able to say that it does what they did.

    Args:
        deltas: δ of each unit's guarantee, by the unit's name.
        units: how many of each the run protects, where that is known.
    """
    return tuple(
        f"δ = {delta:g} is no promise to {n:,} {named(unit).several}: it must be well below "
        f"1/{n:,} = {1 / n:.2g}, or else who publishes {max(1, round(delta * n)):,} of them at "
        "random keeps it"
        for unit, delta in deltas.items()
        if delta * (n := units.get(unit, 0)) >= 1
    )


def assumptions(
    config: Config, training: DPSGD | None, aggregate: PrivateStrategy | None
) -> tuple[str, ...]:
    """Return what is taken for granted, and what the user has switched on that is not private.

    Args:
        config: of the run.
        training: how the clients' training is private, None if it is not.
        aggregate: the strategy, None if its aggregate is no private release.
    """
    said = []
    if training:
        said.append(SECURE if training.secure_noise else SEEDED)
        said += _of_training(config, training)
    if aggregate:
        source = SECURE if aggregate.secure_noise else SEEDED
        if source not in said:
            said.append(f"of the strategy: {source}" if said else source)
        said.append("the number of clients and the expected cohort are public")
        said += aggregate.assumptions
        said += _of_disclosure(Disclosure.of(config), training)
    if training or aggregate:
        said += config.aggregation.build().assumptions
    if config.model.weights is not None:
        said.append("the initial weights (model.weights) are public")
    return (*said, *ALWAYS)


def _of_disclosure(disclosure: Disclosure, training: DPSGD | None) -> list[str]:
    """Return what a private aggregate keeps to the server, and what clients tell beside it."""
    said = []
    if not disclosure.cohorts:
        said.append(
            "what tells how many clients joined a round stays with the server: its size, its "
            "training losses, the bytes it moved and the time it took"
        )
    if not training:
        losses = "training losses and " if disclosure.cohorts else ""
        said.append(f"{losses}validation scores are released without noise")
    return said


def _of_training(config: Config, privacy: DPSGD) -> list[str]:
    weights = " and its weight in the average" if config.strategy.weighting == "examples" else ""
    said = [
        f"how many {config.unit.several} each client trains on is public: its sampling rate, its "
        f"steps{weights} follow from it",
        "a patient's images lie in one client, so that the federation's ε is the largest of the "
        "clients'",
    ]
    if config.strategy.fraction < 1:
        said.append(
            "which clients join a round is drawn without regard to their data; no amplification "
            "is claimed for it (strategy.fraction)"
        )
    if privacy.release_metrics:
        said.append(
            "training losses, validation scores and label counts leave the clients without noise "
            "(privacy.release_metrics)"
        )
    return said
