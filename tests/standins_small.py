"""Small trees in the genuine layouts of the smaller sets; their images are noise.

The findings of an image set its brightness, so that there is something to be learnt.
"""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torchxrayvision as xrv
from numpy.typing import NDArray
from PIL import Image

PATIENTS = 30
CHEST_FINDINGS = 14


def noise(key: int, bright: bool, side: int = 48) -> NDArray[np.uint8]:
    """Return an image of noise, brighter or not."""
    drawn = np.random.default_rng(key).integers(0, 150, (side, side))
    return (drawn + 90 * bright).astype(np.uint8)


def _save(path: Path, key: int, bright: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(key, bright)).save(path)


def kermany(folder: Path) -> Path:
    """Kaggle's layout and names, val and several images of a child included."""
    root = folder / "chest_xray"
    for part, people in (("train", PATIENTS), ("val", 4), ("test", 12)):
        for person in range(1, people + 1):
            cause = ("bacteria", "virus")[person % 2]
            for view in range(1 + person % 2):
                name = f"person{person}_{cause}_{4 * person + view}.jpeg"
                _save(root / part / "PNEUMONIA" / name, 4 * person + view, True)
            for name in (f"IM-{person:04}-0001.jpeg", f"NORMAL2-IM-{person:04}-0001-0002.jpeg"):
                _save(root / part / "NORMAL" / name, 400 + person, False)
    return root


def kermany_mendeley(folder: Path) -> Path:
    """Mendeley's layout and names; the patient 1000007 is in both folders."""
    root = folder / "mendeley"
    for part, first, people in (("train", 0, PATIENTS), ("test", 100, 12)):
        for i in range(first, first + people):
            label = ("BACTERIA", "NORMAL", "VIRUS")[i % 3]
            shown = "NORMAL" if label == "NORMAL" else "PNEUMONIA"
            for view in range(1, 2 + i % 2):
                name = f"{label}-{1_000_000 + i}-{view:04}.jpeg"
                _save(root / "chest_xray" / part / shown / name, i, label != "NORMAL")
    _save(root / "chest_xray" / "test" / "NORMAL" / "NORMAL-1000007-0009.jpeg", 7, False)
    return root


def indiana(folder: Path, reports: int = 60) -> Path:
    """The first of the real reports, packed, and their images."""
    root = folder / "indiana"
    (root / "NLMCXR_png").mkdir(parents=True)
    with (
        tarfile.open(Path(xrv.datasets.datapath) / "NLMCXR_reports.tgz") as source,
        tarfile.open(root / "NLMCXR_reports.tgz", "w:gz") as packed,
    ):
        for member in [m for m in source if m.isfile()][:reports]:
            packed.addfile(member, source.extractfile(member))
    shown = xrv.datasets.Openi_Dataset(
        imgpath="", xmlpath=root / "NLMCXR_reports.tgz", views=["*"], unique_patients=False
    )
    for key, (name, found) in enumerate(zip(shown.csv["imageid"], shown.labels, strict=True)):
        _save(root / "NLMCXR_png" / f"{name}.png", key, bool(found.any()))
    return root


def shenzhen(folder: Path) -> Path:
    """Images and readings as the NLM writes them, untidy ones included."""
    root = folder / "ChinaSet_AllFiles"
    told = ("male 45yrs\nnormal", "Female, 8months\n", "female 35yrs\nleft PTB", "see report")
    for i in range(1, PATIENTS + 1):
        name = f"CHNCXR_{i:04}_{i % 2}"
        _save(root / "CXR_png" / f"{name}.png", i, bool(i % 2))
        (root / "ClinicalReadings").mkdir(exist_ok=True)
        (root / "ClinicalReadings" / f"{name}.txt").write_text(told[i % 4])
    return root


def montgomery(folder: Path) -> Path:
    """Images and readings as the NLM writes them."""
    root = folder / "MontgomerySet"
    for i in range(1, PATIENTS + 1):
        name = f"MCUCXR_{i:04}_{i % 2}"
        _save(root / "CXR_png" / f"{name}.png", i, bool(i % 2))
        (root / "ClinicalReadings").mkdir(exist_ok=True)
        reading = f"Patient's Sex: {'FM'[i % 2]}\nPatient's Age: {i:03}Y\nnormal"
        (root / "ClinicalReadings" / f"{name}.txt").write_text(reading)
    return root


def tbx11k(folder: Path) -> Path:
    """Two COCO files and the images that they list."""
    root = folder / "TBX11K"
    (root / "annotations" / "json").mkdir(parents=True)
    names = ("ActiveTuberculosis", "ObsoletePulmonaryTuberculosis", "PulmonaryTuberculosis")
    categories = [
        {"id": i, "name": name, "supercategory": "Tuberculosis"} for i, name in enumerate(names, 1)
    ]
    for part, first, count in (("train", 1, PATIENTS), ("val", 501, 12)):
        images, annotations = [], []
        for i in range(first, first + count):
            kind = ("health", "sick", "tb")[i % 3]
            name = f"{kind}/{kind[0] if kind != 'tb' else 'tb'}{i:04}.png"
            _save(root / "imgs" / name, i, kind == "tb")
            images.append({"id": i, "file_name": name, "height": 512, "width": 512})
            if kind == "tb" and i != 2:  # the one without a box
                box = {"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [9, 9, 50, 50]}
                annotations.append(box | {"area": 2500, "iscrowd": 0})
        written = {"images": images, "annotations": annotations, "categories": categories}
        path = root / "annotations" / "json" / f"TBX11K_{part}.json"
        path.write_text(json.dumps(written))
    return root


def covid19_radiography(folder: Path) -> Path:
    """Four classes, each with images and masks."""
    root = folder / "COVID-19_Radiography_Dataset"
    for key, name in enumerate(("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")):
        for i in range(1, 16):
            _save(root / name / "images" / f"{name}-{i}.png", 100 * key + i, name != "Normal")
            _save(root / name / "masks" / f"{name}-{i}.png", 0, False)
    return root


def _npz(path: Path, findings: int, side: int) -> None:
    rng = np.random.default_rng(findings)
    arrays: dict[str, Any] = {}
    for split, count in (("train", 60), ("val", 12), ("test", 24)):
        labels = (rng.random((count, findings)) < 0.5).astype(np.uint8)
        arrays[f"{split}_images"] = np.stack([noise(i, la[0], side) for i, la in enumerate(labels)])
        arrays[f"{split}_labels"] = labels
    np.savez_compressed(path, **arrays)


def chestmnist(folder: Path) -> Path:
    """The file of 28 pixels and that of 64."""
    _npz(folder / "chestmnist.npz", CHEST_FINDINGS, 28)
    _npz(folder / "chestmnist_64.npz", CHEST_FINDINGS, 64)
    return folder


def pneumoniamnist(folder: Path) -> Path:
    """The file of 28 pixels."""
    _npz(folder / "pneumoniamnist.npz", 1, 28)
    return folder


def heart_disease(folder: Path) -> Path:
    """UCI's four files; in each the last columns are hardly known, and one row lacks a value."""
    rng = np.random.default_rng(0)
    for name in ("cleveland", "hungarian", "switzerland", "va"):
        ill = rng.integers(0, 2, PATIENTS)
        lines = [
            f"{rng.integers(30, 77)},{rng.integers(0, 2)},{1 + (i + 2 * d) % 4},"
            f"{rng.integers(94, 200)},{rng.integers(126, 564)},{rng.integers(0, 2)},{i % 3},"
            f"{rng.integers(71, 202) - 20 * d},{d},{rng.random() + d:.1f},?,?,?,{d * (1 + i % 4)}"
            for i, d in enumerate(ill)
        ]
        (folder / f"processed.{name}.data").write_text("\n".join([*lines, "52,1,4,?,0" + ",?" * 9]))
    return folder


#: For each set, what makes a tree of it below a folder and returns its root.
STANDINS: dict[str, Callable[[Path], Path]] = {
    "kermany": kermany,
    "indiana": indiana,
    "shenzhen": shenzhen,
    "montgomery": montgomery,
    "tbx11k": tbx11k,
    "covid19_radiography": covid19_radiography,
    "chestmnist": chestmnist,
    "pneumoniamnist": pneumoniamnist,
}
