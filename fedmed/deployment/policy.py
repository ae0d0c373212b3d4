"""What a hospital answers, whoever asks: a file of its own, which no message can change.

A policy names the experiments that the hospital has agreed to, as it would compose them itself, and
the few keys in which a server's task may differ from them. All else is refused: a component that
was not agreed on is not even imported. Beside that stand bounds that hold whatever was agreed, of
privacy above all, so that a slip in the one does not undo the other.
"""

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from hydra.utils import get_object
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedmed.aggregation.base import FEWEST
from fedmed.config import DPSGD, Task, compose, wire
from fedmed.config.messages import problems
from fedmed.core import formats
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.core.files import sha256_of
from fedmed.core.units import UNITS
from fedmed.privacy.disclosure import Disclosure

FORMAT = 1  # of the file
#: Keys of a task that are no client's business: it neither reads the server's dataset nor divides
#: anybody's patients, and the targets are looked at by themselves.
NOT_OURS = ("dataset", "partition")
TARGETS = "dataset.targets"
Positive = Annotated[float, Field(gt=0)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Refused(FedmedError):
    """A demand that the hospital's policy does not allow.

    What leaves the house is which part of the policy it was; why stays in the hospital's log.

    Args:
        kind: the part of the policy, or the key of the task, that stands against it.
        why: what was asked for, and what is allowed.
    """

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(f"the hospital's policy refuses this: {kind}")
        self.kind = kind
        self.why = why


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Range(_Frozen):
    """The numbers that a key may be."""

    min: float | None = None
    max: float | None = None

    def __contains__(self, value: float) -> bool:
        low = self.min is None or value >= self.min
        return low and (self.max is None or value <= self.max)


class Experiment(_Frozen):
    """An experiment that was agreed on.

    Attributes:
        overrides: what composes it, as after ``fedmed run``; dataset and partition are the
            hospital's own, but for the targets.
        may_differ: key → what else it may be: ``any`` number, a range of them, or one of some
            values.
    """

    overrides: tuple[str, ...]
    may_differ: dict[str, Literal["any"] | Range | tuple[Any, ...]]

    @cached_property
    def task(self) -> Task:
        """The task that it composes to here. Raises ConfigError if it does not."""
        return compose(self.overrides, build=False)

    def differences(self, task: Task) -> list[str]:
        """Return the keys in which a task is another one than may be."""
        agreed, asked = _ours(self.task), _ours(task)
        return sorted(
            key
            for key in agreed.keys() | asked.keys()
            if agreed.get(key) != asked.get(key)
            and not (key in agreed and key in asked and self._may_be(key, agreed[key], asked[key]))
        )

    def _may_be(self, key: str, agreed: str, asked: str) -> bool:
        allowed = self.may_differ.get(key)
        if allowed is None:
            return False
        if isinstance(allowed, tuple):
            return asked in {json.dumps(value, sort_keys=True) for value in allowed}
        one, other = json.loads(agreed), json.loads(asked)
        if not (_is_number(one) and type(one) is type(other)):
            return False  # a free number is a number; what names code is never free
        return allowed == "any" or (isinstance(allowed, Range) and other in allowed)


class NoPromise(_Frozen):
    """Nothing is promised to patients: updates tell of them whatever they tell."""

    mechanism: Literal["none"]


class Promise(_Frozen):
    """What is promised to each patient, of training under DP-SGD.

    Attributes:
        unit: whom it is promised to.
        epsilon: the most that one run may spend of a patient, at ``delta``.
        lifetime: the most that all runs together may, whoever asks for them.
        delta: of (ε, δ), of each.
        noise_multiplier: the least that is taken part with.
        secret_noise: whether noise must come from the operating system, which no server can know.
    """

    mechanism: Literal["dpsgd"]
    unit: Literal["patient"]
    epsilon: Positive
    lifetime: Positive
    delta: Annotated[float, Field(gt=0, lt=1)]
    noise_multiplier: Annotated[float, Field(ge=0)]
    secret_noise: bool


class Policy(_Frozen):
    """A hospital's policy, as its file has it.

    Attributes:
        client: the hospital's number in the federation.
        superlink: host and port of the server that its node connects to.
        authority_sha256: the hash of the certificate of the authority that the server is known by.
        experiments: what was agreed on, by name.
        privacy: what is promised to patients.
        rounds: the most that a run may have.
        cohort: the fewest hospitals that a round is to have, as the task says it
            (``strategy.server.min_train_nodes``). Under secure aggregation this hospital sees to it
            itself: fewer than have signed, each by its key in ``peers``, are refused. Otherwise it
            is the server's word, as no hospital sees who else takes part.
        metrics: whether losses and validation scores may leave, which are exact.
        counts: whether it may leave how many images show each target, which is exact.
        weights_sha256: the hashes of the files that first weights may come from.
        hidden_updates: whether the server must see sums of updates alone.
        peers: client → the public key of its hospital's record, this one's among them, by which
            the others are known in a sum that hides updates: without them a server could be each
            of them itself.
    """

    format: int
    client: Annotated[int, Field(ge=0)]
    superlink: str
    authority_sha256: Digest
    experiments: dict[str, Experiment]
    privacy: Annotated[NoPromise | Promise, Field(discriminator="mechanism")]
    rounds: Annotated[int, Field(ge=1)]
    cohort: Annotated[int, Field(ge=1)]
    metrics: bool
    counts: bool
    weights_sha256: tuple[Digest, ...]
    hidden_updates: bool
    peers: dict[Annotated[int, Field(ge=0)], Digest]

    @model_validator(mode="after")
    def _sound(self) -> "Policy":
        if isinstance(self.privacy, Promise) and self.privacy.lifetime < self.privacy.epsilon:
            raise ValueError("privacy.lifetime is less than privacy.epsilon, of one run")
        if len(set(self.peers.values())) != len(self.peers):
            raise ValueError("peers: two hospitals have one key, and could be one of them twice")
        return self

    @classmethod
    def read(cls, path: Path) -> "Policy":
        """Return the policy in a file.

        Raises:
            ConfigError: naming the key, if it is none; a word that is not known is refused.
            FedmedError: if the file cannot be read, or is a newer version's.
        """
        try:
            return cls.parse(path.read_text(encoding="utf-8"), path)
        except OSError as error:
            raise FedmedError(f"{path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: is no text: {error.reason}") from None

    @classmethod
    def parse(cls, text: str, path: Path) -> "Policy":
        """Return the policy that a text holds; ``path`` names it. Raises as :meth:`read` does."""
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: is no YAML: {str(error).splitlines()[0]}") from None
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: holds no policy; fedmed hospital init writes one")
        formats.check(path, content.get(formats.KEY), FORMAT)
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise ConfigError(f"{path}: {'; '.join(problems(error, content))}") from None

    def check(self, task: Task) -> None:
        """Refuse a task that the policy does not allow, before anything that it names is imported.

        Raises:
            Refused: by the first part of the policy that stands against it.
        """
        self._check_agreed(task)
        for kind, why in self._excesses(task):
            raise Refused(kind, why)

    def check_peers(self, own: str, task: Task | None = None) -> None:
        """Refuse to hide updates among hospitals that are not known, or not as this one is.

        Args:
            own: the public key of this hospital's record.
            task: whose sum it would be part of; None for any that the policy would allow.

        Raises:
            Refused: if the policy, or the task, has updates hidden and it is so.
        """
        if not (self.hidden_updates or (task is not None and hides(task))):
            return
        fewest = max(FEWEST, self.cohort)
        if self.peers.get(self.client, own) != own:
            raise Refused("peers", f"another key is there for client {self.client}, which this is")
        if self.client not in self.peers or len(self.peers) < fewest:
            raise Refused(
                "peers",
                f"hidden updates take the keys of {fewest} hospitals or more, with this one's "
                f"(client {self.client}): {len(self.peers)} are there; fedmed hospital peers "
                "enters them",
            )

    def _check_agreed(self, task: Task) -> None:
        found = {name: one.differences(task) for name, one in self.experiments.items()}
        if not found:
            raise Refused("experiments", "none was agreed on")
        nearest = min(found, key=lambda name: len(found[name]))
        if keys := found[nearest]:
            asked, agreed = _ours(task), _ours(self.experiments[nearest].task)
            told = "; ".join(
                f"{key} is {asked.get(key, 'absent')}, agreed is {agreed.get(key, 'absent')}"
                for key in keys
            )
            raise Refused(keys[0], f"no agreed experiment; nearest is {nearest}: {told}")

    def _excesses(self, task: Task) -> Iterator[tuple[str, str]]:
        """Yield the parts of the policy that a task goes beyond, and how."""
        if task.rounds > self.rounds:
            yield "rounds", f"{task.rounds} asked, {self.rounds} allowed"
        least = task.strategy.server.arguments.get("min_train_nodes", 1)
        if not (_is_number(least) and least >= self.cohort):
            yield "cohort", f"{least!r} hospitals a round, {self.cohort} wanted"
        shown = Disclosure.of(task)
        if (shown.losses or shown.validation) and not self.metrics:
            yield "metrics", "the task has losses and validation scores leave"
        if shown.counts and not self.counts:
            yield "counts", "the task has the numbers of positive images leave"
        if self.hidden_updates and not hides(task):
            yield "hidden_updates", f"{task.aggregation.target} shows the server each update"
        if task.faults.inject:
            yield "faults.inject", "no fault is made to happen here"
        weights = task.model.weights
        if weights is not None and _sha256(weights) not in self.weights_sha256:
            yield "weights_sha256", f"{weights} is not among the files that were agreed on"
        yield from self._too_little(task)

    def _too_little(self, task: Task) -> Iterator[tuple[str, str]]:
        """Yield what a task does not keep of what is promised to patients."""
        promise, given = self.privacy, task.privacy
        if isinstance(promise, NoPromise):
            return
        if not isinstance(given, DPSGD):
            yield "privacy.mechanism", f"{given.mechanism} asked, {promise.mechanism} promised"
            return
        if given.unit != promise.unit:
            yield "privacy.unit", f"{given.unit} asked, {UNITS[promise.unit].one} is promised it"
        if given.delta > promise.delta:
            yield "privacy.delta", f"{given.delta:g} asked, {promise.delta:g} promised"
        z = given.noise_multiplier
        if z is not None and z < promise.noise_multiplier:
            yield "privacy.noise_multiplier", f"{z:g} asked, {promise.noise_multiplier:g} the least"
        if promise.secret_noise and not given.secure_noise:
            yield "privacy.secret_noise", "noise would come from a seed that the server has"


def _ours(task: Task) -> dict[str, str]:
    """Return the values of a task that a client goes by, as text, by key."""
    return {
        key: value
        for key, value in wire.leaves(task).items()
        if key == TARGETS or key.partition(".")[0] not in NOT_OURS
    }


def hides(task: Task) -> bool:
    """Return whether a task, which was agreed on, has the server see sums of updates alone."""
    return bool(getattr(get_object(task.aggregation.target), "hides", False))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sha256(path: Path) -> str:
    """Return the hash of a file's bytes, and nothing where it cannot be read."""
    try:
        return sha256_of(path)
    except OSError:
        return ""
