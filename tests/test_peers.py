"""The others in a sum, as a hospital's policy knows them: their keys, and how many they are."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hidden_server import AGREED, Server, agreed_homes, changed, introduce, sealed, serve_hidden  # noqa: F401 (fixtures)
from hospitals import make_home

from fedmed.cli import hospital
from fedmed.config import compose
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.deployment import peers
from fedmed.deployment.home import Home
from fedmed.deployment.node import command
from fedmed.deployment.policy import Policy, Refused
from fedmed.federation.messages import (
    AGGREGATE,
    DESCRIBE,
    TaskSpec,
)
from fedmed.flower import process
from fedmed.record.signatures import make_key


@pytest.fixture
def server(serve_hidden: Callable[[str], Server]) -> Server:
    return serve_hidden("secagg")


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


def test_keys_are_entered_into_a_policy_and_its_words_stay(
    agreed_homes: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = agreed_homes("secagg")
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


def test_a_cohort_is_counted_by_the_hospital_itself(store: Path, tmp_path: Path) -> None:
    """The task says four, the policy wants four, and the server asks three."""
    process.host()
    agreed = [*AGREED, "aggregation=secagg", "partition.clients=4"]
    agreed += ["strategy.server.min_train_nodes=4", "strategy.server.min_available_nodes=4"]
    agreed += [f"store={store}"]
    homes = {c: make_home(tmp_path / f"home-{c}", agreed, c) for c in range(4)}
    introduce(homes, tmp_path / "keys")
    assert Policy.read(homes[0].policy_file).cohort == 4
    server = Server(homes, compose(agreed, build=False))
    three, four = server.session(), server.session(members=(0, 1, 2, 3))
    with pytest.raises(Refused, match="aggregation"):
        server.collector(three).prepare(server.ask(three))
    assert "takes part in none below 4" in server.refused(0)
    assert server.collector(four).prepare(server.ask(four))
