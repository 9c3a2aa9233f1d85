"""The manifest of a bundle: its keys, its digest, and the specifications it declares."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.colormap import ColorMap, get_colormap
from model.errors import BundleInvalid, ModelError
from model.generator import GeneratorSpec
from model.preprocess import PreprocessSpec
from model.strict import JsonObject, read_keys

FORMAT = "emode-bundle"
FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
"""Version 2 may hold a file more, trust.json."""
_KEYS = {
    "format", "format_version", "name", "version", "created_at", "licence", "generator", "preprocess",
    "colormap", "weights_sha256", "files", "training", "metrics", "manifest_sha256",
}  # fmt: skip
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_SEMVER = re.compile(r"\d+\.\d+\.\d+")


def sha256(data: bytes) -> str:
    """Return the hexadecimal digest of some bytes."""
    return hashlib.sha256(data).hexdigest()


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """Return the digest of a manifest without its own `manifest_sha256`.

    It tells damage and hand edits, not forgery: whoever forges can compute it too.
    """
    rest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    return sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode())


def colormap_json(colormap: ColorMap) -> dict[str, Any]:
    """Return how a manifest declares its colour map."""
    return {"name": colormap.name, "version": colormap.version, "sha256": colormap.sha256}


def read_manifest(path: Path) -> JsonObject:
    """Read manifest.json and check its format, keys, digest, name and version.

    Raises BundleInvalid naming the file, the fact and the next step.
    """
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleInvalid(f"{path} cannot be read ({error.strerror})", path=path) from error
    except ValueError as error:
        raise BundleInvalid(f"{path} is not JSON ({error})", path=path) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleInvalid(f"{path} is not an {FORMAT} manifest", path=path)
    if (found := manifest.get("format_version")) not in READABLE_VERSIONS:
        known = " and ".join(str(version) for version in READABLE_VERSIONS)
        raise BundleInvalid(
            f"{path} has format version {found}, this program reads {known}; install the "
            "version of the program that the bundle was made for",
            path=path,
        )
    read_keys(manifest, _KEYS, str(path), BundleInvalid)
    if manifest["manifest_sha256"] != manifest_digest(manifest):
        raise BundleInvalid(f"{path} does not match its own digest, it was edited or damaged", path=path)
    if not (_NAME.fullmatch(str(manifest["name"])) and _SEMVER.fullmatch(str(manifest["version"]))):
        raise BundleInvalid(
            f'{path}: name "{manifest["name"]}" must be lower-case words joined by hyphens and '
            f'version "{manifest["version"]}" three numbers',
            path=path,
        )
    return manifest


def read_specs(manifest: JsonObject, where: str) -> tuple[GeneratorSpec, PreprocessSpec]:
    """Read both specifications and check that this program makes the same colours."""
    try:
        generator = GeneratorSpec.from_json(manifest["generator"])
        preprocess = PreprocessSpec.from_json(manifest["preprocess"])
    except ModelError as error:
        raise BundleInvalid(f"{where}: {error}") from error
    keys = {"name", "version", "sha256"}
    declared = read_keys(manifest["colormap"], keys, f"{where}: colormap", BundleInvalid)
    if dict(declared) != colormap_json(get_colormap(generator.colormap, generator.colormap_version)):
        table = f"{declared['name']} {declared['version']}"
        raise BundleInvalid(f"{where}: colour map {table} is not the table that this program makes")
    return generator, preprocess
