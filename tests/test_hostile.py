"""A hostile server, for real: its own app over a SuperLink, against a hospital's SuperNode."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import TINY
from doors import wait_for
from hospitals import make_home

from fedmed.config import compose, wire
from fedmed.deployment.flower_app import PROJECT
from fedmed.deployment.local_federation import Loopback
from fedmed.deployment.node import command, environment
from fedmed.privacy.accounting import epsilon
from fedmed.privacy.budget import planned

AGREED = (
    *TINY,
    "client.steps=1",
    *("privacy=dpsgd", "privacy.unit=patient", "privacy.noise_multiplier=4.0"),
    "privacy.secure_noise=true",
)
LIMIT = 400.0  # seconds
TRAINED = 86  # patients
#: What the server hands out as the app: code for itself, and code for whoever runs it.
HOSTILE = """
import json
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

app = ServerApp()
client = ClientApp()


@client.train()
def train(message, context):
    Path({executed!r}).write_text(str(context.node_config))
    return Message(RecordDict(), reply_to=message)


@app.main()
def main(grid, context):
    from fedmed import models
    from fedmed.config import compose
    from fedmed.federation.messages import RunContext, TaskSpec

    config = compose({agreed!r})
    network = models.build(config.model, config.seed, config.norm)
    arrays = models.to_record(models.arrays_of(network))
    (node,) = grid.get_node_ids()
    told = {{}}
    for name, one in json.loads(Path({demands!r}).read_text()).items():
        run = RunContext(one["text"], one["digest"], "cpu", "/", "/etc/passwd", "/", "/")
        spec = TaskSpec(0, one["round"], -1, -1, run)
        content = RecordDict({{**spec.records(), "arrays": arrays}})
        content["config"] = ConfigRecord({{"noise-multipliers": one["noise"]}})
        (reply,) = grid.send_and_receive([Message(content, node, one["kind"])])
        failed = reply.has_error()
        told[name] = reply.error.reason if failed else sorted(reply.content)
        Path({told!r}).write_text(json.dumps(told))
    Path({over!r}).touch()
"""


def demand(*more: str, edit: dict[str, Any] | None = None, **message: Any) -> dict[str, Any]:
    """Return a demand as the hostile app sends it."""
    text = wire.dumps(compose([*AGREED, *more], build=False))
    if edit:
        content = json.loads(text)
        content["task"]["strategy"].update(edit)
        text = json.dumps(content, separators=(",", ":"))
    own = {"kind": "train", "round": 1, "noise": [4.0] * 4, "text": text}
    return {**own, "digest": wire.sha256(text), **message}


def hostile_app(folder: Path, demands: dict[str, Any]) -> Path:
    """Write the app of a server that makes demands, and return its folder.

    What hospitals say to it is in ``told.json``, all of it once ``over`` is there; ``executed`` is
    there once its code for them ran.
    """
    (folder / "demands.json").write_text(json.dumps(demands))
    app = folder / "app"
    app.mkdir()
    project = PROJECT.format(version="9.9.9").replace("fedmed.server.app:app", "hostile:app")
    project = project.replace("fedmed.client.app:app", "hostile:client")
    (app / "pyproject.toml").write_text(project.replace('"/README.md"', '"/hostile.py"'))
    paths = {name: str(folder / name) for name in ("executed", "demands.json", "told.json", "over")}
    text = HOSTILE.format(
        executed=paths["executed"],
        agreed=list(AGREED),
        demands=paths["demands.json"],
        told=paths["told.json"],
        over=paths["over"],
    )
    (app / "hostile.py").write_text(text)
    return app


def test_a_hostile_server(tmp_path: Path, store: Path) -> None:
    """Its code does not run at the hospital; of its demands only what was agreed is answered."""
    executed, told = tmp_path / "executed", tmp_path / "told.json"
    demands = {
        "agreed": demand(),
        "less noise": demand("privacy.noise_multiplier=1.0"),
        "noise 0": demand(noise=[0.0] * 4),
        "code": demand(edit={"local": {"_target_": "os.system", "command": f"touch {executed}"}}),
        "scores": demand(kind="evaluate"),
        "too late": demand(round=9),
        "other words": demand(digest="0" * 64),
        "agreed, in another round": demand(round=2),
        "beyond the budget": demand(round=3),
    }
    refused = {
        "less noise": "privacy.noise_multiplier",
        "noise 0": "noise",
        "code": "strategy.local",
        "scores": "metrics",
        "too late": "round",
        "other words": "is not the one that was sent",
        "beyond the budget": "privacy.epsilon",
    }
    app = hostile_app(tmp_path, demands)
    (one,) = planned(compose(AGREED), [TRAINED])
    budget = epsilon([one, one], 1e-5) * 1.01
    with Loopback(tmp_path / "deployment", app) as federation:
        home = make_home(
            federation.home(0).path,
            [*AGREED, f"store={store}"],
            0,
            federation.address,
            federation.authority,
            epsilon=budget,
        )
        federation.register(0)
        federation.start_node(0)
        federation.run([])
        wait_for((tmp_path / "over").exists, LIMIT)
        answers = json.loads(told.read_text())
    log = (tmp_path / "deployment" / "hospital-0.log").read_text()
    assert not executed.exists(), executed.read_text()
    assert answers.keys() == demands.keys(), (answers, log[-2000:])
    for name, answer in answers.items():
        if name in refused:
            assert refused[name] in answer, (name, answer)
            assert str(home.path) not in answer
        else:
            assert "arrays" in answer, (name, answer)
    assert len(pd.read_csv(home.data / "partition.csv").query("role == 'train'")) == TRAINED
    assert 0 < home.lifetime.epsilon(1e-5) <= budget


def test_a_node_of_flowers_own_runs_the_servers_code(tmp_path: Path, store: Path) -> None:
    """The control: what the hospital's node does not do, flower-supernode does."""
    app, executed = hostile_app(tmp_path, {"agreed": demand()}), tmp_path / "executed"
    with Loopback(tmp_path / "deployment", app) as federation:
        overrides = [*AGREED, f"store={store}"]
        path = federation.home(0).path
        home = make_home(path, overrides, 0, federation.address, federation.authority, epsilon=9.0)
        federation.register(0)
        words = command(home, superlink=federation.address)
        own = [str(Path(sys.executable).parent / "flower-supernode"), *words[3:]]
        node = subprocess.Popen(own, env=environment(home), start_new_session=True)
        try:
            federation.run([])
            wait_for(executed.exists, LIMIT / 2)
        finally:
            node.terminate()
            node.wait()


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
