"""Real ultrasound through the whole node: results that validate, or skips a sonographer would agree with."""

import pydicom
import pytest

from dicom_node.dicom.header import read_header
from dicom_node.dicom.part10 import dataset_offset
from harness import Node, node_config, raw_store
from peers.busi import busi_images, wrap_png, write
from peers.dcmtk import storescu
from peers.validators import dcentvfy, dciodvfy

pytestmark = [pytest.mark.peers, pytest.mark.real_data]

RESULTS = {
    "GREYSCALE_IMAGE.dcm": 1,
    "GREYSCALE_CINE.dcm": 1,
    "JPGLosslessP14SV1_1s_1f_8b.dcm": 1,
    "gdcm-US-ALOKA-16.dcm": 2,  # dual view: a result for each pane
    "gdcm-US-ALOKA-16_big.dcm": 2,
    "color3d_jpeg_baseline.dcm": 1,  # grey frames of a heart, in spite of its name
    "examples_ybr_color.dcm": 1,
}
DOPPLER = {
    "US1_RLE.dcm",
    "US1_UNCI.dcm",
    "US1_UNCR.dcm",
    "examples_jpeg2k.dcm",
    "examples_rgb_color.dcm",
    "nema-us1_j2ki.dcm",
    "color-pl.dcm",
    "color-px.dcm",
    "gdcm-US-RGB-8-esopecho.dcm",
    "gdcm-US-RGB-8-epicard.dcm",
}


def test_the_25_real_files(real_data, storescp, tmp_path):
    pacs = storescp("PACS")
    config = node_config(tmp_path, {"archive": ("PACS", pacs.port)})
    config["destinations"]["archive"]["confirm"] = "none"
    files = sorted((real_data / "us-dicom").glob("*.dcm"))
    assert len(files) == 25
    with Node(tmp_path, config) as node:
        # Several of these files are copies of one image under the same UID: each is judged by itself.
        ends = {}
        for path in files:
            header = read_header(path)
            data = path.read_bytes()[dataset_offset(path) :]
            status = raw_store(
                node.port,
                header.sop_class_uid,
                header.sop_instance_uid,
                data,
                syntax=header.transfer_syntax_uid,
            )
            assert status == 0x0000, path.name
            known = node.wait_for_stage(1, "skipped", "accepted", "failed", timeout_s=60)
            (ends[path.name],) = [x for x in known if x["sop_instance_uid"] == header.sop_instance_uid]
        assert node.events("role-restart") == []
    assert {name for name, line in ends.items() if line["stage"] == "failed"} == set()
    made = {name for name, line in ends.items() if line["stage"] == "accepted"}
    assert made == set(RESULTS)
    assert {name for name, line in ends.items() if line["skip_code"] == "doppler"} == DOPPLER
    received = {str(pydicom.dcmread(path).SOPInstanceUID): path for path in pacs.files()}
    everything = set()
    for name in made:
        uids = [result["sop_instance_uid"] for result in ends[name]["results"]]
        assert len(uids) >= RESULTS[name], name
        everything.update(uids)
        for uid in uids:
            assert dciodvfy(received[uid]) == [], name
        assert dcentvfy(real_data / "us-dicom" / name, received[uids[0]]) == [], name
    # The two ALOKA files are one image in two encodings: the same pixels, so the same two results. The two
    # SonoSite files share their UID and differ: the second replaced the first, and the archive has both.
    assert len(everything) == len(pacs.files()) == 7


def test_real_breast_images_come_back_as_synthetic_elastograms(real_data, orthanc, tmp_path):
    pacs = orthanc()
    chosen = [
        path
        for label in ("benign", "malignant", "normal")
        for path in busi_images(real_data / "busi", label)[:4]
    ]
    sources = [
        write(wrap_png(path, spacing_mm=0.1 if n % 2 else None, instance_number=n), tmp_path / f"{n}.dcm")
        for n, path in enumerate(chosen)
    ]
    with Node(tmp_path / "node", node_config(tmp_path / "node", {"archive": ("PACS", pacs.port)})) as node:
        assert set(storescu(sources, "127.0.0.1", node.port, aec="EMODE").statuses) == {0}
        lines = node.wait_for_stage(len(sources), "confirmed", "skipped", timeout_s=120)
    assert [line["stage"] for line in lines] == ["confirmed"] * len(sources)
    for line in lines[:3]:
        result = tmp_path / "result.dcm"
        result.write_bytes(pacs.file_of(line["results"][0]["sop_instance_uid"]))
        assert dciodvfy(result) == []
