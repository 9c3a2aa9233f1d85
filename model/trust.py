"""What a bundle knows of its own limits, beside its weights: an optional file, trust.json.

  familiarity  which frames look like what the model was made for, or null
  confidence   how its expected errors translate into agreement with the truth, or null

Means, covariances and knots; no frame, and nothing that belongs to one.
"""

import json
from dataclasses import dataclass

from model.confidence import Calibration
from model.errors import BundleInvalid
from model.familiarity import Familiarity
from model.strict import read_keys


@dataclass(frozen=True, eq=False)
class Trust:
    """The limits of a model, as far as they were fitted."""

    familiarity: Familiarity | None = None
    confidence: Calibration | None = None

    def to_bytes(self) -> bytes:
        """Serialise: the same fit, the same bytes."""
        table = {
            "familiarity": self.familiarity and self.familiarity.to_json(),
            "confidence": self.confidence and self.confidence.to_json(),
        }
        return json.dumps(table, separators=(",", ":")).encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "Trust":
        """Read what `to_bytes` wrote; BundleInvalid names the key and the fact."""
        try:
            table = json.loads(data)
        except ValueError as error:
            raise BundleInvalid(f"{where} is not JSON ({error})") from error
        read_keys(table, {"familiarity", "confidence"}, where, BundleInvalid)
        known, sure = table["familiarity"], table["confidence"]
        return cls(
            None if known is None else Familiarity.from_json(known, f"{where}: familiarity"),
            None if sure is None else Calibration.from_json(sure, f"{where}: confidence"),
        )
