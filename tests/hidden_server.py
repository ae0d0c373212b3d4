"""A server before three hospitals whose sum hides updates, and what it may change of a message."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TINY
from flwr.app import Array, ConfigRecord, Context, Message, RecordDict
from hospitals import make_home

from fedmed import models
from fedmed.aggregation.base import Collector, Fields, IntegerSum, Session, Take
from fedmed.aggregation.codec import Integers
from fedmed.client.app import app
from fedmed.config import Config, compose, wire
from fedmed.deployment import peers
from fedmed.deployment.home import Home
from fedmed.federation.messages import (
    AGGREGATE,
    ARRAYS,
    PAYLOAD,
    SIGNATURE,
    STEP,
    RunContext,
    TaskSpec,
    packed,
    unpacked,
)
from fedmed.federation.summands import Plan, plan_of
from fedmed.federation.summation import heading_of
from fedmed.flower import process
from fedmed.flower.arrays import decoded

AGREED = (*TINY, "client.steps=1", "partition.clients=3", "strategy.weighting=uniform")
ALL = (0, 1, 2)
Tamper = Callable[[str, int, dict[str, Any]], object]


@dataclass
class Server:
    """A server in league with nobody, which sends what it likes and keeps all that it is sent."""

    homes: Mapping[int, Home]
    config: Config
    seen: list[bytes] = field(default_factory=list)
    kept: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        text = wire.dumps(self.config)
        self.run = RunContext(text, wire.sha256(text), "cpu", "/", "/", "/", "/")
        network = models.build(self.config.model, self.config.seed, self.config.norm)
        self.sent = RecordDict({ARRAYS: models.to_record(models.arrays_of(network))})
        built = self.config.aggregation.build()
        assert isinstance(built, IntegerSum)
        self.aggregation = built

    @property
    def plan(self) -> Plan:
        return plan_of(self.config, self.aggregation, self.sent, len(self.homes))

    def session(self, attempt: bytes = b"a" * 16, members: tuple[int, ...] = ALL) -> Session:
        return Session(self.run.config_sha256, 1, attempt, members)

    def collector(self, session: Session) -> Collector:
        return self.aggregation.collector(session, self.plan.codec.size, self.plan.width)

    def send(self, client: int, kind: str, content: RecordDict, spec: TaskSpec) -> RecordDict:
        """Send a message, as a SuperNode hands it on, and keep what comes back."""
        home = self.homes[client]
        message = RecordDict({**content, **spec.records()})
        key = str(home.record_key)
        own: dict[str, Any] = {"partition-id": client, "home": str(home.path), "record-key": key}
        reply = app(Message(message, 1, kind), Context(1, 1, own, RecordDict(), {})).content
        self.kept += [path.read_bytes() for path in home.states.glob("secret-*")]
        self.seen += _bytes_of(reply)
        return reply

    def step(
        self, session: Session, step: str, client: int, fields: Fields, round_: int = 1
    ) -> RecordDict:
        heading = {**heading_of(session), STEP: step}
        spec = TaskSpec(client, round_, -1, -1, self.run)
        return self.send(client, AGGREGATE, packed({**heading, **fields}), spec)

    def ask(self, session: Session, tamper: Tamper | None = None) -> Any:
        """Return what asks all hospitals of a step, with a change to what each is told."""

        def ask(step: str, told: Mapping[int, Fields], take: Take) -> None:
            for client, fields in sorted(told.items()):
                changed = dict(fields)
                if tamper:
                    tamper(step, client, changed)
                reply = self.step(session, step, client, changed)
                del reply[SIGNATURE]
                take(client, unpacked(reply))

        return ask

    def train(self, client: int, told: Mapping[str, Any] | None, round_: int = 1) -> RecordDict:
        sum_ = None if told is None else ConfigRecord(dict(told))
        return self.send(
            client, "train", self.sent, TaskSpec(client, round_, -1, -1, self.run, sum_)
        )

    def heading(self, session: Session) -> dict[str, Any]:
        return heading_of(session)

    def masked(self, session: Session, tamper: Tamper | None = None) -> Collector:
        """Go as far as to have all masked vectors."""
        collector = self.collector(session)
        for client, told in sorted(collector.prepare(self.ask(session, tamper)).items()):
            reply = self.train(client, {**self.heading(session), **told})
            collector.add(client, decoded(reply.array_records[ARRAYS][PAYLOAD]))
        return collector

    def total(self, session: Session) -> Integers:
        return self.masked(session).open(self.ask(session))

    def trainings(self, client: int) -> int:
        return sum(one.trainings for one in self.homes[client].lifetime.runs(1e-5).values())

    def refused(self, client: int) -> str:
        return (self.homes[client].path / "refused.log").read_text()


def _bytes_of(content: RecordDict) -> list[bytes]:
    """Return all bytes in a reply; text and numbers as text."""
    found: list[bytes] = []
    for record in content.values():
        for value in record.values():
            if isinstance(value, Array):
                found.append(decoded(value).tobytes())
            else:
                many = value if isinstance(value, list) else [value]
                found += [one if isinstance(one, bytes) else str(one).encode() for one in many]
    return found


def introduce(homes: Mapping[int, Home], folder: Path) -> None:
    """Have each home know the others, by a folder as the server has one."""
    folder.mkdir()
    for client, home in homes.items():
        shutil.copyfile(f"{home.record_key}.pub", folder / f"hospital-{client}.pub")
    for home in homes.values():
        peers.enter(home, peers.read(folder))


@pytest.fixture(scope="module")
def agreed_homes(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make three homes that have agreed on an aggregation, once, not to be changed."""
    done: dict[str, Path] = {}

    def made(aggregation: str) -> Path:
        if aggregation not in done:
            folder = tmp_path_factory.mktemp(aggregation)
            agreed = [*AGREED, f"aggregation={aggregation}", f"store={store}"]
            homes = {c: make_home(folder / f"home-{c}", agreed, c) for c in ALL}
            introduce(homes, folder / "keys")
            done[aggregation] = folder
        return done[aggregation]

    return made


@pytest.fixture
def serve_hidden(agreed_homes: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Server]:
    """Serve copies of such homes by a server that a test may have cheat."""
    process.host()

    def serve(aggregation: str) -> Server:
        folder = Path(shutil.copytree(agreed_homes(aggregation), tmp_path / aggregation))
        homes = {client: Home(folder / f"home-{client}") for client in ALL}
        return Server(homes, compose([*AGREED, f"aggregation={aggregation}"], build=False))

    return serve


def changed(home: Home, **keys: Any) -> None:
    content = yaml.safe_load(home.policy_file.read_text()) | keys
    home.policy_file.write_text(yaml.safe_dump(content))


def sealed(server: Server) -> None:
    """Make the patients' files unreadable to whoever opens them."""
    for home in server.homes.values():
        for path in home.data.iterdir():
            path.write_bytes(b"opened")
