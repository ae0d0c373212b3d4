"""The Flower ClientApp: a message comes in, the network is trained or validated, a reply goes out.

It knows no engine: the same app serves the local pool, Flower's simulation and a SuperNode.
"""

import json
from pathlib import Path
from shlex import split

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedmed import config as cfg
from fedmed import models
from fedmed.client.context import Workplace, workplace
from fedmed.client.fault_injection import inject
from fedmed.client.redaction import discreet
from fedmed.client.state import at_rest
from fedmed.config import DPSGD, identity
from fedmed.core.records import EXAMPLES, WEIGHT
from fedmed.core.seeding import seed_of
from fedmed.data.examples import predict
from fedmed.deployment import node_data
from fedmed.evaluation import metrics
from fedmed.federation.messages import Brief
from fedmed.federation.replies import METRICS
from fedmed.privacy.budget import NOISE
from fedmed.privacy.release import utility
from fedmed.training import sgd
from fedmed.training.dpsgd import train as dpsgd
from fedmed.training.hooks import LocalHooks

BUFFERS = "buffers"  # the record of norm statistics that stay with the client

app = ClientApp()


@app.train(mods=[discreet, at_rest, inject])
def train(message: Message, context: Context) -> Message:
    """Train on the client's training patients and return its weights."""
    here, client, round_ = _arrive(message, context)
    config, privacy = here.config, here.config.privacy
    examples = here.examples("train", client)
    rule = config.strategy.local.build() if config.strategy.local else LocalHooks()
    seed = seed_of(config.seed, "train", round_, client)
    decisive = json.dumps(identity.decisive(config), sort_keys=True)  # the data have other keys
    if isinstance(privacy, DPSGD):
        unit = here.units("train", client)
        noise = message.content.config_records["config"][NOISE]
        assert isinstance(noise, list)
        loss, steps = dpsgd.train(
            here.network,
            examples,
            unit,
            config.client,
            privacy,
            float(noise[client]),
            rule,
            context.state,
            seed,
            decisive,
        )
        size = int(unit.max()) + 1
    else:
        loss, steps = sgd.train(here.network, examples, config.client, rule, context.state, seed)
        size = len(examples)
    parameters_only = config.strategy.state == "parameters"
    if parameters_only and (buffers := models.buffers_of(here.network)):
        context.state[BUFFERS] = models.to_record(buffers)
    arrays = models.to_record(models.arrays_of(here.network, parameters_only))
    values = _metrics(config.strategy.weighting, size, steps=steps)
    if not config.withholds:
        values["loss"] = loss
    content = RecordDict({"arrays": arrays, METRICS: values})
    rule.reply(message.content, content, seed_of(seed, "reply", decisive))
    return Message(content, reply_to=message)


@app.evaluate(mods=[discreet, at_rest, inject])
def evaluate(message: Message, context: Context) -> Message:
    """Score the global weights on the client's validation patients."""
    here, client, _ = _arrive(message, context)
    examples = here.examples("val", client)
    scores = predict(here.network, examples)
    truth = examples.labels[examples.rows]
    targets = tuple(here.config.dataset.arguments["targets"])
    auroc = metrics.per_target(scores, truth, targets)["auroc"]
    patients = here.index.loc[examples.rows, "patient"]
    positives = metrics.positives(truth, patients.to_numpy(), targets)
    loss, served = metrics.bce(scores, truth), utility(scores, truth, patients.tolist())
    weighting = here.config.strategy.weighting
    values = _metrics(weighting, len(examples), loss=loss, utility=served)
    # By finding: over which of them clients can be compared only the server sees.
    values[metrics.AUROC] = [auroc.get(target, float("nan")) for target in targets]
    values[metrics.POSITIVES] = [positives[target] for target in targets]
    return Message(RecordDict({METRICS: values}), reply_to=message)


@app.query("describe", mods=[discreet])
def describe(message: Message, context: Context) -> Message:
    """Tell who this hospital is and how many patients and images it has.

    How many of them show each target is told too, unless nothing but noisy weights may leave.
    """
    overrides = str(message.content.config_records["config"]["overrides"])
    config = cfg.compose(split(overrides), build=False)
    targets = () if config.withholds else tuple(config.dataset.arguments["targets"])
    client, folder = context.node_config["partition-id"], Path(str(context.node_config["data"]))
    told = ConfigRecord({"client": int(str(client)), **node_data.describe(folder, targets)})
    return Message(RecordDict({"described": told}), reply_to=message)


def _arrive(message: Message, context: Context) -> tuple[Workplace, int, int]:
    """Return the workplace with the network as the client has it, the client and the round."""
    brief = Brief.of(message, context)
    here = workplace(brief.overrides, brief.store, brief.table, brief.partition)
    arrays, own = message.content["arrays"], context.state.get(BUFFERS)
    assert isinstance(arrays, ArrayRecord)
    assert isinstance(own, ArrayRecord | None)
    here.receive(arrays, own)
    return here, brief.client, brief.round


def _metrics(weighting: str, examples: int, **values: float) -> MetricRecord:
    weight = float(examples) if weighting == "examples" else 1.0
    return MetricRecord({EXAMPLES: examples, WEIGHT: weight, **values})
