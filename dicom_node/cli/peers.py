"""echo, probe, send: talk to somebody else's DICOM node."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.cli.access import permit
from dicom_node.cli.console import (
    DEFAULT_CONFIG,
    EXIT_INCOMPLETE,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    ConfigOption,
    JsonOption,
    config_or_exit,
    leave,
    marked,
    out,
    require_destination,
    show_json,
    show_table,
)
from dicom_node.cli.files import part10_files
from dicom_node.config import Config
from dicom_node.core.access import Action
from dicom_node.core.errors import DestinationUnreachable, NodeError
from dicom_node.core.identity import is_ae_title

if TYPE_CHECKING:
    from dicom_node.network.probe import Offer
    from dicom_node.network.requestor import RemoteAE
    from dicom_node.network.tls import Agreed

_ADDRESS = re.compile(r"(?P<title>[^@]+)@(?P<host>.+):(?P<port>[0-9]{1,5})")


def echo(
    destination: Annotated[str, typer.Argument(help="A destination's name from the configuration.")],
    config: ConfigOption = DEFAULT_CONFIG,
    json_: JsonOption = False,
) -> None:
    """C-ECHO a destination: is it there, and does it let us in?"""
    from dicom_node.network.scu import echo as c_echo

    _, remote = _asked(destination, config)
    try:
        answer = c_echo(remote)
    except NodeError as error:
        if json_:
            show_json({"destination": destination, "ok": False, "code": error.code, "error": str(error)})
            raise typer.Exit(EXIT_UNREACHABLE) from None
        leave(error, EXIT_UNREACHABLE)
    tls = _tls_facts(answer.tls)
    if json_:
        show_json({"destination": destination, "ok": True, "seconds": answer.seconds, "tls": tls})
        return
    out.print(f"{remote} answered C-ECHO in {answer.seconds:.3f} s", markup=False)
    if tls is None:
        out.print("plain DICOM: not encrypted")
    for name, value in (tls or {}).items():
        out.print(f"  {name.replace('_', ' ')}: {value}", markup=False)


def _asked(destination: str, config: Path) -> tuple[Config, RemoteAE]:
    """The configuration, and the destination that this person may ask something."""
    from dicom_node.node.peers import remotes_of
    from dicom_node.node.people import audit_of

    settings = config_or_exit(config)
    permit(settings, Action.ASK_PEER)
    require_destination(settings, destination)
    return settings, remotes_of(settings, audit_of(settings))[destination]


def probe(
    destination: Annotated[str, typer.Argument(help="A destination's name from the configuration.")],
    config: ConfigOption = DEFAULT_CONFIG,
    json_: JsonOption = False,
) -> None:
    """Find out what a destination offers, and which `confirm` to set for it. Stores nothing there."""
    from dicom_node.network.probe import probe as find_out
    from dicom_node.node.peers import qido_servers_of

    settings, remote = _asked(destination, config)
    offer = find_out(remote, qido_servers_of(settings).get(destination))
    confirm = settings.destinations[destination].confirm
    advice = _advice(remote, confirm, offer)
    there = offer.association.ok is True
    if json_:
        show_json({"destination": destination, "confirm": confirm, "offer": offer, "advice": advice})
    else:
        show_table(
            f"What {remote} offers",
            ("what", "offered", "words"),
            (
                (what, marked({True: "yes", False: "NO", None: "-"}[found.ok]), found.words)
                for what, found in (
                    ("connection", offer.reachable),
                    ("association", offer.association),
                    ("C-ECHO", offer.echo),
                    ("storage of results", offer.storage),
                    ("C-FIND, Study Root", offer.find),
                    ("storage commitment", offer.commitment),
                    ("QIDO-RS", offer.qido),
                )
            ),
        )
        out.print(advice, markup=False, soft_wrap=True)
    if not there:
        raise typer.Exit(EXIT_UNREACHABLE)
    if not offer.storage.ok or not offer.way(confirm).ok:
        raise typer.Exit(EXIT_INCOMPLETE)


def _advice(remote: RemoteAE, confirm: str, offer: Offer) -> str:
    """What to set, in plain words."""
    if not offer.association.ok:
        why = offer.association if offer.reachable.ok else offer.reachable
        return f"Results cannot be sent. {why.words}"
    if not offer.storage.ok:
        return "Results cannot be sent: have it accept Secondary Capture in Explicit VR Little Endian."
    if confirm == offer.best:
        now = f"`confirm: {confirm}` is set, and the strongest proof it offers."
    elif offer.way(confirm).ok:
        now = f"`confirm: {confirm}` is set and works; the strongest proof it offers is `{offer.best}`."
    else:
        now = f"`confirm: {confirm}` is set and cannot work here; set `confirm: {offer.best}`."
    if offer.best == "commitment":
        now += (
            f" For commitment it has to call back: list {remote.ae_title} among `peers`, and have it know "
            f"{remote.calling_ae_title} at this node's host and port."
        )
    if offer.best == "none":
        now += ' Nothing proves a delivery then: results stay "accepted".'
    return now


def _tls_facts(agreed: Agreed | None) -> dict[str, object] | None:
    """What protected an association, for people."""
    if agreed is None:
        return None
    facts: dict[str, object] = {"protocol": agreed.protocol, "cipher": agreed.cipher}
    if agreed.peer is not None:
        facts |= {
            "certificate": agreed.peer.subject,
            "fingerprint": f"sha256:{agreed.peer.fingerprint}",
            "expires": agreed.peer.not_after,
        }
    return facts


def _destination(name: str, config: Path) -> RemoteAE:
    from dicom_node.node.peers import remotes_of
    from dicom_node.node.people import audit_of

    settings = config_or_exit(config)
    permit(settings, Action.ASK_PEER)
    remotes = remotes_of(settings, audit_of(settings))
    if name not in remotes:
        leave(
            f"--to {name!r} is not a destination; defined are: {', '.join(remotes)}. For anybody else "
            "write it as AET@HOST:PORT, for example PACS@10.1.2.3:104",
            EXIT_USAGE,
        )
    return remotes[name]


def _address(to: str, calling: str) -> RemoteAE:
    from dicom_node.network.requestor import RemoteAE

    address = _ADDRESS.fullmatch(to)
    if not address or not is_ae_title(address["title"]) or not 0 < int(address["port"]) < 65536:
        leave(f"--to {to!r}: write it as AET@HOST:PORT, for example PACS@10.1.2.3:104", EXIT_USAGE)
    if not is_ae_title(calling):
        leave(f"--calling {calling!r} is not an AE title", EXIT_USAGE)
    return RemoteAE("receiver", address["title"], address["host"], int(address["port"]), calling, 10.0, 60.0)


def send(
    files: Annotated[list[Path], typer.Argument(help="DICOM files or folders.", exists=True)],
    to: Annotated[
        str, typer.Option(help="Receiver: AET@HOST:PORT, or a destination's name from the configuration.")
    ],
    calling: Annotated[str, typer.Option(help="Our calling AE title, for AET@HOST:PORT.")] = "EMODE",
    config: ConfigOption = DEFAULT_CONFIG,
    json_: JsonOption = False,
) -> None:
    """C-STORE files to any receiver, each in the transfer syntax it has."""
    from dicom_node.network.scu import Outgoing
    from dicom_node.network.scu import send as c_store

    remote = _destination(to, config) if "@" not in to else _address(to, calling)
    items: list[Outgoing] = []
    unreadable: list[tuple[Path, str]] = []
    for path in part10_files(files):
        try:
            items.append(Outgoing.of(path))
        except NodeError as error:
            unreadable.append((path, str(error)))
    if not items and not unreadable:
        leave("no DICOM file among these", EXIT_UNREACHABLE)
    sent = list(c_store(remote, items)) if items else []
    rows = [
        {
            "file": s.item.path,
            "instance": s.item.sop_instance_uid,
            "stored": s.error is None,
            "answer": s.words,
        }
        for s in sent
    ] + [{"file": path, "instance": None, "stored": False, "answer": words} for path, words in unreadable]
    if json_:
        show_json(rows)
    else:
        show_table(
            f"Sent to {remote}",
            ("file", "stored", "answer"),
            ((row["file"], marked("accepted" if row["stored"] else "failed"), row["answer"]) for row in rows),
        )
    if sent and all(isinstance(one.error, DestinationUnreachable) for one in sent):
        raise typer.Exit(EXIT_UNREACHABLE)
    if not all(row["stored"] for row in rows):
        raise typer.Exit(EXIT_INCOMPLETE)
