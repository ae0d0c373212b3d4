"""Weights & Biases, beside the run directory: a mirror of its files, never their only place.

What leaves for wandb names no patient, image, file, host or user. Where the secret of who joined a
round amplifies privacy, nothing leaves either that tells how many they were.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import pandas as pd
import wandb

from fedmed.checkpoint import Row
from fedmed.config import Config
from fedmed.scrub import scrub

log = logging.getLogger(__name__)
#: What tells of a round's cohort: its size and training losses, its bytes, its faults.
_OF_COHORTS = ("train", "cost", "faults")
_SUMS_OF_COHORTS = {"bytes_up", "bytes_down", "faults", "time"}
CURVES = 100  # clients up to which each one's ε is a curve of its own


class Tracker:
    """A wandb run, from the main process only; does nothing when ``tracking.mode`` is disabled.

    Args:
        config: the run's configuration.
        folder: the run directory.
        run_id: names the wandb run, so that a resumed run stays the same one.
    """

    def __init__(self, config: Config, folder: Path, run_id: str) -> None:
        self._run = None
        self._hides_cohorts = config.hides_cohorts
        self._offline = config.tracking.mode == "offline"
        if config.tracking.mode == "disabled":
            return
        self._run = wandb.init(
            project=config.tracking.project,
            entity=config.tracking.entity,
            id=run_id,
            name=f"{config.name}-{run_id[:8]}",
            group=config.name,
            mode=config.tracking.mode,
            resume="allow" if config.tracking.mode == "online" else None,
            dir=folder.resolve(),  # its service may stand elsewhere
            config=public(config),
            settings=_discreet(),
        )
        self._run.define_metric("round")
        self._run.define_metric("*", step_metric="round")

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._run:
            self._run.finish(exit_code=0 if error is None else 1)

    def log_round(self, round_: int, rows: Sequence[Row]) -> None:
        """Log a round: pooled metrics by name, and the mean and the worst over the clients."""
        if not self._run:
            return
        frame = pd.DataFrame(rows, columns=["round", "scope", "client", "metric", "value"])
        if self._hides_cohorts:
            frame = frame[~frame["scope"].isin(_OF_COHORTS)]
        pooled = frame[frame["client"] < 0]
        values = {f"{r.scope}/{r.metric}": r.value for r in pooled.itertuples()}
        for (scope, metric), group in frame[frame["client"] >= 0].groupby(["scope", "metric"]):
            values[f"{scope}/{metric}/mean"] = group["value"].mean()
            values[f"{scope}/{metric}/min"] = group["value"].min()
            values[f"{scope}/{metric}/max"] = group["value"].max()
            if scope == "privacy" and len(group) <= CURVES:
                values |= {f"{scope}/{metric}/{r.client}": r.value for r in group.itertuples()}
        self._run.log({"round": round_, **values})

    def replay(self, rows: Sequence[Row]) -> None:
        """Log what an earlier process logged: a resumed offline run begins a file of its own."""
        if self._offline:
            for round_ in sorted({row[0] for row in rows}):
                self.log_round(round_, [row for row in rows if row[0] == round_])

    def log_federation(self, clients: pd.DataFrame, picture: Path) -> None:
        """Log who the clients are: counts only."""
        if self._run:
            table = wandb.Table(dataframe=clients)
            self._run.log({"clients": table, "partition": wandb.Image(str(picture))})

    def log_audit(self, values: Mapping[str, float], picture: Path) -> None:
        """Log an audit, made after the run: its figures and their picture."""
        if self._run:
            self._run.log({"audit": wandb.Image(str(picture))})
            self._run.summary.update(dict(values))

    def finish(self, summary: dict[str, Any], clients: pd.DataFrame | None) -> None:
        """Log the summary and the last scores of each client.

        Where those are withheld, so is how much the clients differ: it tells of their labels. Where
        cohorts are secret, so is what all of them together have moved and taken.
        """
        if self._run:
            if clients is not None:
                self._run.log({"clients/final": wandb.Table(dataframe=clients)})
            private = {"partition"} if clients is None else set()
            private |= _SUMS_OF_COHORTS if self._hides_cohorts else set()
            self._run.summary.update({k: v for k, v in summary.items() if k not in private})


def log_table(
    name: str,
    frame: pd.DataFrame,
    caption: Sequence[str],
    mode: Literal["offline", "online"],
    project: str,
    folder: Path,
) -> None:
    """Log a table of runs, as a wandb run of its own.

    Args:
        name: of the table.
        frame: its texts.
        caption: sentences that say what they are.
        mode: offline or online.
        project: of wandb.
        folder: where ``wandb/`` is made.
    """
    run = wandb.init(
        project=project,
        name=name,
        job_type="table",
        mode=mode,
        dir=folder.resolve(),
        notes=" ".join(caption),
        settings=_discreet(),
    )
    run.log({name: wandb.Table(dataframe=frame)})
    run.finish()


def _discreet() -> wandb.Settings:
    """Return settings under which wandb tells of no host, user, code or machine."""
    return wandb.Settings(
        console="off",
        silent=True,
        save_code=False,
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        host="",
        email="",
        username="",
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
    )


def public(config: Config) -> dict[str, Any]:
    """Return the configuration without the paths that name a user or a machine."""
    values = config.model_dump(mode="json", by_alias=True)
    values.pop("store")
    scrubbed: dict[str, Any] = scrub(values)
    return scrubbed
