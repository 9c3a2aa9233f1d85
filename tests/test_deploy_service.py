"""The unit keeps its promises: its own user, no privileges, one writable folder, time to drain."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dicom_node import supervise
from harness import EMODE

UNIT = Path(__file__).parent.parent / "deploy" / "emode.service"


@pytest.fixture
def unit():
    """Every setting, with all the values it is given."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture
def copy(tmp_path):
    """The unit, with programs that are on this machine."""
    path = tmp_path / "emode.service"
    path.write_text(UNIT.read_text().replace("/opt/emode/bin/emode", str(EMODE)))
    return path


def test_its_own_user_and_no_privileges(unit):
    assert unit["User"] == unit["Group"] == ["emode"]
    assert unit["NoNewPrivileges"] == ["yes"]
    assert unit["CapabilityBoundingSet"] == [""]
    assert "AmbientCapabilities" not in unit
    assert unit["UMask"] == ["0077"]
    assert unit["LimitCORE"] == ["0"]
    assert not re.search(r"^User=root|PermissionsStartOnly|ExecStart\w*=[+!-]", UNIT.read_text(), re.M)


def test_one_writable_folder_which_others_cannot_read(unit):
    assert unit["ProtectSystem"] == ["strict"]
    assert unit["ReadWritePaths"] == ["/var/lib/emode"]
    assert (unit["StateDirectory"], unit["StateDirectoryMode"]) == (["emode"], ["0700"])
    assert unit["PrivateTmp"] == unit["ProtectHome"] == ["yes"]


def test_there_is_time_to_drain_and_no_restart_where_it_cannot_help(unit):
    # The supervisor waits this long for a process before it kills it.
    assert int(unit["TimeoutStopSec"][0]) > supervise._DRAIN_S + 5
    assert unit["KillMode"] == ["mixed"]
    assert unit["Restart"] == ["on-failure"]
    assert unit["RestartPreventExitStatus"] == [f"2 {supervise.EXIT_FATAL}"]


def test_the_account_is_declared():
    declared = (UNIT.parent / "emode.sysusers").read_text()
    assert re.search(r"^u emode - .* /var/lib/emode /usr/sbin/nologin$", declared, re.M)


def _analyze(*arguments):
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


def test_systemd_reads_every_line(copy):
    done = _analyze("verify", copy)
    about_ours = [line for line in done.stderr.splitlines() if "emode.service" in line]
    assert about_ours == []


def test_systemd_rates_its_exposure_as_ok(copy):
    done = _analyze("security", "--offline=true", "--threshold=25", "--no-pager", copy)
    assert done.returncode == 0, done.stdout[-600:]
