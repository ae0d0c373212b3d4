"""A hospital's node: how a SuperNode is started on a home."""

import json
import os
import sys
from pathlib import Path

from fedmed.core.errors import FedmedError
from fedmed.deployment.agreement import fingerprint
from fedmed.deployment.home import Home
from fedmed.deployment.policy import Refused
from fedmed.deployment.processes import QUIET
from fedmed.flower.node_config import CLIENT, DEVICE, HOME, RECORD_KEY


def command(
    home: Home,
    device: str | None = None,
    port: int | None = None,
    superlink: str | None = None,
) -> list[str]:
    """Return the command line of a home's node, the path of the program first.

    Args:
        home: whose policy says which server it connects to.
        device: where it computes; as the experiment has it when left out.
        port: of the loopback address, for its own processes; Flower's own when left out.
        superlink: another address of the server than the policy's, in a rehearsal.

    Raises:
        FedmedError: if the policy is none, its data are not there, the server's authority is not
            the one that the policy names, or the others are not known among whom it hides updates.
    """
    policy = home.policy
    for name, experiment in policy.experiments.items():
        try:
            _ = experiment.task
        except FedmedError as error:
            raise FedmedError(f"{home.policy_file}: experiments.{name}: {error}") from None
    try:
        policy.check_peers(home.signer.public)
    except Refused as refused:
        raise FedmedError(f"{home.policy_file}: {refused.kind}: {refused.why}") from None
    if not home.data.is_dir():
        raise FedmedError(f"{home.data}: is not there; fedmed hospital prepare makes it")
    if (found := fingerprint(home.authority)) != policy.authority_sha256:
        raise FedmedError(
            f"{home.authority}: has the fingerprint {found}, the policy names "
            f"{policy.authority_sha256}: this may be another server"
        )
    told = {CLIENT: policy.client, HOME: str(home.path.absolute())}
    told |= {RECORD_KEY: str(home.record_key.absolute())}
    told |= {DEVICE: device} if device else {}
    return [
        *(sys.executable, "-m", "fedmed.deployment.supernode"),
        *("--superlink", superlink or policy.superlink),
        *("--root-certificates", str(home.authority)),
        *("--auth-supernode-private-key", str(home.node_key)),
        *("--node-config", " ".join(f"{key}={json.dumps(value)}" for key, value in told.items())),
        *(("--port", str(port)) if port else ()),
    ]


def environment(home: Home) -> dict[str, str]:
    """Return an environment in which Flower keeps to the home and tells nobody."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | QUIET | {"PATH": path, "FLWR_HOME": str(home.path.absolute() / "flower")}
