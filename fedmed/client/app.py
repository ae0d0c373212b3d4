"""The Flower ClientApp: a message comes in, the network is trained or validated, a reply goes out.

It knows no engine: the same app serves the local pool, Flower's simulation and a SuperNode.
"""

import json
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedmed import models
from fedmed.client.context import ClientContext, context_of
from fedmed.client.enforcement import enforce
from fedmed.client.fault_injection import inject
from fedmed.client.model_check import check_model
from fedmed.client.redaction import redact_errors
from fedmed.client.shielding import answer, shield
from fedmed.client.signing import sign
from fedmed.client.state import at_rest
from fedmed.config import DPSGD, identity, wire
from fedmed.core.records import EXAMPLES, WEIGHT
from fedmed.core.seeding import seed_of
from fedmed.data.examples import predict
from fedmed.deployment import node_data
from fedmed.deployment.home import Home
from fedmed.evaluation import metrics
from fedmed.federation.messages import (
    AGGREGATE,
    ARRAYS,
    CHALLENGE,
    CONFIG,
    DESCRIBE,
    KEPT,
    METRICS,
    NODE_REPORT,
    NOISE,
    SIGNATURE,
    RunContext,
    TaskSpec,
)
from fedmed.federation.update_steps import SharedArrays, encode, local_of
from fedmed.flower.node_config import HOME
from fedmed.privacy.disclosure import Disclosure
from fedmed.privacy.release import utility
from fedmed.record import signatures
from fedmed.training import sgd
from fedmed.training.dpsgd import train as dpsgd

app = ClientApp()


@app.train(mods=[redact_errors, enforce, sign, at_rest, shield, inject])
def train(message: Message, context: Context) -> Message:
    """Train on the client's training patients and return its weights."""
    own, spec = _open(message, context)
    config, privacy = own.config, own.config.privacy
    examples = own.examples("train", spec.client)
    hooks, steps = local_of(config.strategy)
    seed = seed_of(config.seed, "train", spec.round, spec.client)
    decisive = json.dumps(identity.drawn(config), sort_keys=True)  # the data have other keys
    if isinstance(privacy, DPSGD):
        unit = own.units("train", spec.client)
        noise = message.content.config_records[CONFIG][NOISE]
        assert isinstance(noise, list)
        loss, n = dpsgd.train(
            own.network,
            examples,
            unit,
            config.client,
            privacy,
            float(noise[spec.client]),
            hooks,
            context.state,
            seed,
            decisive,
        )
        size = int(unit.max()) + 1
    else:
        loss, n = sgd.train(own.network, examples, config.client, hooks, context.state, seed)
        size = len(examples)
    arrays = models.to_record(models.arrays_of(own.network))
    values = _metrics(config.strategy.weighting, size, steps=n)
    if Disclosure.of(config).losses:
        values["loss"] = loss
    content = RecordDict({ARRAYS: arrays, METRICS: values})
    split = SharedArrays(models.shared_names(own.network, config.strategy.state))
    random = seed_of(seed, "reply", decisive)
    encode([split, *steps], message.content, content, context.state, random)
    return Message(content, reply_to=message)


@app.evaluate(mods=[redact_errors, enforce, sign, at_rest, inject])
def evaluate(message: Message, context: Context) -> Message:
    """Score the global weights on the client's validation patients."""
    own, spec = _open(message, context)
    examples = own.examples("val", spec.client)
    scores = predict(own.network, examples)
    truth = examples.labels[examples.rows]
    targets = tuple(own.config.dataset.arguments["targets"])
    auroc = metrics.per_target(scores, truth, targets)["auroc"]
    patients = own.index.loc[examples.rows, "patient"]
    positives = metrics.positives(truth, patients.to_numpy(), targets)
    loss, served = metrics.bce(scores, truth), utility(scores, truth, patients.tolist())
    weighting = own.config.strategy.weighting
    values = _metrics(weighting, len(examples), loss=loss, utility=served)
    # By finding: over which of them clients can be compared only the server sees.
    values[metrics.AUROC] = [auroc.get(target, float("nan")) for target in targets]
    values[metrics.POSITIVES] = [positives[target] for target in targets]
    return Message(RecordDict({METRICS: values}), reply_to=message)


@app.query(DESCRIBE.partition(".")[2], mods=[redact_errors, enforce])
def describe(message: Message, context: Context) -> Message:
    """Tell who this hospital is and how many patients and images it has.

    How many of them show each target is told too, where that may leave.
    """
    run = RunContext.of(message, context)
    task = wire.loads(run.config, run.config_sha256)
    targets = tuple(task.dataset.arguments["targets"]) if Disclosure.of(task).counts else ()
    home = Home.opened(Path(str(context.node_config[HOME])))
    told = node_data.describe(home.data, targets, home.keyed)
    report = ConfigRecord({"client": home.policy.client, **told})
    content = RecordDict({NODE_REPORT: report})
    if CHALLENGE in message.content:
        challenge = str(message.content.config_records[CHALLENGE]["nonce"])
        signature = home.signer.sign(
            signatures.of_report(run.config_sha256, challenge, dict(report))
        )
        content[SIGNATURE] = ConfigRecord({"key": home.signer.public, "signature": signature})
    return Message(content, reply_to=message)


@app.query(AGGREGATE.partition(".")[2], mods=[redact_errors, enforce, sign])
def aggregate(message: Message, context: Context) -> Message:
    """Take part in a sum of updates, in a step beside training."""
    return answer(message, context)


def _open(message: Message, context: Context) -> tuple[ClientContext, TaskSpec]:
    """Return what the client has, its network as the message sets it, and what is to be done."""
    spec = TaskSpec.of(message, context)
    own = context_of(spec.run)
    arrays, kept = message.content[ARRAYS], context.state.get(KEPT)
    assert isinstance(arrays, ArrayRecord)
    assert isinstance(kept, ArrayRecord | None)
    check_model(own, arrays, spec.round)
    own.receive(arrays, kept)
    return own, spec


def _metrics(weighting: str, examples: int, **values: float) -> MetricRecord:
    weight = float(examples) if weighting == "examples" else 1.0
    return MetricRecord({EXAMPLES: examples, WEIGHT: weight, **values})
