"""What this program is made of, and whether that may be: versions, licences, SBOM, advisories.

Run by `make audit` in the environment that it audits. Exit status: 0 all is well; 1 something must not be;
4 all is well, but no source of advisories could be reached.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation import make_schemabased_validator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROGRAM, EXTRAS = "emode", ("jpeg-lossless",)
NOT_CHECKED = 4

ALLOWED = (
    *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0"),
    *("CC0-1.0", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Zlib"),
)
"""SPDX names of what may be in the run-time closure. No GPL, no AGPL."""

SAID_OTHERWISE = {
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
"""How older packages write them."""


def closure() -> dict[str, Distribution]:
    """Every installed distribution that the program needs to run, by canonical name.

    Raises PackageNotFoundError if one of them is not installed.
    """
    found: dict[str, Distribution] = {}
    waiting, seen = [(PROGRAM, EXTRAS)], set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found[canonicalize_name(name)] = one = distribution(name)
        for line in one.requires or []:
            needed = Requirement(line)
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting.append((needed.name, tuple(sorted(needed.extras))))
    return dict(sorted(found.items()))


def pins(path: Path = ROOT / "constraints.txt") -> dict[str, str]:
    """The recorded lock: canonical name -> exact version."""
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    parts = [line.partition("==") for line in lines if line]
    return {canonicalize_name(name): version for name, _, version in parts}


def licence(one: Distribution) -> str:
    """What the distribution says of its licence, in SPDX terms where it is known how it means them."""
    meta = one.metadata
    classifiers = [
        c.rpartition(" :: ")[2] for c in meta.get_all("Classifier") or [] if c.startswith("License")
    ]
    said = meta["License-Expression"] or (classifiers[-1] if classifiers else meta["License"]) or ""
    return SAID_OTHERWISE.get(said.strip(), said.strip())


def may_run(expression: str) -> bool:
    """Is every part of an SPDX expression on the list, or one of those offered with OR?"""
    offered = re.split(r"\s+OR\s+", expression.replace("(", " ").replace(")", " ").strip())
    return any(all(part in ALLOWED for part in re.split(r"\s+AND\s+", each.strip())) for each in offered)


def problems(needed: dict[str, Distribution], pinned: dict[str, str]) -> list[str]:
    """What must not be, one sentence each."""
    found = []
    for name, one in needed.items():
        if name == PROGRAM:
            continue
        # What follows a plus says where it was built, not what it is: 2.13.0+cpu is 2.13.0.
        version = one.version.partition("+")[0]
        if name not in pinned:
            found.append(
                f"{name} {version} is needed to run and not in constraints.txt; add {name}=={version}"
            )
        elif pinned[name] != version:
            found.append(f"{name} is {version} here and {pinned[name]} in constraints.txt")
        if not may_run(licence(one)):
            found.append(
                f'{name} has the licence "{licence(one)[:60]}", which is not on the list in deploy/audit.py'
            )
    return found


def write_sbom(target: Path) -> None:
    """Write what is installed as CycloneDX JSON, and validate it against the schema."""
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "cyclonedx_py",
        "environment",
        "--pyproject",
        str(ROOT / "pyproject.toml"),
    ]
    command += ["--spec-version", "1.6", "--output-reproducible", "--output-format", "JSON"]
    subprocess.run([*command, "--output-file", str(target), sys.executable], check=True, capture_output=True)
    error = make_schemabased_validator(OutputFormat.JSON, SchemaVersion.V1_6).validate_str(target.read_text())
    if error is not None:
        raise ValueError(f"{target} is not CycloneDX 1.6: {error}")


def advisories(needed: dict[str, Distribution], folder: Path) -> tuple[int, str]:
    """Ask pip-audit: 0 all asked and nothing known, 1 something known, else NOT_CHECKED; and words for it."""
    listed = folder / "run-time.txt"
    versions = {name: one.version.partition("+")[0] for name, one in needed.items() if name != PROGRAM}
    listed.write_text("".join(f"{name}=={version}\n" for name, version in versions.items()))
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(listed), "--no-deps", "--disable-pip"]
    command += ["--format", "json", "--timeout", "10", "--progress-spinner", "off"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        answers = json.loads(ran.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError):
        answers = []
    return judged(answers, len(versions))


def judged(answers: list[dict[str, Any]], count: int) -> tuple[int, str]:
    """What pip-audit's answers come to.

    It ends with 0 and "no known vulnerabilities" also where a mirror told it nothing about anything.
    """
    known = [f"{one['name']}: {each['id']}" for one in answers for each in one.get("vulns", ())]
    if known:
        return 1, "; ".join(known)
    asked = sum("vulns" in one for one in answers)
    if asked == 0:
        return NOT_CHECKED, "not checked against advisories: no source reachable"
    if asked < count:
        return NOT_CHECKED, f"none known, but {count - asked} of {count} unknown to the source"
    return 0, "none known"


def main() -> int:
    """Audit; print what an administrator wants to know."""
    parser = argparse.ArgumentParser(prog="audit", description=__doc__)
    parser.add_argument("--offline", action="store_true", help="do not ask for advisories")
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="folder for sbom.json")
    arguments = parser.parse_args()
    try:
        needed = closure()
    except PackageNotFoundError as error:
        print(f"{error.name} is needed to run and not installed: make install")
        return 1
    found = problems(needed, pins())
    print(f"run-time closure: {len(needed)} distributions; {len(found)} problem(s) of version or licence")
    for line in found:
        print(f"  {line}")
    sbom = arguments.out / "sbom.json"
    write_sbom(sbom)
    print(f"SBOM: {sbom} (CycloneDX 1.6, valid)")
    status, words = NOT_CHECKED, "not checked against advisories: not asked for"
    if not arguments.offline:
        status, words = advisories(needed, arguments.out)
    print(f"advisories: {words}")
    return 1 if found else status


if __name__ == "__main__":
    sys.exit(main())
