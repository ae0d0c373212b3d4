"""Whether a run is what its record says: everything derived anew, the first misfit named."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmed.core.errors import FedmedError
from fedmed.core.files import damaged
from fedmed.record import signatures
from fedmed.record.anchors import OWN, Anchor
from fedmed.record.chain import Chain, Record
from fedmed.record.merkle import Head
from fedmed.record.signatures import HOSPITAL, SERVER, Signatures
from fedmed.runs import misfits
from fedmed.runs.directory import RunDirectory
from fedmed.runs.run import FINISHED

_EVERY = {
    *("format", "previous", "attempt", "round", "code", "arrays", "metrics", "events"),
    *("privacy", "stopped"),
}
_FIRST = _EVERY | {"fedmed", "semantics", "config", "task", "device", "data"}
_LATER = _EVERY | {"start", "exchanges"}


@dataclass(frozen=True)
class Known:
    """What a verifier knows from elsewhere than the run directory.

    Attributes:
        server: the server's public key, 64 hexadecimal digits; None if it is not known.
        hospitals: client → its public key; None if they are not known.
        heads: of the record at some time.
        anchor: where heads were sent to; None where the run's configuration is to say it.
    """

    server: str | None = None
    hospitals: Mapping[int, str] | None = None
    heads: Sequence[Head] = ()
    anchor: Anchor | None = None


@dataclass
class Verdict:
    """What was found to be as the record says.

    Attributes:
        head: of the record.
        proven: what fits, a phrase each.
        unproven: what nobody could tell from what was given, a phrase each.
    """

    head: Head
    proven: list[str] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        proven = "; ".join(self.proven)
        return f"verified: {proven}. Not proven: {'; '.join(self.unproven) or 'nothing'}"


def verify(folder: Path, known: Known) -> Verdict:
    """Derive all that a run's record binds anew from the files of its directory.

    Args:
        folder: the run directory.
        known: what to hold the record against beside it.

    Raises:
        FedmedError: naming the first file, round and field that does not fit.
    """
    run_dir = RunDirectory(folder)
    chain = Chain.read(run_dir.chain)
    if not chain.records:
        raise FedmedError(f"{run_dir.chain}: there is no record of this run")
    rounds = _rounds(chain)
    summary = run_dir.summary() or {}
    finished = summary.get("status") == FINISHED
    verdict = Verdict(chain.head())
    size, last = len(chain.records), max(rounds)
    verdict.proven.append(f"{size} records, rounds 0 to {last}, head {verdict.head}")
    if superseded := size - len(rounds):
        verdict.proven.append(f"{superseded} of them are of attempts that others took the place of")
    state = misfits.read_checkpoint(run_dir, finished)
    if state:
        _check_head(chain, Head.parse(state.head), run_dir.checkpoint)
    if finished:
        head = Head(summary["record"]["size"], summary["record"]["root"])
        _check_head(chain, head, run_dir.path / "summary.json", whole=True)
    kept = Signatures(run_dir.signatures)
    _check_server(chain, kept, known.server, verdict, finished)
    _check_hospitals(chain, kept, known.hospitals, verdict)
    for head in known.heads:
        _check_head(chain, head, "the head that was given")
        verdict.proven.append(f"the head {head.size}:{head.root[:16]}… that was given")
    config = misfits.check_configuration(run_dir, rounds[0])
    tables = misfits.check_data(run_dir, rounds[0])
    if state:
        misfits.check_checkpoint(run_dir, state, rounds, finished)
        if state.round != last:
            verdict.unproven.append(f"what came of the rounds after {state.round}")
    misfits.check_metrics(run_dir, rounds, finished)
    ledger = misfits.check_ledger(run_dir, list(chain.bound()), rounds, finished)
    if finished and state:
        digest = misfits.check_model(run_dir, rounds)
        misfits.check_summary(run_dir, summary, rounds, digest)
        misfits.check_results(run_dir, summary, state, ledger)
    if known.anchor or config.anchor.target in OWN:
        anchor = known.anchor or config.anchor.build()
        _check_anchor(chain, anchor, known.anchor is not None, verdict)
    else:
        verdict.unproven.append(
            f"what {config.anchor.target} keeps, which the configuration here names and nobody "
            "asks: give the anchor that you know"
        )
    all_ = len(rounds[0]["data"])
    verdict.proven.append(
        f"configuration, tables of {tables} of {all_} (clients and test patients), metrics, "
        + "".join(f"ε = {bound['epsilon']} of the {unit}, " for unit, bound in _spent(rounds[last]))
        + ("weights, predictions and summary" if finished else "checkpoint")
    )
    verdict.unproven.append("that clients computed what they were asked to, and of which pixels")
    if not finished:
        verdict.unproven.append("that the run ended: it is unfinished")
    return verdict


def _spent(record: Record) -> list[tuple[str, Any]]:
    return list(record["privacy"].items())


def _rounds(chain: Chain) -> dict[int, Record]:
    """Return round → its record, each of which goes on from the one before.

    Raises:
        FedmedError: naming the first record that cannot stand where it does.
    """
    for place, record in enumerate(chain.records, 1):
        if record.keys() != (_LATER if record["round"] else _FIRST):
            raise damaged(chain.path, f"record {place} has other fields than a record has")
    rounds = chain.current()
    if list(rounds) != list(range(len(rounds))):
        missing = next(i for i, round_ in enumerate([*rounds, -1]) if round_ != i)
        raise damaged(chain.path, f"the record of round {missing} is not there")
    for round_ in range(1, len(rounds)):
        if rounds[round_]["start"] != rounds[round_ - 1]["arrays"]:
            raise damaged(chain.path, f"round {round_}: start is not what the round before left")
    return rounds


def _check_head(chain: Chain, head: Head, source: Path | str, whole: bool = False) -> None:
    """Refuse a record that does not begin with one that is known elsewhere.

    Args:
        chain: the record.
        head: that is known.
        source: where from.
        whole: whether the record may not have gone on since.
    """
    size = len(chain.records)
    if head.size > size or (whole and head.size != size):
        raise damaged(chain.path, f"it ends with record {size}, and {source} knows {head.size}")
    if chain.head(head.size) != head:
        raise damaged(chain.path, f"a record up to record {head.size} is not that of {source}")


def _check_server(
    chain: Chain, kept: Signatures, key: str | None, verdict: Verdict, finished: bool
) -> None:
    size = 0
    for entry in kept.by(SERVER):
        head = Head(entry["size"], entry["root"])
        if key is not None and entry["key"] != key:
            raise damaged(kept.path, f"head {head} is signed by another key than the server's")
        statement = signatures.of_head(chain.run, head)
        if not signatures.is_signed(entry, statement):
            raise damaged(kept.path, f"the server's signature of head {head} does not hold")
        _check_head(chain, head, kept.path)
        size = max(size, head.size)
    if size < len(chain.records) and (key is not None or size) and finished:
        raise damaged(kept.path, f"the server's signature of record {len(chain.records)} is gone")
    if key is None and not size:
        verdict.unproven.append(
            "who wrote the record: it is unsigned, so that whoever holds this folder can write all "
            "of it anew"
        )
    elif key is None:
        verdict.unproven.append("whose the key is that signed it: give --server-key")
    else:
        verdict.proven.append(f"signed by the server up to record {size}")


def _check_hospitals(
    chain: Chain, kept: Signatures, keys: Mapping[int, str] | None, verdict: Verdict
) -> None:
    task, signed = chain.records[0]["task"], set()
    returned = {
        (record["round"], exchange["scope"], int(client), digest)
        for record in chain.records[1:]
        for exchange in record.get("exchanges", ())
        for client, digest in exchange["returned"].items()
    }
    for entry in kept.by(HOSPITAL):
        client, round_, scope = entry["client"], entry["round"], entry["scope"]
        what = f"the signature of client {client} in round {round_}"
        reply = (round_, scope, client, entry["returned"])
        statement = signatures.of_exchange(
            task, client, round_, scope, entry["given"], entry["returned"]
        )
        if keys is not None and entry["key"] != keys.get(client):
            raise damaged(kept.path, f"{what} is by another key than that hospital's")
        if not signatures.is_signed(entry, statement):
            raise damaged(kept.path, f"{what} does not hold")
        if reply in returned:  # else its round was cut off before its record
            signed.add(reply)
    if keys is None:
        if signed:
            verdict.unproven.append("whose the keys are of the hospitals: give --hospital-keys")
        return
    for round_, scope, client, digest in sorted(returned):
        if (round_, scope, client, digest) not in signed:
            raise damaged(kept.path, f"client {client} has not signed its reply of round {round_}")
    hospitals = {client for _, _, client, _ in signed}
    verdict.proven.append(f"{len(signed)} replies signed by {len(hospitals)} hospitals")


def _check_anchor(chain: Chain, anchor: Anchor, given: bool, verdict: Verdict) -> None:
    if not anchor.place:
        return
    heads = anchor.heads(chain.run)
    for head in heads:
        _check_head(chain, head, anchor.place)
    if heads:
        verdict.proven.append(f"anchored up to record {heads[-1].size}")
    if not given:
        verdict.unproven.append(
            f"that {anchor.place}, which the configuration here names, is the one that you know"
        )
