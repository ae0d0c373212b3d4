"""What a round's record costs beside its training: DenseNet121, 7 million weights.

The record is all that a round adds for it: hashes of what each client is sent and returns, of the
arrays after it and of its metrics; the line, synced to the disk; the signature of the head.
The round is local training alone, one step of each client in turn, as on one core: the least that
a round can take. Both are measured in this process, by turns.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import MetricRecord, RecordDict
from rich.table import Table

from fedmed import config as cfg
from fedmed import models
from fedmed.core.records import MetricRow
from fedmed.federation.messages import ARRAYS, METRICS
from fedmed.record import hashes, signatures
from fedmed.record.chain import Chain
from fedmed.record.signatures import Signatures, Signer, make_key
from fedmed.training.sgd import masked_bce, optimizer_of

BAR = 0.01
SIZE = 224
ROWS = 200  # metrics of a round


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take what the measurement can be told."""
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10, help="local steps of a client in a round")
    parser.add_argument("--batch", type=int, default=16)


def measure(arguments: argparse.Namespace) -> tuple[Table, dict[str, Any]]:
    """Return the table and the record of what was measured."""
    torch.set_num_threads(1)
    config = cfg.compose(["model=densenet121", "tracking.mode=disabled"])
    network = models.build(config.model, 0, config.norm).train()
    optimizer = optimizer_of(network, config.client)
    targets = len(config.dataset.arguments["targets"])
    images = torch.randn(arguments.batch, 1, SIZE, SIZE)
    labels = torch.ones(arguments.batch, targets)
    arrays = models.arrays_of(network)
    weights = sum(array.size for array in arrays.values())
    steps, records = [], []
    with tempfile.TemporaryDirectory() as folder:
        make_key(Path(folder) / "key")
        signer = Signer(Path(folder) / "key")
        chain = Chain(Path(folder) / "chain.jsonl")
        kept = Signatures(Path(folder) / "signatures.jsonl")
        for round_ in range(arguments.repeats + 1):
            began = time.perf_counter()
            optimizer.zero_grad()
            masked_bce(network(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            stepped = time.perf_counter()
            _record(round_, arrays, arguments.clients, chain, kept, signer)
            if round_:  # the first warms up
                steps.append(stepped - began)
                records.append(time.perf_counter() - stepped)
    step, record = statistics.median(steps), statistics.median(records)
    whole = step * arguments.steps * arguments.clients
    share = record / whole
    found = {
        "weights": weights,
        "clients": arguments.clients,
        "steps": arguments.steps,
        "batch": arguments.batch,
        "step_s": step,
        "record_s": record,
        "round_s": whole,
        "share": share,
        "bar": BAR,
    }
    table = Table("weights", "clients × steps", "a round's training", "its record", "share", "bar")
    shape = f"{arguments.clients} × {arguments.steps} of {arguments.batch}"
    seconds = (f"{whole:.1f} s", f"{record * 1000:.0f} ms")
    table.add_row(f"{weights:,}", shape, *seconds, f"{share:.2%}", f"{BAR:.0%}")
    return table, found


def _record(
    round_: int,
    arrays: models.Arrays,
    clients: int,
    chain: Chain,
    kept: Signatures,
    signer: Signer,
) -> None:
    """Do what a run does for a round's record."""
    sent = models.to_record(arrays)
    returned = {}
    for client in range(clients):
        values = MetricRecord({"loss": float(client + round_)})
        returned[str(client)] = hashes.of_content(RecordDict({ARRAYS: sent, METRICS: values}))
    rows = [MetricRow(round_, "val", -1, f"auroc/{i}", float(np.float64(i))) for i in range(ROWS)]
    exchange = {"scope": "train", "given": [hashes.of_record(sent)], "returned": returned}
    chain.append(
        {
            "round": round_,
            "exchanges": [exchange],
            "arrays": hashes.of_arrays(arrays),
            "metrics": hashes.of_rows(rows),
            "events": [],
        }
    )
    statement = signatures.of_head(chain.run, chain.head())
    kept.add(signatures.signed(statement, signer.public, signer.sign(statement)))
