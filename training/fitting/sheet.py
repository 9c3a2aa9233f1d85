"""Sample sheets: B-mode, true and generated elastograms side by side as one PNG."""

from pathlib import Path

import cv2
import numpy as np
import torch

from model.generator import Generator
from training.pairs.samples import Samples, take

SHEET_ROWS = 8


@torch.no_grad()
def write_sheet(path: Path, network: Generator, samples: Samples) -> None:
    """Write pairs spread over a set, a row each: B-mode, true colour, generated colour, true strain,
    generated strain, and the expected error (white: a quarter of full scale) where the network says it.
    """
    n = min(SHEET_ROWS, len(samples))
    batch = take(samples, torch.linspace(0, len(samples) - 1, n).long())
    made = network(batch.bmode)
    bmode = (batch.bmode + 1) / 2
    parts = [bmode, batch.strain, made.strain]
    if network.spec.uncertainty:
        parts.append((made.spread * 4).clamp(0, 1))
    grey = [part.expand(-1, 3, -1, -1) for part in parts]
    columns = [grey[0], network.blend(batch.strain, bmode), made.colour, *grey[1:]]
    columns = [column * batch.covered for column in columns]  # what lies in the padding means nothing
    rows = torch.cat(columns, dim=3).permute(0, 2, 3, 1).reshape(-1, bmode.shape[3] * len(columns), 3)
    picture = np.round(rows.clamp(0, 1).cpu().numpy() * 255).astype(np.uint8)
    ok, png = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if ok:
        path.write_bytes(png.tobytes())
