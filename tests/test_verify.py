"""What fedmed verify finds: any change, where it is; and a record that was written anew."""

import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import summary
from omegaconf import OmegaConf
from signed_run import SMALL, head_of

from fedmed.cli.main import main
from fedmed.core.errors import FedmedError
from fedmed.core.jsontext import canonical
from fedmed.record.anchors import FileAnchor
from fedmed.record.chain import Chain
from fedmed.record.merkle import Head
from fedmed.record.signatures import Signer
from fedmed.runs.directory import RunDirectory
from fedmed.runs.verify import Known, verify

CHANGES = 1000
FILES = (
    *("chain.jsonl", "ledger.json", "metrics.csv"),
    *("checkpoint/model.safetensors", "checkpoint/checkpoint.safetensors"),
)
Launch = Callable[..., dict[str, Any]]


def changed(content: bytes, draw: random.Random) -> bytes:
    """Return a content with one random change: bytes, a deletion, a swap, or its end cut off."""

    def cut(unit: Sequence[Any]) -> tuple[int, int]:
        start = draw.randrange(len(unit))
        return start, min(len(unit), start + draw.choice((1, 2, 7, 64)))

    lines = content.splitlines(keepends=True)
    kind = draw.choice(("flip", "write", "delete", "insert", "swap", "truncate", "line", "lines"))
    start, stop = cut(content)
    if kind == "flip":
        flipped = bytes([content[start] ^ (1 << draw.randrange(8))])
        return content[:start] + flipped + content[start + 1 :]
    if kind == "write":
        return content[:start] + draw.randbytes(stop - start) + content[stop:]
    if kind == "delete":
        return content[:start] + content[stop:]
    if kind == "insert":
        return content[:start] + draw.randbytes(draw.choice((1, 16))) + content[start:]
    if kind == "truncate":
        return content[:start]
    if kind == "line":
        at = draw.randrange(len(lines))
        return b"".join(lines[:at] + lines[at + 1 :])
    if kind == "lines":
        one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
        lines[one], lines[other] = lines[other], lines[one]
        return b"".join(lines)
    length = min(stop - start, len(content) - stop)
    other = draw.randrange(stop, len(content) - length + 1) if length else stop
    swapped = content[other : other + length]
    between = content[start + length : other]
    return (
        content[:start]
        + swapped
        + between
        + content[start : start + length]
        + content[other + length :]
    )


def test_a_thousand_changes_are_found_where_they_are(ran: Path, known: Known) -> None:
    """Each in one file, which the error names; the whole run fits before and after."""
    assert "signed by the server up to record 3" in str(verify(ran, known))
    draw, found = random.Random(13), 0
    while found < CHANGES:
        path = ran / FILES[found % len(FILES)]
        whole = path.read_bytes()
        harmed = changed(whole, draw)
        if harmed == whole:
            continue
        path.write_bytes(harmed)
        with pytest.raises(FedmedError, match=f"^{path}: "):
            verify(ran, known)
        path.write_bytes(whole)
        found += 1
    verify(ran, known)


def test_no_change_makes_a_signature(ran: Path, known: Known) -> None:
    """What is left of the signatures is found to be none, or is some of those that were there."""
    path, draw = ran / "signatures.jsonl", random.Random(14)
    whole = path.read_bytes()
    for _ in range(200):
        path.write_bytes(harmed := changed(whole, draw))
        kept = harmed.splitlines(keepends=True)
        if set(kept) <= set(there := whole.splitlines(keepends=True)) and there[-1] in kept:
            verify(ran, known)
        else:
            with pytest.raises(FedmedError, match=r"signatures\.jsonl: is damaged"):
                verify(ran, known)


@pytest.mark.parametrize("name", [*FILES, "signatures.jsonl"])
def test_a_file_that_is_gone_is_named(name: str, ran: Path, known: Known) -> None:
    (ran / name).unlink()
    with pytest.raises(FedmedError, match=Path(name).name):
        verify(ran, known)


def test_whoever_rewrites_all_of_it_is_found_by_what_is_elsewhere(
    launch: Launch, tmp_path: Path, keys: Path, known: Known
) -> None:
    """By the server's key, by a head that was kept, by an anchor; and by nothing else."""
    anchor = ("anchor=file", f"anchor.path={tmp_path / 'heads'}")
    done = launch(*SMALL, f"record.key={keys / 'server'}", *anchor)
    folder = tmp_path / "run"
    head = Head.parse(head_of(done))
    elsewhere = FileAnchor(str(tmp_path / "heads"))
    assert elsewhere.heads(Chain.read(folder / "chain.jsonl").run)[-1] == head
    shown = str(verify(folder, Known(known.server, heads=[head], anchor=elsewhere)))
    assert "anchored up to record 3" in shown
    shutil.rmtree(folder)
    launch(*SMALL, "anchor=none", f"record.key={keys / 'stranger'}")  # to begin with, the same
    assert head_of(summary(folder)) == str(head)
    with pytest.raises(FedmedError, match=r"signatures\.jsonl: .*another key than the server's"):
        verify(folder, known)
    forge(folder)
    assert "unsigned" in str(verify(folder, Known()))
    with pytest.raises(FedmedError, match=r"signatures\.jsonl: .* record 3 is gone"):
        verify(folder, known)
    with pytest.raises(FedmedError, match=r"chain\.jsonl: .* up to record 3 .* was given"):
        verify(folder, Known(heads=[head]))
    with pytest.raises(FedmedError, match=r"chain\.jsonl: .* up to record 3 .*heads"):
        verify(folder, Known(anchor=elsewhere))


@pytest.mark.parametrize("key", ["privacy.epsilon", "test.macro_auroc", "test.loss", "rounds_done"])
def test_a_summary_that_tells_other_results_is_found(key: str, ran: Path, known: Known) -> None:
    """With a hash to match, and the same of predictions."""
    run_dir = RunDirectory(ran)
    told = run_dir.summary() or {}
    group, _, name = key.rpartition(".")
    (told[group] if group else told)[name] = 1
    run_dir.write_summary(told)
    with pytest.raises(FedmedError, match=rf"summary\.json: {key}"):
        verify(ran, known)


def test_other_predictions_are_found(ran: Path, known: Known) -> None:
    run_dir = RunDirectory(ran)
    frame = pd.read_parquet(ran / "predictions.parquet")
    frame["view/score"] = frame["view/label"]
    frame.to_parquet(ran / "predictions.parquet", index=False)
    run_dir.write_summary((run_dir.summary() or {}) | {"files": run_dir.digests()})
    with pytest.raises(FedmedError, match=r"predictions\.parquet: loss"):
        verify(ran, known)


def forge(folder: Path) -> None:
    """Write the last round of an unsigned run anew, with better validation and hashes to match."""
    from fedmed.federation.checkpoint import Checkpoint
    from fedmed.record import hashes

    run_dir = RunDirectory(folder)
    run_dir.signatures.unlink()
    state = Checkpoint.load(run_dir.checkpoint)
    assert state is not None
    state.metrics = [
        row._replace(value=0.99) if row.scope == "val" and row.round == 2 else row
        for row in state.metrics
    ]
    *kept, last = Chain.read(run_dir.chain).records
    run_dir.chain.unlink()
    chain = Chain(run_dir.chain)
    rows = [row for row in state.metrics if row.round == 2]
    for record in (*kept, {**last, "metrics": hashes.of_rows(rows)}):
        chain.append(record)
    state.head = str(chain.head())
    state.save(run_dir.checkpoint)
    run_dir.write_metrics(state.metrics)
    told = run_dir.summary() or {}
    told["record"] |= {"root": chain.head().root, "signed_by": None}
    run_dir.write_summary(told | {"files": run_dir.digests()})


def test_signatures_are_those_of_openssl(keys: Path, tmp_path: Path) -> None:
    """Made here, they hold there: RFC 8032 by another hand."""
    statement = {"by": "server", "size": 3}
    (tmp_path / "message").write_bytes(canonical(statement))
    signature = bytes.fromhex(Signer(keys / "server").sign(statement))
    (tmp_path / "signature").write_bytes(signature)
    check = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(keys / "server.pub")]
    files = ["-rawin", "-in", "message", "-sigfile", "signature"]
    done = subprocess.run([*check, *files], cwd=tmp_path, capture_output=True, text=True)
    assert "Signature Verified Successfully" in done.stdout


def test_the_command(
    ran: Path, keys: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["verify", *map(str, arguments)])
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    head = head_of(summary(ran))
    status, out, _ = call(ran, "--server-key", keys / "server.pub", "--head", head)
    assert status == 0
    assert out.startswith("verified: 3 records, rounds 0 to 2")
    assert len(out.splitlines()) == 1
    text = (ran / "metrics.csv").read_text()
    (ran / "metrics.csv").write_text(text.replace("\n2,test,,loss,", "\n2,test,,loss,0"))
    status, out, err = call(ran)
    assert (status, out) == (1, "")
    assert (
        err == f"does not fit: {ran}/metrics.csv: round 2: metrics is not what the record binds\n"
    )
    for wrong in (("--head", "3:x"), ("--server-key", ran), ("--hospital-keys", tmp_path)):
        status, out, err = call(ran, *wrong)
        assert (status, len(err.splitlines())) == (2, 1), err
    assert call(tmp_path / "none")[0] == 2


@pytest.mark.parametrize("key", ["anchor", "model.network", "strategy.server", "dataset"])
def test_whoever_wrote_a_run_directory_runs_no_code(
    key: str, ran: Path, known: Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run directory of a stranger's is looked at: what it names is not even imported."""
    (tmp_path / "trojan.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "run"
    shutil.copytree(ran, folder)
    path = folder / ".hydra" / "config.yaml"
    config = OmegaConf.load(path)
    OmegaConf.update(config, f"{key}._target_", "trojan.Trojan")
    run_dir = RunDirectory(folder)
    summary = run_dir.summary()
    OmegaConf.save(config, path)
    assert summary is not None
    run_dir.write_summary({**summary, "files": run_dir.digests()})  # the stranger can hash, too
    if key == "anchor":  # no part of what the record binds
        assert "what trojan.Trojan keeps" in str(verify(folder, known))
    else:
        with pytest.raises(FedmedError, match="config is not what the record binds"):
            verify(folder, known)
