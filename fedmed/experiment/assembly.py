"""A run put together: what its clients are told, what is believed of them, and the rounds."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedmed import models
from fedmed.client.context import device
from fedmed.config import DPSGD, Component, Config, identity, wire
from fedmed.core.errors import ConfigError
from fedmed.core.seeding import fingerprint
from fedmed.engines.deployment import Hospitals
from fedmed.engines.factory import opened
from fedmed.evaluation.metrics import AUROC, POSITIVES
from fedmed.experiment.accounts import Accounts
from fedmed.experiment.data import Data
from fedmed.experiment.recording import Recorder
from fedmed.federation.exchange import Exchange
from fedmed.federation.messages import RunContext
from fedmed.federation.protocol import Participants, Protocol
from fedmed.federation.replies import TRAINED, VALIDATED, Terms
from fedmed.federation.rounds import Federation
from fedmed.federation.summation import check as check_aggregation
from fedmed.federation.update_steps import UpdateStep, local_of
from fedmed.models import Arrays
from fedmed.privacy.events import private
from fedmed.privacy.plan import PrivacyPlan
from fedmed.runs.console import Console
from fedmed.runs.directory import RunDirectory
from fedmed.runs.tracking import check_key


def built(config: Config) -> tuple[Strategy, Arrays]:
    """Return the strategy and the first global arrays.

    Raises:
        ConfigError: if there is no such device, no key for wandb, no parameter that a pattern of
            ``strategy.state`` names, a strategy that clients cannot ask what it does or that the
            aggregation does not give what it needs, or the network cannot be trained privately:
            all before anything has taken time.
    """
    device(config.runner.device)
    check_key(config.tracking)
    strategy: Strategy = config.strategy.server.build()
    _check_said(config.strategy.server, strategy)
    check_aggregation(config, strategy, local_of(config.strategy)[1])
    network = models.build(config.model, config.seed, config.norm)
    if isinstance(config.privacy, DPSGD):
        models.check_private(network)
    shared = models.shared_names(network, config.strategy.state)
    return strategy, {k: v for k, v in models.arrays_of(network).items() if k in shared}


def _check_said(server: Component, strategy: Strategy) -> None:
    """Refuse a strategy whose class does not show what clients must know of it.

    Raises:
        ConfigError: if it is private and does not say all of it, or is not named by its class.
    """
    private(strategy)
    for name in ("privacy_events", "update_steps", "summand"):
        if hasattr(strategy, name) and not server.has(name):
            raise ConfigError(
                f"strategy.server: what {server.target} makes has {name}; name its class, which "
                "clients can ask for it too"
            )


def run_context(config: Config) -> RunContext:
    """Return what is told to clients who know themselves where their files are."""
    text = wire.dumps(config)
    return RunContext(text, wire.sha256(text), config.runner.device)


def _with_files(run: RunContext, data: Data, run_dir: RunDirectory) -> RunContext:
    """Return what is told to whoever shares this machine's files."""
    return replace(
        run,
        store=str(data.store.path.resolve()),
        table=str(run_dir.table.resolve()),
        partition=str(run_dir.partition.resolve()),
        states=str(run_dir.states.resolve()),
    )


@contextmanager
def opened_federation(
    config: Config,
    strategy: Strategy,
    data: Data,
    accounts: Accounts,
    recorder: Recorder,
    run_dir: RunDirectory,
    console: Console,
    grid: Grid | None,
    hospitals: Hospitals | None,
) -> Iterator[Federation]:
    """Open the engine, and yield the rounds to come over it.

    Args:
        config: of the run.
        strategy: what the server does.
        data: whose clients take part, as they were saved.
        accounts: of the privacy that is spent.
        recorder: of what is done.
        run_dir: where data and checkpoint are.
        console: told who has answered, who is waited for, and who could not.
        grid: Flower's, where Flower has started the run.
        hospitals: behind it, in a deployment.

    Raises:
        FedmedError: if the engine cannot be opened.
    """
    told = run_context(config)
    own = _with_files(told, data, run_dir)
    images = data.clients["train_images"].tolist()
    shown = accounts.plan.disclosure
    validating = data.clients.query("val_images > 0")["client"] if shown.validation else ()
    sizes = data.clients[["train_images", "val_images"]].to_numpy()
    _, steps = local_of(config.strategy)
    if config.strategy.keeps_parameters and not len(validating):
        raise ConfigError(
            "strategy.state: where parameters stay with the clients only their own validation says "
            "how well the run does, and none of them validates; take parameters, or let them"
        )
    engines = opened(config.runner, own, images, len(data.test), console.warn, grid, hospitals)
    with engines as (engine, score):
        run = told if hospitals else own
        participants = Participants(
            config,
            strategy,
            Exchange(engine, run, config.faults, console.client_done, console.warn),
            steps,
            _terms(config, data, accounts.plan, steps),
            frozenset(validating),
            accounts.plan,
            accounts.ledger,
            accounts.budget,
            fingerprint(identity.drawn_sha256(config), sizes),
            console.warn,
        )
        protocol: Protocol = config.protocol.build()
        checkpoint = run_dir.checkpoint
        yield Federation(protocol, participants, score, data.truth, recorder, checkpoint)


def _terms(
    config: Config, data: Data, plan: PrivacyPlan, steps: Sequence[UpdateStep]
) -> dict[str, Terms]:
    """Return what is known of the clients' replies before any comes: their sizes above all."""
    validated = dict(zip(data.clients["client"], data.clients["val_images"].tolist(), strict=True))
    withheld = set() if plan.disclosure.losses else {"loss"}
    weighting, targets = config.strategy.weighting, len(config.dataset.arguments["targets"])
    return {
        "train": Terms(
            dict(enumerate(plan.sizes)),
            weighting,
            frozenset(TRAINED - withheld).union(*(step.metrics for step in steps)),
            extras={key: names for step in steps for key, names in step.records.items()},
        ),
        "val": Terms(validated, weighting, VALIDATED, dict.fromkeys((AUROC, POSITIVES), targets)),
    }
