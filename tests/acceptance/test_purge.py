"""Local copies go once every archive has confirmed; whoever needs them again gets the same bytes."""

import pytest

from harness import Node, node_config
from peers.dcmtk import storescu
from peers.still import breast_still, write

pytestmark = [pytest.mark.peers, pytest.mark.slow]

SECOND = 1 / 86400


def test_a_purged_image_that_returns_is_made_anew_only_for_a_destination_that_lacks_it(orthanc, tmp_path):
    first, second = orthanc(), orthanc()
    archives = {"first": ("PACS", first.port), "second": ("PACS", second.port)}
    config = node_config(
        tmp_path, archives, settle={"quiet_s": 2}, retention={"days": 10 * SECOND, "max_gib": None}
    )
    config["routes"][0]["destinations"] = ["first"]
    path = write(breast_still(), tmp_path / "image.dcm")
    data = tmp_path / "data"

    def files():
        return sorted(file.parts[-3] for file in data.glob("*/??/*.dcm"))

    def states():
        return [study["state"] for study in node.facts("studies")]

    with Node(tmp_path, config) as node:
        storescu([path], "127.0.0.1", node.port, aec="EMODE")
        node.wait_for_stage(1, "confirmed")
        assert files() == ["result", "source"]
        node.wait(lambda: states() == ["purged"], "its copies are purged", timeout_s=120, every_s=1)
        assert files() == []
        (line,) = node.images()
        assert line["purged_at"]
        assert "purged" in node.emode("status").stdout
        assert "local copies: 0.0 MiB of 0 studies" in node.emode("status").stdout
        assert node.stop() == 0
    (uid,) = first.sop_instance_uids()

    config["routes"][0]["destinations"] = ["first", "second"]
    config["retention"]["days"] = 1
    with Node(tmp_path, config) as node:
        storescu([path], "127.0.0.1", node.port, aec="EMODE")

        def ways():
            (line,) = node.images()
            return sorted(
                (way["destination"], way["state"])
                for result in line["results"]
                for way in result["deliveries"]
            )

        both = [("first", "confirmed"), ("second", "confirmed")]
        node.wait(lambda: ways() == both, "the second has it too", timeout_s=90, every_s=0.5)
        assert files() == ["result", "source"]
        assert "local copies: " in node.emode("status").stdout
        assert node.stop() == 0
    assert first.sop_instance_uids() == second.sop_instance_uids() == [uid]
    assert first.file_of(uid) == second.file_of(uid)  # made anew, and the same to the byte
