"""Hostile data sets: sound files, damaged on purpose, read as the receiver and the worker read them."""

from __future__ import annotations

import io
import json
import os
import random
import select
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from fuzz.report import Report
from fuzz.seeds import LONG_VRS, UNDEFINED, Seed, made, real

LIMIT_CPU_S = 10.0
LIMIT_WALL_S = 180.0
LIMIT_MIB = 700.0
"""Above what the process holds at rest. Eight bytes a pixel of the largest picture are 128 MiB."""

VRS = [*sorted(LONG_VRS), b"AE", b"AS", b"CS", b"DA", b"DS", b"FD", b"IS", b"LO", b"PN", b"SH", b"SL", b"SS"]
VRS += [b"ST", b"TM", b"UI", b"UL", b"US", b"??", b"\0\0", b"zz", b"XX"]
LENGTHS = (0, 1, 2, 3, 7, 255, 0x7FFF, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFE, 0x80000000, 0xFFFFFFFD, UNDEFINED)
FRAMES = (b"0 ", b"-5", b"2147483647", b"99999999999999999999", b"1e9 ", b"3 ", b"inf ", b"x ")
CHARACTER_SETS = (
    b"ISO_IR 192",
    b"GB18030 ",
    b"\\ISO 2022 IR 87",
    b"ISO 2022 IR 6\\ISO 2022 IR 149",
    b"ISO_IR 9!9",
    b"\0\0",
    b"\\" * 200,
    b"ISO_IR 100\\" * 500,
    # Python knows these, DICOM does not.
    *(b"utf-16", b"idna", b"punycode", b"unicode_escape", b"zlib_codec"),
)
UIDS = (
    b"1.2\0.3",
    b"\0" * 8,
    b"1.2.3\r\n4",
    b"1.2.840\x1b[31m",
    b"../../etc/passwd",
    b"1.2.3\\1.2.4",
    b"-1.2",
    b"1..2",
    b"1.2.",
    "1.٢.3".encode(),
    b"'; DROP TABLE images;--",
    b"",
    b"%s%n%x",
    b" 1.2.3 ",
)
HOLE = b"<HOLE>"
"""In a case's bytes, stands for as many zero bytes as the case says: written as a hole in the file."""

Content = bytes | tuple[bytes, int]


def bit_flips(rng: random.Random, seed: Seed) -> Content:
    content, end = bytearray(seed.content), _pixels_at(seed)
    for _ in range(rng.choice((1, 1, 2, 4, 16, 64))):
        content[rng.randrange(128, end)] ^= 1 << rng.randrange(8)
    return bytes(content)


def overwritten(rng: random.Random, seed: Seed) -> Content:
    content = bytearray(seed.content)
    for _ in range(rng.randint(1, 4)):
        at, size = rng.randrange(len(content)), rng.choice((1, 2, 4, 8, 40, 500))
        filler = rng.choice((b"\0", b"\xff", b"\\", b"\xfe\xff", rng.randbytes(8)))
        content[at : at + size] = (filler * size)[:size]
    return bytes(content)


def truncated(rng: random.Random, seed: Seed) -> Content:
    end = rng.choice((_pixels_at(seed), _pixels_at(seed) + 64, len(seed.content)))
    return seed.content[: rng.randrange(min(end, len(seed.content)))]


def wrong_length(rng: random.Random, seed: Seed) -> Content:
    content = bytearray(seed.content)
    for element in rng.sample(seed.elements, rng.choice((1, 1, 1, 3))):
        form = f"{seed.order}{'L' if element.length_size == 4 else 'H'}"
        value = rng.choice((*LENGTHS, element.length + rng.choice((-2, -1, 1, 2, 8))))
        limit = 0xFFFFFFFF if element.length_size == 4 else 0xFFFF
        struct.pack_into(form, content, element.length_at, value & limit)
    return bytes(content)


def wrong_vr(rng: random.Random, seed: Seed) -> Content:
    content = bytearray(seed.content)
    for element in rng.sample(seed.elements, rng.choice((1, 2, 5))):
        content[element.at + 4 : element.at + 6] = rng.choice(VRS)
    return bytes(content)


def shuffled(rng: random.Random, seed: Seed) -> Content:
    whole = [seed.content[e.at : e.end] for e in seed.elements if e.length != UNDEFINED]
    for _ in range(rng.randint(1, 5)):
        index = rng.randrange(len(whole))
        match rng.randrange(4):
            case 0:
                whole[index] = b""
            case 1:
                whole.insert(rng.randrange(len(whole)), whole[index])
            case 2:
                rng.shuffle(whole)
            case _:
                whole[index] = whole[index] * rng.choice((2, 3000))
    return seed.content[: seed.dataset_at] + b"".join(whole)


def nested_sequences(rng: random.Random, seed: Seed) -> Content:
    tag = rng.choice((0x00101002, 0x00186011, 0x00081115, 0x00090010, 0x0018A001, 0x00400275, 0x00091010))
    depth = rng.choice((2, 20, 60, 150, 400, 3000, 20000))
    style = rng.randrange(3)
    if style == 0:  # undefined lengths, closed or not
        begin = seed.encoded(tag, b"SQ", b"", UNDEFINED) + struct.pack(
            f"{seed.order}HHL", 0xFFFE, 0xE000, UNDEFINED
        )
        end = (seed.end_of_item + seed.end_of_sequence) * (depth if rng.random() < 0.7 else depth // 2)
        return seed.with_element(tag, begin * depth + end)
    if style == 1:  # defined lengths: the parser does not look inside before it is asked
        value = seed.encoded(0x00100020, b"LO", b"deep")
        for _ in range(min(depth, 3000)):
            value = seed.encoded(tag, b"SQ", seed.item(value))
        return seed.with_element(tag, value)
    # Very many items, empty or small.
    item = seed.item(b"" if rng.random() < 0.5 else seed.encoded(0x00080100, b"SH", b"CODE"))
    undefined = rng.random() < 0.5
    value = item * rng.choice((10, 1000, 40000)) + (seed.end_of_sequence if undefined else b"")
    return seed.with_element(tag, seed.encoded(tag, b"SQ", value, UNDEFINED if undefined else None))


def endless(rng: random.Random, seed: Seed) -> Content:
    """Undefined lengths that never end, or end too often."""
    tag = rng.choice((0x00081140, 0x00100010, 0x00091001, 0x00186011, 0x00281201, 0x7FDF0010))
    vr = rng.choice((b"SQ", b"UN", b"OB", b"UT", b"LO"))
    inside = rng.choice((b"", rng.randbytes(200), seed.item(rng.randbytes(30)) * 3, seed.end_of_sequence * 4))
    count = rng.choice((1, 3, 200, 5000))
    return seed.with_element(tag, seed.encoded(tag, vr, inside, UNDEFINED) * count)


def fragments_in_fragments(rng: random.Random, seed: Seed) -> Content:
    """Elements of undefined length, each of which looks as if it went on to the end of the file."""
    count = rng.choice((50, 1000, 4000))
    one = seed.encoded(0x00091001, b"OB", b"", UNDEFINED) + seed.item(seed.end_of_sequence + b"\0" * 8)
    tail = seed.item(b"") * rng.choice((100, 20000)) + b"\xff" * 16
    return seed.with_element(0x00091001, one * count + tail)


def strange_uids(rng: random.Random, seed: Seed) -> Content:
    tag = rng.choice((0x00080016, 0x00080018, 0x0020000D, 0x0020000E))
    value = rng.choice((*UIDS, b"1." * 40, b"1" * 64, b"2.25." + b"9" * 60, rng.randbytes(12)))
    return seed.with_element(tag, seed.encoded(tag, b"UI", value))


def absurd_layout(rng: random.Random, seed: Seed) -> Content:
    content = seed
    for tag in rng.sample((0x00280010, 0x00280011, 0x00280002, 0x00280100, 0x00280101, 0x00280103), 2):
        value = rng.choice((0, 1, 2, 3, 4, 7, 8, 12, 15, 16, 17, 31, 32, 64, 112, 144, 4096, 32768, 65535))
        content = _again(content, tag, seed.encoded(tag, b"US", struct.pack(f"{seed.order}H", value)))
    if rng.random() < 0.6:
        frames = rng.choice(FRAMES)
        content = _again(content, 0x00280008, seed.encoded(0x00280008, b"IS", frames))
    if rng.random() < 0.3:
        words = rng.choice((b"RGB ", b"YBR_FULL_422", b"PALETTE COLOR ", b"MONOCHROME1 ", b"HSV ", b"ARGB"))
        content = _again(content, 0x00280004, seed.encoded(0x00280004, b"CS", words))
    if rng.random() < 0.3:
        planar = struct.pack(f"{seed.order}H", rng.choice((0, 1, 2, 65535)))
        content = _again(content, 0x00280006, seed.encoded(0x00280006, b"US", planar))
    return content.content


def pixel_length(rng: random.Random, seed: Seed) -> Content:
    content, element = bytearray(seed.content), seed.elements[-1]
    if element.tag != 0x7FE00010:
        return bytes(content)
    match rng.randrange(3):
        case 0:
            struct.pack_into(f"{seed.order}L", content, element.length_at, rng.choice(LENGTHS))
        case 1:
            content = content[: element.value_at + rng.randrange(0, max(1, len(content) - element.value_at))]
        case _:
            content += rng.randbytes(rng.choice((1, 7, 1000)))
    return bytes(content)


def framing(rng: random.Random, seed: Seed) -> Content:
    """The fragments of a compressed image: offset tables that lie, empty and endless fragments."""
    at = seed.elements[-1].value_at
    fragments, end = [], at
    while end + 8 <= len(seed.content) and seed.content[end : end + 4] == b"\xfe\xff\x00\xe0":
        (size,) = struct.unpack_from("<L", seed.content, end + 4)
        fragments.append(seed.content[end + 8 : end + 8 + size])
        end += 8 + size
    if not fragments:
        return pixel_length(rng, seed)
    table = rng.choice(
        (b"", b"\0" * 4, b"\xff" * 8, rng.randbytes(4 * rng.randint(1, 9)), b"\0\0\0\0" * 100000, b"\1\2\3")
    )
    fragments[0] = table if rng.random() < 0.6 else fragments[0]
    for _ in range(rng.randint(0, 3)):
        index = rng.randrange(len(fragments))
        fragments[index] = rng.choice((b"", fragments[index][:5], fragments[index] + b"\0"))
        fragments.insert(index, rng.choice((b"", rng.randbytes(6))))
    if rng.random() < 0.2:
        fragments += [b""] * rng.choice((1000, 200000))
    items = [
        struct.pack("<HHL", 0xFFFE, 0xE000, len(f) if rng.random() < 0.95 else rng.choice(LENGTHS)) + f
        for f in fragments
    ]
    return seed.content[:at] + b"".join(items) + (seed.end_of_sequence if rng.random() < 0.8 else b"")


def codestream(rng: random.Random, seed: Seed) -> Content:
    """Damage inside the compressed picture, where decoders written in C read it."""
    content, at = bytearray(seed.content), _pixels_at(seed)
    head = min(len(content), at + 400)
    for _ in range(rng.choice((1, 1, 2, 8))):
        where = rng.randrange(at, head if rng.random() < 0.7 else len(content))
        content[where] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, content[where] ^ (1 << rng.randrange(8))))
    return bytes(content)


def codestream_claims(rng: random.Random, seed: Seed) -> Content:
    """A picture that claims thousands of components, tiles or scans, and the header agrees with its size."""
    stream = bytearray(_first_frame(seed))
    siz = stream.find(b"\xff\x4f\xff\x51")
    if siz >= 0:
        rows, columns = rng.choice(((112, 144), (2000, 2000), (4096, 4096)))
        struct.pack_into(">LL", stream, siz + 8, columns, rows)
        tile = rng.choice(((columns, rows), (columns, rows), (1, 1), (3, 2), (16, 16), (2**31, 2**31)))
        struct.pack_into(">LL", stream, siz + 24, *tile)
        parts, old = rng.choice((1, 3, 4, 255, 2000, 16384)), struct.unpack_from(">H", stream, siz + 40)[0]
        one = bytes(stream[siz + 42 : siz + 45])
        stream[siz + 40 : siz + 42 + 3 * old] = struct.pack(">H", parts) + one * parts
        struct.pack_into(">H", stream, siz + 4, 38 + 3 * parts)
        changed = _again(seed, 0x00280010, seed.encoded(0x00280010, b"US", struct.pack("<H", rows)))
        changed = _again(changed, 0x00280011, seed.encoded(0x00280011, b"US", struct.pack("<H", columns)))
        return _framed(changed, bytes(stream))
    picture = io.BytesIO()
    Image.new("L", (144, 112)).save(picture, "JPEG", progressive=True)
    content = picture.getvalue()
    scan = content[content.rindex(b"\xff\xda") : -2]
    return _framed(seed, content[:-2] + scan * rng.choice((10, 1000, 30000)) + b"\xff\xd9")


def _first_frame(seed: Seed) -> bytes:
    """The first fragment after the offset table."""
    at = seed.elements[-1].value_at
    at += 8 + int(struct.unpack_from("<L", seed.content, at + 4)[0])
    return seed.content[at + 8 : at + 8 + int(struct.unpack_from("<L", seed.content, at + 4)[0])]


def _framed(seed: Seed, stream: bytes) -> bytes:
    """The file with this as its only frame."""
    frame = seed.item(b"") + seed.item(stream + b"\0" * (len(stream) % 2)) + seed.end_of_sequence
    return seed.content[: seed.elements[-1].value_at] + frame


def deflate_bomb(rng: random.Random, seed: Seed) -> Content:
    """Deflated Explicit VR (and lies about it): a few KB that would be gigabytes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = packer.compress(seed.content[seed.dataset_at : _pixels_at(seed)])
    for _ in range(rng.choice((1, 20, 100))):
        data += packer.compress(seed.encoded(0x00091001, b"OB", b"", 1 << 20) + b"\0" * (1 << 20))
    data += packer.flush()
    if rng.random() < 0.3:
        return seed.content[: seed.dataset_at] + data  # under the syntax of the seed
    deflated = b"1.2.840.10008.1.2.1.99"
    return _with_syntax(seed, deflated, data if rng.random() < 0.8 else seed.content[seed.dataset_at :])


def wrong_syntax(rng: random.Random, seed: Seed) -> Content:
    syntaxes = ("1.2", "1.2.1", "1.2.2", "1.2.5", "1.2.4.50", "1.2.4.57", "1.2.4.70", "1.2.4.80", "1.2.4.90")
    syntaxes += ("1.2.4.91", "1.2.4.100", "1.2.4.201", "1.2.8.1", "1.2.1.98", "1.2.99999")
    syntax = rng.choice(("1.2.840.10008." + rng.choice(syntaxes), "", "x" * 64, "1.2.840.10008.1.2.1\0\0"))
    return _with_syntax(seed, syntax.encode(), seed.content[seed.dataset_at :])


def odd_values(rng: random.Random, seed: Seed) -> Content:
    element = rng.choice([e for e in seed.elements if e.length not in (0, UNDEFINED) and e.tag < 0x7FE00010])
    value = seed.content[element.value_at : element.end]
    value = rng.choice((value[:-1], value + b"x", value[:1], b"", b"\0" * 3, rng.randbytes(5), value * 3))
    vr = element.vr or b"LO"
    return seed.with_element(element.tag, seed.encoded(element.tag, vr, value))


def private_groups(rng: random.Random, seed: Seed) -> Content:
    group = rng.choice((0x0009, 0x0011, 0x0019, 0x0029, 0x0099, 0x7FD1, 0x0001, 0x0007, 0xFFFF))
    content = b""
    if rng.random() < 0.5:
        content += seed.encoded(
            group << 16 | 0x10, b"LO", rng.choice((b"EMODE PROVENANCE 1", b"ACME 1.0", b"\\" * 4))
        )
    for _ in range(rng.choice((1, 10, 2000))):
        tag = group << 16 | rng.randrange(0x1000, 0x10FF)
        value = rng.randbytes(rng.choice((0, 2, 30)))
        content += seed.encoded(tag, rng.choice((b"UN", b"OB", b"LO", b"SQ", b"UL", b"DS")), value)
    return seed.with_element(group << 16 | 0x10, content)


def character_sets(rng: random.Random, seed: Seed) -> Content:
    changed = _again(seed, 0x00080005, seed.encoded(0x00080005, b"CS", rng.choice(CHARACTER_SETS)))
    values = (b"\x1b$B;3ED\x1b(B^\xff\xfe", b"\x1b" * 999, b"\xff" * 64, b"\x1b$)C\xb1", b"=" * 90)
    for tag, vr in ((0x00100010, b"PN"), (0x00081030, b"LO"), (0x0008103E, b"LO"), (0x00104000, b"LT")):
        value = rng.choice((*values, rng.randbytes(64)))
        changed = _again(changed, tag, seed.encoded(tag, vr, value))
    return changed.content


def huge_text(rng: random.Random, seed: Seed) -> Content:
    """A megabyte where a word belongs: in Implicit VR, or under a VR with a long length."""
    tag = rng.choice((0x00100010, 0x00080008, 0x00200013, 0x00281050, 0x00280008, 0x00280030, 0x00104000))
    tag = rng.choice(
        (tag, 0x0008103E, 0x00080050, 0x00181020, 0x00080060, 0x00280010, 0x00281101, 0x00280014)
    )
    part = rng.choice((b"A", b"1\\", b"\\", b"^", b"=", b"9", b"1.5\\", b"\xff", b"\x1b$B", b"\0"))
    value = (part * (1 << 20))[: rng.choice((1 << 16, 1 << 20, (1 << 20) - 2))]
    if seed.explicit and rng.random() < 0.5:
        value = value[:0xFFFE]
        return seed.with_element(tag, seed.encoded(tag, b"LO", value))
    return seed.with_element(tag, seed.encoded(tag, rng.choice((b"UC", b"UN", b"UT")), value))


def group_lengths(rng: random.Random, seed: Seed) -> Content:
    content = bytearray(seed.content)
    lie = rng.choice((0, 1, 4, 200, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF))
    if rng.random() < 0.5:
        struct.pack_into("<L", content, 140, lie)
        return bytes(content)
    tag = rng.choice((0x00080000, 0x00100000, 0x00280000, 0x7FE00000))
    return seed.with_element(tag, seed.encoded(tag, b"UL", struct.pack(f"{seed.order}L", lie)))


def preambles(rng: random.Random, seed: Seed) -> Content:
    rest = seed.content[128:]
    return rng.choice(
        (
            rest,
            rest[4:],
            seed.content[seed.dataset_at :],
            (b"\x7fELF" + b"\x90" * 128)[:128] + rest,
            (b"MZ" + b"\0" * 128)[:128] + rest,
            b"#!/bin/sh\n".ljust(128, b"x") + rest,
            b"\0" * 64 + rest,
            seed.content[:132] + rest,
            b"II*\0".ljust(128, b"\0") + rest,
            b"DICM" + seed.content,
        )
    )


def media_directory(rng: random.Random, seed: Seed) -> Content:
    sop_class = rng.choice((b"1.2.840.10008.1.3.10\0\0", b"1.2.840.10008.5.1.4.1.1.88.11"))
    changed = _again(
        seed, 0x00080016, seed.encoded(0x00080016, b"UI", sop_class + b"\0" * (len(sop_class) % 2))
    )
    record = seed.encoded(0x00041400, b"UL", b"\0\0\0\0") + seed.encoded(
        0x00041500, b"CS", b"..\\..\\ETC\\PASSWD "
    )
    value = seed.item(record) * rng.choice((1, 500))
    return _again(changed, 0x00041220, seed.encoded(0x00041220, b"SQ", value)).content


def very_many_elements(rng: random.Random, seed: Seed) -> Content:
    count = rng.choice((5_000, 60_000, 400_000))
    one = seed.encoded(0x00091001, b"LO", b"")
    if rng.random() < 0.5:
        return seed.with_element(0x00091001, one * count)
    group = b"".join(seed.encoded(0x00090000 | n, b"LO", b"ab") for n in range(0x1001, 0xFFFF, 2))
    return seed.with_element(0x00091001, group * max(1, count // 28000))


def very_large_elements(rng: random.Random, seed: Seed) -> Content:
    """Up to a gigabyte in front of the pixels, in one element or in many, at the top or inside a sequence."""
    size = rng.choice((64 << 20, 400 << 20, 1 << 30))
    match rng.randrange(5):
        case 0:
            element = seed.encoded(0x00091001, b"OB", HOLE, size)
        case 1:
            inside = seed.encoded(0x00091001, b"OB", HOLE, size)
            start = struct.pack(f"{seed.order}HHL", 0xFFFE, 0xE000, UNDEFINED)
            inside = start + inside + seed.end_of_item + seed.end_of_sequence
            element = seed.encoded(0x00081115, b"SQ", inside, UNDEFINED)
        case 2:
            element = seed.encoded(0x00091001, b"OB", HOLE + seed.end_of_sequence, UNDEFINED)
        case 3:
            fragment = struct.pack(f"{seed.order}HHL", 0xFFFE, 0xE000, size)
            element = seed.encoded(0x00091001, b"OB", fragment + HOLE + seed.end_of_sequence, UNDEFINED)
        case _:
            element = seed.encoded(0x00100010, b"UN", HOLE, size)
    return seed.with_element(0x00091001, element), size


def many_megabytes(rng: random.Random, seed: Seed) -> Content:
    """Elements that are each just small enough to be read."""
    one = seed.encoded(0x00091001, b"OB", b"\0" * ((1 << 20) - 16))
    return seed.with_element(0x00091001, one * rng.choice((8, 100, 300)))


def palettes(rng: random.Random, seed: Seed) -> Content:
    words = [rng.choice((0, 1, 2, 8, 12, 16, 17, 255, 256, 4096, 65535)) for _ in range(3)]
    changed = _again(seed, 0x00280004, seed.encoded(0x00280004, b"CS", b"PALETTE COLOR "))
    for tag in (0x00281101, 0x00281102, 0x00281103):
        changed = _again(changed, tag, seed.encoded(tag, b"US", struct.pack(f"{seed.order}3H", *words)))
        data = rng.randbytes(rng.choice((0, 2, 255, 256, 512, 1000)))
        table = tag + (0x120 if rng.random() < 0.2 else 0x100)
        changed = _again(changed, table, seed.encoded(table, b"OW", data))
    return changed.content


def regions(rng: random.Random, seed: Seed) -> Content:
    """Sequence of Ultrasound Regions with numbers at random."""
    items = b""
    for _ in range(rng.choice((0, 1, 2, 300))):
        inside = b"".join(
            seed.encoded(tag, b"US", struct.pack(f"{seed.order}H", rng.choice((0, 1, 2, 3, 5, 9, 65535))))
            for tag in (0x00186012, 0x00186014)
        )
        for tag in (0x00186016, 0x00186018, 0x0018601A, 0x0018601C, 0x0018601E):
            value = rng.choice((0, 1, 63, 64, 100, 111, 112, 143, 144, 70000, 2**31, 2**32 - 1))
            inside += seed.encoded(tag, b"UL", struct.pack(f"{seed.order}L", value))
        for tag in (0x0018602C, 0x0018602E):
            value = rng.choice((0.0, -0.01, 1e300, float("nan"), float("inf"), 0.01))
            inside += seed.encoded(tag, b"FD", struct.pack(f"{seed.order}d", value))
        items += seed.item(inside)
    return seed.with_element(0x00186011, seed.encoded(0x00186011, b"SQ", items))


def several(rng: random.Random, seed: Seed) -> Content:
    """Two or three of the others on top of each other."""
    content: Content = seed.content
    for mutate in rng.sample((wrong_length, wrong_vr, strange_uids, odd_values, character_sets, regions), 2):
        content = mutate(rng, seed)
        if isinstance(content, bytes):
            seed = Seed(seed.name, content, seed.syntax)
            if not _walkable(seed):
                break
    return bit_flips(rng, seed) if isinstance(content, bytes) and len(content) > 400 else content


Mutation = Callable[[random.Random, Seed], Content]

MUTATIONS: dict[str, Mutation] = {
    mutation.__name__.replace("_", " "): mutation
    for mutation in (
        bit_flips, overwritten, truncated, wrong_length, wrong_vr, shuffled, nested_sequences, endless,
        fragments_in_fragments, strange_uids, absurd_layout, pixel_length, framing, codestream,
        codestream_claims, deflate_bomb, wrong_syntax, odd_values, private_groups, character_sets, huge_text,
        group_lengths, preambles, media_directory, very_many_elements, very_large_elements, many_megabytes,
        palettes, regions, several,
    )
}  # fmt: skip
_COSTLY = {"very many elements", "very large elements", "many megabytes", "fragments in fragments"}


@dataclass(frozen=True)
class Case:
    """One hostile file, made again from the same numbers."""

    number: int
    mutation: str
    seed: str
    content: Content

    def write(self, path: Path) -> None:
        """Write it; a hole takes no room on disk."""
        if isinstance(self.content, bytes):
            path.write_bytes(self.content)
            return
        content, hole = self.content
        head, _, tail = content.partition(HOLE)
        with path.open("wb") as file:
            file.write(head)
            file.seek(hole, os.SEEK_CUR)
            file.write(tail)


def case(number: int, run_seed: int, seeds: list[Seed]) -> Case:
    """Case `number` of the run with this seed. The mutations take turns; costly ones come less often."""
    rng = random.Random(f"{run_seed}/{number}")
    names = list(MUTATIONS)
    mutation = names[number % len(names)]
    if mutation in _COSTLY and number // len(names) % 5:
        mutation = rng.choice([name for name in names if name not in _COSTLY])
    wanted = [s for s in seeds if not s.slow] if rng.random() < 0.9 else seeds
    if mutation in ("framing", "codestream", "codestream claims"):
        wanted = [s for s in wanted if s.elements[-1].length == UNDEFINED]
    if mutation == "codestream claims":
        wanted = [s for s in wanted if s.name.startswith("made j")]
    seed = rng.choice(wanted)
    return Case(number, mutation, seed.name, MUTATIONS[mutation](rng, seed))


class Child:
    """The process that reads the cases; started again when one of them ended it."""

    def __init__(self, folder: Path) -> None:
        """Start it."""
        self._folder = folder
        self._start()

    def read(self, path: Path) -> dict[str, object]:
        """How the file ended: see `fuzz.child`; "DIED" or "HUNG" if there was no answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n".encode())
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], LIMIT_WALL_S)
        line = self._process.stdout.readline() if ready else b""
        if line:
            answer: dict[str, object] = json.loads(line)
            return answer
        self._process.kill()
        status = self._process.wait()
        self._start()
        if not ready:
            return {"outcome": "HUNG", "error": f"no answer in {LIMIT_WALL_S:.0f} s"}
        return {"outcome": "DIED", "error": f"the process ended with status {status}"}

    def stop(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fuzz.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        )


def run(cases: int, seed: int, report: Report, *, first: int = 0, with_real: bool = True) -> None:
    """Read `cases` hostile files; what must not happen becomes a finding.

    with_real  start from real files as well where there are any: then cases differ from machine to machine.
    """
    seeds = [*made(), *(real() if with_real else ())]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="emode-fuzz-") as folder:
        path, child = Path(folder) / "case.dcm", Child(Path(folder))
        try:
            for number in range(first, first + cases):
                one = case(number, seed, seeds)
                one.write(path)
                answer = child.read(path)
                judge(one, answer, seed, report)
                if number % 500 == 499:
                    spent = time.monotonic() - started
                    print(f"{number + 1} data sets, {spent:.0f} s", file=sys.stderr)
        finally:
            child.stop()


def judge(one: Case, answer: dict[str, object], run_seed: int, report: Report) -> None:
    """Count one answer; report it if it is none of: result, coded skip, coded refusal; or cost too much."""
    seconds, mib = float(str(answer.get("cpu_s", 0))), float(str(answer.get("mib", 0)))
    report.case(one.mutation, str(answer["outcome"]), seconds, mib)
    problems = [str(answer["error"])] if "error" in answer else []
    if seconds > LIMIT_CPU_S:
        problems.append(f"{seconds:.1f} s of processor time, limit {LIMIT_CPU_S:.0f} s")
    if mib > LIMIT_MIB:
        problems.append(f"{mib:.0f} MiB, limit {LIMIT_MIB:.0f} MiB")
    for problem in problems:
        report.finding(f"seed {run_seed} case {one.number} ({one.mutation} of {one.seed}): {problem}")


def _pixels_at(seed: Seed) -> int:
    return seed.elements[-1].at


def _again(seed: Seed, tag: int, encoded: bytes) -> Seed:
    return Seed(seed.name, seed.with_element(tag, encoded), seed.syntax)


def _walkable(seed: Seed) -> bool:
    return len(seed.elements) > 5


def _with_syntax(seed: Seed, syntax: bytes, rest: bytes) -> bytes:
    value = syntax + b"\0" * (len(syntax) % 2)
    content = struct.pack("<HH2sH", 0x0002, 0x0010, b"UI", len(value)) + value
    meta = struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(content)) + content
    return seed.content[:132] + meta + rest
