"""Pixels: every way they are stored gives the same picture; every way they are broken gives one error."""

from __future__ import annotations

import errno
import io
import os
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydicom import FileDataset, dcmwrite
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    MPEG2MPML,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from dicom_node.core.errors import DecodingInterrupted, PixelsUnreadable
from dicom_node.dicom import isolated
from dicom_node.dicom.header import open_part10, read_dataset
from dicom_node.dicom.isolated import decode_isolated
from dicom_node.dicom.pixels import codestream_size, decode_frame, layout_of, luma
from dicom_objects import Frame, speckle, ultrasound

LIMIT = 1 << 22


def decoded(path: Path, index: int = 0, limit: int = LIMIT) -> Frame:
    with open_part10(path) as file:
        ds = read_dataset(file)
        return decode_frame(file, ds, layout_of(ds, limit), index)


def write(ds: FileDataset, folder: Path) -> Path:
    path = folder / "a.dcm"
    dcmwrite(path, ds, enforce_file_format=True)
    return path


def colourful(rows: int = 64, columns: int = 80) -> Frame:
    return np.stack([speckle(rows, columns, seed) for seed in (1, 2, 3)], axis=-1)


def test_grey_and_rgb_come_back_as_stored(tmp_path: Path) -> None:
    for frame in (speckle(64, 80), colourful()):
        assert np.array_equal(decoded(write(ultrasound(frame), tmp_path)), frame)


def test_colour_by_plane_comes_back_by_pixel(tmp_path: Path) -> None:
    frame = colourful()
    ds = ultrasound(frame, PlanarConfiguration=1)
    ds.PixelData = np.moveaxis(frame, -1, 0).tobytes()
    ds["PixelData"].VR = "OB"
    assert np.array_equal(decoded(write(ds, tmp_path)), frame)


def test_monochrome1_is_turned_so_that_bright_is_bright(tmp_path: Path) -> None:
    frame = speckle(64, 80)
    assert np.array_equal(
        decoded(write(ultrasound(255 - frame, PhotometricInterpretation="MONOCHROME1"), tmp_path)), frame
    )


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_sixteen_bits_become_eight_by_window_or_by_bits(tmp_path: Path, syntax: str) -> None:
    values = np.linspace(0, 4095, 64 * 80).round().astype(np.uint16).reshape(64, 80)
    for window, expected in (
        ({}, np.floor(values * 255.0 / 4095 + 0.5)),
        ({"WindowCenter": 1000, "WindowWidth": 501}, np.clip((values - 999.5) / 500 + 0.5, 0, 1) * 255 + 0.5),
    ):
        ds = ultrasound(np.zeros((64, 80), np.uint8), BitsAllocated=16, BitsStored=12, HighBit=11, **window)
        order = ">u2" if syntax == ExplicitVRBigEndian else "<u2"
        ds.add_new(0x7FE00010, "OW", values.astype(order).tobytes())
        ds.file_meta.TransferSyntaxUID = syntax
        assert np.array_equal(decoded(write(ds, tmp_path)), np.floor(expected).astype(np.uint8))


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_palettes_give_their_colours_in_both_byte_orders(tmp_path: Path, bits: int, big_endian: bool) -> None:
    """An 8-bit palette in a big-endian file comes out black from pydicom 3.0.2."""
    frame = speckle(64, 80)
    ds = ultrasound(frame, PhotometricInterpretation="PALETTE COLOR")
    expected = np.zeros((256, 3), np.uint8)
    for channel, name in enumerate(("Red", "Green", "Blue")):
        table = np.roll(np.arange(256), 40 * channel).astype(np.uint8)
        expected[:, channel] = table
        ds.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [256, 0, bits])
        order = ">u2" if big_endian else "<u2"
        if bits == 16:
            words = (table.astype(np.uint16) * 257).astype(order)
        else:
            pairs = table.reshape(-1, 2).astype(np.uint16)
            words = (pairs[:, 0] | pairs[:, 1] << 8).astype(order)
        ds.add_new(f"{name}PaletteColorLookupTableData", "OW", words.tobytes())
    if big_endian:
        ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    assert np.array_equal(decoded(write(ds, tmp_path)), expected[frame])


@pytest.mark.parametrize(
    ("syntax", "plugin"),
    [(RLELossless, "pylibjpeg"), (JPEGLSLossless, "pyjpegls"), (JPEG2000Lossless, "pylibjpeg")],
)
@pytest.mark.parametrize("colour", [False, True])
def test_lossless_compression_changes_nothing(tmp_path: Path, syntax: str, plugin: str, colour: bool) -> None:
    frame = colourful() if colour else speckle(64, 80)
    ds = ultrasound(frame)
    ds["PixelData"].VR = "OB"
    ds.set_original_encoding(False, True)
    ds.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    assert np.array_equal(decoded(write(ds, tmp_path)), frame)


def jpeg(frame: Frame) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def as_jpeg(ds: FileDataset, *frames: Frame) -> FileDataset:
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.PixelData = encapsulate([jpeg(frame) for frame in frames])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return ds


def test_jpeg_comes_back_as_rgb_close_to_the_original(tmp_path: Path) -> None:
    smooth = cv2.GaussianBlur(colourful(96, 96), (0, 0), 3)
    ds = as_jpeg(ultrasound(smooth, PhotometricInterpretation="YBR_FULL_422"), smooth)
    got = decoded(write(ds, tmp_path))
    assert np.abs(got.astype(int) - smooth).max() <= 8


def test_only_the_wanted_frame_of_a_cine_is_decoded(tmp_path: Path) -> None:
    frames = [speckle(96, 96, seed) for seed in range(5)]
    ds = as_jpeg(ultrasound(np.stack(frames), NumberOfFrames=5), *frames)
    path = write(ds, tmp_path)
    # The last frame is destroyed: reading the middle one must not notice.
    content = path.read_bytes()
    last = content.rindex(b"\xff\xd8\xff")
    path.write_bytes(content[: last + 4] + b"\0" * 300 + content[last + 304 :])
    assert np.abs(decoded(path, 2).astype(int) - frames[2]).mean() < 4


@pytest.mark.parametrize(
    "name",
    [
        "SC_rgb_dcmtk_+eb+cy+s4.dcm",
        "SC_rgb_jpeg_dcmtk.dcm",
        "SC_rgb_rle.dcm",
        "SC_rgb_small_odd.dcm",
        "SC_rgb_small_odd_big_endian.dcm",
        "examples_jpeg2k.dcm",
        "examples_palette.dcm",
        "examples_rgb_color.dcm",
        "examples_ybr_color.dcm",
    ],
)
def test_installed_sample_files_decode(name: str) -> None:
    path = get_testdata_file(name, download=False)
    assert path is not None
    frame = decoded(Path(path))
    assert frame.dtype == np.uint8
    assert frame.max() > 100


def test_luma_keeps_grey_exactly_and_weighs_colours() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(luma(np.stack([ramp] * 3, axis=-1)), ramp)
    assert luma(ramp) is ramp
    primaries = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert luma(primaries).tolist() == [[76, 150, 29]]


def test_luma_is_the_same_whole_numbers_for_every_colour() -> None:
    """The documented arithmetic, in integers: another rounding would be another input of the network."""
    green, blue = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    for red in range(0, 256, 5):
        wide = 19595 * red + 38470 * green + 7471 * blue
        colours = np.stack([np.full_like(green, red), green, blue], axis=-1).astype(np.uint8)
        assert np.array_equal(luma(colours), ((wide + 32768) >> 16).astype(np.uint8)), red


# -- what cannot be decoded ----------------------------------------------------------------------


def test_empty_pixel_element(tmp_path: Path) -> None:
    ds = ultrasound(speckle(64, 80))
    ds["PixelData"].value = b""
    with pytest.raises(PixelsUnreadable, match="empty"):
        decoded(write(ds, tmp_path))


def test_missing_pixel_element(tmp_path: Path) -> None:
    ds = ultrasound(speckle(64, 80))
    del ds.PixelData
    with pytest.raises(PixelsUnreadable, match="no pixel data element"):
        decoded(write(ds, tmp_path))


def test_truncated_file_says_how_much_is_there(tmp_path: Path) -> None:
    path = write(ultrasound(speckle(64, 80)), tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(PixelsUnreadable, match="after 4120 of 5120 bytes"):
        decoded(path)


def test_two_gigabyte_image_sets_nothing_aside(tmp_path: Path) -> None:
    for rows, columns, frames in ((30000, 30000, 1), (64, 80, 2**30)):
        ds = ultrasound(speckle(64, 80))
        ds.Rows, ds.Columns, ds.NumberOfFrames = rows, columns, frames
        path = write(ds, tmp_path)
        tracemalloc.start()
        try:
            with pytest.raises(PixelsUnreadable):
                decoded(path)
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()


def test_codestream_larger_than_its_header_is_not_decoded(tmp_path: Path) -> None:
    ds = as_jpeg(ultrasound(speckle(64, 80)), speckle(640, 800))
    with pytest.raises(PixelsUnreadable, match="800 x 640, the header says 80 x 64"):
        decoded(write(ds, tmp_path))


@pytest.mark.parametrize(
    ("at", "form", "claim", "words"),
    [(40, ">H", 400, "400 components in 1 tiles"), (24, ">LL", (1, 1), "1 components in 5120 tiles")],
)
def test_jpeg2000_that_claims_too_much_is_not_decoded(
    tmp_path: Path, at: int, form: str, claim: int | tuple[int, int], words: str
) -> None:
    """Four hundred components of 2000 x 2000 pixels took 1.8 GB before the first one was missed."""
    ds = ultrasound(speckle(64, 80))
    ds.set_original_encoding(False, True)
    ds.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    path = write(ds, tmp_path)
    content = bytearray(path.read_bytes())
    values = claim if isinstance(claim, tuple) else (claim,)
    struct.pack_into(form, content, content.index(b"\xff\x4f\xff\x51") + at, *values)
    path.write_bytes(content)
    with pytest.raises(PixelsUnreadable, match=words):
        decoded(path)


def test_a_picture_of_a_thousand_scans_is_not_decoded(tmp_path: Path) -> None:
    """Decoding takes time for each scan over the whole picture: minutes, from a hundred kilobytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(speckle(64, 80)).save(buffer, "JPEG", progressive=True)
    stream = buffer.getvalue()
    last = stream[stream.rindex(b"\xff\xda") : -2]
    for more, outcome in ((0, None), (1000, "more than 100 scans")):
        ds = as_jpeg(ultrasound(speckle(64, 80)), speckle(64, 80))
        ds.PixelData = encapsulate([stream[:-2] + last * more + b"\xff\xd9"])
        ds["PixelData"].VR = "OB"
        path = write(ds, tmp_path)
        if outcome is None:
            assert decoded(path).shape == (64, 80)
        else:
            with pytest.raises(PixelsUnreadable, match=outcome):
                decoded(path)


def test_broken_codestream(tmp_path: Path) -> None:
    path = write(as_jpeg(ultrasound(speckle(64, 80)), speckle(64, 80)), tmp_path)
    content = path.read_bytes()
    at = content.index(b"\xff\xda")
    path.write_bytes(content[:at] + b"\0" * (len(content) - at))
    with pytest.raises(PixelsUnreadable, match="frame 1"):
        decoded(path)


def test_fragile_decoders_fail_in_their_own_process(tmp_path: Path) -> None:
    """GDCM and CharLS run apart; what the child makes of sound and of damaged bytes comes back here."""
    path = write(as_jpeg(ultrasound(speckle(64, 80)), speckle(64, 80)), tmp_path)
    with pytest.raises(PixelsUnreadable, match="pyjpegls failed on frame 1"):
        decode_isolated(path, 0, "pyjpegls")
    ds = ultrasound(speckle(64, 80))
    ds.set_original_encoding(False, True)
    ds.compress(JPEGLSLossless, encoding_plugin="pyjpegls", generate_instance_uid=False)
    path = write(ds, tmp_path)
    assert np.array_equal(decode_isolated(path, 0, "pyjpegls"), speckle(64, 80))
    content = path.read_bytes()
    at = content.index(b"\xff\xda") + 20
    path.write_bytes(content[:at] + b"\xff" * 200 + content[at + 200 :])
    with pytest.raises(PixelsUnreadable):
        decoded(path)


def as_jpeg_ls(folder: Path, name: str = "a.dcm") -> Path:
    ds = ultrasound(speckle(64, 80))
    ds.set_original_encoding(False, True)
    ds.compress(JPEGLSLossless, encoding_plugin="pyjpegls", generate_instance_uid=False)
    dcmwrite(folder / name, ds, enforce_file_format=True)
    return folder / name


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The processes that decoding starts from here on, by their numbers; none waits at the beginning."""
    isolated.end_hosts()
    pids: list[int] = []
    start = subprocess.Popen.__init__

    def counted(self: subprocess.Popen[bytes], *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        pids.append(self.pid)

    monkeypatch.setattr(subprocess.Popen, "__init__", counted)
    yield pids
    isolated.end_hosts()


def test_images_after_the_first_start_no_process_from_nothing(tmp_path: Path, started: list[int]) -> None:
    path = as_jpeg_ls(tmp_path)
    for _ in range(3):
        assert np.array_equal(decode_isolated(path, 0, "pyjpegls"), speckle(64, 80))
    assert len(started) == 1


def test_what_a_decoder_breaks_does_not_reach_the_next_image(tmp_path: Path, started: list[int]) -> None:
    good, bad = as_jpeg_ls(tmp_path), as_jpeg_ls(tmp_path, "bad.dcm")
    content = bad.read_bytes()
    at = content.index(b"\xff\xda") + 20
    bad.write_bytes(content[:at] + b"\xff" * 200 + content[at + 200 :])
    for _ in range(2):
        with pytest.raises(PixelsUnreadable):
            decode_isolated(bad, 0, "pyjpegls")
        assert np.array_equal(decode_isolated(good, 0, "pyjpegls"), speckle(64, 80))
    assert len(started) == 1


def test_images_at_the_same_time_do_not_wait_for_each_other(tmp_path: Path, started: list[int]) -> None:
    path = as_jpeg_ls(tmp_path)
    with ThreadPoolExecutor(3) as threads:
        for values in threads.map(lambda _: decode_isolated(path, 0, "pyjpegls"), range(12)):
            assert np.array_equal(values, speckle(64, 80))
    assert 1 <= len(started) <= 3


def test_a_host_that_somebody_ended_is_replaced(tmp_path: Path, started: list[int]) -> None:
    path = as_jpeg_ls(tmp_path)
    decode_isolated(path, 0, "pyjpegls")
    os.kill(started[0], signal.SIGKILL)
    os.waitid(os.P_PID, started[0], os.WEXITED | os.WNOWAIT)
    assert np.array_equal(decode_isolated(path, 0, "pyjpegls"), speckle(64, 80))
    assert len(started) == 2


def test_a_decoder_that_hangs_is_ended_with_its_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[int]
) -> None:
    hangs = f"sleep 300 & echo $! > {tmp_path / 'pid'}; wait"
    in_place_of_the_decoder(hangs, tmp_path, monkeypatch)
    monkeypatch.setattr(isolated, "_TIMEOUT_S", 1.0)
    with pytest.raises(DecodingInterrupted, match="did not finish frame 1"):
        decode_isolated(tmp_path / "a.dcm", 0, "gdcm")
    forked = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{forked}").exists() and " Z " not in Path(f"/proc/{forked}/stat").read_text():
        assert time.monotonic() < deadline, "what the host had forked lives on"
        time.sleep(0.01)


def test_hosts_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    """Also with one that is killed: their input ends."""
    script = (
        "import os, sys; from pathlib import Path; from dicom_node.dicom import isolated as i\n"
        "i.decode_isolated(Path(sys.argv[1]), 0, 'pyjpegls')\n"
        "print(i._waiting[0]._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", script, str(as_jpeg_ls(tmp_path))]
    host = int(subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{host}").exists() and " Z " not in Path(f"/proc/{host}/stat").read_text():
        assert time.monotonic() < deadline, "the host lives on"
        time.sleep(0.01)


@pytest.mark.usefixtures("started")
def test_decoder_that_does_not_finish_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock alone it says nothing about the image: the machine may have been busy."""
    monkeypatch.setattr(isolated, "_TIMEOUT_S", 0.01)
    with pytest.raises(DecodingInterrupted, match="did not finish frame 1"):
        decode_isolated(write(ultrasound(speckle(64, 80)), tmp_path), 0, "pyjpegls")


def in_place_of_the_decoder(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "child"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    isolated.end_hosts()
    monkeypatch.setattr(sys, "executable", str(program))


@pytest.mark.parametrize(
    ("script", "error"),
    [
        *((f"kill -{name} $$", DecodingInterrupted) for name in ("KILL", "TERM", "INT", "HUP")),
        *((f"kill -{name} $$", PixelsUnreadable) for name in ("SEGV", "ABRT", "BUS", "FPE", "ILL", "XCPU")),
        ("exit 0", DecodingInterrupted),
        (r"printf '\223NUMPY\001'; exit 0", DecodingInterrupted),
        ("exit 1", DecodingInterrupted),
        ("exit 65", PixelsUnreadable),
    ],
)
def test_only_what_the_decoder_does_to_itself_is_the_images_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, error: type[Exception]
) -> None:
    in_place_of_the_decoder(f"ulimit -c 0; {script}", tmp_path, monkeypatch)
    with pytest.raises(error):
        decode_isolated(tmp_path / "a.dcm", 0, "gdcm")


def test_decoder_that_uses_up_its_processor_time_is_the_images_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = "from dicom_node.dicom import isolated as i; i._limit_processor_time(1)\nwhile True: pass"
    in_place_of_the_decoder(f"ulimit -c 0; exec {sys.executable} -c '{endless}'", tmp_path, monkeypatch)
    with pytest.raises(PixelsUnreadable, match="of processor time"):
        decode_isolated(tmp_path / "a.dcm", 0, "gdcm")


def test_decoder_that_cannot_be_started_says_nothing_about_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    isolated.end_hosts()
    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(DecodingInterrupted, match="could not be started"):
        decode_isolated(tmp_path / "a.dcm", 0, "gdcm")


def test_memory_error_that_pydicom_swallows_is_not_the_images_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*args: object, **kwargs: object) -> None:
        raise MemoryError

    path = write(as_jpeg(ultrasound(speckle(64, 80)), speckle(64, 80)), tmp_path)
    monkeypatch.setattr("pydicom.pixels.decoders.pillow.Image.open", no_room)
    with pytest.raises(MemoryError):
        decoded(path)


def test_unknown_transfer_syntax(tmp_path: Path) -> None:
    ds = as_jpeg(ultrasound(speckle(64, 80)), speckle(64, 80))
    ds.file_meta.TransferSyntaxUID = MPEG2MPML
    with pytest.raises(PixelsUnreadable, match="nothing on this node decodes"):
        decoded(write(ds, tmp_path))


@pytest.mark.parametrize(
    "attributes",
    [
        {"Rows": None},
        {"BitsAllocated": 32},
        {"BitsStored": 1},
        {"SamplesPerPixel": 4},
        {"PhotometricInterpretation": "HSV"},
        {"PhotometricInterpretation": None},
    ],
)
def test_layouts_that_no_scanner_writes(tmp_path: Path, attributes: dict[str, object]) -> None:
    path = write(ultrasound(speckle(64, 80), **attributes), tmp_path)
    with pytest.raises(PixelsUnreadable):
        decoded(path)


@pytest.mark.parametrize("suffix", [".jpg", ".jp2", ".jls"])
def test_codestream_size(suffix: str, tmp_path: Path) -> None:
    frame = speckle(64, 80)
    if suffix == ".jpg":
        stream = jpeg(frame)
    else:
        ds = ultrasound(frame)
        ds.set_original_encoding(False, True)
        plugin, syntax = ("pylibjpeg", JPEG2000Lossless) if suffix == ".jp2" else ("pyjpegls", JPEGLSLossless)
        ds.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
        stream = get_frame(ds.PixelData, 0, number_of_frames=1)
    assert codestream_size(stream) == (64, 80)
    assert codestream_size(stream[:8]) is None
    assert codestream_size(b"") is None
