"""A hospital's policy as it is first written: of one experiment, and nothing beyond it."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from fedmed.config import DPSGD, Config
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.core.files import sha256_of, write_atomically
from fedmed.deployment.home import Home
from fedmed.deployment.policy import FORMAT, Policy
from fedmed.privacy.disclosure import Disclosure

TEXT = """\
# What this hospital answers, whoever asks. No message changes it; whatever does not fit is refused,
# and said why in refused.log. An unknown key is refused too. See docs/hospital.md.
format: {format}
client: {client} # this hospital's number in the federation
superlink: {superlink} # host and port of the server
authority_sha256: {authority} # fingerprint of ca.crt, by which the server is known

# What was agreed on. A task is this experiment as composed here, or it is refused, but for keys in
# may_differ: each takes any (number), a range {{min: 1, max: 5}}, or a list of values. What names
# code never differs. Dataset and partition are this hospital's own, but for the targets.
experiments:
  first:
    overrides:
{overrides}
    may_differ: {{seed: any}}

privacy:
{privacy}
rounds: {rounds} # the most that a run may have
cohort: {cohort} # the fewest hospitals in a round, as the task says it: the server's word
metrics: {metrics} # may training losses and validation scores leave? They are exact
counts: {counts} # may it leave how many images show each target? It is exact
weights_sha256: {weights} # hashes of the files that first weights may come from
hidden_updates: false # must the server see sums alone? No version of today can; true refuses all
peers: {{}} # client: its hospital's record key, 64 hexadecimal digits; for sums under masks
"""
PROMISE = """\
  mechanism: dpsgd
  unit: patient # whom it is promised to
  epsilon: {epsilon} # the most that one run may spend of a patient; a round done again counts again
  lifetime: {lifetime} # the most that all runs may, of whatever servers
  delta: {delta} # of (epsilon, delta)
  noise_multiplier: {noise_multiplier} # the least that is taken part with
  secret_noise: {secret_noise} # noise from this machine's operating system, which no server knows
"""
NO_PROMISE = "  mechanism: none # nothing is promised to patients: updates tell what they tell\n"


def found(
    home: Home,
    config: Config,
    overrides: Sequence[str],
    client: int,
    superlink: str,
    authority: Path,
    *,
    epsilon: float | None = None,
    lifetime: float | None = None,
) -> None:
    """Make a home with keys, and a policy that allows one experiment, with any seed, alone.

    Args:
        home: there is none yet.
        config: what the overrides compose to.
        overrides: of the experiment, as after ``fedmed run``.
        client: the hospital's number.
        superlink: host and port of the server.
        authority: the certificate that the server's is signed by.
        epsilon: the most of a run; the experiment's own when left out.
        lifetime: the most of all runs together; that of one when left out.

    Raises:
        ConfigError: if the experiment protects something else than patients, which no policy can
            promise them, or has no ε to go by, or what is to be spent is no policy.
        FedmedError: if there is a home already, or the certificate is none.
    """
    shown = Disclosure.of(config)
    text = TEXT.format(
        format=FORMAT,
        client=client,
        superlink=json.dumps(superlink),
        authority=fingerprint(authority),
        overrides="\n".join(f"      - {json.dumps(one)}" for one in overrides),
        privacy=_privacy(config, epsilon, lifetime),
        rounds=config.rounds,
        cohort=config.strategy.server.arguments.get("min_train_nodes", 1),
        metrics=_yes(shown.losses or shown.validation),
        counts=_yes(shown.counts),
        weights=json.dumps(_weights(config)),
    )
    Policy.parse(text, home.policy_file)
    home.make()
    shutil.copyfile(authority, home.authority)
    write_atomically(home.policy_file, lambda new: _fill(new, text))


def fingerprint(certificate: Path) -> str:
    """Return the SHA-256 fingerprint of a certificate in a PEM file.

    Raises:
        FedmedError: if there is none in it.
    """
    try:
        read = x509.load_pem_x509_certificate(certificate.read_bytes())
    except OSError as error:
        raise FedmedError(f"{certificate}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise FedmedError(f"{certificate}: holds no certificate") from None
    return read.fingerprint(hashes.SHA256()).hex()


def _fill(new: Path, text: str) -> None:
    """Write a file that only its owner reads."""
    new.touch(mode=0o600)
    new.write_text(text, encoding="utf-8")


def _privacy(config: Config, epsilon: float | None, lifetime: float | None) -> str:
    private = config.privacy
    if not isinstance(private, DPSGD):
        return NO_PROMISE
    if private.unit != "patient":
        raise ConfigError(
            f"privacy.unit: a policy promises to patients, got {private.unit}; take patient"
        )
    spent = private.epsilon if epsilon is None else epsilon
    if spent is None:
        raise ConfigError(
            "privacy.epsilon: the experiment has none: say what a run may spend, by --epsilon"
        )
    return PROMISE.format(
        epsilon=spent,
        lifetime=spent if lifetime is None else lifetime,
        delta=private.delta,
        noise_multiplier=private.noise_multiplier or 0.0,
        secret_noise=_yes(private.secure_noise),
    )


def _weights(config: Config) -> list[str]:
    path = config.model.weights
    try:
        return [] if path is None else [sha256_of(path)]
    except OSError as error:
        raise ConfigError(f"model.weights: cannot read {path}: {error.strerror}") from None


def _yes(value: bool) -> str:
    return "true" if value else "false"
