"""Read a configuration strictly: every problem at once, each with its line, path and next step."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from dicom_node.config.sections import DEFAULT_BUNDLE_NAME, Config
from dicom_node.core.errors import ConfigInvalid
from dicom_node.core.identity import is_loopback


def load_config(path: Path) -> Config:
    """Read and check a configuration file.

    Raises ConfigInvalid with every problem at once: line, path, fact and next step.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(str(path), (f"cannot be read: {error}",)) from error
    return parse_config(text, folder=path.parent.resolve(), source=str(path))


def parse_config(text: str, *, folder: Path, source: str = "configuration") -> Config:
    """Check a configuration given as text; relative paths are taken from `folder`."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        raw = yaml.load(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigInvalid(source, (f"is not YAML: {' '.join(str(error).split())}",)) from error
    if not isinstance(raw, dict):
        raise ConfigInvalid(source, ("is empty; start from deploy/emode.yaml",))
    problems = [*_doubled_keys(root, ()), *_cross_problems(raw)]
    config: Config | None = None
    try:
        config = Config.model_validate(raw, context={"folder": folder})
    except ValidationError as error:
        problems += [_problem(item) for item in error.errors() if not _follows_from_another(item)]
    if problems or config is None:
        problems.sort(key=lambda found: _line(root, found[0]))
        raise ConfigInvalid(
            source, tuple(f"line {_line(root, at)}: {_path(at)}: {words}" for at, words in problems)
        )
    return config


_At = tuple[str | int, ...]
_Problem = tuple[_At, str]


def _follows_from_another(item: Mapping[str, Any]) -> bool:
    # A list whose only entry is wrong is also reported as too short.
    return item["type"] == "too_short" and bool(item["input"])


def _problem(item: Mapping[str, Any]) -> _Problem:
    at = tuple(part for part in item["loc"] if part not in ("path", "function-before"))
    kind = item["type"]
    if kind == "extra_forbidden":
        known = _keys_at(at[:-1])
        near = difflib.get_close_matches(str(at[-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        return at, f"unknown key; {hint}"
    if kind == "missing":
        return at, "is missing; deploy/emode.yaml says what belongs here"
    words = str(item["msg"]).removeprefix("Value error, ")
    return at, f"{words}; got {item['input']!r}"


def _keys_at(at: _At) -> list[str]:
    """The keys that are known at a path of the file."""
    annotation: Any = Config
    for part in at:
        if (
            isinstance(annotation, type)
            and issubclass(annotation, BaseModel)
            and part in annotation.model_fields
        ):
            annotation = annotation.model_fields[str(part)].annotation
        else:
            annotation = next(
                (
                    a
                    for a in getattr(annotation, "__args__", ())
                    if isinstance(a, type) and issubclass(a, BaseModel)
                ),
                annotation,
            )
    while not isinstance(annotation, type) and getattr(annotation, "__args__", None):
        annotation = annotation.__args__[0]
    return sorted(annotation.model_fields) if hasattr(annotation, "model_fields") else []


def _cross_problems(raw: Mapping[str, Any]) -> Iterator[_Problem]:
    """Names that must exist elsewhere in the file; found even where other keys are wrong."""
    defined = {
        "destinations": raw.get("destinations"),
        "bundles": raw.get("bundles", {DEFAULT_BUNDLE_NAME: "default"}),
    }
    routes = raw.get("routes")
    seen: set[str] = set()
    for index, route in enumerate(routes if isinstance(routes, list) else ()):
        if not isinstance(route, dict):
            continue
        name = route.get("name")
        if isinstance(name, str) and name in seen:
            yield ("routes", index, "name"), f"{name!r} is used by an earlier route; names are unique"
        seen.add(str(name))
        wanted = [
            *((("destinations", i), d) for i, d in enumerate(route.get("destinations") or ())),
            (("bundle",), route.get("bundle", DEFAULT_BUNDLE_NAME)),
        ]
        for at, target in wanted:
            section = "bundles" if at == ("bundle",) else "destinations"
            known = defined[section]
            if isinstance(known, dict) and isinstance(target, str) and target not in known:
                names = ", ".join(map(str, known)) or "none"
                yield ("routes", index, *at), f"{target!r} is not in {section}; defined there: {names}"
    yield from _unprovable(raw)
    if not raw.get("peers") and raw.get("accept_unknown_peers") is not True:
        yield ("peers",), "nobody may call this node; list at least one peer"
    yield from _listening_problems(raw)


def _listening_problems(raw: Mapping[str, Any]) -> Iterator[_Problem]:
    """Who could call, and how, against who may."""
    listen = raw.get("listen")
    listen = listen if isinstance(listen, dict) else {}
    plain = "port" not in listen or listen["port"] is not None
    secured = listen.get("tls") is not None
    if not plain and not secured:
        yield ("listen", "port"), "without it nobody can call; set listen.tls, or give it a port"
    if plain and secured:
        port, tls_port = listen.get("port", 11112), listen["tls"]
        if isinstance(tls_port, dict) and port and tls_port.get("port", 2762) == port:
            yield ("listen", "tls", "port"), f"{port} is the port of plain DICOM; TLS needs one of its own"
    host = listen.get("host", "127.0.0.1")
    if raw.get("accept_unknown_peers") is True and plain and not is_loopback(str(host)):
        yield (
            ("accept_unknown_peers",),
            f"with plain DICOM on {host}, anybody on the network could call; list peers, "
            "set listen.port: null, or listen on 127.0.0.1",
        )
    peers = raw.get("peers")
    for index, peer in enumerate(peers if isinstance(peers, list) else ()):
        if not isinstance(peer, dict) or secured:
            continue
        if peer.get("certificates"):
            yield ("peers", index, "certificates"), "are only seen over TLS; set listen.tls"
        elif peer.get("plain") is False:
            yield ("peers", index, "plain"), "this peer could not call at all; set listen.tls"


def _unprovable(raw: Mapping[str, Any]) -> Iterator[_Problem]:
    """Ways to confirm that lack something which is written elsewhere."""
    destinations = raw.get("destinations")
    peers = raw.get("peers")
    titles = {str(p.get("ae_title")).strip() for p in peers or () if isinstance(p, dict)}
    for name, section in destinations.items() if isinstance(destinations, dict) else ():
        if not isinstance(section, dict):
            continue
        way, title = section.get("confirm"), str(section.get("ae_title")).strip()
        if way == "qido" and not section.get("qido_url"):
            yield (
                ("destinations", name, "confirm"),
                "qido needs `qido_url`: the URL of its DICOMweb service, such as https://pacs/dicom-web",
            )
        if way == "commitment" and raw.get("accept_unknown_peers") is not True and title not in titles:
            yield (
                ("destinations", name, "confirm"),
                f"commitment: the archive calls back to report, and {title} is not in peers; "
                f"add it there with its addresses, or set `confirm: find`",
            )


def _doubled_keys(node: yaml.Node | None, at: _At) -> Iterator[_Problem]:
    """Keys written twice, of which YAML would silently keep the last."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                yield (*at, key.value), "is written twice; keep one"
            seen.add(key.value)
            yield from _doubled_keys(value, (*at, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _doubled_keys(value, (*at, index))


def _line(node: yaml.Node | None, at: _At) -> int:
    """Line of the deepest part of a path that is in the file."""
    line = 1
    for part in at:
        if isinstance(node, yaml.MappingNode):
            found = [(k, v) for k, v in node.value if k.value == str(part)]
            if not found:
                break
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _path(at: _At) -> str:
    text = ""
    for part in at:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".") or "(top)"
