"""An archive routes a study to the node and gets the results back; nothing loops, nothing doubles."""

import time
from pathlib import Path

import pydicom
import pytest

from harness import Node, node_config
from peers.dcmtk import storescu
from peers.orthanc import Routing
from peers.still import breast_still, region, write
from peers.validators import dcentvfy, dciodvfy

pytestmark = pytest.mark.peers

PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "SpecificCharacterSet")
STUDY = ("StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "ReferringPhysicianName")


def a_study(folder: Path, count: int = 3, study: str = "round trip") -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    return [
        write(
            breast_still(
                seed=number,
                study=study,
                instance_number=number,
                rows=300,
                columns=400,
                regions=[region((40, 20, 360, 280))],
                patient_name="DOE^JANE",
            ),
            folder / f"{number}.dcm",
        )
        for number in range(1, count + 1)
    ]


ONE_NODE = [rule for rule in Routing if rule is not Routing.STABLE_STUDY_EVERYWHERE]


@pytest.mark.parametrize("routing", ONE_NODE)
def test_an_archive_routes_a_study_and_gets_its_results(orthanc, tmp_path, routing):
    pacs = orthanc(
        modalities={"emode": ("EMODE", "127.0.0.1", 1)}, routing=routing, route_to="emode", stable_age_s=1
    )
    sources = a_study(tmp_path / "study")
    with Node(tmp_path / "node", node_config(tmp_path / "node", {"archive": ("PACS", pacs.port)})) as node:
        pacs.set_modality("emode", "EMODE", "127.0.0.1", node.port)
        for path in sources:
            pacs.upload(path)
        pacs.wait_for_count(2 * len(sources), timeout_s=90)
        if routing is Routing.STABLE_STUDY_NAIVE:
            # The rule sends the results back to the node once the study is stable again: wait for that.
            node.wait(
                lambda: sum(line["skip_code"] == "own-result" for line in node.images()) == len(sources),
                "own results came back and were recognised",
            )
        time.sleep(3)  # a loop would have begun by now
        assert len(pacs.instances()) == 2 * len(sources)
        assert len(pacs.studies()) == 1
        results = [line for line in node.images() if line["stage"] != "skipped"]
    assert [line["stage"] for line in results] == ["confirmed"] * len(sources)

    by_uid = {str(pydicom.dcmread(path).SOPInstanceUID): path for path in sources}
    for line in results:
        (made,) = line["results"]
        result = tmp_path / f"{made['sop_instance_uid']}.dcm"
        result.write_bytes(pacs.file_of(made["sop_instance_uid"]))
        source = by_uid[line["sop_instance_uid"]]
        assert dciodvfy(result) == []
        assert dcentvfy(source, result) == []
        was, now = pydicom.dcmread(source), pydicom.dcmread(result)
        for keyword in (*PATIENT, *STUDY):
            assert was.get_item(keyword).value == now.get_item(keyword).value, keyword
        assert now.SyntheticData == "YES"
        assert now.InstanceNumber == was.InstanceNumber
        assert now.SourceImageSequence[0].ReferencedSOPInstanceUID == was.SOPInstanceUID
    assert len({line["results"][0]["series_instance_uid"] for line in results}) == 1


def test_sent_three_times_and_after_a_restart_and_one_image_late(orthanc, tmp_path):
    pacs = orthanc()
    *first, late = a_study(tmp_path / "study", 4)
    node = Node(tmp_path / "node", node_config(tmp_path / "node", {"archive": ("PACS", pacs.port)}))
    node.start()
    for _ in range(3):
        assert set(storescu(first, "127.0.0.1", node.port, aec="EMODE").statuses) == {0}
    node.wait_for_stage(3, "confirmed")
    once = sorted(pacs.sop_instance_uids())
    assert len(once) == 3

    assert node.stop() == 0
    node.start()
    assert set(storescu(first, "127.0.0.1", node.port, aec="EMODE").statuses) == {0}
    lines = node.wait_for_stage(3, "confirmed")
    assert {line["arrivals"] for line in lines} == {4}
    assert sorted(pacs.sop_instance_uids()) == once

    assert set(storescu([late], "127.0.0.1", node.port, aec="EMODE").statuses) == {0}
    node.wait_for_stage(4, "confirmed")
    assert node.stop() == 0
    everything = set(pacs.sop_instance_uids())
    assert everything > set(once)
    assert len(everything) == 4


def test_a_node_that_lost_its_memory_makes_the_same_results_again(orthanc, tmp_path):
    pacs = orthanc()
    sources = a_study(tmp_path / "study", 2)
    found = []
    for name in ("one", "two"):  # two nodes that never heard of each other
        folder = tmp_path / name
        with Node(folder, node_config(folder, {"archive": ("PACS", pacs.port)})) as node:
            storescu(sources, "127.0.0.1", node.port, aec="EMODE")
            lines = node.wait_for_stage(2, "confirmed")
            found.append(sorted(result["sop_instance_uid"] for line in lines for result in line["results"]))
    assert found[0] == found[1] == sorted(pacs.sop_instance_uids())


NAMES = {
    "\\ISO 2022 IR 58": b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab",
    "GB18030": b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab",
    "ISO_IR 192": "Wang^XiaoDong=王^小东".encode(),
    "\\ISO 2022 IR 87": b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B",
    "ISO_IR 100": b"Wang^XiaoDong=\xcd\xf5",  # GBK bytes under a wrong label, as the field has them
}


def test_names_arrive_byte_for_byte(storescp, tmp_path):
    pacs = storescp("PACS")
    config = node_config(tmp_path, {"archive": ("PACS", pacs.port)})
    config["destinations"]["archive"]["confirm"] = "none"
    sources = {}
    for number, (character_set, name) in enumerate(NAMES.items()):
        sets = character_set.split("\\")
        ds = breast_still(
            character_set=sets if len(sets) > 1 else sets[0],
            patient_name=name,
            study=character_set,
            instance_number=number,
        )
        sources[write(ds, tmp_path / f"{number}.dcm")] = (ds, name)
    with Node(tmp_path, config) as node:
        storescu(list(sources), "127.0.0.1", node.port, aec="EMODE")
        lines = node.wait_for_stage(len(NAMES), "accepted")
    results = {str(result.SOPInstanceUID): result for result in pacs.wait_for(len(NAMES))}
    made = {line["sop_instance_uid"]: line["results"][0]["sop_instance_uid"] for line in lines}
    for ds, name in sources.values():
        result = results[made[ds.SOPInstanceUID]]
        assert result.get_item("PatientName").value.rstrip() == name
        assert result.SpecificCharacterSet == ds.SpecificCharacterSet
    log = "\n".join(node.stderr)
    assert not [word for word in ("Zhang", "Wang", "Yamada", "TEST-0001", "TEST-ACC") if word in log]
