"""No key is accepted and ignored: what cannot change a run is refused, in every group."""

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from fedmed.cli.help import package
from fedmed.config import CONF, compose, parse
from fedmed.config.compose import _compose
from fedmed.core.errors import ConfigError

#: What a choice needs so that it composes at all.
NEEDS = {
    "dataset=folder": ("dataset.root=x", "dataset.findings={Effusion:e}"),
    "dataset=federation": (
        "+dataset@dataset.sets.one=phantom",
        "dataset.targets=[Effusion]",
    ),
    "model=logistic_regression": ("dataset=heart_disease", "dataset.root=x"),
    "partition=saved": ("partition.file=x",),
    "partition=sized": ("partition.sizes={a: 2}",),
    "anchor=file": ("anchor.path=x",),
    "anchor=ethereum": ("anchor.url=x", "anchor.contract=x", "anchor.account=x"),
    "runner=deployment": ("runner.data=x", "runner.clients=2"),
    "runner=custom": ("runner.engine._target_=fedmed.engines.local.LocalEngine",),
    "privacy=dpsgd": ("privacy.epsilon=1",),
}
GROUPS = (
    *("dataset", "partition", "model", "protocol", "strategy", "privacy", "client", "augment"),
    *("runner", "faults", "tracking", "anchor", "aggregation"),
)
CHOICES = [
    f"{group}={path.stem}" for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))
]
TOPS = sorted(f"+experiment={path.stem}" for path in (CONF / "experiment").glob("*.yaml"))


def needs(choice: str) -> tuple[str, ...]:
    root = ("dataset.root=x",) if choice.startswith("dataset=") else ()
    text = (CONF / f"{choice.replace('=', '/')}.yaml").read_text()
    return NEEDS.get(choice, root if "root: ???" in text else ())


def nodes(tree: Any, path: str) -> Iterator[str]:
    """Yield every group of keys of a configuration, but for those whose keys are the user's."""
    if isinstance(tree, dict):
        yield path
        for key, value in tree.items():
            yield from nodes(value, f"{path}.{key}")


#: Dictionaries whose keys are names of the user's own.
OWN = ("dataset.findings", "dataset.values", "dataset.uncertain", "partition.sizes")


def refuses(whole: DictConfig, path: str) -> None:
    """See that a configuration is refused with one more key at a path, and for that key."""
    more = copy.deepcopy(whole)
    OmegaConf.update(more, f"{path}.no_such_key", "x", force_add=True)
    with pytest.raises(ConfigError, match="no_such_key"):
        parsed(more, path.partition(".")[0])


def parsed(config: DictConfig, group: str) -> None:
    """Parse, and build what knows its own keys only then."""
    one = parse(config, build=False)
    if group in ("dataset", "partition"):
        getattr(one, group).build()


@pytest.mark.parametrize("choice", CHOICES)
def test_an_unknown_key_is_refused_at_every_depth(choice: str) -> None:
    where = package(CONF / f"{choice.replace('=', '/')}.yaml")
    whole = _compose((choice, *needs(choice)))
    parse(copy.deepcopy(whole), build=False)
    tree = OmegaConf.to_container(OmegaConf.select(whole, where), resolve=False)
    for path in nodes(tree, where):
        if path in OWN or path.endswith((".sets", ".findings")) or path == "partition.hospitals":
            continue  # findings that no dataset annotates are refused where patients are divided
        refuses(whole, path)


@pytest.mark.parametrize("top", TOPS)
def test_an_unknown_key_is_refused_in_experiments(top: str) -> None:
    whole = _compose([top])
    missing(whole)
    for path in ("dataset", "partition", "model.network", "strategy.server", "strategy", "client"):
        refuses(whole, path)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["+strategy.proximal_mu=100"], "strategy.proximal_mu: unknown key, which nothing refers"),
        (["strategy=fedprox", "strategy.local=null"], "strategy.mu: unknown key, which nothing"),
        (
            ["+faults.rate=0.5"],
            "faults.rate: unknown key, which nothing refers to",
        ),
        (["faults=dropout", "faults.inject=[]"], "faults.dropout: unknown key, which nothing"),
        (["client.momentum=0.9"], "client.momentum: has no effect with client.optimizer=adam"),
        (["client=sgd", "client.optimizer=adamw"], "client.momentum: has no effect with client.o"),
        (["client.steps=3", "client.epochs=2"], "client.epochs: has no effect where client.steps"),
        (["strategy=fedmedian", "strategy.weighting=examples"], "has no effect with FedMedian"),
        (["strategy=fedtrimmedavg", "strategy.weighting=examples"], "no effect with FedTrimmedAvg"),
        (["strategy=krum", "strategy.weighting=examples"], "has no effect with Krum; take uniform"),
        (["strategy=dp_fedavg", "strategy.weighting=examples"], "no effect with DPFedAvg"),
        (["strategy=dp_fedavg", "strategy.clip_lr=0.3"], "no effect on a fixed clipping norm"),
        (["strategy=dp_fedavg", "strategy.count_noise=2"], "no effect on a fixed clipping norm"),
        (["strategy.server.weighted_by_key=loss"], "weighted_by_key: takes weight or num-examples"),
        (
            ["strategy.server.weighted_by_key=num-examples", "strategy.weighting=uniform"],
            "strategy.weighting: has no effect with weighted_by_key=num-examples",
        ),
        (
            [
                *("privacy=dpsgd", "privacy.noise_for=epochs", "privacy.epsilon=1"),
                "privacy.noise_multiplier=1",
            ],
            "privacy.noise_for: has no effect where privacy.noise_multiplier is given",
        ),
        (["faults.min_clients=2"], "faults.min_clients: has no effect with faults.on_failure=stop"),
        (["faults.inject=[{kind:raise,seconds:1}]"], "faults.inject: has no effect of seconds"),
        (
            ["faults.inject=[{kind:raise,rounds:[11]}]"],
            "no effect in round 11: rounds go from 1",
        ),
        (
            ["dataset=federation", "+dataset@dataset.sets.one=phantom", "dataset.sets.one.size=32"],
            "dataset.sets.one.size: has no effect; give dataset.size, which holds for all",
        ),
        (["privacy.clip_norm=1"], "clip_norm is a key of privacy=dpsgd"),
        (["+privacy.clip_norm=1"], "privacy.clip_norm: unknown key"),
        (["partition=iid", "+partition.alpha=1"], "partition.alpha: unknown key"),
    ],
)
def test_a_key_without_an_effect_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose(overrides)
    assert said in str(error.value)


def test_a_key_of_ones_own_that_another_refers_to_has_one() -> None:
    plain = compose(["strategy.fraction=0.5"])
    own = compose(["+strategy.share=0.5", "strategy.fraction=${strategy.share}"])
    assert own.strategy.fraction == plain.strategy.fraction == 0.5
    relative = compose(["+strategy.share=0.5", "strategy.fraction=${.share}"])
    assert relative.strategy.fraction == 0.5


@pytest.mark.parametrize("path", sorted((CONF / "strategy").glob("*.yaml")), ids=lambda p: p.stem)
def test_each_key_of_a_strategy_reaches_what_is_built(path: Path) -> None:
    """Another value gives another server, another rule or another word to the clients."""
    keys = yaml.safe_load(path.read_text()).keys() - {"defaults", "server", "local", "weighting"}
    for key in keys:
        plain = compose([f"strategy={path.stem}"])
        value = getattr(plain.strategy, key)
        if value is None or isinstance(value, str):
            continue  # their values are tried above, and in tests/test_dp_fedavg.py
        other = not value if isinstance(value, bool) else value * 0.75
        more = [] if key not in ("clip_lr", "count_noise") else ["strategy.quantile=0.5"]
        base = compose([f"strategy={path.stem}", *more])
        if isinstance(value, int) and not isinstance(value, bool):
            other = value + 1
        changed = compose([f"strategy={path.stem}", *more, f"strategy.{key}={other}"])
        built = [
            (str(vars(one.strategy.server.build())), one.strategy.local, one.strategy.state)
            for one in (base, changed)
        ]
        assert built[0] != built[1], key


def test_all_that_is_committed_composes() -> None:
    """No experiment, paper or sweep of ours asks for a key without an effect."""
    for kind in ("experiment", "paper"):
        for file in sorted((CONF / kind).glob("*.yaml")):
            text = file.read_text()
            params = ((yaml.safe_load(text).get("hydra") or {}).get("sweeper") or {}).get("params")
            swept = {key: str(values).split(",") for key, values in (params or {}).items()}
            firsts = {key: values[0] for key, values in swept.items()}
            groups = [key for key in swept if "/" in key]
            others = [firsts | {key: value} for key in groups for value in swept[key][1:]]
            for cell in [firsts, *others]:
                config = _compose([f"+{kind}={file.stem}", *(f"{k}={v}" for k, v in cell.items())])
                missing(config)
                parse(config, build=False)


def missing(config: DictConfig) -> None:
    """Give what is a user's own: where the data lie."""
    for node in (config.dataset, *config.dataset.get("sets", {}).values()):
        if OmegaConf.is_missing(node, "root"):
            node.root = "x"


def test_the_groups_of_a_run_are_those_that_are_tried() -> None:
    defaults = yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]
    groups = set(itertools.chain(*(d for d in defaults if isinstance(d, dict))))
    assert groups == set(GROUPS)
