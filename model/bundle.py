"""The bundle: one folder that holds weights and all that is needed to run, check and judge them.

  manifest.json        what this is: specs, digests, provenance, metrics, licence
  weights.safetensors  the generator's weights, float16
  selftest.npz         one frame and the result it must give, checked at every start
  card.md              the model card, for people
  trust.json           optional: which frames are familiar, how sure the model is (see model/trust.py)

Weights are never unpickled and no file names a class to import.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save

from model.colormap import ColorMap, get_colormap
from model.errors import BundleInvalid
from model.generator import Generator, GeneratorSpec
from model.manifest import (
    FORMAT,
    FORMAT_VERSION,
    colormap_json,
    manifest_digest,
    read_manifest,
    read_specs,
    sha256,
)
from model.preprocess import PreprocessSpec
from model.strict import JsonObject, read_keys
from model.trust import Trust

DEFAULT_BUNDLE = Path(__file__).parent / "bundles" / "default"
"""The bundle that ships with the program."""

WEIGHTS, SELF_TEST, CARD, MANIFEST = "weights.safetensors", "selftest.npz", "card.md", "manifest.json"
TRUST = "trust.json"
_PAYLOAD = (WEIGHTS, SELF_TEST, CARD)


@dataclass(frozen=True, eq=False)
class SelfTest:
    """A frame and its result on the machine that wrote the bundle."""

    frame: NDArray[np.uint8]
    strain: NDArray[np.float32]
    colour: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Bundle:
    """A read and verified bundle, or one about to be written."""

    name: str
    version: str
    created_at: str
    """UTC, ISO 8601."""
    licence: str
    generator: GeneratorSpec
    preprocess: PreprocessSpec
    training: JsonObject
    """Provenance: configuration, seeds, commit, and whether the pairs were simulated."""
    metrics: JsonObject
    weights: Mapping[str, torch.Tensor]
    weights_sha256: str
    self_test: SelfTest
    card: str
    trust: Trust = field(default_factory=Trust)
    """What it knows of its own limits; empty in bundles that do not say."""
    path: Path | None = None

    @property
    def id(self) -> str:
        """Name and version, as written into results."""
        return f"{self.name}-{self.version}"

    @property
    def trust_sha256(self) -> str:
        """Digest of what it knows of its own limits, because results repeat it; empty if it knows nothing."""
        known = self.trust.familiarity is not None or self.trust.confidence is not None
        return sha256(self.trust.to_bytes()) if known else ""

    @property
    def colormap(self) -> ColorMap:
        return get_colormap(self.generator.colormap, self.generator.colormap_version)

    def build_generator(self) -> Generator:
        """Return the network with these weights, in float32 and evaluation mode."""
        network = Generator(self.generator)
        try:
            network.load_state_dict({name: value.float() for name, value in self.weights.items()})
        except RuntimeError as error:
            fact = str(error).splitlines()[-1].strip()
            raise BundleInvalid(f"{self.id}: {WEIGHTS} does not fit the generator ({fact})") from error
        return network.eval()


def pack_weights(weights: Mapping[str, torch.Tensor]) -> bytes:
    """Serialise weights as float16 safetensors: same weights, same bytes."""
    return bytes(save({name: weights[name].detach().half().cpu().contiguous() for name in sorted(weights)}))


def read_bundle(path: Path) -> Bundle:
    """Read a bundle folder and verify every digest in it.

    Raises BundleInvalid naming the file, the fact and the next step.
    """
    manifest = read_manifest(path / MANIFEST)
    data = _read_payload(path, manifest)
    generator, preprocess = read_specs(manifest, str(path / MANIFEST))
    try:
        weights = load(data[WEIGHTS])
    except SafetensorError as error:
        raise BundleInvalid(f"{path / WEIGHTS} is not a safetensors file ({error})", path=path) from error
    return Bundle(
        name=manifest["name"],
        version=manifest["version"],
        created_at=manifest["created_at"],
        licence=manifest["licence"],
        generator=generator,
        preprocess=preprocess,
        training=manifest["training"],
        metrics=manifest["metrics"],
        weights=weights,
        weights_sha256=manifest["weights_sha256"],
        self_test=_read_self_test(path / SELF_TEST),
        card=data[CARD].decode("utf-8"),
        trust=Trust.from_bytes(data[TRUST], str(path / TRUST)) if TRUST in data else Trust(),
        path=path,
    )


def _read_payload(path: Path, manifest: JsonObject) -> dict[str, bytes]:
    names: tuple[str, ...] = _PAYLOAD
    if manifest["format_version"] > 1 and TRUST in manifest["files"]:
        names = (*_PAYLOAD, TRUST)
    files = read_keys(manifest["files"], set(names), f"{path / MANIFEST}: files", BundleInvalid)
    data = {}
    for name in names:
        try:
            data[name] = (path / name).read_bytes()
        except OSError as error:
            raise BundleInvalid(f"{path / name} cannot be read ({error.strerror})", path=path) from error
        if (found := sha256(data[name])) != files[name]:
            raise BundleInvalid(
                f"{path / name} has SHA-256 {found[:12]}…, the manifest says {str(files[name])[:12]}…",
                path=path,
            )
    if manifest["weights_sha256"] != files[WEIGHTS]:
        raise BundleInvalid(f"{path / MANIFEST}: weights_sha256 and files disagree", path=path)
    return data


def _read_self_test(path: Path) -> SelfTest:
    try:
        with np.load(path, allow_pickle=False) as stored:
            frame, strain, colour = stored["frame"], stored["strain"], stored["colour"]
    except (ValueError, KeyError, OSError) as error:
        raise BundleInvalid(f"{path} does not hold a frame, strain and colour ({error})") from error
    if strain.shape != frame.shape or colour.shape != (*frame.shape, 3):
        raise BundleInvalid(f"{path}: frame, strain and colour differ in shape")
    return SelfTest(frame, strain.astype(np.float32), colour)


def write_bundle(bundle: Bundle, path: Path, *, replace: bool = False) -> None:
    """Write a bundle folder whole or not at all: a temporary folder beside it, then a rename.

    Raises BundleInvalid if `path` exists and `replace` is false.
    """
    if path.exists() and not replace:
        raise BundleInvalid(f"{path} exists; choose another folder or ask to replace it", path=path)
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        (work / WEIGHTS).write_bytes(pack_weights(bundle.weights))
        (work / CARD).write_text(bundle.card, encoding="utf-8")
        test = bundle.self_test
        np.savez_compressed(
            work / SELF_TEST, frame=test.frame, strain=test.strain.astype(np.float16), colour=test.colour
        )
        names: tuple[str, ...] = _PAYLOAD
        if bundle.trust_sha256:
            (work / TRUST).write_bytes(bundle.trust.to_bytes())
            names = (*_PAYLOAD, TRUST)
        files = {name: sha256((work / name).read_bytes()) for name in names}
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "name": bundle.name,
            "version": bundle.version,
            "created_at": bundle.created_at,
            "licence": bundle.licence,
            "generator": bundle.generator.to_json(),
            "preprocess": bundle.preprocess.to_json(),
            "colormap": colormap_json(bundle.colormap),
            "weights_sha256": files[WEIGHTS],
            "files": files,
            "training": dict(bundle.training),
            "metrics": dict(bundle.metrics),
        }
        manifest["manifest_sha256"] = manifest_digest(manifest)
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        (work / MANIFEST).write_text(text, encoding="utf-8")
        work.chmod(0o755)
        _move_into_place(work, path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _move_into_place(work: Path, path: Path) -> None:
    """Rename `work` to `path`; what was there steps aside first and comes back if that fails."""
    if not path.exists():
        work.rename(path)
        return
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-old-"))
    os.rename(path, aside / "bundle")  # noqa: PTH104 - a pair of renames, written alike
    try:
        os.rename(work, path)  # noqa: PTH104
    except OSError:
        os.rename(aside / "bundle", path)  # noqa: PTH104
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
