"""The audit of what is installed: it passes here, and it finds what it has to find."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType

import pytest

AUDIT = Path(__file__).parents[1] / "deploy" / "audit.py"


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", AUDIT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_this_environment_passes_and_its_sbom_names_the_closure(audit: ModuleType, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-P", str(AUDIT), "--offline", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == audit.NOT_CHECKED, ran.stdout + ran.stderr
    assert "not checked against advisories" in ran.stdout
    sbom = json.loads((tmp_path / "sbom.json").read_text())
    listed = {component["name"].lower().replace("_", "-") for component in sbom["components"]}
    assert {name.replace(".", "-") for name in audit.closure()} - {"emode"} <= listed


def test_what_only_developers_need_is_no_part_of_the_closure(audit: ModuleType) -> None:
    assert not {"pytest", "mypy", "pip-audit", "cyclonedx-bom", "hypothesis"} & audit.closure().keys()


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 OR GPL-3.0-only", True),
        ("BSD-3-Clause AND MIT", True),
        ("MIT AND GPL-3.0-or-later", False),
        ("AGPL-3.0-only", False),
        ("LGPL-2.1-only", False),
        ("", False),
    ],
)
def test_licences(audit: ModuleType, expression: str, allowed: bool) -> None:
    assert audit.may_run(expression) is allowed


def test_other_versions_and_what_is_not_listed_are_named(audit: ModuleType) -> None:
    needed = {"numpy": distribution("numpy"), "rich": distribution("rich")}
    assert audit.problems(needed, {"numpy": "0.1"}) == [
        f"numpy is {needed['numpy'].version} here and 0.1 in constraints.txt",
        f"rich {needed['rich'].version} is needed to run and not in constraints.txt; "
        f"add rich=={needed['rich'].version}",
    ]


def test_a_mirror_that_knows_nothing_is_no_clean_bill(audit: ModuleType) -> None:
    skipped, clean = {"name": "a", "skip_reason": "not found"}, {"name": "b", "vulns": []}
    known = {"name": "c", "vulns": [{"id": "PYSEC-1"}]}
    assert audit.judged([], 2)[0] == audit.judged([skipped, skipped], 2)[0] == audit.NOT_CHECKED
    assert audit.judged([skipped, clean], 2) == (
        audit.NOT_CHECKED,
        "none known, but 1 of 2 unknown to the source",
    )
    assert audit.judged([clean, clean], 2) == (0, "none known")
    assert audit.judged([skipped, known], 2) == (1, "c: PYSEC-1")
