"""DICOM files for tests, and what independent decoders make of them.

The oracles are dcmtk (Debian's package) and, for JPEG 2000, gdcm.
"""

import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread, uid
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.pixels.decoders.base import get_decoder

from fedmed.data.pixels.window import PERCENTILES
from fedmed.datasets.phantom import Phantom

JPEG_LS = {uid.JPEGLSLossless, uid.JPEGLSNearLossless}
JPEG_2000 = {uid.JPEG2000, uid.JPEG2000Lossless}
SECRET = "Doe^Jane"

needs_dcmtk = pytest.mark.skipif(
    not shutil.which("dcmj2pnm"), reason="the oracle is absent: apt-get install dcmtk"
)
needs_gdcm = pytest.mark.skipif(
    not importlib.util.find_spec("gdcm"), reason="the oracle is absent: pip install python-gdcm"
)


def phantom(bits: int = 12, signed: bool = False) -> NDArray[Any]:
    """Draw stored values of so many bits."""
    data = Phantom(["Effusion"], 96, patients=4)
    drawn = data.read(data.table()["image"][0])[:80].astype(np.int64)
    drawn = drawn * (2**bits - 1) // 255 - (2 ** (bits - 1) if signed else 0)
    return np.asarray(drawn, f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")


def scan(path: Path, stored: NDArray[Any], bits: int = 12, **header: Any) -> Path:
    """Write stored values as explicit little endian DICOM."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = uid.UID("1.2.3")
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    data.PatientName, data.SamplesPerPixel = SECRET, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.Rows, data.Columns = stored.shape
    data.BitsAllocated, data.BitsStored, data.HighBit = stored.itemsize * 8, bits, bits - 1
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    data.PixelData = stored.tobytes()
    for name, value in header.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


def lut(entries: NDArray[Any], first: int, bits: int) -> list[Dataset]:
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.LUTData = entries.tobytes()
    return [item]


def plain(path: Path) -> Path:
    """Return an uncompressed copy of a DICOM file, decoded by the oracle of its syntax."""
    data, target = dcmread(path), path.with_suffix(".plain")
    syntax = data.file_meta.TransferSyntaxUID
    if syntax in JPEG_2000:
        data.PixelData = get_decoder(syntax).as_array(data, decoding_plugin="gdcm")[0].tobytes()
        data["PixelData"].is_undefined_length = False
        data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        data.save_as(target)
        return target
    tool = "dcmdjpls" if syntax in JPEG_LS else "dcmdjpeg" if "JPEG" in syntax.name else "dcmconv"
    subprocess.run([tool, str(path), str(target)], check=True, capture_output=True)
    return target


def oracle(path: Path, *options: str) -> NDArray[np.int64]:
    """Show a DICOM file by dcmtk."""
    if not options:
        options = ("+Wl", "1") if "VOILUTSequence" in dcmread(path) else ("+Wi", "1")
    source = path if dcmread(path).file_meta.TransferSyntaxUID == uid.RLELossless else plain(path)
    image = path.with_suffix(".pgm")
    command = ["dcm2pnm", "-O", *options, str(source), str(image)]
    subprocess.run(command, check=True, capture_output=True)
    return np.asarray(Image.open(image)).astype(np.int64)


def agree(ours: NDArray[np.uint8], theirs: NDArray[np.int64], within: int = 1) -> None:
    assert ours.dtype == np.uint8
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= within
    assert np.ptp(ours) > 100, "there is something to see"


def percentile_window(stored: NDArray[Any]) -> tuple[str, str, str]:
    """Return the options that have dcmtk show what lies between the recipe's percentiles."""
    low, high = np.percentile(stored.astype(float), PERCENTILES, method="inverted_cdf")
    return "+Ww", str((low + high + 1) / 2), str(high - low + 1)


def compressed(syntax: uid.UID, **options: Any) -> Callable[[Path, Path], None]:
    def encode(source: Path, target: Path) -> None:
        data = dcmread(source)
        data.compress(syntax, generate_instance_uid=False, **options)
        data.save_as(target)

    return encode


def by(*command: str) -> Callable[[Path, Path], None]:
    def encode(source: Path, target: Path) -> None:
        subprocess.run([*command, str(source), str(target)], check=True, capture_output=True)

    return encode
