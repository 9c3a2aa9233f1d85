"""The log writes what is on its list, and nothing a library or an error might quote."""

import json
import logging
import sys
import threading
from datetime import datetime

import pytest

from dicom_node.store.schema import UtcDateTime
from dicom_node.telemetry.log import SILENCED, set_up_logging, where


@pytest.fixture(autouse=True)
def _restore():
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in ("dicom_node", *SILENCED))]
    last_resort = logging.lastResort
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    hooks = threading.excepthook, sys.excepthook
    yield
    threading.excepthook, sys.excepthook = hooks
    logging.lastResort = last_resort
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("style", ["text", "json"])
def test_fields_that_are_not_listed_are_not_written(capsys, style):
    set_up_logging("info", style)
    logging.getLogger("dicom_node.work").info(
        "job finished", extra={"action": "job-finished", "job": 7, "patient_name": "DOE^JANE"}
    )
    line = capsys.readouterr().err
    assert "job-finished" in line
    assert "DOE" not in line
    if style == "json":
        assert json.loads(line)["job"] == 7


@pytest.mark.filterwarnings("default")
def test_libraries_are_silent(capsys):
    set_up_logging("debug", "text")
    # The last two are on no list of ours: nobody without a handler may reach standard error.
    for name in ("pydicom", "pynetdicom.events", "highdicom.sc", "dicomweb_client.web", "anybody"):
        logging.getLogger(name).error("Invalid value for VR PN: 'DOE^JANE'")
    assert capsys.readouterr().err == ""


def test_a_place_is_named_without_the_error():
    def fail():
        raise ValueError("DOE^JANE")

    with pytest.raises(ValueError, match="DOE") as caught:
        fail()
    place = where(caught.value)
    assert place == "outside our code"
    with pytest.raises(ValueError, match="a time without a zone") as ours:
        UtcDateTime().process_bind_param(datetime(2026, 1, 1), None)  # noqa: DTZ001
    assert where(ours.value).startswith("dicom_node.store.schema:")
