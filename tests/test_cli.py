"""The command line: every command has help, says its facts as JSON, and ends with the documented status."""

import json
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest
import yaml

from dicom_node.store.database import open_database
from dicom_node.store.files import Layout
from dicom_node.store.process import sole_holder
from harness import EMODE, node_config
from peers.still import breast_still, region, write

ROOT = Path(__file__).parent.parent
COMMANDS = (
    "serve",
    "check",
    "schema",
    "demo",
    "echo",
    "probe",
    "send",
    "apply",
    "inspect",
    "status",
    "studies",
    "jobs list",
    "jobs show",
    "jobs retry",
    "jobs cancel",
    "audit list",
    "audit verify",
    "destinations list",
    "destinations try",
)


def emode(*arguments, status=0):
    done = subprocess.run(
        [str(EMODE), *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stdout + done.stderr


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "node.yaml"
    path.write_text(yaml.safe_dump(node_config(tmp_path, {"archive": ("PACS", 1)})))
    return path


@pytest.fixture
def still(tmp_path):
    ds = breast_still(rows=300, columns=400, regions=[region((30, 20, 370, 290))])
    return write(ds, tmp_path / "still.dcm")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_stands_in_the_readme(command):
    assert "Usage" in emode(*command.split(), "--help")
    assert f"emode {command}" in (ROOT / "README.md").read_text()


def test_the_shipped_configuration_checks():
    facts = json.loads(emode("check", ROOT / "deploy" / "emode.yaml", "--json"))
    assert facts["routes"][0]["destinations"] == ["archive"]


def test_a_bad_configuration_names_its_problems_and_ends_with_2(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("destinations: {}\nroutes: []\nspeed: high\n")
    told = emode("check", bad, status=2)
    assert "speed: unknown key" in told
    assert "peers: nobody may call this node" in told


def test_the_schema_is_a_json_schema():
    assert json.loads(emode("schema"))["properties"]["routes"]["type"] == "array"


def test_status_without_a_node_says_what_to_do(config):
    assert "`emode serve` makes it" in emode("status", "--config", config, status=3)


@pytest.mark.parametrize("command", ["status", "studies"])
def test_a_study_that_never_came_is_said_in_a_sentence(config, tmp_path, command):
    open_database(tmp_path / "data" / "state.sqlite", datetime.now(UTC)).close()
    said = emode(command, "--study", "A-4711", "--config", config, status=1)
    assert "no study with accession number or Study Instance UID A-4711 has arrived" in " ".join(said.split())


def test_without_a_configuration_it_says_how_to_name_one(tmp_path):
    done = subprocess.run(
        [str(EMODE), "status"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert "give --config FILE, or set EMODE_CONFIG" in " ".join(done.stderr.split())


def test_a_second_node_on_the_same_folder_leaves_at_once_and_without_a_trace(config, tmp_path):
    layout = Layout(tmp_path / "data")
    layout.create()
    with sole_holder(layout.lock("supervisor"), "supervisor"):
        said = emode("serve", "--config", config, status=4)
    assert "already does this work" in said
    assert "process ready" not in said
    assert not layout.audit.exists()


def test_echo_to_nobody_ends_with_3(config):
    told = json.loads(emode("echo", "archive", "--config", config, "--json", status=3))
    assert told["code"] == "destination-unreachable"
    assert "is not a destination; defined are: archive" in emode(
        "echo", "elsewhere", "--config", config, status=2
    )


def test_send_to_nobody_ends_with_3_and_says_why_for_each_file(still, config):
    rows = json.loads(emode("send", still, "--to", "PACS@127.0.0.1:1", "--json", status=3))
    assert [row["stored"] for row in rows] == [False]
    assert "no connection" in rows[0]["answer"]
    assert "write it as AET@HOST:PORT" in emode("send", still, "--to", "PACS@nowhere", status=2)
    words = emode("send", still, "--to", "nobody", "--config", config, status=2)
    assert "'nobody' is not a destination; defined are: archive" in words


def test_inspect_shows_what_the_gate_sees(config, still):
    facts = json.loads(emode("inspect", still, "--config", config, "--json"))
    assert (facts["decision"], facts["route"]) == ("accepted", "breast")
    assert facts["panes"] == [{"box": [30, 20, 370, 290], "spacing_mm": [0.1, 0.1], "found_by": "regions"}]
    assert "DOE" not in json.dumps(facts)


def test_inspect_names_the_route_that_did_not_take_it(tmp_path, config, still):
    settings = yaml.safe_load(config.read_text())
    settings["routes"][0]["match"] = {"body_part": ["THYROID"]}
    config.write_text(yaml.safe_dump(settings))
    facts = json.loads(emode("inspect", still, "--config", config, "--json"))
    assert (facts["decision"], facts["code"]) == ("skipped", "not-this-route")
    assert facts["passed_over"] == ["breast: body part is BREAST, wanted THYROID"]


def test_inspect_of_no_dicom_ends_with_1(config, tmp_path):
    text = tmp_path / "text.dcm"
    text.write_text("not DICOM")
    assert "cannot be understood as DICOM" in emode("inspect", text, "--config", config, status=1)


def test_apply_makes_what_the_node_would_make(config, still, tmp_path):
    out = tmp_path / "out"
    doppler = breast_still(
        instance_number=2, photometric="RGB", ImageType=["ORIGINAL", "PRIMARY", "", "0011"]
    )
    folder = tmp_path / "in"
    folder.mkdir()
    write(pydicom.dcmread(still), folder / "1.dcm")
    write(doppler, folder / "2.dcm")
    (folder / "notes.txt").write_text("not an image")
    rows = json.loads(emode("apply", folder, "-o", out, "--config", config, "--json"))
    assert [(row["outcome"], row["code"]) for row in rows] == [("done", None), ("skipped", "doppler")]
    result = pydicom.dcmread(out / f"{rows[0]['result']}.dcm")
    assert result.SyntheticData == "YES"
    assert result.StudyInstanceUID == pydicom.dcmread(still).StudyInstanceUID
    assert (out / f"{rows[0]['result']}.png").stat().st_size > 1000
    again = json.loads(emode("apply", still, "-o", out, "--config", config, "--json"))
    assert again[0]["result"] == rows[0]["result"]


def test_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", emode("--version"))


@pytest.mark.slow
def test_the_demo_ends_well_and_leaves_its_picture(tmp_path):
    done = subprocess.run(
        [str(EMODE), "demo", "--folder", str(tmp_path / "demo"), "--json"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    decisions = [image["decision"] for image in facts["images"]]
    assert decisions.count("confirmed") >= 5
    assert decisions.count("doppler") == 1
    assert all(image["NCC"] is not None for image in facts["images"] if image["decision"] == "confirmed")
    assert (tmp_path / "demo" / "contact-sheet.png").stat().st_size > 10_000


def test_the_demo_takes_anybodys_files_and_spares_other_folders(tmp_path, still):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("precious")
    emode("demo", "--folder", mine, "--study", tmp_path, status=2)
    assert (mine / "thesis.txt").read_text() == "precious"
