"""The configuration: strict, all problems at once, and the shipped file is its manual."""

import re
from pathlib import Path

import pytest
import yaml

from dicom_node.config import Config, load_config, parse_config
from dicom_node.core.errors import ConfigInvalid

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "deploy" / "emode.yaml"


def with_optional_parts() -> str:
    """The shipped file with every part in use that stands behind `#:`."""
    return re.sub(r"(?m)^( *)#: ", r"\1", SHIPPED.read_text())


MINIMAL = """
peers: [{ae_title: PACS, addresses: [127.0.0.1]}]
destinations: {archive: {ae_title: PACS, host: pacs.local}}
routes: [{name: breast, destinations: [archive]}]
"""


def problems(text):
    with pytest.raises(ConfigInvalid) as caught:
        parse_config(text, folder=Path("/etc/emode"), source="node.yaml")
    return caught.value.problems


def test_the_shipped_file_is_valid_and_shows_the_defaults():
    shipped = load_config(SHIPPED).model_dump()
    defaults = parse_config(MINIMAL, folder=SHIPPED.parent).model_dump()
    for given in ("data_dir", "peers", "destinations"):  # these have no default that could serve
        del shipped[given], defaults[given]
    assert shipped == defaults


def test_the_shipped_file_names_every_key():
    def keys(model):
        for name, field in model.model_fields.items():
            yield name
            stack = [field.annotation]
            while stack:
                annotation = stack.pop()
                if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
                    yield from keys(annotation)
                stack += getattr(annotation, "__args__", ())

    def written(node):
        if isinstance(node, dict):
            for key, value in node.items():
                yield key
                yield from written(value)
        elif isinstance(node, list):
            for item in node:
                yield from written(item)

    assert set(keys(Config)) <= set(written(yaml.safe_load(with_optional_parts())))


def test_the_optional_parts_of_the_shipped_file_are_valid_and_show_the_defaults():
    config = parse_config(with_optional_parts(), folder=SHIPPED.parent)
    required = {"certificate", "key", "trust"}
    for section in (config.listen.tls, config.destinations["archive"].tls):
        shown = section.model_dump(exclude=required)
        assert shown == type(section)(trust="t", certificate="c", key="k").model_dump(exclude=required)
    syslog = config.audit.syslog
    shown = syslog.model_dump(exclude=required)
    assert shown == type(syslog)(host=syslog.host, trust="t").model_dump(exclude=required)


def test_every_key_says_what_it_means():
    schema = Config.model_json_schema()
    for section in [schema, *schema["$defs"].values()]:
        for name, key in section["properties"].items():
            assert "description" in key or "$ref" in key, name


def test_relative_paths_start_from_the_files_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = parse_config(MINIMAL + "data_dir: ../data\n", folder=Path("/etc/emode"))
    assert config.data_dir == Path("/etc/data")


def test_all_problems_come_at_once_each_with_line_path_and_next_step():
    assert problems(
        """
destinations:
  PACS-A: {ae_title: PACS, host: 1.2.3.4, prt: 104}
peers:
  - {ae_title: "THIS IS FAR TOO LONG", addresses: [10.0.0.300]}
routes:
  - name: breast
    destinations: [PACS-B]
    match: {description: "(", bodypart: [x]}
    priority: urgent
data_dir: a
data_dir: b
"""
    ) == (
        "line 3: destinations.PACS-A.prt: unknown key; did you mean 'port'?",
        "line 5: peers[0].ae_title: an AE title has 1 to 16 printable ASCII characters, no backslash, "
        "not only spaces; got 'THIS IS FAR TOO LONG'",
        "line 5: peers[0].addresses[0]: '10.0.0.300' does not appear to be an IPv4 or IPv6 network; "
        "write an address (10.1.2.3) or a network (10.1.2.0/24); got '10.0.0.300'",
        "line 8: routes[0].destinations[0]: 'PACS-B' is not in destinations; defined there: PACS-A",
        "line 9: routes[0].match.description: not a regular expression: missing ), unterminated subpattern "
        "at position 0; got '('",
        "line 9: routes[0].match.bodypart: unknown key; did you mean 'body_part'?",
        "line 10: routes[0].priority: Input should be 'stat', 'high', 'routine' or 'low'; got 'urgent'",
        "line 11: data_dir: is written twice; keep one",
    )


def test_a_node_that_nobody_may_call_is_an_error():
    text = MINIMAL.replace("peers: [{ae_title: PACS, addresses: [127.0.0.1]}]", "")
    assert problems(text) == ("line 1: peers: nobody may call this node; list at least one peer",)
    assert parse_config(text + "accept_unknown_peers: true\n", folder=Path("/")).peers == ()


def test_an_unknown_bundle_names_the_known_ones():
    text = MINIMAL.replace("name: breast,", "name: breast, bundle: strong,")
    assert problems(text) == ("line 4: routes[0].bundle: 'strong' is not in bundles; defined there: default",)


def test_a_series_description_that_hides_what_it_is_is_refused():
    (problem,) = problems(MINIMAL + "results: {series_description: Predicted SYNTHETIC strain}\n")
    assert "series_description must begin with AI SYNTHETIC" in problem


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "is empty"), ("a: [", "is not YAML"), ("- a", "is empty")],
)
def test_what_is_no_configuration_at_all(text, words):
    (problem,) = problems(text)
    assert words in problem


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigInvalid, match=r"absent\.yaml.*\n.*cannot be read"):
        load_config(tmp_path / "absent.yaml")


def test_configuration_is_frozen():
    config = parse_config(MINIMAL, folder=Path("/"))
    with pytest.raises(ValueError, match="frozen"):
        config.listen.port = 1


PEER = "peers: [{ae_title: PACS, addresses: [127.0.0.1]"
TLS = "tls: {certificate: c.pem, key: c.key, trust: ca.pem}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MINIMAL + "listen: {port: null}", "line 5: listen.port: without it nobody can call"),
        (
            MINIMAL + "listen: {port: 2762, " + TLS + "}",
            "line 5: listen.tls.port: 2762 is the port of plain DICOM",
        ),
        (
            MINIMAL + "listen: {host: 0.0.0.0}\naccept_unknown_peers: true",
            "line 6: accept_unknown_peers: with plain DICOM on 0.0.0.0, anybody on the network could call",
        ),
        (
            MINIMAL.replace(PEER, PEER + ", certificates: ['cn:US1']"),
            "line 2: peers[0].certificates: are only seen over TLS; set listen.tls",
        ),
        (
            MINIMAL.replace(PEER, PEER + ", plain: false"),
            "line 2: peers[0].plain: this peer could not call at all; set listen.tls",
        ),
        (
            MINIMAL.replace(PEER, PEER + ", certificates: ['ab:cd']") + "listen: {" + TLS + "}",
            "peers[0].certificates[0]: not a SHA-256 fingerprint",
        ),
        (
            MINIMAL.replace("pacs.local", "pacs.local, tls: {trust: ca.pem, verify: fingerprint}"),
            "verify: fingerprint and a list of fingerprints belong together",
        ),
        (
            MINIMAL.replace("pacs.local", "pacs.local, tls: {trust: ca.pem, key: k}"),
            "certificate and key belong together",
        ),
    ],
)
def test_what_tls_and_plain_dicom_may_not_be(text, words):
    (problem,) = problems(text)
    assert words in problem


def test_anybody_may_call_over_tls_from_everywhere():
    listen = "listen: {host: 0.0.0.0, port: null, " + TLS + "}\naccept_unknown_peers: true\n"
    config = parse_config(MINIMAL + listen, folder=Path("/etc/emode"))
    assert config.listen.tls.key == Path("/etc/emode/c.key")
    assert config.listen.tls.port == 2762


def test_a_fingerprint_may_be_written_as_openssl_prints_it():
    text = MINIMAL.replace(
        PEER, PEER + f", certificates: ['SHA256:{':'.join(['AB'] * 32)}', 'dns:US1.Local']"
    )
    config = parse_config(text + "listen: {" + TLS + "}", folder=Path("/"))
    assert config.peers[0].certificates == ("sha256:" + "ab" * 32, "dns:us1.local")


ARCHIVE = "destinations: {archive: {ae_title: PACS, host: pacs.local}}"


def archive_with(keys):
    return MINIMAL.replace(
        ARCHIVE, f"destinations: {{archive: {{ae_title: PACS, host: pacs.local, {keys}}}}}"
    )


def test_who_commits_has_to_be_let_in_to_report():
    text = archive_with("confirm: commitment")
    assert parse_config(text, folder=Path("/")).destinations["archive"].commitment_timeout_s == 300
    stranger = text.replace("[{ae_title: PACS,", "[{ae_title: OTHER,")
    assert problems(stranger) == (
        "line 3: destinations.archive.confirm: commitment: the archive calls back to report, and PACS is not "
        "in peers; add it there with its addresses, or set `confirm: find`",
    )
    assert parse_config(stranger + "accept_unknown_peers: true\n", folder=Path("/"))


def test_qido_needs_its_url():
    assert problems(archive_with("confirm: qido")) == (
        "line 3: destinations.archive.confirm: qido needs `qido_url`: the URL of its DICOMweb service, such "
        "as https://pacs/dicom-web",
    )
    good = archive_with("confirm: qido, qido_url: 'https://pacs/dicom-web', qido_authorization_file: token")
    section = parse_config(good, folder=Path("/etc/emode")).destinations["archive"]
    assert section.qido_authorization_file == Path("/etc/emode/token")
    (problem,) = problems(archive_with("qido_url: 'https://me:secret@pacs/dicom-web'"))
    assert "destinations.archive.qido_url" in problem
