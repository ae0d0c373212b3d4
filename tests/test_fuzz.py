"""Fuzz: whatever a file holds, it is decoded or listed with its reason, and the rest goes on."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom.data
import pytest
from numpy.typing import NDArray
from PIL import Image
from png_files import KINDS, png
from pydicom import uid
from pydicom.dataset import FileDataset, FileMetaDataset

from fedmed.data import decoding, store
from fedmed.data.card import Card
from fedmed.data.image_files import ImageFiles

FILES = 2000
SYNTAXES = (None, uid.RLELossless, uid.JPEG2000Lossless, uid.JPEGLSLossless)
SHIPPED = ("JPGExtended.dcm", "JPEGLSNearLossless_08.dcm", "MR_small_bigendian.dcm")
Mutation = Callable[[bytearray, np.random.Generator], bytearray]


class Files(ImageFiles):
    """Whatever lies in a folder."""

    card = Card("files", ("Effusion",), None, None, "", "", "", "")

    def table(self) -> pd.DataFrame:
        """Return a row for each file."""
        return pd.DataFrame({"image": sorted(p.name for p in self.root.iterdir())})


def picture(dtype: str) -> NDArray[Any]:
    top = np.iinfo(dtype).max
    smooth = np.add.outer(np.arange(40), np.arange(48)) / 88
    noise = np.random.default_rng(1).random((40, 48))
    return ((smooth * 0.9 + noise * 0.1) * top).astype(dtype)


def sources() -> list[tuple[str, bytes]]:
    """Return small sound files of every kind that is read."""
    made = []
    for mode in ("1", "L", "LA", "RGB", "RGBA", "P", "I;16"):
        file = BytesIO()
        grey = Image.fromarray(picture("uint16" if mode == "I;16" else "uint8"))
        (grey if mode == "I;16" else grey.convert(mode)).save(file, "PNG")
        made.append((".png", file.getvalue()))
    for kind, (_, channels) in KINDS.items():
        samples = np.repeat(picture("uint16")[..., None], channels, axis=2)
        samples[..., -1] = samples[..., -1] if channels % 2 else 65535
        made.append((".png", png(samples, 16, kind, woven=channels == 3)))
    exif = Image.Exif()
    exif[0x0112] = 8
    for mode, progressive in (("L", False), ("RGB", True), ("CMYK", False)):
        file = BytesIO()
        image = Image.fromarray(picture("uint8")).convert("RGB").convert(mode)
        image.save(file, "JPEG", exif=exif, progressive=progressive)
        made.append((".jpg", file.getvalue()))
    made += [(".dcm", encoded(syntax)) for syntax in SYNTAXES]
    folder = Path(pydicom.data.__file__).parent / "test_files"
    return made + [(".dcm", (folder / name).read_bytes()) for name in SHIPPED]


def encoded(syntax: uid.UID | None) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = uid.DigitalXRayImageStorageForPresentation, "1.2.3"
    data.PatientName, data.PatientAge, data.SamplesPerPixel = "Doe^Jane", "045Y", 1
    data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME1", 0
    data.Rows, data.Columns, data.BitsAllocated, data.BitsStored, data.HighBit = 40, 48, 16, 16, 15
    data.WindowCenter, data.WindowWidth = [30000, 1], [50000, 2]
    data.RescaleSlope, data.RescaleIntercept = 1, 0
    data.PixelData = picture("uint16").tobytes()
    if syntax:
        data.compress(syntax, generate_instance_uid=False)
    file = BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def flip(data: bytearray, rng: np.random.Generator) -> bytearray:
    for at in rng.integers(0, len(data), int(rng.integers(1, 9))):
        data[at] ^= 1 << int(rng.integers(8))
    return data


def flip_header(data: bytearray, rng: np.random.Generator) -> bytearray:
    for at in rng.integers(128, min(len(data), 900), int(rng.integers(1, 9))):
        data[at] = int(rng.integers(256))
    return data


def extreme(data: bytearray, rng: np.random.Generator) -> bytearray:
    at = int(rng.integers(0, len(data) - 4))
    data[at : at + 4] = [b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff"][rng.integers(3)]
    return data


def truncate(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: rng.integers(0, len(data))]


def splice(data: bytearray, rng: np.random.Generator) -> bytearray:
    start, to, length = rng.integers(0, len(data), 3)
    return data[:to] + data[start : start + length] + data[to:]


MUTATIONS: tuple[Mutation, ...] = (flip, flip_header, extreme, truncate, splice)


def mutant(seed: int, sound: list[tuple[str, bytes]]) -> tuple[str, bytes]:
    """Return a file's name and content: a pure function of the seed."""
    rng = np.random.default_rng(seed)
    suffix, data = sound[seed % len(sound)]
    changed = MUTATIONS[rng.integers(len(MUTATIONS))](bytearray(data), rng)
    return f"{seed:05d}{suffix}", bytes(changed)


def ignore(done: int, total: int) -> None:
    """Show no progress."""


def test_mutated_files_are_decoded_or_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "SECONDS", 10.0)
    root = tmp_path / "files"
    root.mkdir()
    sound = sources()
    for seed in range(FILES):
        name, content = mutant(seed, sound)
        (root / name).write_bytes(content)
    data = Files(["Effusion"], 32, root)
    table = data.table()
    prepared = store.prepare(data, table, tmp_path / "store", 2, ignore)
    listed = prepared.unreadable.set_index("image")["reason"]
    assert listed.str.contains("more than 10 s").sum() < 20  # however fast the machine is
    assert set(listed.index) | set(prepared.table["image"]) == set(table["image"])
    assert len(listed) + len(prepared.table) == FILES
    assert len(listed) > FILES / 10
    assert len(prepared.table) > FILES / 10
    for reason in listed:
        assert reason.strip()
        assert len(reason.splitlines()) == 1
        assert "Jane" not in reason
        assert str(tmp_path) not in reason
        assert "of memory" not in reason  # no header had a worker ask for more than it may take


def test_sound_files_are_read(tmp_path: Path) -> None:
    root = tmp_path / "files"
    root.mkdir()
    for i, (suffix, content) in enumerate(sources()):
        (root / f"{i}{suffix}").write_bytes(content)
    data = Files(["Effusion"], 32, root)
    prepared = store.prepare(data, data.table(), tmp_path / "store", 0, ignore)
    assert prepared.unreadable.empty
