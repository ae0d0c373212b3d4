"""Pixels: what independent decoders show, from every encoding, and one line where there is none."""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
import pytest
from dicom_files import (
    agree,
    by,
    compressed,
    lut,
    needs_dcmtk,
    needs_gdcm,
    oracle,
    percentile_window,
    phantom,
    plain,
    scan,
)
from PIL import Image
from pydicom import Dataset, dcmread, uid
from pydicom.encaps import encapsulate, get_frame

from fedmed.core.errors import UnreadableImage
from fedmed.data import pixels
from fedmed.data.pixels.dicom import attributes

SHIPPED = Path(pydicom.data.__file__).parent / "test_files"
WINDOW = {"WindowCenter": 2000, "WindowWidth": 2500}
CURVE = (np.linspace(0, 1, 4096) ** 2 * 1023).astype(np.uint16)
SHOWN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "linear": ({}, WINDOW),
    "first of several": ({}, {"WindowCenter": [1000, 3000], "WindowWidth": [900, 50]}),
    "width 1": ({}, {"WindowCenter": 2000, "WindowWidth": 1}),
    "sigmoid": ({}, WINDOW | {"VOILUTFunction": "SIGMOID"}),
    "inverted": ({}, WINDOW | {"PhotometricInterpretation": "MONOCHROME1"}),
    "rescale": ({}, {"RescaleSlope": 0.5, "RescaleIntercept": -700, "WindowCenter": 100}
                | {"WindowWidth": 800.5}),
    "signed": ({"signed": True}, {"WindowCenter": -100, "WindowWidth": 3000}),
    "16 bits": ({"bits": 16}, {"WindowCenter": 30000, "WindowWidth": 50000}),
    "8 bits": ({"bits": 8}, {"WindowCenter": 100, "WindowWidth": 150}),
    "VOI LUT": ({}, {"VOILUTSequence": lut(CURVE, 0, 10)}),
    "VOI LUT from 1500": ({}, {"VOILUTSequence": lut(CURVE[::4], 1500, 10)}),
    "modality LUT": ({}, {"ModalityLUTSequence": lut(CURVE, 0, 10), "WindowCenter": 500}
                     | {"WindowWidth": 900}),
}  # fmt: skip


@needs_dcmtk
@pytest.mark.parametrize("case", SHOWN)
def test_shown_as_dcmtk_shows_it(case: str, tmp_path: Path) -> None:
    stored, header = SHOWN[case]
    for sequence in header.get("ModalityLUTSequence", []):
        sequence.ModalityLUTType = "US"
    path = scan(tmp_path / "a.dcm", phantom(**stored), stored.get("bits", 12), **header)
    options = ("+Wfs", "+Wi", "1") if "VOILUTFunction" in header else ()
    agree(pixels.read(path), oracle(path, *options))


@needs_dcmtk
@pytest.mark.parametrize("signed", [False, True])
def test_luts_of_65536_entries_claim_none(signed: bool, tmp_path: Path) -> None:
    table = lut((np.linspace(0, 1, 65536) ** 2 * 65535).astype(np.uint16), 0, 16)
    table[0].add_new("LUTDescriptor", "US", [0, 32768 if signed else 0, 16])
    path = scan(tmp_path / "a.dcm", phantom(16, signed), 16, VOILUTSequence=table)
    agree(pixels.read(path), oracle(path))


@needs_dcmtk
def test_two_entries_a_word_whatever_holds_the_words(tmp_path: Path) -> None:
    table = lut((np.linspace(0, 1, 256) ** 2 * 255).astype(np.uint8), 0, 8)
    first = scan(tmp_path / "a.dcm", phantom(8), 8, VOILUTSequence=table)
    agree(pixels.read(first), oracle(first))
    table[0].add_new("LUTData", "US", np.frombuffer(table[0].LUTData, "<u2").tolist())
    second = scan(tmp_path / "b.dcm", phantom(8), 8, VOILUTSequence=table)
    np.testing.assert_array_equal(pixels.read(second), pixels.read(first))


def test_padding_of_a_signed_picture_may_be_written_unsigned(tmp_path: Path) -> None:
    stored = np.pad(phantom(12, signed=True), 9, constant_values=-5000)
    path = scan(tmp_path / "a.dcm", stored, 16, WindowCenter=0, WindowWidth=4096)
    header = dcmread(path)
    header.PhotometricInterpretation = "MONOCHROME1"  # whose darkest value is not black
    header.add_new("PixelPaddingValue", "US", 65536 - 5000)
    header.save_as(path)
    shown = pixels.read(path)
    assert not shown[stored == -5000].any()
    assert shown[9:-9, 9:-9].any()


def test_linear_exact_is_what_the_standard_says(tmp_path: Path) -> None:
    stored = phantom()
    path = scan(tmp_path / "a.dcm", stored, **WINDOW, VOILUTFunction="LINEAR_EXACT")
    wanted = np.clip((stored - 2000.0) / 2500 + 0.5, 0, 1) * 255  # PS3.3 C.11.2.1.3.2
    agree(pixels.read(path), np.rint(wanted).astype(np.int64), 0)


@needs_dcmtk
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_percentiles_are_the_window_where_none_is_given(bits: int, tmp_path: Path) -> None:
    stored = phantom(bits)
    stored[0, :3], stored[-1, :3] = 0, 2**bits - 1  # a few dead pixels
    path = scan(tmp_path / "a.dcm", stored, bits)
    agree(pixels.read(path), oracle(path, *percentile_window(stored)))
    if bits == 16:
        Image.fromarray(stored).save(tmp_path / "a.png")
        np.testing.assert_array_equal(pixels.read(tmp_path / "a.png"), pixels.read(path))


def test_padding_is_black_and_moves_no_percentile(tmp_path: Path) -> None:
    stored = np.minimum(phantom(), 4094)
    padded = np.pad(stored, 30, constant_values=4095)
    inverse: dict[str, Any] = {"PhotometricInterpretation": "MONOCHROME1"}
    alone = pixels.read(scan(tmp_path / "a.dcm", stored, **inverse))
    shown = pixels.read(scan(tmp_path / "b.dcm", padded, **inverse, PixelPaddingValue=4095))
    np.testing.assert_array_equal(shown, np.pad(alone, 30))


ENCODINGS: dict[str, tuple[int, Callable[[Path, Path], None]]] = {
    "implicit": (12, by("dcmconv", "+ti")),
    "big endian": (12, by("dcmconv", "+tb")),
    "RLE": (12, compressed(uid.RLELossless)),
    "JPEG 2000": (12, compressed(uid.JPEG2000Lossless)),
    "JPEG-LS": (12, compressed(uid.JPEGLSLossless)),
    "JPEG-LS near lossless": (12, by("dcmcjpls", "+en")),
    "JPEG lossless": (16, by("dcmcjpeg", "+e1")),
    "JPEG lossless, any predictor": (12, by("dcmcjpeg", "+el", "+sv", "4")),
    "JPEG baseline": (8, by("dcmcjpeg", "+eb")),
    "JPEG extended": (12, by("dcmcjpeg", "+ee")),
}


@needs_dcmtk
@needs_gdcm
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_transfer_syntax(encoding: str, tmp_path: Path) -> None:
    bits, encode = ENCODINGS[encoding]
    window = {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}
    source = scan(tmp_path / "source.dcm", phantom(bits), bits, **window)
    encode(source, tmp_path / "a.dcm")
    shown = pixels.read(tmp_path / "a.dcm")
    agree(shown, oracle(tmp_path / "a.dcm"), 2 if "extended" in encoding else 1)
    if encoding in ("JPEG baseline", "JPEG extended", "JPEG-LS near lossless"):
        agree(shown, pixels.read(source).astype(np.int64), 12)
    else:
        np.testing.assert_array_equal(shown, pixels.read(source))


def readable(path: Path) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pixels.read(path)
        except UnreadableImage as error:
            reason = str(error)
            assert reason
            assert len(reason.splitlines()) == 1
            return False
    return True


@needs_dcmtk
@needs_gdcm
def test_pydicoms_own_files(tmp_path: Path) -> None:
    read = {path.name for path in SHIPPED.rglob("*.dcm") if readable(path)}
    assert read >= {
        "693_J2KI.dcm", "CT_small.dcm", "JPEG2000.dcm", "JPEGLSNearLossless_08.dcm",
        "JPEGLSNearLossless_16.dcm", "JPGExtended.dcm", "J2K_pixelrep_mismatch.dcm",
        "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm",
        "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_padded.dcm",
        "examples_overlay.dcm",
    }  # fmt: skip
    for name in sorted(read):
        path = Path(shutil.copy(SHIPPED / name, tmp_path))
        data = dcmread(path)
        source = path if data.file_meta.TransferSyntaxUID == uid.RLELossless else plain(path)
        values = dcmread(source).pixel_array * float(data.get("RescaleSlope") or 1)
        values += float(data.get("RescaleIntercept") or 0)
        options = () if "WindowWidth" in data else percentile_window(values)
        # Two JPEG decoders may differ by one stored value, which this narrow window spreads.
        agree(pixels.read(path), oracle(path, *options), 3 if name == "JPGExtended.dcm" else 1)


@needs_dcmtk
def test_one_real_radiograph_in_three_encodings(tmp_path: Path) -> None:
    store = pytest.importorskip("data_store", reason="pip install pydicom-data")
    folder = Path(next(iter(store.__path__))) / "data"
    plain, lossless, lossy = (
        pixels.read(folder / f"RG1_{kind}.dcm") for kind in ("UNCR", "J2KR", "J2KI")
    )
    np.testing.assert_array_equal(lossless, plain)
    agree(plain, oracle(Path(shutil.copy(folder / "RG1_UNCR.dcm", tmp_path))))
    agree(lossy, plain.astype(np.int64), 16)
    assert np.abs(lossy.astype(int) - plain).mean() < 1


def short(missing: int = 1) -> list[Dataset]:
    item = lut(CURVE, 0, 10)
    item[0].LUTDescriptor = [len(CURVE) + missing, 0, 10]
    return item


def groups() -> list[Dataset]:
    group = Dataset()
    group.FrameVOILUTSequence = [Dataset()]
    group.FrameVOILUTSequence[0].WindowCenter, group.FrameVOILUTSequence[0].WindowWidth = 9, 9
    return [group]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "colour": ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "colour"),
    "palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour palette"),
    "frames": ({"NumberOfFrames": 2}, "several frames"),
    "no pixels": ({"PixelData": b""}, "no pixel data"),
    "too few pixels": ({"PixelData": bytes(100)}, "pixel data is damaged"),
    "huge": ({"Rows": 60000, "Columns": 60000}, "claims 60,000×60,000 pixels"),
    "empty": ({"Rows": 0}, "has no pixels"),
    "32 bits": ({"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31}, "neither 8 nor 16"),
    "stored bits": ({"BitsStored": 20, "HighBit": 19}, "more than it has room for"),
    "high bit": ({"HighBit": 16}, "high bit"),
    "low high bit": ({"HighBit": 7}, "high bit"),
    "slope 0": (WINDOW | {"RescaleSlope": 0, "RescaleIntercept": 0}, "rescale slope is 0"),
    "slope alone": (WINDOW | {"RescaleSlope": 2}, "without an intercept"),
    "intercept alone": (WINDOW | {"RescaleIntercept": -1024}, "or the reverse"),
    "no finite slope": ({"RescaleSlope": "1e999", "RescaleIntercept": 0}, "not a finite number"),
    "overflow": ({"RescaleSlope": "1e308", "RescaleIntercept": "-1e308"}, "computers can hold"),
    "shape of 1": (WINDOW | {"PresentationLUTShape": "INVERSE"}, "contradicts"),
    "shape of 2": (
        WINDOW
        | {"PresentationLUTShape": "IDENTITY"}
        | {"PhotometricInterpretation": "MONOCHROME1"},
        "contradicts",
    ),
    "window beside it": ({"WindowCenter": 9000, "WindowWidth": 100}, "one grey level"),
    "LUT beside it": (
        {"VOILUTSequence": lut(np.arange(9, dtype=np.uint16), 5000, 8)},
        "one grey level",
    ),
    "dark LUT": ({"VOILUTSequence": lut(np.zeros(4096, np.uint16), 0, 8)}, "one grey level"),
    "short LUT": ({"VOILUTSequence": short()}, "not as many entries"),
    "long LUT": ({"VOILUTSequence": short(-1)}, "not as many entries"),
    "padding alone": ({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 4095}, "one grey level"),
    "functional groups": (WINDOW | {"SharedFunctionalGroupsSequence": groups()}, "groups"),
    "function": (WINDOW | {"VOILUTFunction": "ODD"}, "unknown VOI LUT function"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    header, reason = REFUSED[case]
    with pytest.raises(UnreadableImage, match=reason) as error:
        pixels.read(scan(tmp_path / "a.dcm", phantom(), **header))
    assert len(str(error.value).splitlines()) == 1


def test_streams_that_lie_about_their_size_are_not_decoded(tmp_path: Path) -> None:
    scan(tmp_path / "a.dcm", phantom())
    for syntax, at in ((uid.JPEG2000Lossless, b"\xff\x51"), (uid.JPEGLSLossless, b"\xff\xf7")):
        data = dcmread(tmp_path / "a.dcm")
        data.compress(syntax, generate_instance_uid=False)
        size = data.PixelData.index(at) + (8 if syntax == uid.JPEG2000Lossless else 5)
        data.PixelData = data.PixelData[:size] + b"\xea\x60" + data.PixelData[size + 2 :]
        data.save_as(tmp_path / "b.dcm")
        with pytest.raises(UnreadableImage, match="another size"):
            pixels.read(tmp_path / "b.dcm")


CUTS: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda stream: stream[: len(stream) // 2],
    "most": lambda stream: stream[: len(stream) * 9 // 10],
    "ended before": lambda stream: stream[: len(stream) // 2] + b"\xff\xd9" + stream[-100:],
}


@needs_dcmtk
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("encoding", [kind for kind in ENCODINGS if "JPEG" in kind])
def test_a_stream_that_is_cut_off_is_no_half_grey_picture(
    encoding: str, cut: str, tmp_path: Path
) -> None:
    bits, encode = ENCODINGS[encoding]
    encode(scan(tmp_path / "source.dcm", phantom(bits), bits), tmp_path / "a.dcm")
    data = dcmread(tmp_path / "a.dcm")
    stream = get_frame(data.PixelData, 0, number_of_frames=1)
    pixels.read(tmp_path / "a.dcm")
    data.PixelData = encapsulate([CUTS[cut](stream)])
    data.save_as(tmp_path / "b.dcm")
    with pytest.raises(UnreadableImage, match=r"cut off|damaged"):
        pixels.read(tmp_path / "b.dcm")


@needs_dcmtk
@pytest.mark.parametrize("encoding", ["JPEG baseline", "JPEG extended"])
def test_a_lossy_stream_of_other_bits_than_the_header_says_is_no_dark_picture(
    encoding: str, tmp_path: Path
) -> None:
    bits, encode = ENCODINGS[encoding]
    encode(scan(tmp_path / "source.dcm", phantom(bits), bits), tmp_path / "a.dcm")
    data = dcmread(tmp_path / "a.dcm")
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.save_as(tmp_path / "b.dcm")
    with pytest.raises(UnreadableImage, match="other bits than its header says"):
        pixels.read(tmp_path / "b.dcm")


def test_deflated_files_are_not_inflated() -> None:
    with pytest.raises(UnreadableImage, match="deflated"):
        pixels.read(SHIPPED / "image_dfl.dcm")


def test_nothing_of_a_header_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = scan(tmp_path / "a.dcm", phantom(), PatientAge="045Y", NumberOfFrames="1")
    broken = path.read_bytes().replace(b"045Y", b"Jane").replace(b"IS\x02\x001 ", b"IS\x02\x00Ja")
    path.write_bytes(broken)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(UnreadableImage, match="header is damaged") as error:
            pixels.read(path)
        assert attributes(path)["age"] is None
    assert not warned
    told = str(error.value) + capfd.readouterr().err + capfd.readouterr().out + caplog.text
    assert "Ja" not in told


def test_attributes_are_normalised(tmp_path: Path) -> None:
    def read(**header: Any) -> dict[str, object]:
        return attributes(scan(tmp_path / "a.dcm", phantom(), **header))

    maker = {"Manufacturer": " Kestrel Imaging "}
    assert read(PatientSex="F", PatientAge="045Y", ViewPosition="PA", **maker) == {
        "sex": "F", "age": 45.0, "view": "PA", "scanner": "Kestrel Imaging",
    }  # fmt: skip
    assert read(PatientSex="O", PatientAge="006M", ViewPosition="LL") == {
        "sex": None, "age": 0.5, "view": "LATERAL", "scanner": None,
    }  # fmt: skip
    nothing = dict.fromkeys(("sex", "age", "view", "scanner"))
    assert read() == nothing
    (tmp_path / "b.dcm").write_bytes(b"no DICOM at all")
    assert attributes(tmp_path / "b.dcm") == attributes(tmp_path / "absent.dcm") == nothing
