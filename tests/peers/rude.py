"""A peer that writes its own bytes: right when asked to, and wrong in any way a test wants."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

VERIFICATION = "1.2.840.10008.1.1"
ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6.1"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"

ECHO_CONTEXT, STORE_CONTEXT = 1, 3
COMMAND, DATA, LAST_COMMAND, LAST_DATA = 0x01, 0x00, 0x03, 0x02

RELEASE = bytes.fromhex("050000000004 00000000")
ABORT = bytes.fromhex("070000000004 00000000")


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    """A PDU, with the length it has or the one it shall claim."""
    return struct.pack(">BBI", kind, 0, len(body) if length is None else length) + body


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def associate(
    contexts: Sequence[tuple[int, str, Sequence[str]]] = (
        (ECHO_CONTEXT, VERIFICATION, (IMPLICIT,)),
        (STORE_CONTEXT, ULTRASOUND, (EXPLICIT,)),
    ),
    *,
    calling: str = "RUDE",
    called: str = "EMODE",
    longest: int = 16384,
) -> bytes:
    """An A-ASSOCIATE-RQ PDU (PS3.8 9.3.2)."""
    items = _item(0x10, b"1.2.840.10008.3.1.1.1")
    for number, abstract, syntaxes in contexts:
        inside = _item(0x30, abstract.encode()) + b"".join(_item(0x40, s.encode("latin-1")) for s in syntaxes)
        items += _item(0x20, bytes((number, 0, 0, 0)) + inside)
    items += _item(0x50, _item(0x51, struct.pack(">I", longest)) + _item(0x52, b"1.2.3.4"))
    head = (
        struct.pack(">HH", 1, 0)
        + called.encode("latin-1").ljust(16)
        + calling.encode("latin-1").ljust(16)
        + bytes(32)
    )
    return pdu(0x01, head + items)


def p_data(*fragments: tuple[int, int, bytes]) -> bytes:
    """A P-DATA-TF PDU of (presentation context, control header, bytes)."""
    return pdu(
        0x04,
        b"".join(
            struct.pack(">IBB", len(some) + 2, context, header) + some for context, header, some in fragments
        ),
    )


def command(*elements: tuple[int, bytes]) -> bytes:
    """A command set of (element of group 0000, value): implicit VR little endian, with its group length."""
    body = b"".join(struct.pack("<HHI", 0, e, len(value)) + value for e, value in elements)
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def us(value: int) -> bytes:
    """A value of VR US."""
    return struct.pack("<H", value)


def ui(value: str) -> bytes:
    """A value of VR UI."""
    return value.encode() + b"\x00" * (len(value) % 2)


def echo_command(message: int = 1) -> bytes:
    """A C-ECHO-RQ."""
    return command(
        (0x0002, ui(VERIFICATION)), (0x0100, us(0x0030)), (0x0110, us(message)), (0x0800, us(0x0101))
    )


def store_command(
    instance: str, message: int = 1, *, sop_class: str = ULTRASOUND, field: int = 0x0001
) -> bytes:
    """A C-STORE-RQ with a data set to follow."""
    return command(
        (0x0002, ui(sop_class)),
        (0x0100, us(field)),
        (0x0110, us(message)),
        (0x0700, us(0)),
        (0x0800, us(1)),
        (0x1000, ui(instance)),
    )


def store(instance: str, data_set: bytes, message: int = 1, *, piece: int = 8192) -> list[bytes]:
    """The PDUs of a C-STORE."""
    pieces = [data_set[at : at + piece] for at in range(0, len(data_set), piece)]
    headers = [DATA] * (len(pieces) - 1) + [LAST_DATA]
    return [
        p_data((STORE_CONTEXT, LAST_COMMAND, store_command(instance, message))),
        *(p_data((STORE_CONTEXT, h, some)) for h, some in zip(headers, pieces, strict=True)),
    ]


def echo(message: int = 1) -> bytes:
    """The PDU of a C-ECHO."""
    return p_data((ECHO_CONTEXT, LAST_COMMAND, echo_command(message)))


@dataclass(frozen=True)
class Answer:
    """What a C-STORE or C-ECHO was answered."""

    field: int
    status: int
    instance: str


class Peer:
    """A connection, and what comes back on it."""

    def __init__(self, port: int, *, timeout_s: float = 60.0) -> None:
        """Connect."""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)

    def send(self, *pdus: bytes) -> None:
        """Send all; if the other side has gone, that is its answer."""
        try:
            for each in pdus:
                self.socket.sendall(each)
        except OSError:
            return

    def say_no_more(self) -> None:
        """Close the writing half."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def read(self) -> tuple[int, bytes] | None:
        """The next PDU, as (type, body); None if the connection was closed. TimeoutError if neither."""
        header = self._exactly(6)
        if header is None:
            return None
        body = self._exactly(int.from_bytes(header[2:], "big"))
        return None if body is None else (header[0], body)

    def read_all(self) -> list[tuple[int, bytes]]:
        """All PDUs until the connection is closed."""
        found = []
        while (each := self.read()) is not None:
            found.append(each)
        return found

    def reset(self) -> None:
        """Close with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        """Close."""
        self.socket.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _exactly(self, count: int) -> bytes | None:
        read = b""
        while len(read) < count:
            try:
                some = self.socket.recv(count - len(read))
            except TimeoutError:
                raise
            except OSError:
                return None
            if not some:
                return None
            read += some
        return read


def answers(pdus: Sequence[tuple[int, bytes]]) -> Iterator[Answer]:
    """The DIMSE answers among received PDUs; each command fits one fragment, as ours do."""
    for kind, body in pdus:
        if kind != 0x04:
            continue
        at = 6
        values: dict[int, bytes] = {}
        while at + 8 <= len(body):
            element, length = struct.unpack_from("<2xHI", body, at)
            values[element] = body[at + 8 : at + 8 + length]
            at += 8 + length
        yield Answer(
            int.from_bytes(values.get(0x0100, b""), "little"),
            int.from_bytes(values.get(0x0900, b"\xff\xff"), "little"),
            values.get(0x1000, b"").decode("ascii", "replace").rstrip("\0 "),
        )


def stores(port: int, *objects: tuple[str, bytes], calling: str = "HONEST") -> list[int]:
    """An honest sender: associate, store each object, release; the statuses. AssertionError if refused."""
    statuses = []
    with Peer(port) as peer:
        peer.send(associate(calling=calling))
        reply = peer.read()
        assert reply is not None and reply[0] == 0x02, f"association: {reply}"  # noqa: PT018
        for number, (instance, data_set) in enumerate(objects, start=1):
            peer.send(*store(instance, data_set, number))
            answer = peer.read()
            assert answer is not None, "no answer to C-STORE"
            statuses += [each.status for each in answers([answer])]
        peer.send(RELEASE)
        assert (peer.read() or (0,))[0] == 0x06, "no answer to A-RELEASE"
    return statuses


def visits(port: int, count: int, seed: int) -> None:
    """Associations as health checks and careless peers make them: each kind in turn."""
    rng = random.Random(seed)
    for number in range(count):
        peer = Peer(port, timeout_s=60)
        kind = number % 6
        if kind == 0:
            peer.close()
        elif kind == 1:
            peer.reset()
        elif kind == 2:
            peer.send(associate()[: rng.randrange(1, 200)])
            peer.reset()
        else:
            peer.send(associate())
            peer.read()
            peer.send(echo())
            peer.read()
            if kind == 3:
                peer.send(RELEASE)
                peer.read_all()
                peer.close()
            elif kind == 4:
                peer.close()
            else:
                peer.reset()


@dataclass(frozen=True)
class Process:
    """What the kernel says of a process."""

    pid: int

    def _status(self, key: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1])
        raise AssertionError(key)

    @property
    def rss_mib(self) -> float:
        """Resident memory."""
        return self._status("VmRSS") / 1024

    @property
    def threads(self) -> int:
        """Threads."""
        return self._status("Threads")

    @property
    def descriptors(self) -> int:
        """Open files and sockets."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def settles(self, *, threads: int, descriptors: int, timeout_s: float = 30.0) -> bool:
        """Does it come back to so few threads and descriptors?"""
        deadline = time.monotonic() + timeout_s
        while self.threads > threads or self.descriptors > descriptors:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True
