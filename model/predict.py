"""Frames in, elastograms out: a verified bundle on a chosen device, self-tested."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from model.bundle import Bundle
from model.confidence import doubt_of
from model.errors import DeviceUnavailable, ResultInvalid, SelfCheckFailed, SelfTestFailed, SpecInvalid
from model.inference import AGREEMENT_LIMIT, Elastogram, Inference
from model.preprocess import Frame

__all__ = ["Elastogram", "Predictor"]

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]

STRAIN_TOLERANCE = 0.01
COLOUR_TOLERANCE = 3.0
"""Mean absolute departure from the stored result that the self-test allows: strain index, and
colour levels of 255. Room for bf16 and another processor's rounding; not for other weights."""


class Predictor:
    """A bundle made ready to run on one device; it has passed its self-test once constructed.

    On the CPU a frame gives bit-identical results alone and in any batch. On a GPU batches are
    joined and results agree within 1e-4 in fp32, 0.02 in bf16 (strain index).
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: Device = "auto",
        precision: Precision = "auto",
        threads: int | None = None,
    ) -> None:
        """Load and self-test.

        device     "auto" takes a GPU if there is one and else the CPU; `.device` says which.
        precision  "auto" is bf16 on a GPU and on a CPU that computes in it, else fp32; see `.precision`.
        threads    CPU threads for the whole process; None leaves them as they are.

        Raises DeviceUnavailable, BundleInvalid or SelfTestFailed.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        self.bundle = bundle
        self.device: Literal["cpu", "cuda"] = _choose_device(device)
        if precision not in ("auto", "fp32", "bf16"):
            raise SpecInvalid(f'precision is "{precision}", must be auto, fp32 or bf16')
        fitting: Literal["fp32", "bf16"] = "bf16" if _computes_in_bf16(self.device) else "fp32"
        self.precision: Literal["fp32", "bf16"] = fitting if precision == "auto" else precision
        self._inference = Inference(
            bundle.build_generator(), bundle.preprocess, device=self.device, precision=self.precision
        )
        self.self_test()

    def predict(self, frames: Sequence[Frame]) -> list[Elastogram]:
        """Return one elastogram for each frame uint8 (H, W); sizes may differ.

        Raises FrameTooSmall or FrameInvalid before anything is computed, ResultInvalid if the
        network's output is not finite, SelfCheckFailed if its colours contradict its strain.
        """
        made = self._inference.predict(frames)
        return self._inference.each(self._judged, frames, made)

    def _judged(self, frame: Frame, made: Elastogram) -> Elastogram:
        """Check an elastogram, and say how familiar its frame and how sure the model is."""
        if not made.agreement <= AGREEMENT_LIMIT:
            raise SelfCheckFailed(
                f"{self.bundle.id} on {self.device} in {self.precision}: strain read back from the "
                f"colours is off by {made.agreement:.2g} (allowed {AGREEMENT_LIMIT})",
                agreement=made.agreement, device=self.device,
            )  # fmt: skip
        trust = self.bundle.trust
        if trust.familiarity is not None:
            made = replace(made, familiarity=trust.familiarity.of(frame))
            if made.unfamiliar:
                made = replace(made, resembles=trust.familiarity.resembles(frame))
        if trust.confidence is not None and made.spread is not None:
            doubt = doubt_of(made.strain, made.spread)
            made = replace(made, confidence=trust.confidence.confidence_of(doubt))
        return made

    def self_test(self) -> None:
        """Run the stored frame and compare; raises SelfTestFailed with the measured departure."""
        expected = self.bundle.self_test
        try:
            result = self.predict([expected.frame])[0]
        except (ResultInvalid, SelfCheckFailed) as error:
            raise SelfTestFailed(f"{self.bundle.id} {error}", device=self.device) from error
        strain = float(np.abs(result.strain - expected.strain).mean())
        colour = float(np.abs(result.colour.astype(np.int16) - expected.colour).mean())
        if strain > STRAIN_TOLERANCE or colour > COLOUR_TOLERANCE:
            raise SelfTestFailed(
                f"{self.bundle.id} on {self.device} in {self.precision}: strain is off by {strain:.3g} "
                f"(allowed {STRAIN_TOLERANCE}), colour by {colour:.3g} (allowed {COLOUR_TOLERANCE})",
                strain=strain, colour=colour, device=self.device, precision=self.precision,
            )  # fmt: skip


def _choose_device(device: Device) -> Literal["cpu", "cuda"]:
    """Resolve "auto"; a device that was asked for by name is given or refused, never replaced."""
    if device not in ("auto", "cpu", "cuda"):
        raise DeviceUnavailable(f'device is "{device}", must be auto, cpu or cuda', device=device)
    if device == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise DeviceUnavailable("no CUDA device was found", device=device)
    return "cpu"


def _computes_in_bf16(device: Literal["cpu", "cuda"]) -> bool:
    """Whether half the bits save time there: a CPU without the instructions only imitates them, slowly."""
    if device == "cuda":
        return True
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
