"""Fault points: every one is known, described, and does what it was told once."""

import ast
import itertools
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import dicom_node
from dicom_node.core.faults import FLAG, STEPS
from dicom_node.core.job import JobKind

NODE = Path(dicom_node.__file__).parent
DOCS = NODE.parent / "docs" / "reliability.md"


def called_steps(path):
    """Names given to faults.step in one module; f"{job.kind}.x" stands for every kind."""
    for call in ast.walk(ast.parse(path.read_text())):
        if not isinstance(call, ast.Call) or ast.unparse(call.func) != "faults.step":
            continue
        (name,) = call.args
        if isinstance(name, ast.Constant):
            yield name.value
        else:
            kind, rest = name.values
            assert ast.unparse(kind.value) == "job.kind", f"{path}: {ast.unparse(call)}"
            yield from (f"{each}{rest.value}" for each in JobKind)


def test_list_and_call_sites_agree():
    called = Counter(itertools.chain.from_iterable(called_steps(path) for path in NODE.rglob("*.py")))
    assert set(called) == {name for name, _ in STEPS}
    assert {name: n for name, n in called.items() if n > 1} == {}  # a name is one moment
    assert len({name for name, _ in STEPS}) == len(STEPS)


def test_the_published_contract_has_every_step():
    published = re.findall(r"^\| `([a-z]+\.[a-z]+)` \|", DOCS.read_text(), re.MULTILINE)
    assert published == [name for name, _ in STEPS]


def passes(folder, name, count, flag=True):
    """Run a process that passes one step `count` times; it prints the number of each pass it survived."""
    program = (
        "from dicom_node.core import faults\n"
        f"for number in range({count}):\n"
        "    try:\n"
        f"        faults.step({name!r})\n"
        "    except OSError as error:\n"
        "        print(number, error.strerror)\n"
        "    else:\n"
        "        print(number, flush=True)\n"
    )
    environment = {FLAG: str(folder)} if flag else {}
    return subprocess.run(
        [sys.executable, "-P", "-c", program], env=environment, capture_output=True, text=True, check=False
    )


def test_kills_at_the_pass_it_was_told_and_once(tmp_path):
    (tmp_path / "infer.read").write_text("kill 3")
    died = passes(tmp_path, "infer.read", 5)
    assert (died.returncode, died.stdout) == (-9, "0\n1\n")
    assert [path.name for path in tmp_path.iterdir()] == ["obeyed-infer.read"]
    assert passes(tmp_path, "infer.read", 5).returncode == 0


def test_raises_what_a_full_disk_raises(tmp_path):
    (tmp_path / "infer.read").write_text("full 2")
    assert passes(tmp_path, "infer.read", 3).stdout == "0\n1 No space left on device\n2\n"


def test_probability_and_pause(tmp_path):
    (tmp_path / "infer.read").write_text("pause 0.5 0.01")
    assert passes(tmp_path, "infer.read", 100).returncode == 0
    assert (tmp_path / "obeyed-infer.read").exists()


def test_nothing_without_the_flag(tmp_path):
    (tmp_path / "infer.read").write_text("kill 1")
    assert passes(tmp_path, "infer.read", 2, flag=False).stdout == "0\n1\n"
