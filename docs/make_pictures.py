"""Make the pictures of the README from a run of the demo: `.venv/bin/python docs/make_pictures.py`."""

import io
import subprocess
import sys
from pathlib import Path

from PIL import Image
from pydicom import dcmread
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "images"
EMODE = Path(sys.executable).parent / "emode"


def main() -> None:
    """Run the demo, then keep its sheet, one of its results, and what `emode status` says of it."""
    demo = ROOT / "demo"
    subprocess.run([EMODE, "demo", "--folder", demo], check=True)
    PICTURES.mkdir(parents=True, exist_ok=True)
    sheet = Image.open(demo / "contact-sheet.png")
    sheet.convert("RGB").save(PICTURES / "contact-sheet.jpg", quality=88)
    first = min((demo / "data" / "result").rglob("*.dcm"), key=lambda path: dcmread(path).InstanceNumber)
    Image.fromarray(dcmread(first).pixel_array).save(PICTURES / "result.png", optimize=True)
    told = subprocess.run(
        [EMODE, "status", "--config", demo / "node.yaml"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    screen = Console(record=True, width=202, file=io.StringIO())
    screen.print(Text(told))
    (PICTURES / "status.svg").write_text(screen.export_svg(title="emode status"))


if __name__ == "__main__":
    main()
