"""Sums that hide updates between hospitals: three homes, and a server that tries to see more."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from flwr.app import ConfigRecord, RecordDict
from hidden_server import (  # noqa: F401 (fixtures)
    AGREED,
    ALL,
    Server,
    agreed_homes,
    changed,
    introduce,
    sealed,
    serve_hidden,
)
from hospitals import make_home

from fedmed.aggregation.secagg.state import ClientState
from fedmed.config import compose
from fedmed.deployment import node_data
from fedmed.deployment.home import Home
from fedmed.deployment.policy import Policy, Refused
from fedmed.federation.messages import (
    CONFIG,
    NOISE,
    SIGNATURE,
    STEP,
    unpacked,
)
from fedmed.federation.summation import ATTEMPT, MEMBERS, TOGETHER, heading_of
from fedmed.flower import process
from fedmed.privacy.budget import planned
from fedmed.record import hashes, signatures
from fedmed.record.signatures import Signer


@pytest.fixture
def server(serve_hidden: Callable[[str], Server]) -> Server:
    return serve_hidden("secagg")


def test_what_was_agreed_is_answered_and_the_sum_is_the_open_one(
    serve_hidden: Callable[[str], Server],
) -> None:
    plain = serve_hidden("fixed")
    wanted = plain.total(plain.session())
    assert np.any(wanted)
    for aggregation in ("secagg", "bfv"):
        server = serve_hidden(aggregation)
        assert Policy.read(server.homes[0].policy_file).hidden_updates
        assert np.array_equal(server.total(server.session()), wanted)
        assert [server.trainings(client) for client in ALL] == [1, 1, 1]


@pytest.mark.parametrize("aggregation", ["secagg", "bfv"])
def test_no_secret_is_in_what_the_server_was_sent(
    serve_hidden: Callable[[str], Server], aggregation: str
) -> None:
    server = serve_hidden(aggregation)
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


def test_a_key_that_another_made_encrypts_nothing(
    serve_hidden: Callable[[str], Server], keys: Path
) -> None:
    """Under encryption the server in the middle would hand out a key of its own."""
    server = serve_hidden("bfv")
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
    introduce(homes, tmp_path / "keys")
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
