"""serve, check, schema, demo."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.cli.access import permit, record_key_files, warn_about_root
from dicom_node.cli.audit_node import NodeAudit
from dicom_node.cli.console import (
    CERTIFICATE_COLUMNS,
    DEFAULT_CONFIG,
    EXIT_INCOMPLETE,
    EXIT_USAGE,
    ConfigOption,
    JsonOption,
    certificate_row,
    config_or_exit,
    leave,
    out,
    print_error,
    show_json,
    show_table,
)
from dicom_node.config import DEFAULT_BUNDLE_NAME, Config, parse_config
from dicom_node.core.access import Action
from dicom_node.core.errors import AlreadyRunning, ConfigInvalid, DatabaseDamaged, NodeError, SchemaMismatch
from dicom_node.core.identity import is_loopback
from dicom_node.supervise import EXIT_FATAL, Post, Role, Supervisor
from dicom_node.telemetry.log import set_up_logging, where

if TYPE_CHECKING:
    from dicom_node.network.entrance import Entrance

log = logging.getLogger(__name__)

DEMO_FOLDER = Path("demo")


def serve(
    config: ConfigOption = DEFAULT_CONFIG,
    role: Annotated[
        Role | None,
        typer.Option(help="Be one process of the node, and nothing else; nobody watches it."),
    ] = None,
    only: Annotated[
        list[Role] | None,
        typer.Option(help="Start and watch the processes of this role only; may be given more than once."),
    ] = None,
) -> None:
    """Run the node until it is told to stop (SIGTERM, Ctrl-C)."""
    settings = config_or_exit(config)
    set_up_logging(settings.log.level, settings.log.format)
    permit(settings, Action.SERVE)
    # A process that is started again must not stay away because somebody is just renewing a file.
    _refuse_unsafe_files(settings, record_key_files)
    if role is None:
        warn_about_root()
        raise typer.Exit(_supervise(config, settings, only or list(Role)))
    _be(Post(role), "", settings)


def _supervise(config: Path, settings: Config, roles: Collection[Role]) -> int:
    """Start the processes of these roles and watch them; return the exit status."""
    # Loaded here, once: the processes are forked. Nothing of it may import torch.
    from dicom_node.node.receiver import Premises, entrance_of
    from dicom_node.node.values import layout_of, memory_limit_of, posts_of, receivers_of
    from dicom_node.store.folder import require_fit
    from dicom_node.store.process import sole_holder

    # The very text that is recorded as the configuration of this run.
    text = config.read_text(encoding="utf-8")
    settings = parse_config(text, folder=config.parent.resolve(), source=str(config))
    layout = layout_of(settings)
    try:
        require_fit(layout)  # before any process starts: not half a node
    except NodeError as error:
        if error.permanent:
            leave(error, EXIT_INCOMPLETE)
        # A disk that is full for the moment, or a busy database: the processes wait for their turn.
        log.warning("data folder not looked at", extra={"action": "folder-unknown", "code": error.code})
    layout.create()
    try:
        # A second one must not start processes, nor write into the audit trail that a node came and went.
        with (
            sole_holder(layout.lock("supervisor"), "supervisor"),
            NodeAudit(settings, config, text) as audit,
        ):
            premises = Premises(entrance_of(settings, processes=receivers_of(settings)), print_error)
            supervisor = Supervisor(
                {p: memory_limit_of(settings, p.role) for p in posts_of(settings) if p.role in roles},
                partial(_be, settings=settings, supervised=True, entrance=premises.entrance),
                premises,
                audit.process_ended,
            )
            supervisor.heed_signals()
            return supervisor.run()
    except AlreadyRunning as error:
        leave(error, EXIT_FATAL)


def _be(
    post: Post,
    last_end: str,
    settings: Config,
    *,
    supervised: bool = False,
    entrance: Entrance | None = None,
) -> None:
    """Be one process of the node. Raises SystemExit."""
    from dicom_node.node.roles import run_post

    try:
        run_post(post, settings, supervised=supervised, last_end=last_end, entrance=entrance)
    except NodeError as error:
        log.error("process cannot go on", extra={"action": "role-failed", "code": error.code, **post.fields})
        print_error(error)
        fatal = isinstance(error, ConfigInvalid | SchemaMismatch | DatabaseDamaged | AlreadyRunning)
        raise SystemExit(EXIT_FATAL if fatal else EXIT_INCOMPLETE) from None
    except Exception as error:  # noqa: BLE001
        # A traceback may quote attribute values: class and place are all that is written.
        log.critical(
            "process failed",
            extra={
                "action": "role-failed",
                **post.fields,
                "code": type(error).__name__,
                "where": where(error),
            },
        )
        raise SystemExit(EXIT_INCOMPLETE) from None


def _refuse_unsafe_files(
    settings: Config, tell: Callable[[Config, list[str]], None] = lambda settings, problems: None
) -> None:
    """Leave if a key is open to others, or files of TLS cannot be used: every problem at once."""
    from dicom_node.node.peers import certificate_problems

    problems = certificate_problems(settings)
    if problems:
        tell(settings, problems)
        leave(
            "\n".join([f"{len(problems)} problem(s) with files", *(f"  {p}" for p in problems)]), EXIT_USAGE
        )


def check(
    config: Annotated[Path, typer.Argument(help="Configuration file.")], json_: JsonOption = False
) -> None:
    """Check a configuration: every problem at once, or what it means."""
    from dicom_node.node.imaging import appearance_of
    from dicom_node.node.peers import certificate_expiries, listening_on
    from dicom_node.node.people import access_of
    from dicom_node.node.values import layout_of
    from dicom_node.store.folder import require_fit

    settings = config_or_exit(config)
    try:
        appearance_of(settings)  # whether the font has every letter of the wording shows only here
    except ConfigInvalid as error:
        leave(error, EXIT_USAGE)
    for name, where_it_is in settings.bundles.items():
        if where_it_is != DEFAULT_BUNDLE_NAME and not (Path(where_it_is) / "manifest.json").is_file():
            leave(
                f'bundles.{name}: {where_it_is} holds no bundle; "default" is the one that ships', EXIT_USAGE
            )
    _refuse_unsafe_files(settings)
    try:
        require_fit(layout_of(settings))
    except NodeError as error:
        leave(error, EXIT_INCOMPLETE)
    certificates = certificate_expiries(settings)
    no_roles = not access_of(settings).in_use
    if json_:
        show_json(settings.model_dump(mode="json") | {"roles_in_use": not no_roles})
        return
    out.print(f"{config}: valid")
    if certificates:
        show_table("Certificates", CERTIFICATE_COLUMNS, (certificate_row(each) for each in certificates))
    if settings.listen.port is not None and not is_loopback(settings.listen.host):
        open_on = f"{settings.listen.host}:{settings.listen.port}"
        out.print(f"[yellow]plain DICOM, not encrypted, is open to the network on {open_on}[/]")
    ways = [f"{way} on {settings.listen.host}:{port}" for way, port in listening_on(settings)]
    show_table(
        f"Routes (listening for {', '.join(ways)})",
        (
            "route",
            "called AE title",
            "modality",
            "body part",
            "bundle",
            "destinations",
            "priority",
            "deliver",
        ),
        (
            (
                route.name,
                route.called_ae_title,
                ", ".join(m or "absent" for m in route.match.modality) or "any",
                ", ".join(b or "absent" for b in route.match.body_part) or "any",
                route.bundle,
                ", ".join(route.destinations),
                route.priority,
                route.deliver,
            )
            for route in settings.routes
        ),
    )
    show_table(
        "Who may call" if not settings.accept_unknown_peers else "Who may call: ANYBODY",
        ("calling AE title", "addresses", "how"),
        (
            (peer.ae_title, ", ".join(peer.addresses), _how(settings, peer.plain, peer.certificates))
            for peer in settings.peers
        ),
    )
    if no_roles:
        out.print(
            f"[yellow]roles: none.[/] Whoever can read {settings.data_dir} may do everything; "
            "`access` gives roles to people.",
            soft_wrap=True,
        )
    else:
        show_table(
            "What people may do (each role includes the ones above it)",
            ("role", "users and @groups"),
            (
                ("viewer", ", ".join(settings.access.viewers)),
                ("operator", ", ".join(settings.access.operators)),
                ("admin", ", ".join(settings.access.admins)),
            ),
        )


def _how(settings: Config, plain: bool, certificates: tuple[str, ...]) -> str:
    """How a peer may call, for the table of peers."""
    ways = []
    if plain and not certificates and settings.listen.port is not None:
        ways.append("plain DICOM")
    if settings.listen.tls is not None:
        shown = ", ".join(certificates) or "any trusted certificate"
        ways.append(f"TLS with {shown}" if settings.listen.tls.require_certificate or certificates else "TLS")
    return "; ".join(ways)


def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    typer.echo(json.dumps(Config.model_json_schema(), indent=2))


def demo(
    study: Annotated[
        Path | None,
        typer.Option(help="Send these DICOM files instead of the simulated study.", file_okay=False),
    ] = None,
    folder: Annotated[Path, typer.Option(help="Work here; emptied first.", file_okay=False)] = DEMO_FOLDER,
    json_: JsonOption = False,
) -> None:
    """Send a study through a real node into a real archive on this machine, and show what became of it."""
    from dicom_node.demo.run import run_demo

    raise typer.Exit(run_demo(folder, study=study, as_json=json_))
