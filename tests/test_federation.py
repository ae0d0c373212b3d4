"""Several sets as one federation, a hospital's own folder, and what never leaves it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import REAL
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid
from standins_hospital import STANDINS

from fedmed.config import compose
from fedmed.core.errors import FedmedError
from fedmed.data.table import Dataset, validate
from fedmed.datasets.phantom import Phantom

#: What a header says of a person; {} is the patient's number.
IDENTIFYING = {
    "PatientName": "Quillfeather^Ottoline{}",
    "PatientID": "MRN7712046{}",
    "PatientBirthDate": "194802{:02d}",
    "AccessionNumber": "ACC5550199{}",
    "InstitutionName": "Saint Wenefrede Infirmary",
    "InstitutionAddress": "12 Larkspur Close",
    "ReferringPhysicianName": "Thistlewood^Barnaby",
    "StationName": "STN-KESTREL",
    "StudyDate": "201908{:02d}",
    "StudyID": "STUDY9021{}",
}
PATIENTS = 24


def build(*overrides: str) -> Dataset:
    dataset: Dataset = compose(list(overrides)).dataset.build()
    return dataset


def scan(path: Path, pixels: np.ndarray[Any, Any], patient: int) -> None:
    """Write a radiograph as a scanner would, with all that a header tells of a person."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    for name, value in IDENTIFYING.items():
        setattr(header, name, value.format(patient + 1))
    header.PatientSex, header.PatientAge = "FM"[patient % 2], f"{40 + patient:03d}Y"
    header.ViewPosition, header.Manufacturer = ("PA", "AP")[patient % 3 == 0], "Kestrel Imaging"
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.Rows, header.Columns = pixels.shape
    header.BitsAllocated = header.BitsStored = 8
    header.HighBit, header.PixelRepresentation = 7, 0
    header.PixelData = pixels.tobytes()
    header.save_as(path, enforce_file_format=True)


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """A folder of DICOM files and a spreadsheet, as a hospital has them."""
    root = tmp_path / "hospital"
    phantom = Phantom(["Effusion"], 64, patients=PATIENTS)
    drawn = phantom.table().drop_duplicates("patient")
    rows = []
    for patient, (image, effusion) in enumerate(
        zip(drawn["image"], drawn["Effusion"], strict=True)
    ):
        file = root / f"export{patient % 2}" / f"scan{patient}.dcm"
        file.parent.mkdir(parents=True, exist_ok=True)
        scan(file, phantom.read(image), patient)
        word = {1.0: "present", 0.0: "absent"}.get(effusion, "unsure")
        mrn = IDENTIFYING["PatientID"].format(patient + 1)
        rows.append({"file": file.name, "mrn": mrn, "fluid": word})
    (root / "export0" / "broken.dcm").write_bytes(file.read_bytes()[:900])
    rows.append({"file": "broken.dcm", "mrn": mrn, "fluid": "present"})
    pd.DataFrame(rows).to_excel(root / "labels.xlsx", index=False)
    return root


def folder(root: Path, table: str = "labels.xlsx") -> Sequence[str]:
    return (
        "dataset=folder",
        f"dataset.root={root}",
        f"dataset.table={table}",
        "dataset.columns.image=file",
        "dataset.columns.patient=mrn",
        "dataset.findings={Effusion: fluid}",
        "+dataset.values.finding={present: 1, absent: 0, unsure: null}",
    )


def test_a_hospital_brings_its_own_folder(hospital: Path) -> None:
    table = validate(build(*folder(hospital)).table(), build(*folder(hospital)))
    assert len(table) == PATIENTS + 1
    assert table["patient"].nunique() == PATIENTS
    assert table["patient"].str.startswith("folder:MRN").all()
    first = table.iloc[0]  # the spreadsheet does not say; the header does
    assert (first["sex"], first["age"], first["view"]) == ("F", 40, "AP")
    assert first["scanner"] == "Kestrel Imaging"
    words = pd.read_excel(hospital / "labels.xlsx")["fluid"]
    assert (table["Effusion"] == 1).tolist() == (words == "present").tolist()
    assert table["Effusion"].isna().tolist() == (words == "unsure").tolist()


def test_a_wrong_cell_is_named_by_row_and_column(hospital: Path) -> None:
    rows = pd.read_excel(hospital / "labels.xlsx")
    rows.loc[4, "fluid"] = "perhaps"
    rows.to_csv(hospital / "labels.csv", index=False)
    with pytest.raises(FedmedError, match=r"row 6, column 'fluid': takes .*, got 'perhaps'"):
        build(*folder(hospital, "labels.csv")).table()
    rows.drop(columns="mrn").to_csv(hospital / "labels.csv", index=False)
    with pytest.raises(FedmedError, match="the column 'mrn' is missing"):
        build(*folder(hospital, "labels.csv")).table()


def test_nothing_that_identifies_leaves_a_dicom_run(
    hospital: Path,
    tmp_path: Path,
    launch: Callable[..., dict[str, Any]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    store = tmp_path / "pixels"
    launch(
        *folder(hospital),
        f"store={store}",
        "dataset.size=32",
        "partition=iid",
        "partition.clients=2",
        "rounds=1",
        "tracking.mode=offline",
        "runner.workers=2",
    )
    run = tmp_path / "run"
    told = capfd.readouterr()
    assert "1 images could not be read" in told.out
    names = ("partition.csv", "table.parquet", "predictions.parquet", "unreadable.csv")
    private = {run / name for name in names}  # the rest may be shown to anybody
    left = [path for path in (*run.rglob("*"), *store.rglob("*")) if path.is_file()]
    shown = {path: path.read_bytes() for path in left}
    shown = {p: c for p, c in shown.items() if p not in private and not p.name.startswith("debug")}
    shown[Path("terminal")] = (told.out + told.err).encode()
    values = {v.format(n + 1) for v in IDENTIFYING.values() for n in range(PATIENTS)}
    values |= {value.split("^")[0] for value in values} | {"folder:", "scan1.dcm", "broken.dcm"}
    assert len(shown) > 12
    for path, content in shown.items():
        assert [value for value in values if value.encode() in content] == [], path


def test_sets_with_the_same_patients_are_refused(nih_root: Path) -> None:
    both = build(
        "dataset=federation",
        "dataset.targets=[Effusion]",
        "+dataset@dataset.sets.a=nih",
        f"dataset.sets.a.root={nih_root}",
        "+dataset@dataset.sets.b=nih",
        f"dataset.sets.b.root={nih_root}",
    )
    with pytest.raises(FedmedError, match="a and b hold images of the same patients"):
        both.table()


def test_held_out_set_only_tests_and_unknown_findings_stay_unknown(nih_root: Path) -> None:
    dataset = build(
        "dataset=federation",
        "dataset.targets=[Effusion,Edema,Hernia]",
        "+dataset@dataset.sets.clinic=nih",
        f"dataset.sets.clinic.root={nih_root}",
        "+dataset@dataset.sets.drawn=phantom",
        "dataset.sets.drawn.patients=60",
        "dataset.held_out=drawn",
    )
    table = validate(dataset.table(), dataset).groupby("site")
    assert table["Hernia"].count()["drawn"] == 0  # the phantom has none to annotate
    assert table["Effusion"].count().min() > 0
    assert table["split"].unique()["drawn"].tolist() == ["test"]
    assert sorted(table["split"].unique()["clinic"]) == ["test", "train"]


def test_three_sets_learn_together_and_are_tested_at_home_and_elsewhere(
    nih_root: Path, tmp_path: Path, launch: Callable[..., dict[str, Any]]
) -> None:
    """NIH and PneumoniaMNIST are real; CheXpert is rendered in its genuine layout."""
    summary = launch(
        "+experiment=sites",
        f"dataset.sets.nih.root={nih_root}",
        f"dataset.sets.pneumoniamnist.root={REAL / 'pneumoniamnist'}",
        f"dataset.sets.chexpert.root={STANDINS['chexpert'](tmp_path)}",
        "dataset.size=32",
        "client.steps=20",
        "rounds=3",
        "runner.workers=2",
        "tracking.mode=disabled",
    )
    sites = summary["test"]["by_site"]
    assert set(sites) == {"nih", "pneumoniamnist", "chexpert"}
    assert sites["pneumoniamnist"] > 0.8
    clients = pd.read_csv(tmp_path / "run" / "clients.csv").set_index("sites")
    for site in sites:
        others = [sites[other] for other in sites if other != site]
        assert clients.at[site, "on_domain_auroc"] == pytest.approx(sites[site], nan_ok=True)
        assert clients.at[site, "off_domain_auroc"] == pytest.approx(np.nanmean(others))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["test"]["by_site"]
