"""The configuration composed by Hydra, checked, and refused in one line when it is wrong."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from fedmed.config import checks, components, effects, identity
from fedmed.config.messages import explain, first_line, problems
from fedmed.config.schema import DPSGD, Component, Config, Deployment, Local
from fedmed.core.errors import ConfigError

CONF = Path(__file__).parent.parent / "conf"
_QUICK = ("strategy.server", "strategy.local", "anchor")  # to build, which checks more than types
_HERE = ("dataset", "partition")  # likewise, but for a federation whose images are elsewhere


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


def typed(config: DictConfig) -> Config:
    """Return the typed configuration, whose components are names and values: none is imported.

    Raises:
        ConfigError: naming the key and what it takes.
    """
    raw = cast(dict[str, Any], OmegaConf.to_container(config, resolve=False))
    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(problems(error, raw))) from None
    except OmegaConfBaseException as error:
        key = error.full_key or "config"
        if "Missing mandatory value" in str(error):
            raise ConfigError(f"{key}: is missing; give it as {key}=VALUE") from None
        raise ConfigError(f"{key}: {first_line(error)}") from None


def parse(config: DictConfig, build: bool = True) -> Config:
    """Return the typed configuration. Raises ConfigError as :func:`compose` does."""
    raw = cast(dict[str, Any], OmegaConf.to_container(config, resolve=False))
    parsed = typed(config)
    if build:  # at once: what would find them missing takes seconds to import
        _check_files(parsed)
    checks.check_values(parsed)
    _check_faults(parsed)
    _check_noise(parsed)
    effects.check(parsed, raw)
    elsewhere = isinstance(parsed.runner, Deployment)
    quick = _QUICK if elsewhere else (*_QUICK, *_HERE)
    for path, component in components.within(parsed):
        components.check(path, component.target, component.arguments, raw)
        _check_name(path, component.target)
        if build and path.partition("[")[0] in quick:
            built = _check_build(path, component)
            if path == "strategy.server":
                from fedmed.flower.strategies import check_weights  # slow, and imported by now

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


def _check_name(path: str, target: str) -> None:
    """Refuse a component of fedmed's that is called as another is: a run is known by the name."""
    if target.startswith(identity.OWN):
        for other in _committed().get(target.rpartition(".")[2], set()) - {target}:
            if get_object(other) is not get_object(target):
                raise ConfigError(
                    f"{path}._target_: {target} has the name of {other}, and a run is known by the "
                    "name: rename it"
                )


@cache
def _committed() -> dict[str, set[str]]:
    """Return the import paths of fedmed's components in ``conf/``, by name."""
    found: dict[str, set[str]] = {}
    for file in CONF.rglob("*.yaml"):
        for target in re.findall(r"_target_: *(fedmed\.[\w.]+)", file.read_text(encoding="utf-8")):
            found.setdefault(target.rpartition(".")[2], set()).add(target)
    return found


def _check_noise(config: Config) -> None:
    """Refuse noise at hospitals that the server could draw as well, and take away."""
    runner, privacy = config.runner, config.privacy
    if not isinstance(runner, Deployment) or runner.seeded_noise:
        return
    own = config.strategy.server.arguments
    at_clients = own.get("noise", "central") != "central"
    for key, seeded in {
        "privacy.secure_noise": isinstance(privacy, DPSGD) and not privacy.secure_noise,
        "strategy.secure_noise": at_clients and own.get("secure_noise") is False,
    }.items():
        if seeded:
            raise ConfigError(
                f"{key}: under runner=deployment noise from the seed hides nothing from the "
                f"server, which has it; give {key}=true, or runner.seeded_noise=true for a trial"
            )


def _check_files(config: Config) -> None:
    weights = config.model.weights
    if weights is not None and not weights.is_file():
        raise ConfigError(f"model.weights: there is no file {weights}")
    for path, component in components.within(config):
        if not component.target.startswith(identity.OWN):
            continue
        root = component.arguments.get("root")
        if isinstance(root, str) and not Path(root).expanduser().is_dir():
            raise ConfigError(f"{path}.root: there is no folder {root}")


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
