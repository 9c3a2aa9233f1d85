"""From the configuration to what reading images and making results takes: the worker, and offline commands.

Apart from `values`, since it needs the libraries for pixels and result objects, which nobody else loads.
"""

from __future__ import annotations

from dicom_node.config import Config
from dicom_node.dicom.label import LabelSettings
from dicom_node.dicom.reading import ReadLimits
from dicom_node.dicom.results import Equipment, ResultSettings
from dicom_node.node.values import software_version
from dicom_node.work.make import Appearance


def appearance_of(config: Config) -> Appearance:
    """What results look like and say."""
    section = config.results
    label = LabelSettings(
        text=section.label.text,
        soft=section.label.soft,
        hard=section.label.hard,
        layout=section.layout,
        font_file=section.label.font_file,
    )
    label.check()  # a wording that the font cannot write is a mistake in the configuration
    return Appearance(
        label=label,
        results=ResultSettings(
            series_description=section.series_description,
            series_number_base=section.series_number_base,
        ),
        equipment=Equipment(
            manufacturer=config.equipment.manufacturer,
            model_name=config.equipment.model_name,
            device_serial=config.equipment.device_serial_number,
            software_version=software_version(),
            station_name=config.equipment.station_name,
            institution=config.equipment.institution_name,
        ),
    )


def read_limits_of(config: Config) -> ReadLimits:
    """What the intake gate refuses to decode."""
    limits = config.limits
    return ReadLimits(
        max_pixels=limits.decoded_megapixels * 1_000_000,
        max_frames=limits.frames,
        max_total_pixels=limits.total_megapixels * 1_000_000,
    )
