"""Small downloads in their genuine layouts, around the label tables that torchxrayvision ships.

Images are noise. MIMIC-CXR-JPG's and BRAX's tables are made up, in the columns of theirs, as nobody
may pass them on.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import torchxrayvision as xrv
from PIL import Image
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from fedmed.data.chexpert_labels import LABELS
from fedmed.datasets import rsna, vindr_cxr

SHIPPED = Path(xrv.datasets.datapath)
ROWS = 30
RNG = np.random.default_rng


def standin(name: str, folder: Path) -> Path:
    """Make a stand-in for a dataset's download below ``folder``; returns its root."""
    folder.mkdir(parents=True, exist_ok=True)
    return STANDINS[name](folder)


def chexpert(folder: Path) -> Path:
    home = folder / "CheXpert-v1.0-small"
    train = pd.read_csv(SHIPPED / "chexpert_train.csv.gz", nrows=ROWS, dtype=str)
    valid = train.iloc[:12].copy()
    patients = valid["Path"].str.extract(r"patient(\d+)")[0].astype(int) + 64_540
    rest = valid["Path"].str.partition("/study")[2]
    for part, first in (("valid", 0), ("test", 200)):  # readers leave no cell blank or uncertain
        path = part + "/patient" + (patients + first).astype(str) + "/study" + rest
        valid["Path"] = "CheXpert-v1.0-small/" + path
        valid[list(LABELS)] = RNG(first).integers(0, 2, (12, 14)).astype(float)
        write_csv(valid, home / f"{part}.csv")
    told = valid.drop(columns=["Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding"])
    write_csv(told, home / "test.csv")
    write_csv(train, home / "train.csv")
    for part in ("train", "valid", "test"):
        paths = pd.read_csv(home / f"{part}.csv")["Path"]
        draw(home / path.split("/", 1)[1] for path in paths)
    return folder


def mimic_cxr(folder: Path) -> Path:
    rng = RNG(0)
    subjects = [str(10_000_032 + 7 * i) for i in range(12)]
    rows = []
    for i, subject in enumerate(subjects):
        for study in range(1 + i % 3):
            for view in (["PA", "LATERAL"], ["AP"], ["PA", "LL", None])[(i + study) % 3]:
                dicom = "-".join(f"{n:08x}" for n in rng.integers(0, 2**32, 5))
                split = ("train", "train", "validate", "test")[i % 4]
                rows.append((dicom, str(50_414_267 + 10 * i + study), subject, split, view))
    table = pd.DataFrame(rows, columns=["dicom_id", "study_id", "subject_id", "split", "view"])
    metadata = table[["dicom_id", "subject_id", "study_id"]].assign(
        PerformedProcedureStepDescription="CHEST (PA AND LAT)",
        ViewPosition=table["view"],
        Rows=3056,
        Columns=2544,
        StudyDate=[21_800_506 + 10_000 * (i % 5) for i in range(len(table))],
        StudyTime=213014.531,
    )
    studies = table[["subject_id", "study_id"]].drop_duplicates().iloc[:-1]  # one has no report
    write_csv(table.drop(columns="view"), folder / "mimic-cxr-2.0.0-split.csv.gz")
    write_csv(metadata, folder / "mimic-cxr-2.0.0-metadata.csv.gz")
    for tool, seed in (("chexpert", 1), ("negbio", 2)):
        labels = studies.join(mined(len(studies), seed).set_axis(studies.index))
        write_csv(labels, folder / f"mimic-cxr-2.0.0-{tool}.csv.gz")
    people = pd.DataFrame({"subject_id": subjects[:-1], "gender": [*"FM" * 6][:-1]})
    people = people.assign(anchor_age=52, anchor_year=2180, anchor_year_group="2014 - 2016")
    write_csv(people, folder / "patients.csv.gz")
    draw(
        folder / f"files/p{subject[:2]}/p{subject}/s{study}/{dicom}.jpg"
        for dicom, study, subject, *_ in rows
    )
    return folder


def padchest(folder: Path) -> Path:
    name = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
    table = pd.read_csv(SHIPPED / f"{name}.gz", nrows=ROWS, dtype=str)
    write_csv(table, folder / name)
    files = zip(table["ImageDir"], table["ImageID"], strict=True)
    draw(folder / directory / image for directory, image in files)
    return folder


def vindr_cxr_kaggle(folder: Path) -> Path:
    boxes = pd.read_csv(SHIPPED / "vinbigdata-train.csv.gz", dtype=str)
    boxes = boxes[boxes["image_id"].isin(boxes["image_id"].unique()[:ROWS])]
    write_csv(boxes, folder / "train.csv")
    for image in boxes["image_id"].unique():
        write_dicom(folder / "train" / f"{image}.dicom", PatientSex="F", PatientAge="061Y")
    return folder


def vindr_cxr_physionet(folder: Path) -> Path:
    boxes = pd.read_csv(vindr_cxr_kaggle(folder) / "train.csv")
    (folder / "train.csv").unlink()
    marks = pd.crosstab([boxes["image_id"], boxes["rad_id"]], boxes["class_name"]).clip(upper=1)
    marks = marks.reindex(columns=[*vindr_cxr.FINDING, "Other lesion"], fill_value=0).reset_index()
    write_csv(marks.assign(**{"Other diseases": 0}), folder / "annotations/image_labels_train.csv")
    test = marks.groupby("image_id").max().iloc[:10].drop(columns="rad_id").reset_index()
    test["image_id"] = test["image_id"].str[::-1]
    write_csv(test.assign(**{"Other disease": 0}), folder / "annotations/image_labels_test.csv")
    for image in test["image_id"]:
        write_dicom(folder / "test" / f"{image}.dicom", PatientSex="M", PatientAge="033Y")
    return folder


def rsna_challenge(folder: Path) -> Path:
    labels = pd.read_csv(SHIPPED / "kaggle_stage_2_train_labels.csv.zip", nrows=ROWS, dtype=str)
    write_csv(labels, folder / rsna.LABEL_FILE)
    images = labels["patientId"].unique()
    for image in images:
        write_dicom(folder / "stage_2_train_images" / f"{image}.dcm", PatientSex="F")
    mapping = [
        {"img_id": f"{i // 2 + 1:08d}_{i % 2:03d}.png", "subset_img_id": image, "orig_labels": []}
        for i, image in enumerate(images)
    ]
    (folder / rsna.MAPPING).write_text(json.dumps(mapping))
    return folder


def siim(folder: Path) -> Path:
    masks = pd.read_csv(SHIPPED / "siim-pneumothorax-train-rle.csv.gz", nrows=ROWS, dtype=str)
    masks[" EncodedPixels"] = masks[" EncodedPixels"].str.split().str[:6].str.join(" ")
    write_csv(masks, folder / "train-rle.csv")
    for image in masks["ImageId"].unique():
        path = folder / "dicom-images-train" / f"{image}.1" / f"{image}.2" / f"{image}.dcm"
        write_dicom(path, PatientSex="M", PatientAge="47", ViewPosition="PA")
    return folder


def brax(folder: Path) -> Path:
    rng = RNG(0)
    patient = [f"id_{1000 + i // 2:08x}" for i in range(ROWS)]
    png = [f"images/{p}/Study_1.{i}/Series_1.{i}/image-1.{i}.png" for i, p in enumerate(patient)]
    table = pd.DataFrame(
        {
            "DicomPath": [name.replace("images", "Anonymized_DICOMs") for name in png],
            "PngPath": png,
            "PatientID": patient,
            "PatientSex": np.repeat(rng.choice(["F", "M", "O"], ROWS // 2), 2),
            "PatientAge": np.repeat(rng.choice(["45", "60", "85 or more"], ROWS // 2), 2),
            "AccessionNumber": rng.integers(10**9, 10**10, ROWS),
            "StudyDate": 20_150_101,
        }
    ).join(mined(ROWS, 3))
    table["ViewPosition"] = rng.choice(["PA", "AP", "L", "RL", "AP LLD", ""], ROWS)
    table["Rows"] = np.where(np.arange(ROWS) == 5, 140, 2800)
    table = table.assign(Columns=2600, Manufacturer=rng.integers(1, 4, ROWS))
    write_csv(table, folder / "master_spreadsheet_update.csv")
    draw(folder / name for name in png)
    return folder


#: By the name of the dataset.
STANDINS: dict[str, Callable[[Path], Path]] = {
    "brax": brax,
    "chexpert": chexpert,
    "mimic_cxr": mimic_cxr,
    "padchest": padchest,
    "rsna": rsna_challenge,
    "siim": siim,
    "vindr_cxr": vindr_cxr_physionet,
}


def mined(rows: int, seed: int) -> pd.DataFrame:
    """Labels as CheXpert's labeler leaves them: mostly blank, some uncertain."""
    cells = RNG(seed).choice(["", "1.0", "0.0", "-1.0"], (rows, 13), p=[0.6, 0.2, 0.1, 0.1])
    labels = pd.DataFrame(cells, columns=LABELS[1:])
    silent = ~labels.drop(columns="Support Devices").isin(["1.0", "-1.0"]).any(axis=1)
    return labels.assign(**{"No Finding": np.where(silent, "1.0", "")})[list(LABELS)]


def write_csv(table: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)


def draw(paths: Iterable[Path]) -> None:
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = RNG(i).integers(0, 256, (48, 40), dtype=np.uint8)
        if path.suffix == ".png":  # of 16 bits, as in PadChest
            Image.fromarray(noise.astype(np.uint16) * 257).save(path)
        else:
            Image.fromarray(noise).save(path)


def write_dicom(path: Path, **header: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    file.SOPClassUID, file.SOPInstanceUID = ComputedRadiographyImageStorage, generate_uid()
    file.Modality, file.Manufacturer = "CR", "Maker"
    file.PhotometricInterpretation, file.SamplesPerPixel = "MONOCHROME2", 1
    file.Rows, file.Columns, file.PixelRepresentation = 48, 40, 0
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 12, 11
    file.PixelData = RNG(len(path.name)).integers(0, 4096, (48, 40), dtype=np.uint16).tobytes()
    with pydicom.config.disable_value_validation():  # SIIM's ages lack their unit
        for keyword, value in header.items():
            setattr(file, keyword, value)
    file.save_as(path, enforce_file_format=True)
