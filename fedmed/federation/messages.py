"""What a message tells a client beside what its strategy sends."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message

BRIEF = "brief"  # the record's name
STATE = "state"  # the record by which a reply tells that the client keeps a state


@dataclass(frozen=True)
class Brief:
    """Which client is meant, in which round, and where its files are.

    Attributes:
        client: whose patients to train on or to validate with.
        round: the round that the message belongs to.
        state: the round whose file is the client's state, -1 if it has none yet.
        kept: the same as the server's last checkpoint has it.
        overrides: what the configuration is composed from.
        store, table, partition: the prepared pixels, their table, and who is whose.
        states: the folder of the clients' states.
    """

    client: int
    round: int
    state: int
    kept: int
    overrides: str
    store: str
    table: str
    partition: str
    states: str

    def record(self) -> ConfigRecord:
        """Return the record that travels."""
        return ConfigRecord(asdict(self))

    @classmethod
    def of(cls, message: Message, context: Context) -> "Brief":
        """Return a message's brief. A hospital's own node config says where its files are."""
        brief = cls(**message.content.config_records[BRIEF])  # type: ignore[arg-type]
        own = context.node_config.get("data")
        if own is None:
            return brief
        if (mine := context.node_config["partition-id"]) != brief.client:
            raise ValueError(f"a message to client {brief.client} came to client {mine}")
        folder = Path(str(own))
        return replace(
            brief,
            store=str(folder),
            table=str(folder / "table.parquet"),
            partition=str(folder / "partition.csv"),
            states=str(context.node_config.get("states", folder / "states")),
        )
