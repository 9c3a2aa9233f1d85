"""How sure a model is of one elastogram: its own expected error, read on a scale fitted to held-out pairs."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from model.errors import BundleInvalid
from model.strict import read_keys

Floats = NDArray[np.float64]


def doubt_of(strain: NDArray[np.float32], spread: NDArray[np.float32]) -> float:
    """Expected absolute error over the contrast of the map: mean spread / deviation of strain; 0 and more.

    strain, spread  float32 (H, W), see `model.inference.Elastogram`.

    An error of 0.05 matters little in a map from 0.1 to 0.9, and is all there is in a flat one.
    """
    # OpenCV adds up in float64 as well, without a copy of the picture in it.
    deviation = float(cv2.meanStdDev(strain)[1][0, 0])
    return float(cv2.mean(spread)[0]) / max(deviation, 1e-6)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Doubt to expected NCC: straight between knots, constant beyond them, never rising."""

    doubt: Floats
    """(k,) rising."""
    ncc: Floats
    """(k,) mean NCC with the true strain, whole frame, zero shift, of held-out pairs of such doubt."""
    pairs: int
    simulated: bool
    """The true strain was computed, not measured."""

    def confidence_of(self, doubt: float) -> float:
        """Confidence, 0 to 1, of an elastogram with this doubt.

        0.8 means: on held-out pairs on which the model had as much doubt, its map agreed with the true
        strain with an NCC of 0.8 on average. It speaks of the picture, not of the patient: the pairs may be
        simulated, and where a frame is not familiar it means nothing.
        """
        return float(np.clip(np.interp(doubt, self.doubt, self.ncc), 0.0, 1.0))

    def to_json(self) -> dict[str, Any]:
        return {
            "doubt": self.doubt.tolist(),
            "ncc": self.ncc.tolist(),
            "pairs": self.pairs,
            "simulated": self.simulated,
        }

    @classmethod
    def from_json(cls, data: object, where: str) -> "Calibration":
        """Read what `to_json` wrote; BundleInvalid names the key and the fact."""
        table = read_keys(data, {"doubt", "ncc", "pairs", "simulated"}, where, BundleInvalid)
        try:
            doubt, ncc = (np.array(table[key], dtype=np.float64) for key in ("doubt", "ncc"))
        except (TypeError, ValueError):
            doubt = ncc = np.empty(0)
        if doubt.ndim != 1 or doubt.shape != ncc.shape or not len(doubt):
            raise BundleInvalid(f"{where}: doubt and ncc must be lists of numbers of the same length")
        if not (np.isfinite(ncc).all() and np.all(np.diff(doubt) > 0) and np.all(np.diff(ncc) <= 0)):
            raise BundleInvalid(f"{where}: doubt must rise and ncc must not")
        if type(table["pairs"]) is not int or type(table["simulated"]) is not bool:
            raise BundleInvalid(f"{where}: pairs must be a whole number and simulated true or false")
        return cls(doubt, ncc, table["pairs"], table["simulated"])
