"""Every syntax × bits × stray bits × sign × LUT × photometric: as the standard and dcmtk show it.

Pairs of all options that can stand together are covered by a sample of files; each is compared with
PS3.3 worked out value by value, and with dcm2pnm where it knows what it reads.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from dicom_files import by, compressed, lut, needs_dcmtk, needs_gdcm, oracle, plain, scan
from numpy.typing import NDArray
from pydicom import Dataset, dcmread, uid

from fedmed.data import pixels

LOSSLESS: dict[str, Callable[[Path, Path], None] | None] = {
    "explicit": None,
    "implicit": by("dcmconv", "+ti"),
    "big endian": by("dcmconv", "+tb"),
    "RLE": by("dcmcrle"),
    "JPEG-LS": compressed(uid.JPEGLSLossless),
    "JPEG lossless": by("dcmcjpeg", "+e1"),
    "JPEG lossless, predictor 6": by("dcmcjpeg", "+el", "+sv", "6"),
    "JPEG 2000": compressed(uid.JPEG2000Lossless),
}
LOSSY: dict[str, Callable[[Path, Path], None]] = {
    "JPEG-LS near lossless": by("dcmcjpls", "+en"),
    "JPEG 2000 lossy": compressed(uid.JPEG2000, j2k_cr=[3]),
    "JPEG baseline": by("dcmcjpeg", "+eb", "+q", "95"),
    "JPEG extended": by("dcmcjpeg", "+ee", "+q", "95"),
}
NATIVE = ("explicit", "implicit", "big endian", "RLE")
BITS = (5, 8, 10, 12, 15, 16)
LOSSY_BITS = {"JPEG baseline": (8,), "JPEG extended": (12,), "JPEG-LS near lossless": (10, 12, 16)}
LUTS = ("LUT", "LUT of 16", "LUT as SS", "packed LUT")
VOIS = ("none", "window", "several", "sigmoid", "exact", *LUTS)
RESCALES = {"none": (1, 0), "to signed": (1, -1024), "turned": (-2, 500), "quarter": (0.25, 10)}


class Case(NamedTuple):
    """A file: where a pixel's bits lie, and what its header says of them."""

    syntax: str
    allocated: int
    bits: int
    signed: bool
    high: str  # "low" bits are stored, or the "top" ones
    stray: str  # what the other bits hold
    modality: str
    voi: str
    kind: int  # MONOCHROME 1 or 2
    shape: bool  # whether the presentation LUT shape says so, too
    padded: bool


OPTIONS: tuple[tuple[Any, ...], ...] = (
    (*LOSSLESS, *LOSSY),
    (8, 16),
    BITS,
    (False, True),
    ("low", "top"),
    ("nothing", "ones", "noise"),
    (*RESCALES, "LUT"),
    VOIS,
    (1, 2),
    (False, True),
    (False, True),
)


def possible(case: Case) -> bool:
    """Say whether an encoder can write a case, and the standard says how it is shown."""
    full = case.bits == case.allocated
    if case.bits > case.allocated or (full and (case.stray != "nothing" or case.high == "top")):
        return False
    if case.high == "top" and case.syntax not in NATIVE:
        return False
    if case.syntax == "JPEG baseline" and case.allocated != 8:
        return False
    if case.syntax in ("JPEG baseline", "JPEG extended") and case.modality != "none":
        return False  # dcmcjpeg stores what leaves the modality LUT
    if case.syntax in LOSSY and (case.signed or case.stray != "nothing" or case.padded):
        return False
    if case.bits not in LOSSY_BITS.get(case.syntax, BITS):
        return False
    return not ("LUT" in case.voi and case.modality == "quarter")  # nowhere is said how to round


def drawn(count: int) -> list[Case]:
    """Return so many cases at random."""
    rng = np.random.default_rng(0)
    tried = (Case(*(some[rng.integers(len(some))] for some in OPTIONS)) for _ in itertools.count())
    return list(itertools.islice(filter(possible, tried), count))


def sampled() -> list[Case]:
    """Return few cases that hold every pair of options which is in many."""
    pairs = {case: set(itertools.combinations(enumerate(case), 2)) for case in drawn(200)}
    missing: set[Any] = set().union(*pairs.values())
    chosen: list[Case] = []
    while missing and len(chosen) < 64:
        best = max(pairs, key=lambda case: len(pairs[case] & missing))
        missing -= pairs[best]
        chosen.append(best)
    return chosen


def values_of(case: Case) -> NDArray[np.int64]:
    """Draw stored values from the least to the largest."""
    least = -(1 << case.bits - 1) if case.signed else 0
    rising = np.linspace(least, least + (1 << case.bits) - 1, 48 * 40)
    return np.rint(rising).astype(np.int64).reshape(48, 40)


def cells_of(case: Case, stored: NDArray[np.int64]) -> NDArray[Any]:
    """Put stored values among the bits of their cells."""
    kind = f"{'i' if case.signed else 'u'}{case.allocated // 8}"
    if case.stray == "nothing" and case.high == "low":
        return stored.astype(kind)  # whose sign fills what is above
    above = case.allocated - case.bits if case.high == "top" else 0
    used = ((1 << case.bits) - 1) << above
    noise = np.random.default_rng(1).integers(0, 1 << case.allocated, stored.shape)
    stray = {"nothing": 0 * noise, "ones": ~(0 * noise), "noise": noise}[case.stray]
    patterns = (stored << above & used) | (stray & ~used & (1 << case.allocated) - 1)
    return patterns.astype(f"u{case.allocated // 8}").view(kind)


def modality(case: Case) -> dict[str, Any]:
    if case.modality == "none":
        return {}
    if case.modality in RESCALES:
        slope, intercept = RESCALES[case.modality]
        return {"RescaleSlope": slope, "RescaleIntercept": intercept}
    least, span = int(values_of(case).min()), 1 << case.bits
    falling = np.linspace(4000, 20, min(span, 4096)).astype(np.uint16)
    table = lut(falling, 0, 12)
    describe(table[0], len(falling), least, 12, "US")
    table[0].ModalityLUTType = "US"
    return {"ModalityLUTSequence": table}


def describe(table: Dataset, entries: int, first: int, bits: int, vr: str) -> None:
    """Write a LUT's descriptor as a maker does who does not ask what enters."""
    word = (first + 32768) % 65536 - 32768 if vr == "SS" else first % 65536
    table.add_new("LUTDescriptor", vr, [entries, word, bits])


def enter(case: Case, stored: NDArray[np.int64]) -> NDArray[np.float64]:
    """Work out the modality LUT or rescale (PS3.3 C.11.1.1)."""
    if case.modality in RESCALES:
        slope, intercept = RESCALES[case.modality]
        return stored.astype(float) * slope + intercept
    entries = min(1 << case.bits, 4096)
    at = np.minimum(stored - values_of(case).min(), entries - 1)
    return np.asarray(np.linspace(4000, 20, entries).astype(np.uint16)[at], float)


def table_of(case: Case) -> tuple[NDArray[Any], int]:
    """Return the entries of a VOI LUT and the value that the first of them is for."""
    inside = enter(case, values_of(case))
    low, high = inside.min(), inside.max()
    least, most = (-32768, 32767) if low < 0 else (0, 65535)
    first = int(np.clip(low + (high - low) // 4, least, most))
    rising = np.linspace(0, 1, int(np.clip((high - low) // 2, 9, 4096))) ** 2
    top, dtype = (255, np.uint8) if case.voi == "packed LUT" else (4095, np.uint16)
    return np.rint(rising * top).astype(dtype), first


def voi(case: Case) -> dict[str, Any]:
    inside = enter(case, values_of(case))
    center, width = round(float(inside.mean()), 1), round(float(np.ptp(inside)) * 0.6, 1)
    if case.voi == "none":
        return {}
    if case.voi == "several":
        return {"WindowCenter": [center, center + 9], "WindowWidth": [width, 2 * width]}
    if "LUT" not in case.voi:
        functions = {"sigmoid": "SIGMOID", "exact": "LINEAR_EXACT"}
        function = {"VOILUTFunction": functions[case.voi]} if case.voi in functions else {}
        return {"WindowCenter": center, "WindowWidth": width} | function
    entries, first = table_of(case)
    odd = entries.nbytes % 2  # values are of an even number of bytes
    table = lut(np.append(entries, np.zeros(odd, entries.dtype)), 0, 8)
    claimed = {"packed LUT": 8, "LUT of 16": 16}.get(case.voi, 12)
    describe(table[0], len(entries), first, claimed, "SS" if "SS" in case.voi else "US")
    return {"VOILUTSequence": table}


def shown(case: Case, stored: NDArray[np.int64], padding: NDArray[np.bool_]) -> NDArray[Any]:
    """Work out each pixel's brightness by hand, 0 to 255 (PS3.3 C.11.2.1)."""
    x, header = enter(case, stored), voi(case)
    if "LUT" in case.voi:
        entries, first = table_of(case)
        y = entries[np.clip(x - first, 0, len(entries) - 1).astype(int)] / entries.max()
    elif case.voi == "none":
        low, high = np.percentile(x[~padding], (0.5, 99.5), method="inverted_cdf")
        y = (x - low) / (high - low)
    else:
        c, w = float(np.ravel(header["WindowCenter"])[0]), float(np.ravel(header["WindowWidth"])[0])
        if case.voi == "sigmoid":
            y = 1 / (1 + np.exp(-4 * (x - c) / w))
        else:
            y = (x - c) / w + 0.5 if case.voi == "exact" else (x - (c - 0.5)) / (w - 1) + 0.5
    y = np.clip(y, 0, 1)
    return np.where(padding, 0, np.rint((1 - y if case.kind == 1 else y) * 255)).astype(np.int64)


def write(case: Case, path: Path) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Write a case; return its stored values, and which of them are padding."""
    stored = values_of(case)
    header = modality(case) | voi(case) | {"PhotometricInterpretation": f"MONOCHROME{case.kind}"}
    if case.shape:
        header["PresentationLUTShape"] = {1: "INVERSE", 2: "IDENTITY"}[case.kind]
    if case.padded:
        stored[-2:] = stored.max()
    bits = case.allocated if case.stray != "nothing" else case.bits  # encoders keep no others
    scan(path, cells_of(case, stored), bits, **header)
    encode = (LOSSLESS | LOSSY)[case.syntax]
    if encode:
        source = path.rename(path.with_suffix(".source"))
        encode(source, path)
    data = dcmread(path)
    if case.padded:
        vr = "SS" if case.signed else "US"
        data.add_new("PixelPaddingValue", vr, int(stored.max()))
    data.BitsStored = case.bits
    data.HighBit = (case.allocated if case.high == "top" else case.bits) - 1
    data.save_as(path)
    if case.syntax in LOSSY:
        decoded = dcmread(plain(path)).PixelData
        stored = np.frombuffer(decoded, f"<u{case.allocated // 8}")[: stored.size].reshape(48, 40)
    return stored.astype(np.int64), (stored == stored.max()) & case.padded


@needs_dcmtk
@needs_gdcm
@pytest.mark.parametrize("case", sampled(), ids=lambda case: "-".join(map(str, case)))
def test_shown_as_by_hand_and_by_dcmtk(case: Case, tmp_path: Path) -> None:
    compare(case, tmp_path)


def compare(case: Case, folder: Path) -> None:
    stored, padding = write(case, folder / "a.dcm")
    ours = pixels.read(folder / "a.dcm").astype(np.int64)
    right = shown(case, stored, padding)
    # Two JPEG decoders may differ by a stored value or two, which the window spreads.
    within = 10 if case.syntax in LOSSY else 1
    assert np.ptp(right) > 100, "there is something to see"
    assert np.abs(ours - right).max() <= within
    # dcmtk 3.6.7 does not know LINEAR_EXACT, rounds rescaled values to integers, which C.11.1 does
    # not, and refuses JPEG-LS of 5 bits, and of 8 in cells of 16.
    narrow = case.syntax == "JPEG-LS" and (case.bits < 8 or case.bits == 8 < case.allocated)
    if case.voi == "exact" or case.modality == "quarter" or narrow:
        return
    if "LUT" in case.voi:
        options = ("+Mv", "+Wl", "1")
    elif case.voi == "none":
        x = enter(case, stored)
        low, high = np.percentile(x[~padding], (0.5, 99.5), method="inverted_cdf")
        options = ("+Ww", str((low + high + 1) / 2), str(high - low + 1))
    else:
        options = (*(("+Wfs",) if case.voi == "sigmoid" else ()), "+Wi", "1")
    theirs = oracle(folder / "a.dcm", *options)
    assert np.abs(ours - np.where(padding, 0, theirs)).max() <= within + 1
