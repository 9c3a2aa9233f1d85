"""Rows that tests of the store and of the work begin with."""

from dicom_node.core.image import Arrival, ImageHeader
from dicom_node.store.images import record_arrival

ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6.1"
EXPLICIT = "1.2.840.10008.1.2.1"


def arrive(conn, now, *, sop="1.2.3", study="1.2", route="breast", digest="d" * 64, size_bytes=1, skip=None):
    """Record one received ultrasound still; returns its receipt."""
    return record_arrival(
        conn,
        ImageHeader(ULTRASOUND, sop, study, "1.2.1", EXPLICIT),
        Arrival("PACS", "EMODE", "127.0.0.1"),
        route=route,
        digest=digest,
        size_bytes=size_bytes,
        skip=skip,
        now=now,
    )
