"""What a configuration may say, by type; what it means is each choice's own file in ``conf/``.

Components (Hydra's ``_target_`` nodes) have no schema of their own: their signature is it
(:mod:`fedmed.config.components`).
"""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from hydra.utils import get_object
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticKnownError

from fedmed.config import identity
from fedmed.config.paper import Paper
from fedmed.core import units
from fedmed.core.units import Unit

Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Component(BaseModel):
    """A class or function by its import path, with its arguments: Hydra's ``_target_``."""

    model_config = ConfigDict(extra="allow", frozen=True)
    target: str = Field(alias="_target_")

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments as configured."""
        return dict(self.model_extra or {})

    def build(self, **more: Any) -> Any:
        """Call the target with its arguments and ``more``."""
        return get_object(self.target)(**self.arguments, **more)

    def has(self, name: str) -> bool:
        """Return whether the class that is named has an attribute, without building it."""
        return hasattr(get_object(self.target), name)


class Model(_Frozen):
    """The network, and the file its weights start from (random when None)."""

    weights: Path | None
    network: Component


class Strategy(BaseModel):
    """What the server does, and what it changes in the clients' training.

    Other keys are a strategy's own; they reach ``server`` and ``local`` by interpolation.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    fraction: Share
    weighting: Literal["examples", "uniform"]
    state: Literal["full", "parameters"] | Annotated[list[str], Field(min_length=1)]
    server: Component
    local: Component | list[Component] | None

    @property
    def locals(self) -> list[Component]:
        """What it changes at a client: hooks into local training and steps on the update."""
        if self.local is None:
            return []
        return self.local if isinstance(self.local, list) else [self.local]

    @property
    def keeps_statistics(self) -> bool:
        """Whether norm statistics stay with the clients: all but where everything travels."""
        return self.state != "full"

    @property
    def keeps_parameters(self) -> bool:
        """Whether parameters stay with the clients too, so that there is no one global model."""
        return isinstance(self.state, list)


def _trained(name: Any) -> Any:
    """Refuse a unit that private training cannot draw, as a literal that is none is refused."""
    takes = [unit.name for unit in reversed(units.trainable())]
    if name not in takes:
        expected = " or ".join([", ".join(map(repr, takes[:-1])), repr(takes[-1])])
        raise PydanticKnownError("literal_error", {"expected": expected})
    return name


#: The name of a unit that private training can draw: those of the registry, when it is asked.
Trained = Annotated[str, BeforeValidator(_trained)]


class NoPrivacy(_Frozen):
    """Local training as it is; a strategy may be private all the same."""

    mechanism: Literal["none"]


class DPSGD(_Frozen):
    """Differentially private local training; see :mod:`fedmed.training.dpsgd.train`.

    With ``epsilon`` alone the noise is found for the planned steps, with ``noise_multiplier``
    alone ε is reported, and with both a client stops before it would pass ``epsilon``. With
    ``noise_for="epochs"`` the noise is found for as many epochs as there are rounds, whatever the
    steps: a published fault, under which nobody stops and the ε that is reported is the true one.
    """

    mechanism: Literal["dpsgd"]
    unit: Trained
    clip_norm: Positive
    epsilon: Positive | None
    noise_multiplier: NonNegative | None
    delta: Annotated[float, Field(gt=0, lt=1)]
    noise_for: Literal["steps", "epochs"]
    images_per_patient: Annotated[int, Field(ge=1)] | None
    norm: Literal["group", "frozen"]
    physical_batch: Annotated[int, Field(ge=1)]
    secure_noise: bool
    release_metrics: bool


class Augment(_Frozen):
    """Random changes to a training image; see :mod:`fedmed.training.augmentation`."""

    rotate: Annotated[float, Field(ge=0, le=45)]
    shift: Annotated[float, Field(ge=0, le=0.5)]
    scale: Annotated[float, Field(ge=0, le=0.5)]
    contrast: Annotated[float, Field(ge=0, lt=1)]


class Client(_Frozen):
    """Local training."""

    optimizer: Literal["sgd", "adam", "adamw"]
    lr: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NonNegative
    batch_size: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1)] | None
    channels_last: bool
    precision: Literal["float32", "bfloat16"]
    augment: Augment


Device = Literal["auto", "cpu", "cuda"]


class Local(_Frozen):
    """The clients run in a pool of processes on this machine."""

    kind: Literal["local"]
    workers: Literal["auto"] | Annotated[int, Field(ge=0)]
    device: Device
    clients_per_gpu: Annotated[int, Field(ge=1)]
    deterministic: bool


class Ray(_Frozen):
    """The clients run in Flower's simulation engine, over Ray."""

    kind: Literal["ray"]
    device: Device
    workers: Literal["auto"] | Annotated[int, Field(ge=1)]
    cpus: Positive
    gpus: NonNegative
    address: str | None


class Deployment(_Frozen):
    """The clients run at their hospitals, each behind a Flower SuperNode."""

    kind: Literal["deployment"]
    device: Device
    data: Path
    clients: Annotated[int, Field(ge=1)]
    keys: Path | None
    seeded_noise: bool
    wait: Positive
    deadline: Positive


class Custom(_Frozen):
    """The clients run wherever an engine of one's own has them run.

    ``engine`` is a class over :class:`fedmed.federation.engine.Engine`; it is made with its
    arguments and ``clients``, the number of them.
    """

    kind: Literal["custom"]
    device: Device
    engine: Component


Runner = Annotated[Local | Ray | Deployment | Custom, Field(discriminator="kind")]


class Injection(_Frozen):
    """A fault that clients are made to show; see :mod:`fedmed.client.fault_injection`.

    It strikes those of ``clients`` and ``rounds`` (all when None), each with probability ``rate``.
    """

    kind: Literal["raise", "dropout", "kill", "slow", "nans", "infinities", "huge", "shape"]
    rate: Annotated[float, Field(ge=0, le=1)] = 1.0
    clients: tuple[int, ...] | None = None
    rounds: tuple[int, ...] | None = None
    seconds: NonNegative = 3600.0


class Faults(BaseModel):
    """What the server does about a failing client, and which faults are injected.

    Other keys are a choice's own; they reach ``inject`` by interpolation.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    on_failure: Literal["stop", "exclude"]
    min_clients: Annotated[int, Field(ge=1)]
    deadline: Positive | None
    max_norm: Positive | None
    inject: tuple[Injection, ...]


class Tracking(_Frozen):
    """Weights & Biases."""

    mode: Literal["online", "offline", "disabled"]
    project: str
    entity: str | None


class Keys(_Frozen):
    """What a run's record is signed with; see :mod:`fedmed.record.signatures`."""

    key: Path | None


class Task(_Frozen):
    """What is to be learnt and how: all that decides the result, and all that a client is told."""

    seed: Annotated[int, Field(ge=0)]
    rounds: Annotated[int, Field(ge=1)]
    evaluate_every: Annotated[int, Field(ge=1)]
    dataset: Component
    partition: Component
    model: Model
    protocol: Component
    aggregation: Component
    strategy: Strategy
    privacy: Annotated[NoPrivacy | DPSGD, Field(discriminator="mechanism")]
    client: Client
    faults: Faults

    @property
    def norm(self) -> Literal["batch", "group", "frozen"]:
        """What the network's batch norms become."""
        return self.privacy.norm if isinstance(self.privacy, DPSGD) else "batch"

    @property
    def unit(self) -> Unit:
        """What local training draws, and what a client's size counts: images if not private."""
        return units.named(self.privacy.unit if isinstance(self.privacy, DPSGD) else "image")


class Config(Task):
    """All that a run is made from: its task, and what is the server's own."""

    name: Annotated[str, Field(min_length=1)]
    force: bool
    store: Path
    runner: Runner
    tracking: Tracking
    record: Keys
    anchor: Component
    paper: Paper | None = None

    @cached_property
    def device(self) -> identity.Kind:
        """The kind of device that the networks are on, found where ``auto`` leaves it open."""
        return identity.device(self.runner)

    @cached_property
    def sha256(self) -> str:
        """The hash of all that decides the result; its start names the run directory."""
        return identity.sha256(self, self.device)
