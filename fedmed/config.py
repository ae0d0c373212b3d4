"""The configuration: composed by Hydra, typed by pydantic, refused in one line when it is wrong.

Everything a run does is in :class:`Config`. Its components (Hydra's ``_target_`` nodes) have no
schema of their own (:mod:`fedmed.signatures`).
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedmed import effects, identity, signatures
from fedmed.errors import ConfigError
from fedmed.identity import NOT_IDENTITY as NOT_IDENTITY
from fedmed.paper import Paper
from fedmed.refusals import explain, first_line, problems

CONF = Path(__file__).parent / "conf"
_QUICK = ("dataset", "partition", "strategy.server", "strategy.local")

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
    state: Literal["full", "parameters"]
    server: Component
    local: Component | None


class NoPrivacy(_Frozen):
    """Local training as it is; a strategy may be private all the same."""

    mechanism: Literal["none"]


class DPSGD(_Frozen):
    """Differentially private local training; see :mod:`fedmed.client.dpsgd`.

    With ``epsilon`` alone the noise is found for the planned steps, with ``noise_multiplier``
    alone ε is reported, and with both a client stops before it would pass ``epsilon``. With
    ``noise_for="epochs"`` the noise is found for as many epochs as there are rounds, whatever the
    steps: a published fault, under which nobody stops and the ε that is reported is the true one.
    """

    mechanism: Literal["dpsgd"]
    unit: Literal["patient", "image"]
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
    """Random changes to a training image; see :mod:`fedmed.client.augment`."""

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
    wait: Positive


Runner = Annotated[Local | Ray | Deployment, Field(discriminator="kind")]


class Injection(_Frozen):
    """A fault that clients are made to show; see :mod:`fedmed.client.injection`.

    It strikes those of ``clients`` and ``rounds`` (all when None), each with probability ``rate``.
    """

    kind: Literal["raise", "dropout", "kill", "slow", "nans", "infinities", "huge", "shape"]
    rate: Annotated[float, Field(ge=0, le=1)] = 1.0
    clients: tuple[int, ...] | None = None
    rounds: tuple[int, ...] | None = None
    seconds: NonNegative = 3600.0


class Faults(BaseModel):
    """What a failing client does to the run, and which faults are injected; see ``fedmed.faults``.

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


class Config(_Frozen):
    """All that a run is made from."""

    name: Annotated[str, Field(min_length=1)]
    seed: Annotated[int, Field(ge=0)]
    rounds: Annotated[int, Field(ge=1)]
    evaluate_every: Annotated[int, Field(ge=1)]
    force: bool
    store: Path
    dataset: Component
    partition: Component
    model: Model
    strategy: Strategy
    privacy: Annotated[NoPrivacy | DPSGD, Field(discriminator="mechanism")]
    client: Client
    runner: Runner
    faults: Faults
    tracking: Tracking
    paper: Paper | None = None

    @cached_property
    def device(self) -> identity.Kind:
        """The kind of device that the networks are on, found where ``auto`` leaves it open."""
        return identity.device(self.runner)

    @cached_property
    def sha256(self) -> str:
        """The hash of all that decides the result; its start names the run directory."""
        return identity.sha256(self, self.device)

    @property
    def norm(self) -> Literal["batch", "group", "frozen"]:
        """What the network's batch norms become."""
        return self.privacy.norm if isinstance(self.privacy, DPSGD) else "batch"

    @property
    def repeatable(self) -> bool:
        """Whether all that is random comes from the seed."""
        in_clients = isinstance(self.privacy, DPSGD) and self.privacy.secure_noise
        return not (in_clients or (self.strategy.model_extra or {}).get("secure_noise", False))

    @property
    def withholds(self) -> bool:
        """Whether nothing but noisy weights may leave a client."""
        return isinstance(self.privacy, DPSGD) and not self.privacy.release_metrics

    @property
    def hides_cohorts(self) -> bool:
        """Whether who joins a round, and how many, is a secret that the guarantee rests on."""
        return (self.strategy.model_extra or {}).get("noise") == "central"


def compose(overrides: Sequence[str], build: bool = True) -> Config:
    """Compose and check the configuration that ``overrides`` ask for.

    Args:
        overrides: as on the command line.
        build: whether to see if what they name can be built; its files may lie elsewhere.

    Raises:
        ConfigError: naming the key and what it takes.
    """
    effects.check_sets(overrides)
    return parse(_compose(overrides), build)


def parse(config: DictConfig, build: bool = True) -> Config:
    """Return the typed configuration. Raises ConfigError as :func:`compose` does."""
    raw = cast(dict[str, Any], OmegaConf.to_container(config, resolve=False))
    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        parsed = Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(problems(error, raw))) from None
    except OmegaConfBaseException as error:
        key = error.full_key or "config"
        if "Missing mandatory value" in str(error):
            raise ConfigError(f"{key}: is missing; give it as {key}=VALUE") from None
        raise ConfigError(f"{key}: {first_line(error)}") from None
    _check_weights(parsed.model)
    _check_privacy(parsed.privacy)
    _check_faults(parsed)
    effects.check(parsed, raw)
    for path, component in _components(parsed):
        signatures.check(path, component.target, component.arguments, raw)
        if build and path in _QUICK:  # to build, which checks more than types
            built = _check_build(path, component)
            if path == "strategy.server":
                from fedmed.fold import check_weights  # Flower is slow to import, and is by now

                check_weights(parsed.strategy.weighting, built)
    return parsed


def tree(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the composed configuration as written, unchecked: what is missing is ``???``.

    Raises:
        ConfigError: if it does not compose.
    """
    return cast(dict[str, Any], OmegaConf.to_container(_compose(overrides), resolve=False))


def record(overrides: Sequence[str]) -> dict[str, DictConfig | ListConfig]:
    """Return the files of ``.hydra`` by their name: what was asked for, and what it composes to.

    Raises:
        ConfigError: as :func:`compose` does.
    """
    composed = _compose(overrides, return_hydra_config=True)
    own = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    hydra = OmegaConf.masked_copy(composed, "hydra")
    asked = ListConfig(list(overrides))
    return {"config.yaml": own, "hydra.yaml": hydra, "overrides.yaml": asked}


def settings(overrides: Sequence[str]) -> DictConfig:
    """Return Hydra's own configuration: where runs go, how they are launched and swept.

    Raises:
        ConfigError: as :func:`compose` does.
    """
    return cast(DictConfig, _compose(overrides, return_hydra_config=True).hydra)


def _compose(overrides: Sequence[str], return_hydra_config: bool = False) -> DictConfig:
    if GlobalHydra.instance().is_initialized():
        GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF.resolve()), version_base="1.3", job_name="fedmed"):
        try:
            return hydra_compose("config", list(overrides), return_hydra_config)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(explain(error, overrides, CONF, _compose)) from None


def _components(config: Config) -> Iterator[tuple[str, Component]]:
    """Yield every component, those within another one first."""
    top = {
        "dataset": config.dataset,
        "partition": config.partition,
        "strategy.server": config.strategy.server,
        "strategy.local": config.strategy.local,
        "model.network": config.model.network,
    }
    for path, component in top.items():
        if component:
            yield from _within(path, component.arguments)
            yield path, component


def _within(path: str, node: Any) -> Iterator[tuple[str, Component]]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield from _within(f"{path}.{key}", value)
        if isinstance(value, dict) and "_target_" in value:
            yield f"{path}.{key}", Component.model_validate(value)


def _check_weights(model: Model) -> None:
    if model.weights is not None and model.weights.suffix != ".safetensors":
        raise ConfigError(
            f"model.weights: {model.weights} is not a .safetensors file; "
            "other formats can run code when read, so convert it first"
        )


def _check_privacy(privacy: NoPrivacy | DPSGD) -> None:
    if isinstance(privacy, NoPrivacy):
        return
    if privacy.epsilon is None and privacy.noise_multiplier is None:
        raise ConfigError(
            "privacy.epsilon: give it, and the noise is found for the planned steps, or give "
            "privacy.noise_multiplier, and epsilon is reported; with both, clients stop at epsilon"
        )
    if privacy.unit == "image" and privacy.images_per_patient is not None:
        raise ConfigError(
            "privacy.images_per_patient: is of privacy.unit=patient; where images are the unit, "
            "leaving one out would let another in, and change the sum by two"
        )


def _check_faults(config: Config) -> None:
    kinds = {fault.kind for fault in config.faults.inject}
    if "kill" in kinds and isinstance(config.runner, Local) and config.runner.workers == 0:
        raise ConfigError("faults.inject: to kill a client takes runner.workers of at least 1")


def _check_build(path: str, component: Component) -> Any:
    try:
        return component.build()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {first_line(error)}") from None


def _run_id(*, _root_: DictConfig) -> str:
    """Name the run directory from within Hydra's own configuration (``hydra.run.dir``)."""
    config = OmegaConf.masked_copy(_root_, [str(key) for key in _root_ if key != "hydra"])
    return parse(config, build=False).sha256[:16]


OmegaConf.register_new_resolver("at_least", max, replace=True)
OmegaConf.register_new_resolver("count", len, replace=True)
OmegaConf.register_new_resolver("run_id", _run_id, replace=True)
