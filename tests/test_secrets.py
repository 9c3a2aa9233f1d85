"""Secrets: the configuration names where they are, and nothing that the node prints or writes holds one."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from dicom_node.config import Config
from dicom_node.trust.files import Secret
from harness import Node, node_config
from peers.certificates import Authority

SECRET = "hunter2-MARKEDSECRET"


def keys(model, at=""):
    """Every key of the configuration as (path, annotation)."""
    for name, field in model.model_fields.items():
        yield f"{at}{name}", field.annotation
        stack = [field.annotation]
        while stack:
            annotation = stack.pop()
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                yield from keys(annotation, f"{at}{name}.")
            stack += getattr(annotation, "__args__", ())


def test_no_key_of_the_configuration_can_hold_a_secret():
    """What sounds like one is a file, or the name of an environment variable."""
    sounds = re.compile(r"password|passphrase|secret|token|credential|authorization|(^|[._])key($|_)")
    found = {path: annotation for path, annotation in keys(Config) if sounds.search(path)}
    assert any(path.endswith("key_password_file") for path in found)
    for path, annotation in found.items():
        files = "pathlib.Path" in str(annotation) or annotation is Path
        assert files or path.endswith("_env"), f"{path} would hold a secret itself"


def test_a_place_of_a_secret_prints_without_it(monkeypatch):
    monkeypatch.setenv("NODE_PASSWORD", SECRET)
    secret = Secret(variable="NODE_PASSWORD")
    assert secret.read() == SECRET
    assert SECRET not in f"{secret} {secret!r}"


@pytest.mark.slow
def test_nothing_that_a_node_prints_or_writes_holds_a_secret(tmp_path):
    authority = Authority(tmp_path / "ca")
    pair = authority.issue("node", password=SECRET)
    password = tmp_path / "password"
    password.touch(mode=0o600)
    password.write_text(f"{SECRET}\n")
    config = node_config(tmp_path, {"archive": ("PACS", 1)})
    files = {"certificate": str(pair.certificate), "key": str(pair.key), "trust": str(authority.certificate)}
    config["listen"]["tls"] = files | {"port": 0, "key_password_file": str(password)}
    config["destinations"]["archive"]["tls"] = files | {"key_password_env": "NODE_PASSWORD"}
    config["log"] = {"format": "json", "level": "debug"}
    with Node(tmp_path, config, {"NODE_PASSWORD": SECRET}) as node:
        told = [node.emode(*command, check=False) for command in (("status",), ("echo", "archive"))]
        node.stop()
    assert node.events("ready", role="receiver")
    told.append(node.emode("audit", "list", "--json"))
    text = "\n".join([*node.stderr, *(done.stdout + done.stderr for done in told)])
    assert len(text) > 1000
    assert SECRET not in text
    for path in (tmp_path / "data").rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path
