"""Data sets on their way out: PDUs of the length that the peer takes, whatever the source and its size."""

import io

import pytest

from dicom_node.network.pdu import IS_LAST, Packer, PduReader, PeerGone, fragments_of

LENGTHS = (0, 16378, 1 << 17, 4294967295)


class Wire:
    """A connection that has these bytes to read."""

    def __init__(self, content):
        self._content = io.BytesIO(content)

    def settimeout(self, seconds):
        pass

    def recv_into(self, room):
        return self._content.readinto(room)


def sources(content, folder):
    path = folder / "content"
    path.write_bytes(b"head" + content)
    file = path.open("rb", buffering=0)
    file.seek(4)
    return file, io.BytesIO(content)


@pytest.mark.parametrize(
    ("longest", "size"),
    [
        *((longest, size) for longest in LENGTHS for size in (0, 1, 2, 100, 16372, 16373, 3_500_001)),
        (8, 10_001),
    ],
)
def test_what_was_packed_is_what_arrives(size, longest, tmp_path):
    content = bytes(range(256)) * (size // 256 + 1)
    content = content[:size]
    packer = Packer(longest)
    for source in sources(content, tmp_path):
        with source:
            wire = b"".join(bytes(some) for some in packer.pack(5, source, size))
        reader = PduReader(Wire(wire), 1 << 17, 1.0)
        got, controls, lengths = bytearray(), [], []
        while True:
            try:
                kind, body = reader.read()
            except PeerGone:
                break
            assert kind == 0x04
            (fragment,) = fragments_of(body)
            assert fragment.context_id == 5
            got += fragment.some
            controls.append(fragment.control)
            lengths.append(len(body))
        assert got == content
        assert controls == [0] * (len(controls) - 1) + [IS_LAST] * bool(size)
        assert max(lengths, default=0) <= (min(longest, 1 << 17) or 1 << 17)
        assert all(length % 2 == 0 for length in lengths[:-1])


def test_one_buffer_serves_them_all_and_is_no_larger_than_needed():
    packer = Packer(16378)
    for size in (10, 100_000, 50, 9_000_000):
        for some in packer.pack(1, io.BytesIO(bytes(size)), size):
            assert len(some) <= 1 << 20
    assert len(packer._buffer) <= 1 << 20
    assert len(next(Packer(4294967295).pack(1, io.BytesIO(bytes(10)), 10))) == 22


def test_a_source_that_ends_early_is_said_to(tmp_path):
    for source in sources(b"x" * 50_000, tmp_path):
        with source, pytest.raises(EOFError):
            list(Packer(16378).pack(1, source, 60_000))
