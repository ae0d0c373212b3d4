"""Hospitals behind SuperNodes: who they are, once all of them are connected."""

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedmed import config as cfg
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.core.texts import cause
from fedmed.deployment.node_data import NodeReport
from fedmed.engines.flower_grid import exchange
from fedmed.federation.messages import (
    CHALLENGE,
    DESCRIBE,
    NODE_REPORT,
    RUN,
    SIGNATURE,
    RunContext,
)
from fedmed.record import signatures

PAUSE = 1.0  # seconds between two looks for nodes


@dataclass
class Hospitals:
    """The hospitals of a federation.

    Attributes:
        node: client → its node in Flower's Grid.
        report: client → what it reports of its data.
    """

    node: dict[int, int] = field(default_factory=dict)
    report: dict[int, NodeReport] = field(default_factory=dict)

    @property
    def nodes(self) -> list[int]:
        """The nodes in the order of the clients."""
        return [self.node[client] for client in sorted(self.node)]

    @property
    def reports(self) -> list[NodeReport]:
        """What they report, in the order of the clients."""
        return [self.report[client] for client in sorted(self.report)]

    def ask(
        self,
        grid: Grid,
        nodes: Iterable[int],
        run: RunContext,
        until: float,
        keys: Path | None = None,
    ) -> None:
        """Let nodes describe their data.

        Args:
            grid: Flower's.
            nodes: of the Grid.
            run: what each is told.
            until: the monotonic time by which they are to have answered.
            keys: the folder of the hospitals' public keys, by number; None if they are not known.

        Raises:
            FedmedError: if one cannot, or two say that they are the same client, or one says that
                it is a client whose key it has not.
        """
        nonce = secrets.token_hex(32)
        question = RecordDict({RUN: run.record(), CHALLENGE: ConfigRecord({"nonce": nonce})})
        asked = [Message(question, node, DESCRIBE) for node in nodes]
        for message, reply in zip(asked, exchange(grid, asked, until), strict=True):
            if reply is None or reply.has_error():
                reason = cause(reply.error.reason or "") if reply else "no answer"
                raise FedmedError(f"a hospital's node cannot describe its data: {reason}")
            report = dict(reply.content.config_records.get(NODE_REPORT, {}))
            client = report.get("client")
            if not isinstance(client, int) or client < 0:
                raise FedmedError(f"a hospital's node does not say which client it is: {client!r}")
            if keys is not None:
                statement = signatures.of_report(run.config_sha256, nonce, report)
                check_key(keys, client, reply.content, statement)
            if client in self.node:
                raise FedmedError(f"two nodes say that they are client {client}: see partition-id")
            self.node[client], self.report[client] = message.metadata.dst_node_id, report


def check_key(keys: Path, client: int, content: RecordDict, statement: Mapping[str, Any]) -> None:
    """Refuse a report that is not signed by the key of the client that it names.

    Args:
        keys: the folder of ``hospital-0.pub`` and so on.
        client: which the report names.
        content: the reply.
        statement: what is to be signed: the report, the task, and this question's own challenge.

    Raises:
        FedmedError: if it is not, or there is no such key.
    """
    public = signatures.read_public(keys / f"hospital-{client}.pub")
    records = content.config_records
    signature = str(records[SIGNATURE].get("signature")) if SIGNATURE in records else ""
    if not signatures.holds(public, signature, statement):
        raise FedmedError(
            f"a node says that it is client {client} and does not have its key, "
            f"{keys}/hospital-{client}.pub: another hospital, or another home than was registered"
        )


def connect(
    grid: Grid | None, runner: cfg.Deployment, run: RunContext, say: Callable[[str], None]
) -> Hospitals:
    """Return the hospitals, once as many as configured are connected.

    Args:
        grid: Flower's; None where Flower has not started the run.
        runner: how many there are, and how long they are waited for.
        run: what each hospital is told.
        say: called with a line for a person who waits.

    Raises:
        ConfigError: if Flower has not started the run.
        FedmedError: naming those that are missing after ``runner.wait`` seconds, or do not belong.
    """
    if grid is None:
        raise ConfigError(
            "runner=deployment: such a run is started within a SuperLink, by flwr run or by "
            "fedmed deploy; see docs/deployment.md"
        )
    until = time.monotonic() + runner.wait
    hospitals = Hospitals()
    while len(hospitals.node) < runner.clients:
        missing = sorted(set(range(runner.clients)) - set(hospitals.node))
        if time.monotonic() > until:
            raise FedmedError(
                f"no hospital has connected as client {', '.join(map(str, missing))} within "
                f"{runner.wait:g} s (runner.wait); is its node registered and running?"
            )
        new = [node for node in grid.get_node_ids() if node not in hospitals.node.values()]
        hospitals.ask(grid, new, run, until, runner.keys)
        if new:
            say(f"{len(hospitals.node)} of {runner.clients} hospitals are connected")
        else:
            time.sleep(PAUSE)
    if strangers := sorted(set(hospitals.node) - set(range(runner.clients))):
        raise FedmedError(f"client {strangers[0]} is connected; runner.clients={runner.clients}")
    return hospitals
