"""What a run leaves when its last round is done: the model, its predictions, scores and summary."""

from dataclasses import asdict
from typing import Any

import pandas as pd

from fedmed.config import Config
from fedmed.evaluation.bootstrap import score
from fedmed.evaluation.metrics import Floats, accuracy_by_group, by_group, macro
from fedmed.evaluation.predictions import Predictions
from fedmed.evaluation.subgroups import subgroups
from fedmed.evaluation.summary import summary as evaluation
from fedmed.experiment.accounts import Accounts
from fedmed.experiment.callbacks import Outcome
from fedmed.experiment.data import Data
from fedmed.experiment.summary import summarise, with_scores
from fedmed.federation.checkpoint import Checkpoint
from fedmed.runs.directory import RunDirectory


def conclude(
    begun: dict[str, Any],
    config: Config,
    data: Data,
    accounts: Accounts,
    state: Checkpoint,
    scores: Floats | None,
    setup: float,
    run_dir: RunDirectory,
) -> Outcome:
    """Write the files of a finished run, its summary the last, and return what came of it.

    Args:
        begun: which run it is: what every summary begins with.
        config: of the run.
        data: of the run.
        accounts: of the privacy that was spent.
        state: after the last round.
        scores: probabilities of the test images, N×T; None where there is no one model to test.
        setup: seconds before the first round.
        run_dir: where to.

    Raises:
        FedmedError: if the disk does not take them.
    """
    run_dir.write_model(state.arrays)
    test: dict[str, Any] = {}
    by_site: dict[str, float] = {}
    if scores is not None:
        targets = tuple(config.dataset.arguments["targets"])
        predictions = Predictions(targets, scores, data.truth, data.test)
        run_dir.write_predictions(predictions)
        test, by_site = _tested(predictions, data)
    seconds = pd.DataFrame({"round": range(1, state.round + 1), "seconds": state.seconds})
    run_dir.write_csv(seconds, "time.csv")
    clients = with_scores(data, state.metrics, state.round, by_site)
    run_dir.write_csv(clients, "clients.csv")
    summary = summarise(config, data, state, test, clients, accounts.ledger.statement(), setup)
    summary |= {"disclosure": asdict(accounts.plan.disclosure), "files": run_dir.digests()}
    summary = begun | summary
    run_dir.write_summary(summary)
    return Outcome(summary, clients)


def _tested(predictions: Predictions, data: Data) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the scores on the test patients, and the macro AUROC of each of their sites."""
    scores, site = predictions.scores, data.test["site"]
    at_sites = by_group(scores, data.truth, predictions.targets, site, data.test["patient"])
    accuracy = accuracy_by_group(scores, data.truth, site)
    test = {
        **evaluation(score(predictions)),
        "subgroups": subgroups(predictions),
        "by_site": at_sites.macro,
        "by_site_findings": at_sites.findings,
        "by_site_positives": at_sites.positives,
        "accuracy_by_site": accuracy,
        "mean_site_accuracy": macro(accuracy),
    }
    return test, at_sites.macro
