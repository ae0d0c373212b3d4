"""A run's record as its rounds are done: what each binds, who signs it, and where heads go."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedmed.config import Config, identity, wire
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.core.files import damaged
from fedmed.core.records import MetricRow
from fedmed.experiment.data import Data
from fedmed.federation.asked import Asked
from fedmed.federation.checkpoint import Checkpoint
from fedmed.privacy import Event, Ledger
from fedmed.record import hashes, lines, signatures
from fedmed.record.anchors import Anchor
from fedmed.record.chain import Chain
from fedmed.record.merkle import Head
from fedmed.record.signatures import Signatures, Signer
from fedmed.runs.directory import RunDirectory


class Recorder:
    """Keeps the record of a run.

    Args:
        config: of the run.
        data: whose hashes the first record binds.
        ledger: whose releases are bound with the round after which they are known.
        run_dir: where the record is; what it has of another configuration's run is deleted.
        say: called with a line that a person should see.

    Raises:
        ConfigError: if the key that signs cannot be used, or lies within the run directory.
        FedmedError: if what is there of the record is damaged, or the ledger lacks what it binds.
    """

    def __init__(
        self,
        config: Config,
        data: Data,
        ledger: Ledger,
        run_dir: RunDirectory,
        say: Callable[[str], None],
    ) -> None:
        self._config, self._data, self._ledger, self._say = config, data, ledger, say
        self._signer = _signer(config.record.key, run_dir)
        self._anchor: Anchor = config.anchor.build()
        self._anchored: Head | None = None
        self._behind = False  # whether a head is due that the anchor did not take
        for file in (run_dir.chain, run_dir.signatures):
            lines.mend(file)
        self.chain = Chain.read(run_dir.chain)
        if self.chain.records and self.chain.records[0]["config"] != config.sha256:
            for file in (run_dir.chain, run_dir.signatures):
                file.unlink(missing_ok=True)
            self.chain = Chain(run_dir.chain)
        self._signatures = Signatures(run_dir.signatures)
        self._standing = ""  # the hash of the arrays that the next round starts from
        self._bound = [Event(**event) for event in self.chain.bound()]
        if not set(self._bound) <= set(ledger.events):
            raise damaged(run_dir.ledger, f"it lacks releases that {run_dir.chain.name} records")

    def begin(self, state: Checkpoint) -> None:
        """Record what the run begins with.

        Args:
            state: before the first round, with the metrics of the first arrays.
        """
        text = wire.dumps(self._config)
        evidence = self._data.evidence()
        body = {
            "fedmed": version("fedmed"),
            "semantics": identity.SEMANTICS,
            "config": self._config.sha256,
            "task": wire.sha256(text),
            "device": self._config.device,
            "data": {str(client): dict(evidence[client]) for client in sorted(evidence)},
        }
        self._append(state, state.metrics, body)

    def resume(self, state: Checkpoint) -> None:
        """See that the record is the one that a checkpoint was made with.

        Raises:
            FedmedError: if it is not.
        """
        try:
            whole = self.chain.head(Head.parse(state.head).size) == Head.parse(state.head)
        except (IndexError, FedmedError):
            whole = False
        if not whole:
            raise damaged(
                self.chain.path, f"it is not the record of the {state.round} rounds that are done"
            )
        self._standing = hashes.of_arrays(state.arrays)

    def append(self, before: Checkpoint, state: Checkpoint, asked: Sequence[Asked]) -> str:
        """Record a round that is done and whose checkpoint is not yet on the disk.

        Args:
            before: the state before the round.
            state: after it.
            asked: what clients were asked in it, and what came back.

        Returns:
            The head, for the checkpoint.

        Raises:
            FedmedError: if the disk does not take it.
        """
        for one in asked:
            for signed in one.signatures:
                self._signatures.add(signed)
        body = {"start": self._standing, "exchanges": [one.record() for one in asked]}
        self._append(state, state.metrics[len(before.metrics) :], body)
        return str(self.chain.head())

    def publish(self, round_: int) -> None:
        """Send the head to its anchor if it is due; one that fails is due after the next round."""
        if self._anchor.place and (self._behind or round_ % self._anchor.every == 0):
            self._publish()

    def finish(self) -> dict[str, Any]:
        """Send the last head to its anchor, and return what ``summary.json`` says of the record."""
        head = self.chain.head()
        if self._anchor.place and self._anchored != head:
            self._publish()
        return {
            "size": head.size,
            "root": head.root,
            "signed_by": self._signer.public if self._signer else None,
            "anchored": self._anchored.size if self._anchored else None,
        }

    def _append(self, state: Checkpoint, rows: Sequence[MetricRow], body: dict[str, Any]) -> None:
        arrays, before = hashes.of_arrays(state.arrays), set(self._bound)
        # a round that was cut off may have spent already what a later record is to tell
        due = [e for e in self._ledger.events if e.round <= state.round and e not in before]
        self._bound += due
        ledger = replace(self._ledger, events=self._bound)
        self.chain.append(
            {
                **body,
                "round": state.round,
                "code": state.surroundings[-1]["code"],
                "arrays": arrays,
                "metrics": hashes.of_rows(rows),
                "events": [asdict(event) for event in due],
                "privacy": {
                    unit: {"epsilon": ledger.epsilon(unit), "delta": ledger.deltas[unit]}
                    for unit in ledger.units()
                },
                "stopped": {str(client): round_ for client, round_ in ledger.stopped.items()},
            }
        )
        self._standing = arrays
        if self._signer:
            statement = signatures.of_head(self.chain.run, self.chain.head())
            signature = self._signer.sign(statement)
            self._signatures.add(signatures.signed(statement, self._signer.public, signature))

    def _publish(self) -> None:
        head = self.chain.head()
        try:
            self._anchor.publish(self.chain.run, head)
        except FedmedError as error:
            self._behind = True
            self._say(f"the record's head {head} is not anchored: {error}")
        else:
            self._behind, self._anchored = False, head


def _signer(key: Path | None, run_dir: RunDirectory) -> Signer | None:
    """Return what signs heads. A key beside the record would let its holder sign another one."""
    if key is None:
        return None
    if key.expanduser().resolve().is_relative_to(run_dir.path.resolve()):
        raise ConfigError(f"record.key: {key} lies in the run directory; keep it elsewhere")
    return Signer(key)
