"""A run's record: one head whatever it ran on, whole after any crash, and no change unfound."""

import csv
import json
import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import summary
from signed_run import PRIVATE, SMALL, head_of

from fedmed.config import compose
from fedmed.core.errors import ConfigError, FedmedError
from fedmed.core.jsontext import canonical
from fedmed.core.records import MetricRow, csv_lines
from fedmed.data.store import prepare
from fedmed.data.table import validate
from fedmed.deployment import evidence, node_data
from fedmed.privacy.accounting import epsilon
from fedmed.privacy.ledger import Ledger
from fedmed.record.anchors import FileAnchor
from fedmed.record.chain import Chain
from fedmed.record.signatures import read_public
from fedmed.runs.verify import Known, verify

Launch = Callable[..., dict[str, Any]]


def test_heads_do_not_depend_on_workers_or_on_who_signs(
    launch: Launch, tmp_path: Path, finished: Path
) -> None:
    done = launch(*PRIVATE, "runner.workers=2", folder=tmp_path / "two")
    assert head_of(done) == head_of(summary(finished))
    one, two = ((folder / "chain.jsonl").read_bytes() for folder in (finished, tmp_path / "two"))
    assert one == two


class Cut(BaseException):
    """The process ends here."""


def cuts_off(moment: int, patch: pytest.MonkeyPatch, run: Callable[[], object]) -> bool:
    """End a run as it puts something on the disk for the nth time; say whether it came as far."""
    count, fsync = 0, os.fsync

    def counted(file: int) -> None:
        nonlocal count
        count += 1
        if count == moment:
            raise Cut
        fsync(file)

    patch.setattr(os, "fsync", counted)
    with suppress(Cut):
        run()
    return count >= moment


@pytest.mark.parametrize("noise", ["seeded", "secret"])
def test_cut_off_at_any_write_the_record_is_whole(
    noise: str, launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: Path
) -> None:
    """Seeded: the same to the byte. Secret: another result, and no release is forgotten."""
    secret = (f"privacy.secure_noise={str(noise == 'secret').lower()}",)
    config = (*PRIVATE, *secret, "evaluate_every=2", f"record.key={keys / 'server'}")
    launch(*config, folder=tmp_path / "whole")
    expected = (tmp_path / "whole" / "chain.jsonl").read_bytes()
    known = Known(read_public(keys / "server.pub"))
    cut, moment = True, 0
    while cut:
        moment += 1
        folder = tmp_path / str(moment)
        with monkeypatch.context() as patch:
            cut = cuts_off(moment, patch, partial(launch, *config, folder=folder))
        if cut and (folder / "chain.jsonl").exists():
            assert "unfinished" in str(verify(folder, known))
        launch(*config, folder=folder)
        verify(folder, known)
        chain = Chain.read(folder / "chain.jsonl")
        ledger = json.loads((folder / "ledger.json").read_text())
        order = canonical
        assert sorted(chain.bound(), key=order) == sorted(ledger["events"], key=order), moment
        if noise == "seeded":
            assert (folder / "chain.jsonl").read_bytes() == expected, moment


def test_a_record_that_was_being_written_is_cut_off(
    ran: Path, launch: Launch, finished: Path, known: Known, keys: Path
) -> None:
    (ran / "summary.json").unlink()
    for name in ("chain.jsonl", "signatures.jsonl"):
        with (ran / name).open("ab") as file:
            file.write(b'{"arrays":"55')
    with pytest.raises(FedmedError, match=r"chain\.jsonl: .* line 4 is cut off"):
        verify(ran, known)
    launch(*PRIVATE, f"record.key={keys / 'server'}", folder=ran)
    assert (ran / "chain.jsonl").read_bytes() == (finished / "chain.jsonl").read_bytes()
    verify(ran, known)


def test_a_run_does_not_go_on_from_another_record(ran: Path, launch: Launch) -> None:
    (ran / "summary.json").unlink()
    lines = (ran / "chain.jsonl").read_bytes().splitlines(keepends=True)
    (ran / "chain.jsonl").write_bytes(b"".join(lines[:-1]))
    with pytest.raises(FedmedError, match=r"chain\.jsonl: .* not the record of the 2 rounds"):
        launch(*PRIVATE, folder=ran)
    (ran / "chain.jsonl").write_bytes(b"".join(lines))
    (ran / "ledger.json").unlink()
    with pytest.raises(FedmedError, match=r"ledger\.json"):
        launch(*PRIVATE, folder=ran)


def test_force_adds_what_is_other_and_forgets_nothing(launch: Launch, tmp_path: Path) -> None:
    first = launch(*SMALL)
    again = launch(*SMALL, "force=true")
    assert head_of(again) == head_of(first)  # all of it is the same, and nothing was released
    noisy, folder = (*PRIVATE, "privacy.secure_noise=true"), tmp_path / "noisy"
    launch(*noisy, folder=folder)
    chain = Chain.read(folder / "chain.jsonl")
    launch(*noisy, "force=true", folder=folder)
    grown = Chain.read(folder / "chain.jsonl")
    assert grown.head(3) == chain.head()
    assert [(r["round"], r["attempt"]) for r in grown.records] == [
        *((0, 0), (1, 0), (2, 0)),
        *((1, 1), (2, 1)),
    ]
    assert "2 of them are of attempts that others took the place of" in str(verify(folder, Known()))
    spent = Ledger.read(folder / "ledger.json", grown.records[0]["config"])
    assert len(list(grown.bound())) == len(spent.events) == 16
    assert grown.records[-1]["privacy"]["patient"]["epsilon"] == spent.epsilon("patient")


def test_another_configuration_takes_the_place_of_a_run_and_its_record(
    launch: Launch, tmp_path: Path
) -> None:
    launch(*SMALL)
    other = launch(*SMALL, "seed=1", "force=true")
    assert head_of(other) == head_of(launch(*SMALL, "seed=1", folder=tmp_path / "other"))
    verify(tmp_path / "run", Known())


def test_faults_and_an_early_end_are_recorded(launch: Launch, tmp_path: Path) -> None:
    faults = (
        "faults.on_failure=exclude",
        "faults.inject=[{kind: nans, clients: [1], rounds: [1]}, {kind: raise, clients: [2]}]",
    )
    launch(*SMALL, *faults, folder=tmp_path / "faults")
    verify(tmp_path / "faults", Known())
    records = Chain.read(tmp_path / "faults" / "chain.jsonl").records
    trained = [record["exchanges"][0] for record in records[1:]]
    kinds = [list(one["faults"].values()) for one in trained]
    assert kinds == [["not_finite", "raised"], ["raised"]]
    assert [set(one["returned"]) for one in trained] == [{"0", "1", "3"}, {"0", "1", "3"}]
    early = (*PRIVATE, "rounds=9", "privacy.epsilon=6")
    done = launch(*early, folder=tmp_path / "early")
    assert 0 < done["rounds_done"] < 9
    assert f"rounds 0 to {done['rounds_done']}," in str(verify(tmp_path / "early", Known()))


def test_epsilon_of_the_record_is_the_accountants(finished: Path) -> None:
    chain = Chain.read(finished / "chain.jsonl")
    ledger = Ledger.read(finished / "ledger.json", chain.records[0]["config"])
    worst = max(
        epsilon([e for e in ledger.events if e.client == client], ledger.deltas["patient"])
        for client in range(4)
    )
    assert chain.records[-1]["privacy"]["patient"]["epsilon"] == pytest.approx(worst, rel=1e-9)


def test_an_anchor_that_fails_stops_no_round(
    launch: Launch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "heads"
    place.mkdir()
    done = launch(*SMALL, "anchor=file", f"anchor.path={place}")
    told = capfd.readouterr().out
    assert done["record"]["anchored"] is None
    assert told.count("is not anchored: ") == 4  # before the first round, after each, at the end
    assert "not anchored" in told
    place.rmdir()
    done = launch(*SMALL, "anchor=file", f"anchor.path={place}", "anchor.every=2", "force=true")
    assert done["record"]["anchored"] == 3
    run_ = Chain.read(tmp_path / "run" / "chain.jsonl").run
    assert [head.size for head in FileAnchor(str(place)).heads(run_)] == [3]


def test_a_key_that_cannot_be_used_is_refused_before_training(
    launch: Launch, tmp_path: Path, keys: Path
) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(keys / "server", tmp_path / "run" / "server")
    with pytest.raises(ConfigError, match=r"record\.key: .* lies in the run directory"):
        launch(*SMALL, f"record.key={tmp_path / 'run' / 'server'}")
    with pytest.raises(ConfigError, match="holds no private key"):
        launch(*SMALL, f"record.key={keys / 'server.pub'}")
    with pytest.raises(ConfigError, match="cannot be read"):
        launch(*SMALL, f"record.key={tmp_path / 'none'}")
    assert not (tmp_path / "run" / "chain.jsonl").exists()


def test_metrics_are_written_as_pandas_writes_them() -> None:
    draw = random.Random(0)
    values = [0.1, 1e-300, 1e22, -0.0, 3.0, float("nan"), float("inf"), 1 / 3, 123456789.123456789]
    values += [draw.uniform(-1, 1) * 10 ** draw.randint(-20, 20) for _ in range(500)]
    rows = [MetricRow(i, "a,b", i % 3 - 1, 'auroc/"x"', v) for i, v in enumerate(values)]
    frame = pd.DataFrame(rows)
    frame["client"] = frame["client"].map(lambda client: "" if client < 0 else str(client))
    assert csv_lines(rows) == frame.to_csv(index=False, header=False)
    read = [float(line[4] or "nan") for line in csv.reader(csv_lines(rows).splitlines())]
    assert pd.Series(read).equals(pd.Series(values))


def test_a_hospital_tells_the_hashes_that_a_simulation_finds(store: Path, tmp_path: Path) -> None:
    config = compose([*SMALL, f"store={store}"])
    dataset = config.dataset.build()
    table = validate(dataset.table(), dataset)
    assigned = config.partition.build().assign(table, dataset.targets)
    prepared = prepare(dataset, table, config.store, 0, lambda done, total: None)
    found = evidence.of_data(prepared, assigned)
    assert set(found) == {-1, 0, 1, 2, 3}
    for client, whose in assigned.groupby("client"):
        folder = tmp_path / str(client)
        node_data.export(prepared, whose, folder)
        told = node_data.describe(folder, (), str)
        assert {kind: told[f"{kind}_sha256"] for kind in found[client]} == found[client]
