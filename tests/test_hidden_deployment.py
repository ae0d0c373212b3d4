"""Secure aggregation between real nodes, from the one command: the weights of the open sum."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import summary
from test_closed import needs_nginx
from test_restarts import CONFIG

from fedmed.cli.deploy import deploy
from fedmed.core.errors import FedmedError
from fedmed.record.signatures import HOSPITAL, Signatures, read_public
from fedmed.runs.verify import Known, verify

pytestmark = needs_nginx

STEPS = ("keys", "shares", "train", "consent", "reveal")


def test_three_hospitals_hide_their_updates(
    store: Path, tmp_path: Path, launch: Callable[..., dict[str, Any]]
) -> None:
    asked = [*CONFIG, "partition.clients=3", "rounds=1", f"store={store}"]
    run, folder = tmp_path / "run", tmp_path / "deployment"
    deploy([*asked, "aggregation=secagg", f"hydra.run.dir={run}"], folder, proxied=True)
    plain = launch(*asked, "aggregation=fixed", "runner.workers=0", folder=tmp_path / "plain")
    assert summary(run)["model_sha256"] == plain["model_sha256"]

    records = folder / "records"
    keys = {client: read_public(records / f"hospital-{client}.pub") for client in range(3)}
    verdict = verify(run, Known(server=read_public(records / "server.pub"), hospitals=keys))
    assert "15 replies signed by 3 hospitals" in str(verdict)
    kept = Signatures(run / "signatures.jsonl")
    signed = {(one["scope"], one["client"]) for one in kept.by(HOSPITAL)}
    assert signed == {(step, client) for step in STEPS for client in range(3)}
    for client in range(3):
        states = folder / f"client-{client}" / "states"
        assert not [*states.glob("secret-*")]  # which its last step has done away with
    lines = kept.path.read_text().splitlines(keepends=True)
    kept.path.write_text("".join(line for line in lines if '"scope":"consent"' not in line))
    with pytest.raises(FedmedError, match="client 0 has not signed its reply of round 1"):
        verify(run, Known(server=read_public(records / "server.pub"), hospitals=keys))
