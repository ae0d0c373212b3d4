"""Hospitals' homes for tests: as fedmed hospital makes them, with phantoms for patients."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from fedmed.cli.hospital import fill
from fedmed.config import compose
from fedmed.deployment.agreement import found
from fedmed.deployment.certificates import make_certificates
from fedmed.deployment.home import Home


def make_home(
    path: Path,
    overrides: Sequence[str],
    client: int = 0,
    superlink: str = "127.0.0.1:1",
    authority: Path | None = None,
    **limits: Any,
) -> Home:
    """Return a home with a policy for one experiment, and its patients.

    Args:
        path: made anew.
        overrides: of the experiment.
        client: the hospital's number.
        superlink: of the server.
        authority: which the server is known by; one of a trial when left out.
        limits: ``epsilon`` and ``lifetime``.
    """
    if authority is None:
        trial = path.with_name(f"{path.name}-authority")
        trial.mkdir(parents=True)
        make_certificates(trial, timedelta(days=1))
        authority = trial / "ca.crt"
    home, config = Home(path), compose(overrides, build=False)
    found(home, config, overrides, client, superlink, authority, **limits)
    fill(config, home.data, client)
    return home
