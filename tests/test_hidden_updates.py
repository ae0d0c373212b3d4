"""Sums that hide updates between hospitals: three homes, and a server that tries to see more."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import TINY
from flwr.app import Array, ConfigRecord, Context, Message, RecordDict
from hospitals import make_home

from fedmed import models
from fedmed.aggregation.base import Collector, Fields, IntegerSum, Session, Take
from fedmed.aggregation.codec import Integers
from fedmed.aggregation.secagg.state import ClientState
from fedmed.cli import hospital
from fedmed.client.app import app
from fedmed.config import Config, compose, wire
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.deployment import node_data, peers
from fedmed.deployment.home import Home
from fedmed.deployment.node import command
from fedmed.deployment.policy import Policy, Refused
from fedmed.federation.messages import (
    AGGREGATE,
    ARRAYS,
    CONFIG,
    DESCRIBE,
    NOISE,
    PAYLOAD,
    SIGNATURE,
    STEP,
    RunContext,
    TaskSpec,
    packed,
    unpacked,
)
from fedmed.federation.summands import Plan, plan_of
from fedmed.federation.summation import ATTEMPT, MEMBERS, TOGETHER, heading_of
from fedmed.flower import process
from fedmed.flower.arrays import decoded
from fedmed.privacy.budget import planned
from fedmed.record import hashes, signatures
from fedmed.record.signatures import Signer, make_key

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


def _known(homes: Mapping[int, Home], folder: Path) -> None:
    """Have each home know the others, by a folder as the server has one."""
    folder.mkdir()
    for client, home in homes.items():
        shutil.copyfile(f"{home.record_key}.pub", folder / f"hospital-{client}.pub")
    for home in homes.values():
        peers.enter(home, peers.read(folder))


@pytest.fixture(scope="module")
def made(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make three homes that have agreed on an aggregation, once, not to be changed."""
    done: dict[str, Path] = {}

    def made(aggregation: str) -> Path:
        if aggregation not in done:
            folder = tmp_path_factory.mktemp(aggregation)
            agreed = [*AGREED, f"aggregation={aggregation}", f"store={store}"]
            homes = {c: make_home(folder / f"home-{c}", agreed, c) for c in ALL}
            _known(homes, folder / "keys")
            done[aggregation] = folder
        return done[aggregation]

    return made


@pytest.fixture
def serve(made: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Server]:
    process.host()

    def serve(aggregation: str) -> Server:
        folder = Path(shutil.copytree(made(aggregation), tmp_path / aggregation))
        homes = {client: Home(folder / f"home-{client}") for client in ALL}
        return Server(homes, compose([*AGREED, f"aggregation={aggregation}"], build=False))

    return serve


@pytest.fixture
def server(serve: Callable[[str], Server]) -> Server:
    return serve("secagg")


def changed(home: Home, **keys: Any) -> None:
    content = yaml.safe_load(home.policy_file.read_text()) | keys
    home.policy_file.write_text(yaml.safe_dump(content))


def sealed(server: Server) -> None:
    """Make the patients' files unreadable to whoever opens them."""
    for home in server.homes.values():
        for path in home.data.iterdir():
            path.write_bytes(b"opened")


def test_what_was_agreed_is_answered_and_the_sum_is_the_open_one(
    serve: Callable[[str], Server],
) -> None:
    plain = serve("fixed")
    wanted = plain.total(plain.session())
    assert np.any(wanted)
    for aggregation in ("secagg", "bfv"):
        server = serve(aggregation)
        assert Policy.read(server.homes[0].policy_file).hidden_updates
        assert np.array_equal(server.total(server.session()), wanted)
        assert [server.trainings(client) for client in ALL] == [1, 1, 1]


@pytest.mark.parametrize("aggregation", ["secagg", "bfv"])
def test_no_secret_is_in_what_the_server_was_sent(
    serve: Callable[[str], Server], aggregation: str
) -> None:
    server = serve(aggregation)
    session = server.session()
    server.total(session)
    seen = b"\n".join(server.seen)
    assert server.kept
    secrets: set[bytes] = set()
    for kept in server.kept:
        if aggregation == "secagg":
            state = ClientState.from_bytes(kept)
            secrets |= {*state.secrets}
            assert state.secrets.announced() in seen  # the search finds what is there
        else:
            public = next(one for one in server.seen if len(one) > 10_000)
            own = kept[len(session.name) // 2 :]
            pieces = {own[at : at + 32] for at in range(0, len(own) - 32, 32)}
            secrets |= {piece for piece in pieces if piece not in public}
            assert secrets
    for secret in secrets:
        for form in (secret, secret.hex().encode()):
            assert form not in seen


#: Steps behind the first, and what could be told of them.
LATER: dict[str, dict[str, Any]] = {
    "shares": {"members": [0, 1, 2], "announcements": [b""] * 3, "signatures": [b""] * 3},
    "consent": {"survivors": [0, 1, 2]},
    "reveal": {"signers": [0, 1, 2], "signatures": [b""] * 3},
}


@pytest.mark.parametrize("step", LATER)
def test_a_step_that_is_not_due_is_refused(server: Server, step: str) -> None:
    sealed(server)
    session = server.session()
    for begun in (False, True):
        if begun:
            server.step(session, "keys", 0, {})
        with pytest.raises(Refused, match=r"refuses this: aggregation$"):
            server.step(session, step, 0, LATER[step])
    assert "aggregation: " in server.refused(0)
    for other in ("mask", "generate", "read", "to_bytes", ""):
        with pytest.raises(Refused, match="aggregation"):
            server.step(session, other, 0, {})


def test_two_lists_of_survivors_are_not_answered(server: Server) -> None:
    session = server.session()
    server.masked(session)
    server.step(session, "consent", 0, {"survivors": [0, 1, 2]})
    for survivors in ([0, 1, 2], [0, 1], [0, 2]):
        with pytest.raises(Refused, match="aggregation"):
            server.step(session, "consent", 0, {"survivors": survivors})
    for survivors in ([1, 2], [0, 1], [0, 1, 2, 3]):  # without it, too few, one of its own
        with pytest.raises(Refused, match="aggregation"):
            server.step(session, "consent", 1, {"survivors": survivors})


def test_shares_are_told_once_and_by_the_consent_of_known_hospitals(
    server: Server, keys: Path
) -> None:
    session = server.session()
    server.masked(session)
    told = {"survivors": [0, 1, 2]}
    signed = [
        unpacked_of(server.step(session, "consent", client, told))["signature"] for client in ALL
    ]
    own = bytes.fromhex(Signer(keys / "stranger").sign({"survivors": [0, 1, 2]}))
    for bad in ([signed[0], signed[1], own], [signed[0], signed[1], b""], [signed[0]] * 3):
        with pytest.raises(Refused, match="aggregation"):
            server.step(session, "reveal", 0, {"signers": [0, 1, 2], "signatures": bad})
    consents = {"signers": [0, 1, 2], "signatures": signed}
    assert server.step(session, "reveal", 0, consents)
    with pytest.raises(Refused, match="aggregation"):
        server.step(session, "reveal", 0, consents)


def unpacked_of(reply: RecordDict) -> dict[str, Any]:
    return unpacked(RecordDict({name: one for name, one in reply.items() if name != SIGNATURE}))


def test_another_attempt_takes_the_place_of_one_that_was_masked(server: Server) -> None:
    first, second = server.session(b"1" * 16), server.session(b"2" * 16)
    masked = server.masked(first)
    before = server.homes[0].states / "secret-00000.bin"
    old = before.read_bytes()
    collector = server.masked(second)
    secrets = [ClientState.from_bytes(kept).secrets for kept in (old, before.read_bytes())]
    assert not {*secrets[0]} & {*secrets[1]}
    with pytest.raises(Refused, match="aggregation"):
        masked.open(server.ask(first))
    assert collector.open(server.ask(second)).any()
    assert server.trainings(0) == 2  # each is another release
    assert not before.exists()


def test_who_is_not_who_the_policy_names_is_refused(server: Server, keys: Path) -> None:
    """A server in the middle: its own keys in the place of a hospital's, however it signs them."""
    sealed(server)
    stranger, other = Signer(keys / "stranger"), server.session(b"o" * 16)
    theirs = unpacked_of(server.step(other, "keys", 2, {}))

    def unsigned(step: str, client: int, told: dict[str, Any]) -> None:
        if step == "shares" and client == 0:
            told["signatures"] = [*told["signatures"][:2], b""]

    def replaced(step: str, client: int, told: dict[str, Any]) -> None:
        if step == "shares" and client == 0:
            own = bytes(range(96))
            signature = bytes.fromhex(stranger.sign({"announcement": own.hex()}))
            told["announcements"] = [*told["announcements"][:2], own]
            told["signatures"] = [*told["signatures"][:2], signature]

    def kept(step: str, client: int, told: dict[str, Any]) -> None:
        if step == "shares" and client == 0:  # a hospital's own, of another attempt
            told["announcements"] = [*told["announcements"][:2], theirs["announcement"]]
            told["signatures"] = [*told["signatures"][:2], theirs["signature"]]

    def fewer(step: str, client: int, told: dict[str, Any]) -> None:
        if step == "shares" and client == 0:
            for key in ("members", "announcements", "signatures"):
                told[key] = told[key][:2]

    for tamper in (unsigned, replaced, kept, fewer):
        session = server.session()
        with pytest.raises(Refused, match="aggregation"):
            server.collector(session).prepare(server.ask(session, tamper))
    known = Policy.read(server.homes[0].policy_file).peers
    changed(server.homes[0], peers={**known, 2: stranger.public})  # not the hospital that answers
    with pytest.raises(Refused, match="aggregation"):
        server.collector(session).prepare(server.ask(session))
    assert [server.trainings(client) for client in ALL] == [0, 0, 0]


def test_members_are_those_that_the_attempt_began_with(server: Server) -> None:
    """All that is signed names the list that the signer was told, and a training must fit it."""
    more = server.session(members=(0, 1, 2, 3))

    def other(step: str, client: int, told: dict[str, Any]) -> None:
        if step == "shares" and client == 0:
            told[MEMBERS] = list(more.members)

    session = server.session()
    with pytest.raises(Refused, match="aggregation"):
        server.collector(session).prepare(server.ask(session, other))
    told = server.collector(session).prepare(server.ask(session))[0]
    for bad in (more, server.session(members=(0, 1)), server.session(b"b" * 16)):
        with pytest.raises(Refused, match="aggregation"):
            server.train(0, {**server.heading(bad), **told})
    assert server.train(0, {**server.heading(session), **told})


def test_an_order_that_tells_no_sound_sum_is_refused_before_it_is_paid_for(server: Server) -> None:
    sealed(server)
    session = server.session()
    sound = server.heading(session)
    orders: list[dict[str, Any] | None] = [
        None,
        {},
        {key: value for key, value in sound.items() if key != TOGETHER},
        {**sound, ATTEMPT: b"short"},
        {**sound, MEMBERS: [1, 2, 3]},
        {**sound, MEMBERS: [0, 0, 1]},
        *({**sound, TOGETHER: n} for n in (-1, 1, 1 << 60, 0.0, True, "0")),
    ]
    for order in orders:
        with pytest.raises(Refused, match=r"refuses this: aggregation$"):
            server.train(0, order)
    for round_ in (0, 99999):
        with pytest.raises(Refused, match="round"):
            server.train(0, sound, round_)
        with pytest.raises(Refused, match="round"):
            server.step(session, "keys", 0, {}, round_)
    assert server.trainings(0) == 0


def test_a_step_of_a_task_that_was_not_agreed_on_is_refused(server: Server) -> None:
    for overrides, kind in (
        (["aggregation=fixed"], "aggregation"),
        (["aggregation=secagg", "aggregation.threshold=0.5"], "aggregation.threshold"),
        (["aggregation=secagg", "aggregation.range=0.001"], "aggregation.range"),
        (["aggregation=bfv"], "aggregation"),
        (["aggregation=secagg", "client.lr=0.5"], "client.lr"),
    ):
        other = Server(server.homes, compose([*AGREED, *overrides], build=False))
        with pytest.raises(Refused, match=kind):
            other.step(other.session(), "keys", 0, {})


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({}, "take the keys of 3 hospitals"),
        ({1: "ab" * 32, 2: "cd" * 32, 3: "ef" * 32}, "take the keys of 3 hospitals"),
        ({0: "ab" * 32, 1: "cd" * 32, 2: "ef" * 32}, "another key is there for client 0"),
        (None, "take the keys of 3 hospitals"),
    ],
)
def test_a_policy_without_sound_peers_hides_nothing_and_is_refused(
    server: Server, known: dict[int, str] | None, said: str
) -> None:
    home = server.homes[0]
    if known is None:  # itself and one other: a sum of two hides neither from the other
        own = Policy.read(home.policy_file).peers
        known = {client: own[client] for client in (0, 1)}
    changed(home, peers=known)
    sealed(server)
    with pytest.raises(FedmedError, match=f"peers: .*{said}"):
        command(Home.opened(home.path))
    spec = TaskSpec(0, 1, -1, -1, server.run)
    for kind in (DESCRIBE, AGGREGATE, "train", "evaluate"):
        with pytest.raises(Refused, match="refuses this: peers"):
            server.send(0, kind, server.sent, spec)
    changed(home, hidden_updates=False)  # the task itself is one that hides them
    with pytest.raises(Refused, match="refuses this: peers"):
        server.step(server.session(), "keys", 0, {})
    assert said in server.refused(0)


def test_a_cohort_is_counted_by_the_hospital_itself(store: Path, tmp_path: Path) -> None:
    """The task says four, the policy wants four, and the server asks three."""
    process.host()
    agreed = [*AGREED, "aggregation=secagg", "partition.clients=4"]
    agreed += ["strategy.server.min_train_nodes=4", "strategy.server.min_available_nodes=4"]
    agreed += [f"store={store}"]
    homes = {c: make_home(tmp_path / f"home-{c}", agreed, c) for c in range(4)}
    _known(homes, tmp_path / "keys")
    assert Policy.read(homes[0].policy_file).cohort == 4
    server = Server(homes, compose(agreed, build=False))
    three, four = server.session(), server.session(members=(0, 1, 2, 3))
    with pytest.raises(Refused, match="aggregation"):
        server.collector(three).prepare(server.ask(three))
    assert "takes part in none below 4" in server.refused(0)
    assert server.collector(four).prepare(server.ask(four))


def test_a_key_that_another_made_encrypts_nothing(
    serve: Callable[[str], Server], keys: Path
) -> None:
    """Under encryption the server in the middle would hand out a key of its own."""
    server = serve("bfv")
    session = server.session()
    told = dict(server.collector(session).prepare(server.ask(session))[1])
    other = server.session(b"b" * 16)
    stale = dict(server.collector(other).prepare(server.ask(other))[1])
    server.collector(session).prepare(server.ask(session))
    for bad in ({**told, "signature": ""}, {**stale, "signature": told["signature"]}, stale):
        with pytest.raises(Refused, match="aggregation"):
            server.train(1, {**server.heading(session), **bad})
    for step in ("generate", "read"):
        with pytest.raises(Refused, match="aggregation"):
            server.step(session, step, 1, {})
    told_read = {"size": 1, "width": 20, "clients": 2, "total": np.zeros(8, np.uint8)}
    with pytest.raises(Refused, match="aggregation"):  # of fewer than a sum hides
        server.step(session, "read", 0, told_read)
    with pytest.raises(Refused, match="aggregation"):  # whose key has been spent by the try
        server.step(session, "read", 0, told_read)


def test_a_patient_is_paid_for_before_she_is_masked(store: Path, tmp_path: Path) -> None:
    """Two trainings are what the lifetime has; a third attempt at a sum finds nothing left."""
    process.host()
    private = ["privacy=dpsgd", "privacy.unit=patient", "privacy.noise_multiplier=1.0"]
    agreed = [*AGREED, "aggregation=secagg", *private, "privacy.secure_noise=true"]
    agreed += [f"store={store}", "aggregation.range=8"]
    homes = {
        c: make_home(tmp_path / f"home-{c}", agreed, c, epsilon=50.0, lifetime=50.0) for c in ALL
    }
    _known(homes, tmp_path / "keys")
    server = PrivateServer(homes, compose(agreed, build=False))
    server.total(server.session(b"1" * 16))
    spent = homes[0].lifetime.epsilon(1e-5)
    assert spent > 0
    changed(homes[0], privacy={**_privacy(homes[0]), "epsilon": spent, "lifetime": spent})
    again = server.session(b"2" * 16)
    told = server.collector(again).prepare(server.ask(again))[0]
    sealed_before = (homes[0].states / "secret-00000.bin").read_bytes()
    with pytest.raises(Refused, match="privacy"):
        server.train(0, {**server.heading(again), **told})
    assert (homes[0].states / "secret-00000.bin").read_bytes() == sealed_before  # nothing masked
    assert server.trainings(0) == 1


def _privacy(home: Home) -> dict[str, Any]:
    return dict(yaml.safe_load(home.policy_file.read_text())["privacy"])


class PrivateServer(Server):
    """One that also tells which noise is due."""

    def __post_init__(self) -> None:
        super().__post_init__()
        units = len(node_data.trained_on(self.homes[0].data))
        due = [one.noise_multiplier for one in planned(self.config, [units] * len(self.homes))]
        self.sent[CONFIG] = ConfigRecord({NOISE: due})


def test_each_step_bears_its_hospitals_signature(server: Server) -> None:
    session = server.session()
    told = ConfigRecord({**heading_of(session), STEP: "keys"})
    reply = server.step(session, "keys", 1, {})
    signed = reply.config_records[SIGNATURE]
    returned = hashes.of_content(
        RecordDict({name: one for name, one in reply.items() if name != SIGNATURE})
    )
    given = [hashes.of_told(told)]
    statement = signatures.of_exchange(session.run, 1, 1, "keys", given, returned)
    assert signatures.holds(str(signed["key"]), str(signed["signature"]), statement)
    assert signed["key"] == server.homes[1].signer.public


def test_keys_are_entered_into_a_policy_and_its_words_stay(
    made: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = made("secagg")
    home = Home(Path(shutil.copytree(source / "home-1", tmp_path / "home")))
    written = home.policy_file.read_text()
    assert "# Who the others are in such a sum" in written
    own = home.signer.public
    for block in (
        "peers: {}\n",
        "peers: {} # ours",
        f"peers:\n  1: {own}\n",
        "peers: {1:\n   null}",
    ):
        head = written[: written.index("\npeers:") + 1]
        home.policy_file.write_text(head + block)
        if "null" in block:  # is no policy
            with pytest.raises(ConfigError, match="peers"):
                peers.enter(home, peers.read(source / "keys"))
            continue
        hospital.main(["peers", str(home.path), str(source / "keys")])
        assert home.policy_file.read_text().replace("peers: # ours", "peers:") == written
        assert home.policy_file.stat().st_mode & 0o077 == 0
    shown = capsys.readouterr().out
    assert f"hospital 1: {own[:8]} {own[8:16]}" in shown
    assert "(this one)" in shown
    home.policy_file.write_text(written)
    make_key(tmp_path / "hospital-1")
    with pytest.raises(FedmedError, match=r"hospital-1\.pub is not this hospital's key"):
        peers.enter(home, peers.read(tmp_path))
    with pytest.raises(FedmedError, match=r"holds no hospital-0\.pub"):
        peers.read(home.path)
    for client in (0, 2):
        shutil.copyfile(source / "keys" / "hospital-0.pub", tmp_path / f"hospital-{client}.pub")
    (tmp_path / "hospital-1.pub").unlink()
    with pytest.raises(ConfigError, match="two hospitals have one key"):
        peers.enter(home, peers.read(tmp_path))
    assert home.policy_file.read_text() == written
