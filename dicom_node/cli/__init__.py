"""The `emode` command."""

from dicom_node.cli.main import main

__all__ = ["main"]
