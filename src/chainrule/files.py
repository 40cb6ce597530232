"""Model files: one safetensors file with arrays and a JSON document; nothing in it can be executed.

The document lies under the key "chainrule" of the file's metadata:
{"format": 1, "kind": "network" | "table" | "snapshot", …}. Any safetensors reader can read the arrays.
A file is either the old one or the whole new one (`disk.replacing`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np

from .arrays import Array
from .core.architecture import Architecture, chain
from .core.layers import Dense, Dropout, Layer, Scale
from .disk import replacing
from .errors import ChainRuleError, ModelFileError
from .formulas.activations import Activation
from .formulas.record import Record
from .training.loop import Snapshot

FORMAT = 1
LAYERS: dict[str, type[Dense] | type[Scale] | type[Dropout]] = {"dense": Dense, "scale": Scale, "dropout": Dropout}
T = TypeVar("T")


def write_model(
    path: str | os.PathLike[str], kind: str, arrays: Mapping[str, Array], document: Mapping[str, Any]
) -> None:
    """Write arrays and a JSON document as one model file.

    Raises:
        OutputError: it could not be written; what was there before is untouched.
    """
    from safetensors.numpy import save

    text = json.dumps({"format": FORMAT, "kind": kind, **document}, ensure_ascii=False, allow_nan=False)
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with replacing(path) as stream:
        stream.write(save(whole, metadata={"chainrule": text}))


def read_model(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays and the document of a model file.

    Raises:
        ModelFileError: missing, damaged, of another kind, or of a newer format.
    """
    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(path):
        raise ModelFileError(f"{path}: expected a model file, found none. Check the path.")
    try:
        with safe_open(path, framework="numpy") as stream:
            metadata = stream.metadata() or {}
            arrays = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ModelFileError(
            f"{path}: expected a chainrule model, got a file that is damaged or none ({error})."
        ) from None
    try:
        document = json.loads(metadata["chainrule"])
        found, version = document["kind"], document["format"]
    except (KeyError, TypeError, ValueError):
        raise ModelFileError(f"{path}: expected a chainrule model, got another safetensors file.") from None
    if version != FORMAT:
        raise ModelFileError(f"{path}: expected model format {FORMAT}, got {version!r}. Update chainrule to read it.")
    if found != kind:
        raise ModelFileError(f"{path}: expected a model of kind {kind!r}, got {found!r}.")
    return arrays, document


def strictly(path: str | os.PathLike[str], read: Callable[[], T]) -> T:
    """Run `read` on a document's content; whatever does not fit becomes a ModelFileError that names the file."""
    try:
        return read()
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from None
    except (ChainRuleError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ModelFileError(f"{path}: the file's content does not fit together ({error}).") from None


def describe_architecture(architecture: Architecture) -> dict[str, Any]:
    """The architecture as plain JSON: layer names, their settings, formula records by name."""
    layers = []
    for layer in architecture.layers:
        kind = next(name for name, cls in LAYERS.items() if isinstance(layer, cls))
        settings = {f.name: getattr(layer, f.name) for f in fields(layer)}  # type: ignore[arg-type]
        layers.append({"layer": kind} | {k: v.spec if isinstance(v, Record) else v for k, v in settings.items()})
    return {"inputs": architecture.inputs, "layers": layers}


def build_architecture(document: Mapping[str, Any], activations: Iterable[Activation] = ()) -> Architecture:
    """The architecture that `describe_architecture` described. Records of one's own are passed in again.

    Raises:
        ModelFileError, ChainRuleError, TypeError, KeyError: the document does not describe a network.
    """
    own = {record.spec: record for record in activations}
    layers: list[Layer] = []
    for given in document["layers"]:
        settings = dict(given)
        cls = LAYERS[settings.pop("layer")]
        known = {f.name: f.type for f in fields(cls)}
        if set(settings) != set(known):
            raise ModelFileError(f"layer {len(layers) + 1}: expected the settings {sorted(known)}.")
        for name, value in settings.items():
            if known[name] == "bool" and not isinstance(value, bool):
                raise ModelFileError(f"layer {len(layers) + 1}: expected {name} to be true or false, got {value!r}.")
        if settings.get("activation") in own:
            settings["activation"] = own[settings["activation"]]
        layers.append(cls(**settings))
    return chain("model file", document["inputs"], layers)


def save_snapshot(path: str | os.PathLike[str], snapshot: Snapshot) -> None:
    """Write a snapshot of a run, from which `Network.fit(..., resume=load_snapshot(path))` continues it.

    Raises:
        OutputError: it could not be written; what was there before is untouched.
    """
    arrays = {"theta": snapshot.theta} | {f"slot {name}": slot for name, slot in snapshot.slots.items()}
    if snapshot.best_theta is not None:
        arrays["best_theta"] = snapshot.best_theta
    rest = {
        f.name: getattr(snapshot, f.name) for f in fields(snapshot) if f.name not in ("theta", "slots", "best_theta")
    }
    plain = {name: str(value) if value == float("inf") else value for name, value in rest.items()}
    write_model(path, "snapshot", arrays, {"snapshot": plain, "slots": list(snapshot.slots)})


def load_snapshot(path: str | os.PathLike[str]) -> Snapshot:
    """Read what `save_snapshot` wrote.

    Raises:
        ModelFileError: missing, damaged, or not a snapshot.
    """
    arrays, document = read_model(path, "snapshot")

    def build() -> Snapshot:
        plain = document["snapshot"]
        scores = {name: float(plain[name]) for name in ("best_score", "reference")}
        return Snapshot(
            theta=arrays["theta"],
            slots={name: arrays[f"slot {name}"] for name in document["slots"]},
            best_theta=arrays.get("best_theta"),
            **{**plain, **scores, "history": tuple(plain["history"])},
        )

    return strictly(path, build)
