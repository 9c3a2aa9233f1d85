"""Studies are never split: gaps between series, an association for each image, an abort in the middle."""

import time

import pydicom
import pytest

from harness import Node, node_config
from peers.dcmtk import storescu
from peers.still import breast_still, write

pytestmark = pytest.mark.peers


def abort_in_the_middle(path, port):
    """Send most of one image and drop the connection."""
    from pynetdicom import AE, evt
    from pynetdicom.presentation import build_context

    ds = pydicom.dcmread(path)
    ae = AE("SCANNER")
    sent = []

    def cut(event):
        sent.append(event)
        if len(sent) == 3:
            event.assoc.dul.socket.close()

    association = ae.associate(
        "127.0.0.1",
        port,
        ae_title="EMODE",
        contexts=[build_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)],
        evt_handlers=[(evt.EVT_DATA_SENT, cut)],
        max_pdu=4096,
    )
    assert association.is_established
    try:
        answer = association.send_c_store(ds)
    except (RuntimeError, ValueError, OSError):
        return
    assert "Status" not in answer


def test_three_series_with_gaps_and_a_bad_sender_are_one_study_with_one_series_for_each(orthanc, tmp_path):
    pacs = orthanc()
    config = node_config(
        tmp_path,
        {"archive": ("PACS", pacs.port)},
        routes=[
            {
                "name": "breast",
                "destinations": ["archive"],
                "match": {"body_part": []},
                "deliver": "when-settled",  # where a split would show: a part of the study settles alone
            }
        ],
        settle={"quiet_s": 15},
    )
    sources = {
        series: [
            write(
                breast_still(
                    seed=10 * series + n, series=f"s{series}", instance_number=n, SeriesNumber=series
                ),
                tmp_path / f"{series}-{n}.dcm",
            )
            for n in (1, 2, 3)
        ]
        for series in (1, 2, 3)
    }
    with Node(tmp_path / "node", config) as node:
        for series, paths in sources.items():
            if series > 1:
                time.sleep(6)
            if series == 2:
                abort_in_the_middle(paths[1], node.port)  # and then the whole series once more
            for path in paths:
                storescu([path], "127.0.0.1", node.port, aec="EMODE")  # an association for each image
        lines = node.wait_for_stage(9, "confirmed", timeout_s=240)
        (study,) = node.facts("studies")
        assert (study["images"], study["results"], study["confirmed"]) == (9, 9, 9)
        assert (study["state"], study["revision"]) == ("settled", 1)
    assert len(pacs.studies()) == 1
    assert len(pacs.instances()) == 9
    made = {line["sop_instance_uid"]: line["results"][0] for line in lines}
    held = {tags["MainDicomTags"]["SeriesInstanceUID"]: len(tags["Instances"]) for tags in pacs.series()}
    assert sorted(held.values()) == [3, 3, 3]
    for paths in sources.values():
        series = {made[str(pydicom.dcmread(path).SOPInstanceUID)]["series_instance_uid"] for path in paths}
        assert len(series) == 1
        assert series <= set(held)
