"""Weights & Biases, beside the run directory: a mirror of its files, never their only place.

What leaves for wandb names no patient, image, file, host or user. Where the secret of who joined a
round amplifies privacy, nothing leaves either that tells how many they were. Whatever befalls the
mirror is told once, and the run goes on.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import pandas as pd

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read on import: wandb's own telemetry
import wandb

from fedmed.config import Config
from fedmed.config import Tracking as Settings
from fedmed.config.messages import first_line
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.core.processes import sheltered
from fedmed.core.records import MetricRow
from fedmed.privacy.disclosure import Disclosure
from fedmed.runs.scrub import scrub

log = logging.getLogger(__name__)
#: What tells of a round's cohort: its size and training losses, its bytes, its faults.
_OF_COHORTS = ("train", "cost", "faults")
_SUMS_OF_COHORTS = {"bytes_up", "bytes_down", "faults", "time"}
CURVES = 100  # clients up to which each one's ε is a curve of its own
LONGEST = 100  # letters of a name: wandb takes 128, with what is added
ANSWERS = 30.0  # seconds that wandb's server has to answer when a run begins
UPLOADS = 60.0  # seconds that wandb has to upload the rest when a run has ended


class _Table(wandb.Table):  # type: ignore[misc]  # wandb exports it untyped
    """A table that is a file of its run and no artifact besides.

    An artifact's manifest tells wandb the path at which its files waited for their upload, and so
    the home or the run directory of a user.
    """

    _log_type = "table-file"


class Tracker:
    """A wandb run, from the main process only; does nothing when ``tracking.mode`` is disabled.

    Args:
        config: the run's configuration.
        folder: the run directory.
        run_id: names the wandb run, so that a resumed run stays the same one.
        say: called with the line that tells of what befell it.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        run_id: str,
        say: Callable[[str], None] = log.warning,
    ) -> None:
        self._run: Any = None
        self._say = say
        self._disclosure = Disclosure.of(config)
        self._offline = config.tracking.mode == "offline"
        self._at_home = ExitStack()
        if config.tracking.mode == "disabled":
            return
        try:
            self._at_home.enter_context(_at_home(folder))
            self._run = self._begin(config, folder, run_id)
        except Exception as error:  # of whatever kind: it is the mirror's alone
            self._lose(error)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close(failed=error is not None)

    def close(self, failed: bool) -> None:
        """End the wandb run, marked as failed or not."""
        self._mirror(lambda run: run.finish(exit_code=int(failed)))
        self._run = None
        self._at_home.close()

    @staticmethod
    def _begin(config: Config, folder: Path, run_id: str) -> Any:
        with sheltered():
            run = wandb.init(
                project=config.tracking.project,
                entity=config.tracking.entity,
                id=run_id,
                name=f"{config.name[:LONGEST]}-{run_id[:8]}",
                group=config.name[:LONGEST],
                mode=config.tracking.mode,
                resume="allow" if config.tracking.mode == "online" else None,
                dir=folder.resolve(),  # its service may stand elsewhere
                config=public(config),
                settings=_discreet(),
            )
        run.define_metric("round")
        run.define_metric("*", step_metric="round")
        return run

    def _mirror(self, act: Callable[[Any], None]) -> None:
        """Do something with wandb's run, as long as there is one."""
        if self._run is not None:
            try:
                act(self._run)
            except Exception as error:  # of whatever kind: it is the mirror's alone
                self._lose(error)

    def _lose(self, error: Exception) -> None:
        self._run = None
        with suppress(Exception):  # else it would try again as Python ends
            wandb.teardown()
        self._say(
            f"wandb: {first_line(error)}; it is told no more, and the run goes on: "
            "its directory has all of it"
        )

    def log_round(self, round_: int, rows: Sequence[MetricRow]) -> None:
        """Log a round: pooled metrics by name, and the mean and the worst over the clients."""
        self._mirror(lambda run: run.log({"round": round_, **self._values(rows)}))

    def _values(self, rows: Sequence[MetricRow]) -> dict[str, Any]:
        frame = pd.DataFrame(rows, columns=MetricRow._fields)
        if not self._disclosure.cohorts:
            frame = frame[~frame["scope"].isin(_OF_COHORTS)]
        pooled = frame[frame["client"] < 0]
        values = {f"{r.scope}/{r.metric}": r.value for r in pooled.itertuples()}
        for (scope, metric), group in frame[frame["client"] >= 0].groupby(["scope", "metric"]):
            values[f"{scope}/{metric}/mean"] = group["value"].mean()
            values[f"{scope}/{metric}/min"] = group["value"].min()
            values[f"{scope}/{metric}/max"] = group["value"].max()
            if scope == "privacy" and len(group) <= CURVES:
                values |= {f"{scope}/{metric}/{r.client}": r.value for r in group.itertuples()}
        return values

    def replay(self, rows: Sequence[MetricRow]) -> None:
        """Log what an earlier process logged: a resumed offline run begins a file of its own."""
        if self._offline:
            for round_ in sorted({row.round for row in rows}):
                self.log_round(round_, [row for row in rows if row.round == round_])

    def log_federation(self, clients: pd.DataFrame, picture: Path) -> None:
        """Log who the clients are: counts only, and these only where they may be seen."""
        if not self._disclosure.counts:
            return

        def act(run: Any) -> None:
            table = _Table(dataframe=clients)
            run.log({"clients": table, "partition": wandb.Image(str(picture))})

        self._mirror(act)

    def log_audit(self, values: Mapping[str, float], picture: Path) -> None:
        """Log an audit, made after the run: its figures and their picture."""

        def act(run: Any) -> None:
            run.log({"audit": wandb.Image(str(picture))})
            run.summary.update(dict(values))

        self._mirror(act)

    def finish(self, summary: dict[str, Any], clients: pd.DataFrame) -> None:
        """Log the summary and the last scores of each client.

        Where those are withheld, so is how much the clients differ: it tells of their labels. Where
        cohorts are secret, so is what all of them together have moved and taken.
        """
        shown = self._disclosure
        private = {"files"} | (set() if shown.counts else {"partition"})
        private |= set() if shown.cohorts else _SUMS_OF_COHORTS

        def act(run: Any) -> None:
            if shown.counts and shown.validation:
                run.log({"clients/final": _Table(dataframe=clients)})
            run.summary.update({k: v for k, v in summary.items() if k not in private})

        self._mirror(act)


def check_key(tracking: Settings) -> None:
    """Refuse to track online without a key, before anything has taken time.

    Raises:
        ConfigError: if wandb knows of none.
    """
    if tracking.mode != "online" or "WANDB_MODE" in os.environ:
        return
    try:
        wandb.setup(wandb.Settings(silent=True))
        known = wandb.login(verify=False, prompt=False)
    except Exception:  # a home that cannot be read, a key of another form: the mirror will tell
        return
    if not known:
        raise ConfigError(
            "tracking.mode: online needs a key of wandb: run wandb login, or set WANDB_API_KEY; "
            "offline keeps all that wandb would get in the run directory"
        )


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

    Raises:
        FedmedError: if wandb does not take it.
    """
    try:
        with _at_home(folder):
            run = wandb.init(
                project=project,
                name=name,
                job_type="table",
                mode=mode,
                dir=folder.resolve(),
                notes=" ".join(caption),
                settings=_discreet(),
            )
            run.log({name: _Table(dataframe=frame)})
            run.finish()
    except Exception as error:
        raise FedmedError(f"--wandb: {first_line(error)}") from None


@contextmanager
def _at_home(folder: Path) -> Iterator[None]:
    """Have wandb keep all of its own files in the folder: there may be no home to write to."""
    own = folder.resolve() / "wandb"
    own.mkdir(parents=True, exist_ok=True)
    places = {"WANDB_CACHE_DIR": own / "cache", "WANDB_DATA_DIR": own / "data"}
    home = os.path.expanduser("~")  # noqa: PTH111 (where there is none, Path would raise)
    if not os.access(home, os.X_OK):
        places["WANDB_CONFIG_DIR"] = own / "config"
    new = {name: str(place) for name, place in places.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


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
        init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", ANSWERS)),
        finish_timeout=UPLOADS,
    )


def public(config: Config) -> dict[str, Any]:
    """Return the configuration without the paths that name a user or a machine."""
    values = config.model_dump(mode="json", by_alias=True)
    values.pop("store")
    scrubbed: dict[str, Any] = scrub(values)
    return scrubbed
