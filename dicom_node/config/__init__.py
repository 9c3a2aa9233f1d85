"""The configuration file: the only package that knows a YAML key. Strict, and never half right."""

from dicom_node.config.loading import load_config, parse_config
from dicom_node.config.sections import DEFAULT_BUNDLE_NAME, Config

__all__ = ["DEFAULT_BUNDLE_NAME", "Config", "load_config", "parse_config"]
