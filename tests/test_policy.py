"""A hostile server against a hospital: what its policy refuses, before data are opened."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from conftest import TINY
from flwr.app import ConfigRecord, Context, Message, RecordDict
from hospitals import make_home

from fedmed import models
from fedmed.client.app import app
from fedmed.client.redaction import RedactedError
from fedmed.config import Config, compose, wire
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.deployment import node_data
from fedmed.deployment.home import Home
from fedmed.deployment.policy import Policy, Refused
from fedmed.engines.deployment import check_key
from fedmed.federation.messages import (
    ARRAYS,
    CHALLENGE,
    CONFIG,
    DESCRIBE,
    METRICS,
    NODE_REPORT,
    NOISE,
    RunContext,
    TaskSpec,
)
from fedmed.flower import process
from fedmed.privacy.budget import planned
from fedmed.record.signatures import of_report

AGREED = (
    *TINY,
    "client.steps=2",
    "privacy=dpsgd",
    "privacy.unit=patient",
    "privacy.noise_multiplier=4.0",
    "privacy.secure_noise=true",
)
BUDGET: dict[str, Any] = {"epsilon": 20.0, "lifetime": 60.0}


@dataclass
class Server:
    """A server that sends what it likes to one hospital, as a SuperNode hands it on."""

    home: Home
    config: Config

    def __post_init__(self) -> None:
        units = len(node_data.trained_on(self.home.data))
        self.due = [event.noise_multiplier for event in planned(self.config, [units] * 2)]

    def ask(
        self,
        kind: str = "train",
        text: str | None = None,
        digest: str | None = None,
        noise: Any = None,
        round_: int = 1,
        client: int = 0,
        number: int = 0,
        home: str | None = "",
        challenge: str | None = None,
    ) -> RecordDict:
        """Send a message; what is not given is as agreed."""
        text = text if text is not None else wire.dumps(self.config)
        run = RunContext(text, digest or wire.sha256(text), "cpu", "/", "/etc/passwd", "/", "/")
        spec = TaskSpec(client, round_, -1, -1, run)
        network = models.build(self.config.model, self.config.seed, self.config.norm)
        content = RecordDict(
            {**spec.records(), ARRAYS: models.to_record(models.arrays_of(network))}
        )
        told = self.due if noise is None else noise
        content[CONFIG] = ConfigRecord({NOISE: told} if told is not False else {})
        if challenge:
            content[CHALLENGE] = ConfigRecord({"nonce": challenge})
        own: dict[str, Any] = {"partition-id": number}
        own |= {} if home is None else {"home": home or str(self.home.path)}
        context = Context(1, 1, own, RecordDict(), {})
        return app(Message(content, 1, kind), context).content

    def asks_for(self, *overrides: str, **more: Any) -> RecordDict:
        """Send a message about another task than was agreed on."""
        return self.ask(text=wire.dumps(compose([*AGREED, *overrides], build=False)), **more)


@pytest.fixture
def server(tmp_path: Path, store: Path) -> Server:
    process.host()
    agreed = [*AGREED, f"store={store}"]
    return Server(make_home(tmp_path / "home", agreed, **BUDGET), compose(agreed))


def edited(server: Server, change: Callable[[dict[str, Any]], object]) -> str:
    """Return the agreed task's text with a change that no configuration could make."""
    content = json.loads(wire.dumps(server.config))
    change(content["task"])
    return json.dumps(content, separators=(",", ":"))


def sealed(home: Home) -> None:
    """Make the patients' files unreadable to whoever opens them: a refusal must come before."""
    for path in home.data.iterdir():
        path.write_bytes(b"opened")


def test_what_was_agreed_is_answered(server: Server) -> None:
    """The control: without it all refusals below would prove nothing."""
    report = server.ask(DESCRIBE).config_records[NODE_REPORT]
    assert report["client"] == 0
    reply = server.ask()
    assert METRICS in reply
    assert "loss" not in reply.metric_records[METRICS]
    assert len(server.home.lifetime.runs(1e-5)) == 1
    assert server.asks_for("seed=9")  # may differ, as the policy says


CODE = "/tmp/fedmed-executed-by-a-hospital"
#: What a server may ask for beyond what was agreed, and the part of the policy that refuses it.
OTHER_TASKS = {
    "less noise": (["privacy.noise_multiplier=0.1"], "privacy.noise_multiplier"),
    "no noise": (["privacy.noise_multiplier=0"], "privacy.noise_multiplier"),
    "seeded noise": (["privacy.secure_noise=false"], "privacy.secure_noise"),
    "image as the unit": (["privacy.unit=image"], "privacy.unit"),
    "a larger δ": (["privacy.delta=0.5"], "privacy.delta"),
    "looser clipping": (["privacy.clip_norm=1000"], "privacy.clip_norm"),
    "scores told": (["privacy.release_metrics=true"], "privacy.release_metrics"),
    "an ε of its own": (["privacy.epsilon=50"], "privacy.epsilon"),
    "more rounds": (["rounds=100000"], "rounds"),
    "more steps": (["client.steps=500"], "client.steps"),
    "every patient at each step": (["client.batch_size=100000"], "client.batch_size"),
    "another target": (["dataset.targets=[Effusion,sex]"], "dataset.targets"),
    "another network": (["model=resnet18"], "model.network"),
    "another strategy": (["strategy=fedprox"], "strategy"),
    "parameters that stay": (["strategy.state=[features.*]"], "strategy.state"),
    "another protocol": (["protocol=cyclic"], "protocol"),
    "uniform weights": (["strategy.weighting=uniform"], "strategy.weighting"),
    "a learning rate": (["client.lr=0.5"], "client.lr"),
    "a hospital that fails": (["faults.inject=[{kind:raise}]"], "faults.inject"),
    "a hospital that sleeps": (["faults.inject=[{kind:slow,seconds:9e9}]"], "faults.inject"),
    "capped images": (["privacy.images_per_patient=1"], "privacy.images_per_patient"),
    "no augmentation": (["augment=none"], "client.augment"),
}


@pytest.mark.parametrize("name", OTHER_TASKS)
def test_another_task_is_refused(server: Server, name: str) -> None:
    overrides, kind = OTHER_TASKS[name]
    sealed(server.home)
    with pytest.raises(Refused, match=rf"policy refuses this: {kind}") as told:
        server.asks_for(*overrides)
    assert str(server.home.path) not in str(told.value)  # what the server is told
    assert kind in (server.home.path / "refused.log").read_text()
    assert (server.home.path / "lifetime.jsonl").read_bytes() == b""


def _names(where: str) -> Callable[[dict[str, Any]], object]:
    return lambda task: task[where].update(_target_="trojan.Trojan")


def _hook(**node: Any) -> Callable[[dict[str, Any]], object]:
    return lambda task: task["strategy"].update(local=node)


STATEMENT = f"open({CODE!r},'a')"
#: Tasks that no configuration makes, by what is changed in their text.
EDITED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "code as a hook": (_hook(_target_="os.system", command=f"touch {CODE}"), "strategy.local"),
    "code within a list": (
        lambda task: task["strategy"].update(local=[{"_target_": "os.abort"}]),
        "strategy.local",
    ),
    "code as the network": (
        lambda task: task["model"].update(network={"_target_": "timeit.timeit", "stmt": STATEMENT}),
        "model.network",
    ),
    "code within the network": (
        lambda task: task["model"]["network"].update(norm={"_target_": "os.abort"}),
        "model.network.norm",
    ),
    "code named by another's argument": (
        lambda task: task["model"]["network"].update(of="timeit.timeit"),
        "model.network.of",
    ),
    "code as the server's strategy": (
        lambda task: task["strategy"].update(server={"_target_": "os.abort"}),
        "strategy.server",
    ),
    "code as the protocol": (
        lambda task: task.update(protocol={"_target_": "os.abort"}),
        "protocol",
    ),
    "a file of the hospital as weights": (
        lambda task: task["model"].update(weights={"$path": "/etc/hostname.safetensors"}),
        "model.weights",
    ),
    "the environment": (
        lambda task: task["dataset"].update(targets=["${oc.env:HOME}"]),
        "dataset.targets",
    ),
    "privacy off": (lambda task: task.update(privacy={"mechanism": "none"}), "privacy"),
    "a hospital that dies": (
        lambda task: task["faults"].update(inject={"$tuple": [{"kind": "kill"}]}),
        "",
    ),
    "a key that is written twice, nested and with a dot": (
        lambda task: task["strategy"].update(
            {f"server.{key}": value for key, value in task["strategy"]["server"].items()},
            server=dict(task["strategy"]["server"], _target_="os.system", fraction_train=0.5),
        ),
        "strategy.server",
    ),
    "true for 1": (
        lambda task: task["model"]["network"].update(in_channels=True),
        "model.network.in_channels",
    ),
    "a seed that is no number": (lambda task: task.update(seed="0"), ""),
    "a key of its own": (lambda task: task.update(searchpath="file:///srv"), ""),
}


@pytest.mark.parametrize("name", EDITED)
def test_a_task_that_was_made_by_hand_is_refused(server: Server, name: str) -> None:
    change, kind = EDITED[name]
    sealed(server.home)
    with pytest.raises((Refused, ConfigError)) as told:
        server.ask(text=edited(server, change))
    assert kind in str(told.value)
    assert not Path(CODE).exists()


def test_a_module_is_not_even_imported(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trojan.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for where in ("dataset", "partition"):  # which no client builds
        text = edited(server, _names(where))
        assert server.ask(DESCRIBE, text=text)
    for kind in (DESCRIBE, "train", "evaluate"):
        with pytest.raises(Refused):
            server.ask(kind, text=edited(server, _hook(_target_="trojan.Trojan")))


MESSAGES: dict[str, tuple[dict[str, Any], str]] = {
    "noise 0 in the message": ({"noise": [0.0, 0.0]}, "noise"),
    "no noise in the message": ({"noise": False}, "noise"),
    "noise for somebody else": ({"noise": []}, "noise"),
    "noise that is none": ({"noise": ["much"]}, "noise"),
    "a round that is too late": ({"round_": 99999}, "round"),
    "a round before the first": ({"round_": 0}, "round"),
    "scores that are withheld": ({"kind": "evaluate"}, "metrics"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_that_says_other_than_the_task_is_refused(server: Server, name: str) -> None:
    message, kind = MESSAGES[name]
    with pytest.raises(Refused, match=f"refuses this: {kind}"):
        server.ask(**message)
    assert not server.home.lifetime.runs(1e-5)


def test_a_message_for_another_hospital_is_refused(server: Server) -> None:
    with pytest.raises(RedactedError) as told:
        server.ask(client=1)
    assert "client 1 came to client 0" in str(told.value.__cause__)
    with pytest.raises(Refused, match="client"):  # a node that was started with another number
        server.ask(client=1, number=1)
    with pytest.raises(wire.WireError):
        server.ask(digest="0" * 64)


def test_without_a_policy_a_node_answers_nothing(server: Server) -> None:
    """Neither by the server's paths, nor where the policy is gone or has an unknown word."""
    for kind in (DESCRIBE, "train", "evaluate"):
        with pytest.raises(RedactedError) as told:
            server.ask(kind, home=None)
        assert "has no home" in str(told.value.__cause__)
    policy = server.home.policy_file.read_text()
    server.home.policy_file.write_text(policy + "\nsecret_nose: true\n")
    with pytest.raises(RedactedError) as told:
        server.ask()
    assert "secret_nose" in str(told.value.__cause__)
    server.home.policy_file.unlink()
    with pytest.raises(RedactedError) as told:
        server.ask()
    assert "fedmed hospital init" in str(told.value.__cause__)


def changed(server: Server, **keys: Any) -> Policy:
    """Return the policy with other values, dotted by two underscores."""
    content = yaml.safe_load(server.home.policy_file.read_text())
    for key, value in keys.items():
        *above, last = key.split("__")
        node = content
        for name in above:
            node = node[name]
        node[last] = value
    server.home.policy_file.write_text(yaml.safe_dump(content))
    return Policy.read(server.home.policy_file)


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ({"rounds": 2}, "rounds"),
        ({"cohort": 2}, "cohort"),
        ({"hidden_updates": True}, "hidden_updates"),
        ({"privacy__noise_multiplier": 5.0}, "privacy.noise_multiplier"),
        ({"privacy__delta": 1e-12}, "privacy.delta"),
        ({"privacy__epsilon": 1e-3}, "privacy.epsilon"),
        ({"privacy__epsilon": 1e-3, "privacy__lifetime": 1e-3}, "privacy.epsilon"),
        ({"experiments": {}}, "experiments"),
    ],
)
def test_bounds_hold_whatever_was_agreed(server: Server, keys: dict[str, Any], kind: str) -> None:
    changed(server, **keys)
    with pytest.raises(Refused, match=f"refuses this: {kind}"):
        server.ask()


def test_what_may_differ_is_a_number_in_its_range_and_nothing_else(server: Server) -> None:
    free = {"seed": "any", "client.lr": {"max": 0.1}, "client.optimizer": ["adam", "sgd"]}
    changed(server, experiments__first__may_differ=free | {"model.network._target_": "any"})
    assert server.asks_for("client.lr=0.05")
    assert server.asks_for("client.optimizer=sgd")
    for overrides, kind in (
        (["client.lr=0.2"], "client.lr"),
        (["client.optimizer=adamw"], "client.optimizer"),
        (["model=resnet18"], "model.network"),
    ):
        with pytest.raises(Refused, match=kind):
            server.asks_for(*overrides)


def test_hashes_confirm_nobody(server: Server, tmp_path: Path, store: Path) -> None:
    """Whoever has the same patients, and asks two hospitals, gets three hashes."""
    twin = make_home(tmp_path / "twin", [*AGREED, f"store={store}"], **BUDGET)
    mine = server.ask(DESCRIBE).config_records[NODE_REPORT]
    theirs = Server(twin, server.config).ask(DESCRIBE).config_records[NODE_REPORT]
    plain = node_data.describe(twin.data, (), str)
    for name in ("data_sha256", "table_sha256", "pixels_sha256", "partition_sha256"):
        assert len({mine[name], theirs[name], plain[name]}) == 3
    assert mine["patients"] == theirs["patients"]
    assert server.ask(DESCRIBE).config_records[NODE_REPORT]["data_sha256"] == mine["data_sha256"]


def test_a_number_is_its_keys(server: Server, tmp_path: Path, store: Path) -> None:
    """No other registered hospital, no answer to an earlier question, and no other report."""
    other = make_home(tmp_path / "other", [*AGREED, f"store={store}"], **BUDGET)
    keys = tmp_path / "keys"
    keys.mkdir()
    shutil.copyfile(f"{server.home.record_key}.pub", keys / "hospital-0.pub")
    task = wire.sha256(wire.dumps(server.config))
    mine = server.ask(DESCRIBE, challenge="ab")
    report = dict(mine.config_records[NODE_REPORT])
    check_key(keys, 0, mine, of_report(task, "ab", report))
    stolen = Server(other, server.config).ask(DESCRIBE, challenge="ab")
    for content, statement in (
        (stolen, of_report(task, "ab", dict(stolen.config_records[NODE_REPORT]))),
        (mine, of_report(task, "cd", report)),
        (mine, of_report(task, "ab", {**report, "train_patients": 1})),
        (server.ask(DESCRIBE), of_report(task, "ab", report)),
    ):
        with pytest.raises(FedmedError, match="does not have its key"):
            check_key(keys, 0, content, statement)
    with pytest.raises(FedmedError, match=r"hospital-1\.pub: cannot be read"):
        check_key(keys, 1, mine, of_report(task, "ab", report))


def test_a_home_is_its_owners_alone_and_names_no_patient(server: Server) -> None:
    server.ask()
    inside = [path.relative_to(server.home.path) for path in server.home.path.rglob("*")]
    assert {path.parts[0] for path in inside} <= {
        *("ca.crt", "data", "lifetime.jsonl", "lifetime.lock", "node.key", "node.key.pub"),
        *("policy.yaml", "record.key", "record.key.pub", "refused.log", "secret.key", "states"),
        "trial.crt",
    }
    for secret in ("secret.key", "node.key", "record.key", "policy.yaml"):
        assert (server.home.path / secret).stat().st_mode & 0o077 == 0
    assert server.home.path.stat().st_mode & 0o077 == 0
    table = pd.read_parquet(server.home.data / "table.parquet")
    told = (server.home.path / "lifetime.jsonl").read_text()
    assert not [patient for patient in table["patient"].unique() if patient in told]


DEPLOYED = ("runner=deployment", "runner.data=/srv", "runner.clients=2")
PLAIN = tuple(one for one in TINY if not one.startswith("runner."))


def test_a_home_is_not_begun_with_a_policy_that_is_none(tmp_path: Path, store: Path) -> None:
    agreed = [*AGREED, f"store={store}"]
    for limits, said in (
        ({"epsilon": 4.0, "lifetime": 2.0}, "lifetime is less than privacy.epsilon"),
        ({"epsilon": 0.0}, "epsilon: input should be greater than 0"),
        ({"client": -1, "epsilon": 1.0}, "client: input should be greater than or equal to 0"),
        ({}, "the experiment has none: say what a run may spend"),
    ):
        more: dict[str, Any] = limits
        with pytest.raises(ConfigError, match=said):
            make_home(tmp_path / "home", agreed, **more)
        assert not (tmp_path / "home").exists()
        shutil.rmtree(tmp_path / "home-authority")
    with pytest.raises(ConfigError, match=r"model\.weights: cannot read /none\.safetensors"):
        make_home(tmp_path / "home", [*agreed, "model.weights=/none.safetensors"], epsilon=9.0)


def test_noise_that_the_server_can_draw_is_refused_between_hospitals() -> None:
    private = ("privacy=dpsgd", "privacy.noise_multiplier=1")
    for noisy, key in (
        (private, "privacy.secure_noise"),
        (("strategy=dp_fedavg_local",), "strategy.secure_noise"),
        (("strategy=dp_fedavg", "strategy.noise=distributed"), "strategy.secure_noise"),
    ):
        with pytest.raises(ConfigError, match=f"^{key}: under runner=deployment"):
            compose([*PLAIN, *DEPLOYED, *noisy], build=False)
        assert compose([*PLAIN, *DEPLOYED, *noisy, f"{key}=true"], build=False)
        assert compose([*PLAIN, *DEPLOYED, *noisy, "runner.seeded_noise=true"], build=False)
        assert compose([*PLAIN, *noisy])  # a simulation is no secret to anybody
    assert compose([*PLAIN, *DEPLOYED, "strategy=dp_fedavg"], build=False)  # the server's own
