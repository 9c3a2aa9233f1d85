"""A scanner that sends one image over an association of its own, and may be cut off at any moment."""

from contextlib import suppress

from pynetdicom import AE

ULTRASOUND_IMAGE = "1.2.840.10008.5.1.4.1.1.6.1"


def store_alone(port, ds):
    """C-STORE one ultrasound image: was it answered 0000? None if there was no association."""
    ae = AE("SCANNER")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 5
    ae.add_requested_context(ULTRASOUND_IMAGE, ds.file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", port, ae_title="EMODE")
    if not association.is_established:
        holder = association.dul.socket
        if holder is not None and holder.socket is not None:
            holder.socket.close()
        return None
    acknowledged = False
    with suppress(RuntimeError, ValueError):  # cut off in the middle: not acknowledged
        acknowledged = association.send_c_store(ds).get("Status") == 0x0000
    if association.is_established:
        association.release()
    return acknowledged
