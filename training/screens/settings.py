"""What a site says of its screens: by options for all, by `screens.yaml` for a folder and those below it."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.errors import SettingsInvalid
from training.screens.dual import Reading
from training.screens.tables import FROM_BAR, Polarity, named_table

FILE = "screens.yaml"
BY_PATIENT, BY_FOLDER = "patient", "folder"

_Box = tuple[int, int, int, int]


class Site(BaseModel):
    """Settings as far as they are stated; None is left to the folder above, and at last to the default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    polarity: Polarity | None = None
    """What the high end (top, right) of the colour bar means. There is no default."""
    lut: str | None = None
    """`bar` reads the bar of each screen (default); or a table by name, where screens show no bar."""
    panes: tuple[_Box, _Box] | None = None
    """Both panes in pixels x0, y0, x1, y1, half open, in any order; found where not stated."""
    bar: _Box | None = None
    """Where the colour bar lies; found where not stated."""
    group: str | None = None
    """What tells whose image it is: `patient` (PatientID, DICOM only; default), `folder` (the first one
    below SCREENS), or a regular expression searched in the path below SCREENS, whose first group names it."""
    spacing_mm: Annotated[float, Field(gt=0, lt=5)] | None = None
    """Millimetres of one pixel, for pictures; DICOM regions say it themselves."""
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """Quality score, 0 to 1, under which a pair is left out."""


@dataclass(frozen=True)
class Settings:
    """Whole settings of one screen."""

    reading: Reading
    group: str
    spacing_mm: float

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self.reading), "group": self.group, "spacing_mm": self.spacing_mm}


def over(above: Site, below: Site) -> Site:
    """Lay the settings of a folder over those of the folder above."""
    stated = {name: value for name, value in below.model_dump().items() if value is not None}
    return Site(**(above.model_dump() | stated))


def read_site(path: Path) -> Site:
    """Read a screens.yaml; SettingsInvalid lists every problem."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        site = Site.model_validate({} if content is None else content)
    except OSError as error:
        raise SettingsInvalid(f"{path} cannot be read ({error.strerror})", path=path) from error
    except yaml.YAMLError as error:
        raise SettingsInvalid(f"{path} is not YAML ({error})", path=path) from error
    except ValidationError as error:
        raise SettingsInvalid(f"{path}: {_problems(error)}", path=path) from error
    check(site, str(path))
    return site


def site_of(**options: Any) -> Site:
    """Make settings of command-line options; SettingsInvalid lists every problem."""
    try:
        site = Site(**options)
    except ValidationError as error:
        raise SettingsInvalid(_problems(error)) from error
    check(site, "options")
    return site


def check(site: Site, where: str) -> None:
    """Raise SettingsInvalid for a table that is not known, or a path expression that can name nobody."""
    if site.lut is not None and site.lut != FROM_BAR:
        named_table(site.lut)
    if site.group not in (None, BY_PATIENT, BY_FOLDER):
        try:
            groups = re.compile(str(site.group)).groups
        except re.error as error:
            raise SettingsInvalid(
                f'{where}: group "{site.group}" is no regular expression ({error})'
            ) from None
        if groups < 1:
            raise SettingsInvalid(
                f'{where}: group "{site.group}" is neither "{BY_PATIENT}" nor "{BY_FOLDER}", and as a '
                "regular expression has no (group) to take the patient from"
            )


def whole(site: Site) -> Settings:
    """Fill in defaults; SettingsInvalid where the polarity is missing, which has none."""
    if site.polarity is None:
        raise SettingsInvalid(
            "nothing says which end of the colour bar is soft, and scanners differ: give --polarity "
            "soft-high (its top, often red, is soft) or hard-high (its top is hard), or write polarity: into "
            f"a {FILE} beside the screens"
        )
    reading = Reading(
        polarity=site.polarity,
        lut=site.lut or FROM_BAR,
        panes=site.panes,
        bar=site.bar,
        threshold=0.5 if site.threshold is None else site.threshold,
    )
    return Settings(reading, site.group or BY_PATIENT, site.spacing_mm or 0.0)


def settings_by_folder(root: Path, folders: set[Path], options: Site) -> dict[Path, Settings]:
    """Settle the settings of every folder that holds screens; nearer files win over options."""
    sites: dict[Path, Site] = {}

    def site(folder: Path) -> Site:
        if folder not in sites:
            above = options if folder == root else site(folder.parent)
            own = folder / FILE
            sites[folder] = over(above, read_site(own)) if own.exists() else above
        return sites[folder]

    return {folder: whole(site(folder)) for folder in sorted(folders)}


def _problems(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
