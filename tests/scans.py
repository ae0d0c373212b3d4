"""Scans whose pixels are known, and what a store of them must hold."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydicom.dataset import Dataset as Header
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from fedmed.data import store
from fedmed.data.card import Card
from fedmed.data.image_files import NamedFiles
from fedmed.data.store import Store, pixels_of
from fedmed.data.table import Dataset, validate

N = 6
SIDE = 8
Pixels = NDArray[np.uint8]


def shown(seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)


def scan(path: Path, values: Pixels, kind: str = "MONOCHROME2") -> None:
    """Write an uncompressed DICOM file, whose size does not depend on what it shows."""
    header = Header()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    header.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    header.SOPClassUID, header.SOPInstanceUID = DigitalXRayImageStorageForPresentation, "1.2.3"
    header.Rows, header.Columns = values.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, kind
    header.BitsAllocated = header.BitsStored = 8
    header.HighBit, header.PixelRepresentation = 7, 0
    header.WindowCenter, header.WindowWidth = "128", "256"
    header.PixelData = values.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    header.save_as(path, enforce_file_format=True)


def turn(path: Path) -> None:
    """Put a header right in place: size, inode and time of writing stay as they are."""
    before = path.stat()
    whole = path.read_bytes()
    with path.open("r+b") as file:
        file.write(whole.replace(b"MONOCHROME2", b"MONOCHROME1"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    same = [(s.st_size, s.st_mtime_ns, s.st_ino) for s in (before, after)]
    assert same[0] == same[1]


class Scans(NamedFiles):
    """A folder of scans, each of a patient."""

    card = Card("scans", ("Effusion",), None, None, "", "", "", "")

    def table(self) -> pd.DataFrame:
        """Return a row for each of the names 0.dcm, 1.dcm, ..., there or not."""
        return pd.DataFrame(
            {
                "image": [f"{i}.dcm" for i in range(N)],
                "patient": [f"p{i}" for i in range(N)],
                "site": "here",
                "view": "PA",
                "sex": "F",
                "age": 50.0,
                "scanner": None,
                "split": ["train", "train", "train", "train", "test", "test"],
                "Effusion": [0.0, 1.0] * (N // 2),
            }
        )


def write_six(folder: Path) -> Path:
    """Write six scans, of the seeds 0 to 5, and return their folder."""
    for i in range(N):
        scan(folder / f"{i}.dcm", shown(i))
    return folder


def prepare(dataset: Dataset, into: Path, workers: int = 0) -> tuple[Store, list[tuple[int, int]]]:
    """Prepare a store; return it and the progress that was shown."""
    steps: list[tuple[int, int]] = []
    table = validate(dataset.table(), dataset)
    made = store.prepare(dataset, table, into, workers, lambda *step: steps.append(step))
    return made, steps


def scans(root: Path) -> Scans:
    return Scans(["Effusion"], SIDE, root)


def expect(made: Store, table: pd.DataFrame, pixels: list[Pixels | None]) -> None:
    """Check a store's pixels, table and hash by what is known of each image; None: unreadable."""
    expected = np.stack([np.zeros((SIDE, SIDE), np.uint8) if p is None else p for p in pixels])
    np.testing.assert_array_equal(pixels_of(made.path), expected)
    read = [row for row, p in enumerate(pixels) if p is not None]
    assert made.table.index.tolist() == read
    csv = table.loc[read].to_csv(index=False, float_format="%.9g").encode()
    parts = [hashlib.sha256(part).hexdigest() for part in (csv, expected.tobytes())]
    assert made.sha256 == hashlib.sha256("".join(parts).encode()).hexdigest()


ALL = [shown(i) for i in range(N)]


def folder(root: Path, key: str = "dataset") -> list[str]:
    scans(root).table().to_csv(root / "labels.csv", index=False)
    named = [f"{key}.columns.{c}={c}" for c in ("image", "patient", "split")]
    return [*named, f"{key}.root={root}", f"{key}.findings={{Effusion: Effusion}}"]
