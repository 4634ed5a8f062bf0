"""Damaged and hostile DICOM files and series, each following from a seed and its number."""

from __future__ import annotations

import os
import struct
import tempfile
from pathlib import Path

import numpy as np

IMAGES, SIDE = 4, 24
COMPANIONS = 3
"""Unchanged images beside a mutated one: fewer than three are refused before their pixels are read."""

TAGS = (
    *(0x00080005, 0x00080008, 0x00080016, 0x00080018, 0x00080060, 0x00181210, 0x0020000D, 0x0020000E, 0x00200032),
    *(0x00200037, 0x00200052, 0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280011, 0x00280030, 0x00280100),
    *(0x00280101, 0x00280102, 0x00280103, 0x00280120, 0x00281052, 0x00281053, 0x00281054, 0x00282110, 0x00020010),
    *(0x00283000, 0x00100010, 0x00100020, 0x00041220, 0x52009229, 0x52009230, 0x7FE00001, 0x7FE00008, 0x7FE00010),
)
VALUES = (
    *(b"", b"\0\0", b"\1\0", b"\xff\xff", b"\0\x80", b"\x10\0", b"\0\0\0\0", b"\xff\xff\xff\xff", b"0", b"1 ", b"-1"),
    *(b"1e999 ", b"nan ", b"1e-320", b"0\\0\\0 ", b"1\\0\\0\\0\\1\\0 ", b"9" * 40, b"\\" * 30, b"1\\2", b"0.5\\0.5 "),
    *(b"\x1b$B", b"ISO_IR 192", b"ISO 2022 IR 87", b"\xe9\xff\xfe", b"A" * 70000, b"1.2.840.10008.1.2.4.80"),
    *(b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.5", b"1.2.840.10008.1.2.2", b"1.2.840.10008.5.1.4.1.1.2.1\0"),
    *(b"LOCALIZER ", b"MONOCHROME1 ", b"RGB ", b"../../etc", b"100000", b"5", b"1000000000"),
)
LENGTHS = (0, 1, 7, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
DEEP = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)


def corpus() -> dict[str, list[bytes]]:
    """Name of a storage -> the files of one series."""
    from pydicom import dcmread
    from pydicom.dataset import Dataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import (
        EnhancedCTImageStorage,
        ExplicitVRBigEndian,
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        JPEG2000Lossless,
        JPEGLosslessSV1,
        JPEGLSLossless,
        RLELossless,
    )

    from onfh_runtime.phantom import axial_grid, random_spec, render, write_series

    spec = random_spec(5)
    made: dict[str, list[bytes]] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_series(render(spec, axial_grid(spec, IMAGES, SIDE, SIDE)), Path(folder))

        def keep(name, edit, syntax=ExplicitVRLittleEndian):
            files = []
            for path in paths:
                ds, source = Dataset(), dcmread(path)
                ds.update({tag: source[tag] for tag in source.keys()})  # noqa: SIM118, elements as they are
                ds.file_meta = source.file_meta
                edit(ds)
                ds.file_meta.TransferSyntaxUID = syntax
                copy = path.with_suffix(".out")
                implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
                ds.save_as(copy, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
                files.append(copy.read_bytes())
            made[name] = files

        def by(encode):
            def edit(ds):
                ds.PixelData = encapsulate([encode(np.frombuffer(ds.PixelData, "<u2").reshape(SIDE, SIDE))])
                ds["PixelData"].VR = "OB"
                ds["PixelData"].is_undefined_length = True

            return edit

        def item(**attributes):
            ds = Dataset()
            for keyword, value in attributes.items():
                setattr(ds, keyword, value)
            return ds

        def swapped(ds):
            ds.PixelData = np.frombuffer(ds.PixelData, "<u2").byteswap().tobytes()

        keep("explicit", lambda ds: None)
        keep("implicit", lambda ds: None, ImplicitVRLittleEndian)
        keep("big endian", swapped, ExplicitVRBigEndian)
        keep("RLE", lambda ds: ds.compress(RLELossless, generate_instance_uid=False), RLELossless)
        try:
            import imagecodecs as ic

            keep("JPEG-LS", by(ic.jpegls_encode), JPEGLSLossless)
            keep("JPEG lossless", by(lambda a: ic.ljpeg_encode(a, bitspersample=16)), JPEGLosslessSV1)
            keep("JPEG 2000", by(lambda a: ic.jpeg2k_encode(a, level=0, codecformat="j2k")), JPEG2000Lossless)
        except ImportError:
            pass
        images = [dcmread(path) for path in paths]
        for name, lengths in (("enhanced", False), ("enhanced with lengths", True)):
            ds = dcmread(paths[0])
            ds.SOPClassUID, ds.NumberOfFrames = EnhancedCTImageStorage, len(images)
            shared = item(
                PixelMeasuresSequence=[item(PixelSpacing=ds.PixelSpacing)],
                PlaneOrientationSequence=[item(ImageOrientationPatient=ds.ImageOrientationPatient)],
                PixelValueTransformationSequence=[item(RescaleIntercept=-1024, RescaleSlope=1, RescaleType="HU")],
            )
            ds.SharedFunctionalGroupsSequence = [shared]
            ds.PerFrameFunctionalGroupsSequence = [
                item(PlanePositionSequence=[item(ImagePositionPatient=one.ImagePositionPatient)]) for one in images
            ]
            ds.PixelData = b"".join(one.PixelData for one in images)
            for element in ds.iterall():
                if element.VR == "SQ":
                    element.is_undefined_length = not lengths
            copy = Path(folder) / "enhanced"
            ds.save_as(copy)
            made[name] = [copy.read_bytes()]
    return made


# --- the mutations


def mutated_bytes(raw: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, cut, doubled or put in; half of the time in the header, where it matters most."""
    data = bytearray(raw)
    for _ in range(int(rng.integers(1, 4))):
        if len(data) < 200:
            break
        end = len(data) if rng.random() < 0.6 else min(len(data), 1500)
        at = int(rng.integers(132, end))
        kind = int(rng.integers(9))
        if kind <= 1:
            data[at] = int(rng.integers(256))
        elif kind == 2:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 3:
            data[at : at + 4] = struct.pack("<I", LENGTHS[rng.integers(len(LENGTHS))])
        elif kind == 4:
            del data[at : at + int(rng.integers(1, 40))]
        elif kind == 5:
            data[at:at] = data[at : at + int(rng.integers(1, 60))]
        elif kind == 6:
            data[at:at] = rng.bytes(int(rng.integers(1, 30)))
        elif kind == 7:
            data[at : at + 2] = b"\xff" + bytes([int(rng.integers(256))])
        elif rng.random() < 0.3:
            del data[at:]
        else:
            data[at : at + 12] = DEEP[:12]
    return bytes(data)


def mutated_elements(raw: bytes, rng: np.random.Generator, choice: np.random.Generator) -> bytes:
    """Elements of an explicit VR data set with other values, VRs, lengths, doubled, missing, or nested without end.

    ``choice`` decides what is done, ``rng`` how: files of one series may be changed alike.
    """
    parts = list(elements_of(raw))
    for _ in range(int(choice.integers(1, 4))):
        tag = TAGS[choice.integers(len(TAGS))]
        found = [index for index, part in enumerate(parts) if part[0] == tag]
        kind, value = int(choice.integers(8)), VALUES[choice.integers(len(VALUES))]
        if kind == 0 and found:
            del parts[found[0]]
        elif kind == 1 and found:
            parts.insert(int(rng.integers(len(parts))), parts[found[0]])
        elif kind == 2:
            parts.insert(0, (tag, DEEP * int(choice.integers(1, 4000))))
        elif kind == 3 and found:
            whole = bytearray(parts[found[0]][1])
            whole[4 : 6 + 2 * int(choice.integers(2))] = b"UNSQ"[: 2 + 2 * int(choice.integers(2))]
            parts[found[0]] = tag, bytes(whole)
        else:
            value += b"\0" * (len(value) % 2)
            long = len(value) > 0xFFFF or tag >= 0x52000000
            head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
            vr = b"UT" if len(value) > 0xFFFF else b"SQ" if 0x52000000 <= tag < 0x53000000 else b"OW" if long else b"LO"
            head += vr + (struct.pack("<HI", 0, len(value)) if long else struct.pack("<H", len(value)))
            if found:
                parts[found[0]] = tag, head + value
            else:
                parts.insert(int(rng.integers(len(parts))), (tag, head + value))
    return raw[:132] + b"".join(data for _, data in parts)


def elements_of(raw: bytes):
    """(tag, bytes) of each element of a whole explicit VR little endian file without undefined lengths."""
    at = 132
    while at < len(raw):
        group, number, vr, length = struct.unpack_from("<HH2sH", raw, at)
        after = at + 8 + length
        if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
            after = at + 12 + struct.unpack_from("<I", raw, at + 8)[0]
        yield group << 16 | number, raw[at:after]
        at = after


def write_case(kind: str, seed: int, number: int, files: dict[str, list[bytes]], folder: Path) -> str:
    """Put one case into an empty folder; returns what it is."""
    rng = np.random.default_rng([seed, kind == "series", number])
    if kind == "files":
        name = list(files)[rng.integers(len(files))]
        series = files[name]
        chosen = int(rng.integers(len(series)))
        (folder / "mutated.dcm").write_bytes(mutated_bytes(series[chosen], rng))
        for index in [index for index in range(len(series)) if index != chosen][:COMPANIONS]:
            (folder / f"{index}.dcm").write_bytes(series[index])
        return name
    alike = rng.random() < 0.5
    for index, raw in enumerate(files["explicit"]):
        choice = np.random.default_rng([seed, 2, number]) if alike else rng
        changed = mutated_elements(raw, rng, choice) if alike or rng.random() < 0.4 else raw
        (folder / f"{index}").write_bytes(changed)
    trick = int(rng.integers(6))
    if trick == 0:
        (folder / "loop").symlink_to(folder)
    elif trick == 1:
        os.mkfifo(folder / "fifo.dcm")
    elif trick == 2:
        (folder / "deeper").mkdir()
        (folder / "deeper" / "again.dcm").write_bytes(files["explicit"][0])
    elif trick == 3:
        (folder / "gone.dcm").symlink_to(folder / "nowhere")
    return "alike" if alike else "each"
