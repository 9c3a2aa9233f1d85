"""Two nodes and an archive that sends everything to both, every time a study is stable: it settles."""

from __future__ import annotations

import time

import pydicom
import pytest
from pynetdicom import AE

from harness import Node, node_config
from peers.orthanc import Routing
from peers.still import US_IMAGE, breast_still, region, write

pytestmark = [pytest.mark.peers, pytest.mark.slow]

STILL_S = 6.0
"""Six times the age at which the archive calls a study stable and sends it again."""


def test_two_nodes_and_an_archive_that_sends_everything_to_both(orthanc, tmp_path):
    """The two have other settings, so each makes results of its own, and each is sent those of the other."""
    modalities = {"one": ("EMODE", "127.0.0.1", 1), "two": ("EMODE", "127.0.0.1", 1)}
    pacs = orthanc(
        modalities=modalities, routing=Routing.STABLE_STUDY_EVERYWHERE, route_to="one,two", stable_age_s=1
    )
    folders = {name: tmp_path / name for name in modalities}
    archive = {"archive": ("PACS", pacs.port)}
    wording = {"two": {"results": {"series_description": "AI SYNTHETIC strain of the second node"}}}
    config = {name: node_config(folders[name], archive, **wording.get(name, {})) for name in modalities}
    count = 2
    with Node(folders["one"], config["one"]) as one, Node(folders["two"], config["two"]) as two:
        nodes = {"one": one, "two": two}
        for name, node in nodes.items():
            pacs.set_modality(name, "EMODE", "127.0.0.1", node.port)
        for number in range(count):
            still = breast_still(
                seed=number, instance_number=number, study="chain", regions=[region((0, 0, 320, 240))]
            )
            pacs.upload(write(still, tmp_path / f"{number}.dcm"))
        everything = 3 * count  # each image, and a result of each node
        pacs.wait_for_count(everything, timeout_s=150)
        for node in nodes.values():
            # The archive sent each node its own results and the other's: none was judged by its pixels.
            node.wait(
                lambda node=node: (
                    sum(line["skip_code"] == "own-result" for line in node.images()) == 2 * count
                ),
                "the results of both nodes came and were recognised",
                timeout_s=150,
                every_s=0.5,
            )
        time.sleep(STILL_S)
        assert len(pacs.instances()) == everything
        for node in nodes.values():
            assert len(node.images()) == 3 * count
            made = [line for line in node.images() if line["stage"] != "skipped"]
            assert [line["stage"] for line in made] == ["confirmed"] * count


def test_records_know_a_result_that_bears_no_mark_any_more(storescp, tmp_path):
    """Under its own UID, or as the source of somebody's derived image, with every attribute of ours gone."""
    pacs = storescp("PACS")
    config = node_config(tmp_path, {"archive": ("PACS", pacs.port)})
    config["destinations"]["archive"]["confirm"] = "none"
    with Node(tmp_path / "node", config) as node:
        _send([breast_still()], node.port)
        (line,) = node.wait_for_stage(1, "accepted")
        (result,) = line["results"]
        bare = breast_still(seed=7, instance_number=7)
        bare.SOPInstanceUID = bare.file_meta.MediaStorageSOPInstanceUID = result["sop_instance_uid"]
        source = pydicom.Dataset()
        source.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        source.ReferencedSOPInstanceUID = result["sop_instance_uid"]
        derived = breast_still(seed=8, instance_number=8, SourceImageSequence=[source])
        _send([bare, derived], node.port)
        images = {line["sop_instance_uid"]: line for line in node.images()}
    assert images[bare.SOPInstanceUID]["skip_code"] == "own-result"
    assert images[derived.SOPInstanceUID]["skip_code"] == "own-result"
    assert len(pacs.wait_for(1)) == 1


def _send(data_sets, port):
    ae = AE("SCANNER")
    ae.add_requested_context(US_IMAGE)
    association = ae.associate("127.0.0.1", port, ae_title="EMODE")
    assert [association.send_c_store(ds).Status for ds in data_sets] == [0] * len(data_sets)
    association.release()
