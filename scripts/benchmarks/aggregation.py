"""What a sum that hides its parts costs a client, the server and whoever opens it.

Each cell is a process of its own: one client's part of a round, the server's adding, scaled to the
cohort, and the opening, in CPU seconds (process time), so that a loaded machine matters little.
Peak memory is of both ends together, above what the process had before. Beside them stand the
bound of this machine (as many AES-256-CTR streams and uint32 additions as there are masks), a copy
of the vector, and the primitives of Flower's SecAgg+ put together as its client does.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from flwr.common import ndarray_to_bytes  # noqa: TID251
from flwr.common.secure_aggregation import ndarrays_arithmetic as flower  # noqa: TID251
from flwr.common.secure_aggregation.quantization import quantize  # noqa: TID251
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen  # noqa: TID251
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.table import Table

from fedmed import config as cfg
from fedmed.aggregation.base import Fields, IntegerSum, Party, Session, Take
from fedmed.aggregation.codec import Block, Codec
from fedmed.aggregation.masked import SecureAggregation
from fedmed.aggregation.secagg import graph
from fedmed.client.vault import Vault

WAYS: Mapping[str, tuple[str, ...]] = {
    "fixed": ("fixed",),
    "secagg": ("secagg",),
    "paillier 2048": ("paillier", "aggregation.key_bits=2048"),
    "paillier 3072": ("paillier",),
    "bfv": ("bfv",),
    "ckks": ("ckks",),
    "ckks 8192 [60,40,40]": (
        "ckks",
        "aggregation.poly_modulus_degree=8192",
        "aggregation.coeff_mod_bit_sizes=[60,40,40]",
        "aggregation.scale_bits=40",
    ),
}
BARE = ("float", "copy", "AES bound", "Flower SecAgg+")
MOST = {"paillier 2048": 20_000, "paillier 3072": 20_000}  # weights that are run; more are scaled
MASKS = 8  # clients up to which all mask for real, and the sum is held against the integers
BLOCK = 1 << 17
SEES = (  # who opens one client's update, and with which aggregation; better ones are higher
    ("the server", ("fixed",)),
    ("the server with\nthe key's holder", ("paillier", "bfv", "ckks")),
    ("a cheating server with\na third of the clients", ("secagg",)),
)
START, END = (f"<!-- {edge} of bench.py aggregation -->" for edge in ("table", "end"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take what the measurement can be told."""
    every = [*BARE, *WAYS]
    parser.add_argument("--ways", nargs="+", choices=every, default=every, metavar="WAY")
    parser.add_argument("--weights", nargs="+", type=int, default=[100_000, 1_000_000, 7_000_000])
    parser.add_argument("--clients", nargs="+", type=int, default=[8, 32, 100])
    parser.add_argument("--write", type=Path, help="put the table between the marks of this page")


def measure(arguments: argparse.Namespace) -> tuple[Table, dict[str, Any]]:
    """Return the table and the record of what was measured, the best of the repeats."""
    rows = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for weights in arguments.weights:
            for clients in arguments.clients:
                for way in arguments.ways:
                    tried = [
                        pool.apply(cell, (way, weights, clients)) for _ in range(arguments.repeats)
                    ]
                    rows.append(min(tried, key=lambda row: row["client_s"]))
    heads = ("weights", "clients", "aggregation", "client s", "server s", "open s",
             "MB up", "× float", "MB down", "peak MB")  # fmt: skip
    table = Table(*heads)
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = _shown(row)
        table.add_row(*cells)
        lines.append("| " + " | ".join(cells) + " |")
    if arguments.write:
        page = arguments.write.read_text()
        before, after = page.split(START)[0], page.split(END)[1]
        arguments.write.write_text(f"{before}{START}\n" + "\n".join(lines) + f"\n{END}{after}")
    return table, {"rows": rows}


def cell(way: str, weights: int, clients: int) -> dict[str, Any]:
    """Return what a way costs, in this process."""
    values = np.random.default_rng(0).normal(0, 0.01, weights).astype(np.float32)
    aggregation = _built(WAYS[way]) if way in WAYS else None
    bound(BLOCK, 1)  # warms up
    before = _peak()
    found = {"client_s": 0.0, "encode_s": 0.0, "server_s": 0.0, "open_s": 0.0, "up": 4.0 * weights}
    if aggregation:
        summed(aggregation, values[:1000].astype(np.float64), clients)  # warms up
        run = min(weights, MOST.get(way, weights))
        found = summed(aggregation, values[:run].astype(np.float64), clients)
        if run < weights:  # what a key's table costs is not scaled
            half = summed(aggregation, values[: run // 2].astype(np.float64), clients)
            more = (weights - run) / (run - run // 2)
            found = {name: value + more * (value - half[name]) for name, value in found.items()}
    elif way == "float":
        total = np.zeros(weights)
        found["server_s"] = clients * _timed(lambda: np.add(total, values, out=total))
    elif way == "copy":
        found["client_s"] = _timed(values.copy)
    elif way == "AES bound":
        found["client_s"] = _timed(lambda: bound(weights, masks_of(clients)))
    else:
        found["client_s"] = _timed(lambda: secaggplus(values, clients))
        found["up"] = 8.0 * weights
    return {
        "way": way,
        "weights": weights,
        "clients": clients,
        "scaled": MOST.get(way, weights) < weights,
        "down": 4.0 * weights,
        "peak_mb": (_peak() - before) / 1024,
        **found,
    }


def _built(way: tuple[str, ...]) -> IntegerSum:
    config = cfg.compose([f"aggregation={way[0]}", *way[1:], "tracking.mode=disabled"])
    aggregation: IntegerSum = config.aggregation.build()
    return aggregation


def summed(aggregation: IntegerSum, values: NDArray[np.float64], clients: int) -> dict[str, float]:
    """Return what one round's sum costs by an aggregation, and check the sum."""
    codec = Codec((Block("weights", values.shape, aggregation.range),), aggregation.bits)
    width = codec.width(clients)
    aggregation.check(clients, width)
    session = Session("0" * 64, 1, bytes(16), tuple(range(clients)))
    spent = {"client": 0.0, "clients": 0.0}
    sent = {"up": 0}
    masked = isinstance(aggregation, SecureAggregation)
    with tempfile.TemporaryDirectory() as folder:
        parties = {i: Party(i, Vault(Path(folder) / str(i))) for i in session.members}

        def ask(step: str, told: Mapping[int, Fields], take: Take) -> None:
            for client, fields in told.items():
                began = time.process_time()
                answer = aggregation.answer(session, step, fields, parties[client])
                took = time.process_time() - began
                spent["clients"] += took
                if masked and not client:
                    spent["client"] += took
                    sent["up"] += sum(map(_bytes, answer.values()))
                take(client, answer)

        server = aggregation.collector(session, codec.size, width)
        began = time.process_time()
        told = server.prepare(ask)
        prepared = time.process_time() - began - spent["clients"]
        began = time.process_time()
        vector = codec.encode({"weights": values})
        encoded = time.process_time() - began
        began = time.process_time()
        payload = aggregation.protect(session, vector, width, told[0], parties[0])
        spent["client"] += encoded + time.process_time() - began
        added, adding = 0, 0.0
        for client in range(clients if masked else aggregation.survivors(clients)):
            if masked and client:
                own = vector if clients <= MASKS else vector[:0]
                part = aggregation.protect(session, own, width, told[client], parties[client])
                payload = part if clients <= MASKS else payload
            began = time.process_time()
            server.add(client, payload)
            adding += time.process_time() - began
            added += 1
        before = spent["clients"]
        began = time.process_time()
        total = server.open(ask)
        codec.decode(total)
        opened = time.process_time() - began
        if masked:
            opened -= spent["clients"] - before
        if (not masked or clients <= MASKS) and not np.array_equal(total, vector * added):
            raise SystemExit(f"{type(aggregation).__name__}: the sum is wrong")
    return {
        "client_s": spent["client"],
        "encode_s": encoded,
        "server_s": prepared * masked + adding * clients / added,
        "open_s": opened,
        "up": float(payload.nbytes + sent["up"]),
    }


def masks_of(clients: int) -> int:
    """Return how many masks a client of secure aggregation adds: its own, and its neighbours'."""
    return graph.plan(clients, 2 * clients // 3 + 1).degree + 1


def bound(weights: int, masks: int) -> None:
    """Do the least that masking can: so many streams of AES, each added to the vector."""
    words, mask, zeros = np.zeros(weights, np.uint32), np.empty(BLOCK, np.uint32), bytes(4 * BLOCK)
    streams = [Cipher(AES(bytes(32)), CTR(bytes(16))).encryptor() for _ in range(masks)]
    for start in range(0, weights, BLOCK):
        part = words[start : start + BLOCK]
        for stream in streams:
            stream.update_into(memoryview(zeros)[: part.nbytes], _buffer(mask[: part.size]))
            np.add(part, mask[: part.size], out=part)


def secaggplus(values: NDArray[np.float32], clients: int) -> bytes:
    """Do what a client of Flower's SecAgg+ does to a vector: quantise, mask, reduce, serialise."""
    target, clip, modulus = 1 << 22, 8.0, 1 << 32
    ratio = round(0.1 * target)
    parameters = flower.parameters_multiply([values], ratio / target)
    vector = flower.factor_combine(ratio, quantize(parameters, clip, target))
    for mask in range(clients):
        seed = mask.to_bytes(32, "little")
        masks = pseudo_rand_gen(seed, modulus, [array.shape for array in vector])
        vector = flower.parameters_addition(vector, masks)
    return b"".join(map(ndarray_to_bytes, flower.parameters_mod(vector, modulus)))


def _buffer(words: NDArray[np.uint32]) -> Any:
    return words.view(np.uint8)


def _timed(do: Callable[[], object]) -> float:
    began = time.process_time()
    do()
    return time.process_time() - began


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _bytes(value: object) -> int:
    if isinstance(value, list):
        return sum(map(_bytes, value))
    return len(value) if isinstance(value, bytes | str) else 8


def _shown(row: Mapping[str, Any]) -> list[str]:
    about = "~" if row["scaled"] else ""
    seconds = [f"{about}{row[key]:.3g}" if row[key] else "–"
               for key in ("client_s", "server_s", "open_s")]  # fmt: skip
    return [
        f"{row['weights'] / 1e6:g}M",
        str(row["clients"]),
        row["way"],
        *seconds,
        f"{row['up'] / 1e6:.2f}",
        f"{row['up'] / row['weights'] / 4:.3f}",
        f"{row['down'] / 1e6:.1f}",
        "–" if row["scaled"] else f"{row['peak_mb']:.0f}",
    ]


def draw(record: Mapping[str, Any]) -> Figure:
    """Draw cost against protection, for the most weights and the fewest clients."""
    rows = record["rows"]
    weights = max(row["weights"] for row in rows)
    clients = min(row["clients"] for row in rows)
    figure = Figure((9, 4.5), layout="constrained")
    axes = figure.subplots()
    shown = [
        row
        for row in rows
        if (row["weights"], row["clients"]) == (weights, clients) and row["client_s"]
    ]
    for row in sorted(shown, key=lambda row: -row["up"]):
        height = next((y for y, (_, ways) in enumerate(SEES) if row["way"].split()[0] in ways), -1)
        if height < 0:
            continue
        expansion = row["up"] / weights / 4
        axes.scatter(row["client_s"], height, 60 * expansion, alpha=0.5)
        label = f"{row['way']}\n{expansion:.2f}× bytes"
        axes.annotate(
            label,
            (row["client_s"], height),
            (0, 22 if shown.index(row) % 2 else -34),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.set_xscale("log")
    axes.set_xlabel(
        f"CPU seconds of a client in a round, {weights / 1e6:g}M weights, {clients} clients"
    )
    axes.set_yticks(range(len(SEES)), [text for text, _ in SEES])
    axes.set_ylim(-0.6, len(SEES) - 0.4)
    axes.margins(x=0.15)
    axes.grid(axis="x", alpha=0.3)
    return figure
