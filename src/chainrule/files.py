"""Model files: one safetensors file with arrays and a JSON document; nothing in it can be executed.

The document lies under the key "chainrule" of the file's metadata:
{"format": 1, "kind": "network" | "table" | "snapshot", …}. Any safetensors reader can read the arrays.
A file is either the old one or the whole new one (`disk.replacing`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .arrays import Array
from .core.architecture import Architecture, chain
from .core.layers import Dense, Dropout, Layer, Scale
from .disk import replacing
from .errors import ChainRuleError, ModelFileError, ParameterError
from .formulas.activations import CATALOGUE as ACTIVATIONS
from .formulas.activations import Activation
from .formulas.initializers import CATALOGUE as INITIALIZERS
from .formulas.initializers import Initializer
from .formulas.record import find
from .plain import from_plain
from .training.loop import Snapshot

FORMAT = 1
MODEL_FILE = "model.safetensors"  # in the folder of a run
LAYERS: dict[str, type[Dense] | type[Scale] | type[Dropout]] = {"dense": Dense, "scale": Scale, "dropout": Dropout}
T = TypeVar("T")


def write_model(
    path: str | os.PathLike[str], kind: str, arrays: Mapping[str, Array], document: Mapping[str, Any]
) -> None:
    """Write arrays and a JSON document as one model file.

    Raises:
        OutputError: it could not be written; what was there before is untouched.
    """
    with replacing(path) as stream:
        stream.write(model_bytes(kind, arrays, document))


def model_bytes(kind: str, arrays: Mapping[str, Array], document: Mapping[str, Any]) -> bytes:
    """The content of a model file."""
    from safetensors.numpy import save

    text = json.dumps({"format": FORMAT, "kind": kind, **document}, ensure_ascii=False, allow_nan=False)
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return save(whole, metadata={"chainrule": text})


def model_file(path: str | os.PathLike[str]) -> Path:
    """The path itself, or of a folder that `chainrule train` wrote its model file."""
    path = Path(path)
    return path / MODEL_FILE if path.is_dir() else path


def read_model(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays and the document of a model file, or of that in the folder of a run.

    Raises:
        ModelFileError: missing, damaged, of another kind, or of a newer format.
    """
    from safetensors import SafetensorError, safe_open

    path = model_file(path)
    if not path.is_file():
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
    except (KeyError, TypeError, ValueError, RecursionError):
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
    """The architecture as plain JSON: layer names, their settings, formula records by name.

    A starting distribution of one's own is left out: the parameters are there, and files hold no code.

    Raises:
        ParameterError: an activation of one's own has the name of another one.
    """
    layers, named = [], dict[str, Activation]()
    for layer in architecture.layers:
        if not named.setdefault(layer.g.spec, layer.g).same(layer.g):
            raise ParameterError(
                f"Saving: expected different names for different activations of one's own, got {layer.g.spec!r} twice. "
                "Rename a function."
            )
        kind = next(name for name, cls in LAYERS.items() if isinstance(layer, cls))
        settings = {f.name: _plain(getattr(layer, f.name), f.default) for f in fields(layer)}  # type: ignore[arg-type]
        layers.append({"layer": kind} | settings)
    return {"inputs": architecture.inputs, "layers": layers}


def _plain(value: Any, default: Any) -> Any:
    """A layer's setting as a JSON value; the default in the place of what a file cannot hold."""
    if isinstance(value, Initializer):
        known = INITIALIZERS.get(value.name)
        return value.spec if known is not None and known.make is value.make else default
    if isinstance(value, Activation):
        if ACTIVATIONS.get(value.name, value).make is not value.make:
            raise ParameterError(
                f"Saving: expected another name for an activation of one's own, got {value.name!r}, "
                "which is the library's. Rename its function."
            )
        return value.spec
    return value.item() if isinstance(value, np.generic) else value


def build_architecture(document: Mapping[str, Any], activations: Iterable[Activation] = ()) -> Architecture:
    """The architecture that `describe_architecture` described. Records of one's own are passed in again.

    Raises:
        ModelFileError, ChainRuleError, TypeError, KeyError: the document does not describe a network.
    """
    own = {name: record for record in activations for name in (record.name, record.spec)}
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
        spec = settings.get("activation")
        if isinstance(spec, str) and (spec in own or spec.partition("(")[0] in own):
            settings["activation"] = own[spec] if spec in own else find("model file", spec, Activation, own)
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
    plain = {f.name: getattr(snapshot, f.name) for f in fields(snapshot)} | {
        "history": [{key: _number(value) for key, value in row.items()} for row in snapshot.history],
        "slots": list(snapshot.slots),
        "best_score": _number(snapshot.best_score),
        "reference": _number(snapshot.reference),
    }
    del plain["theta"], plain["best_theta"]
    write_model(path, "snapshot", arrays, {"snapshot": plain})


def _number(value: float) -> float | str:
    """A number for JSON, which has no infinity."""
    return value if np.isfinite(value) else str(value)


@dataclass(frozen=True)
class _Counters:
    """What a snapshot's document holds."""

    identity: str
    start: int
    slots: tuple[str, ...]
    step: int
    cost_sum: float
    best_epoch: int
    best_score: float
    reference: float
    stale: int
    judge: str
    seconds: float
    history: tuple[dict[str, float], ...]


def load_snapshot(path: str | os.PathLike[str]) -> Snapshot:
    """Read what `save_snapshot` wrote.

    Raises:
        ModelFileError: missing, damaged, or not a snapshot.
    """
    arrays, document = read_model(path, "snapshot")

    def build() -> Snapshot:
        counters: _Counters = from_plain(_Counters, document["snapshot"], "snapshot", infinite=True)
        if min(counters.start, counters.step, counters.best_epoch, counters.stale) < 0:
            raise ModelFileError("snapshot: expected counters of at least 0, got a negative one.")
        theta, best = arrays["theta"], arrays.get("best_theta")
        slots = {name: arrays[f"slot {name}"] for name in counters.slots}
        for vector in (theta, *slots.values(), *([] if best is None else [best])):
            if vector.shape != theta.shape or vector.dtype != theta.dtype or not np.isfinite(vector).all():
                raise ModelFileError(f"snapshot: expected finite vectors of {theta.size} numbers in {theta.dtype}.")
        rest = {f.name: getattr(counters, f.name) for f in fields(counters)} | {"slots": slots}
        return Snapshot(theta=theta, best_theta=best, **rest)

    return strictly(path, build)
