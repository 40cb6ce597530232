"""PyTorch's state_dict, out and in, as NumPy arrays: the weights of a `torch.nn.Sequential` of the same function."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arrays import Array, check_matrix
from ..core.architecture import Architecture
from ..core.layers import Dense, Dropout, Parameters, Scale
from ..errors import DataError, ParameterError, ShapeError, unknown_name
from ..formulas.activations import identity
from ..network import Network


def state_dict(network: Network) -> dict[str, Array]:
    """The weights as `torch.nn.Sequential` names them: "0.weight" (outputs, inputs), "0.bias" (outputs,), "2.weight" …

    The Sequential has a Linear for each dense layer, followed by a module for its activation unless that is the identity,
    and a Dropout for each dropout layer. torch.nn has no activations step, exp and square, nor one of one's own:
    their modules are the caller's. The factor 1/√inputs of `ntk` is multiplied into the weights, and so
    is a scale layer, into those of the next dense layer.

        module.load_state_dict({name: torch.from_numpy(part) for name, part in state_dict(network).items()})

    Raises:
        ParameterError: a scale layer that no dense layer follows, at least after its activation.
    """
    state: dict[str, Array] = {}
    place, pending = 0, np.ones(network.architecture.inputs, network.dtype)
    for number, (layer, p) in enumerate(_layers(network), 1):
        if isinstance(layer, Scale):
            pending = pending * p.W
        elif isinstance(layer, Dense):
            assert p.W is not None
            state[f"{place}.weight"] = p.W * (pending * network.dtype.type(layer.factor))
            if p.b is not None:
                state[f"{place}.bias"] = p.b.copy()
            pending = np.ones(layer.outputs, network.dtype)
            place += 1 if layer.g.same(identity) else 2
        elif isinstance(layer, Dropout):
            place += 1
        else:
            raise ParameterError(f"state_dict: expected dense, scale and dropout layers, got layer {number}, {layer}.")
    if not (pending == 1).all():
        raise ParameterError(
            "state_dict: expected a dense layer after the last scale layer, as torch.nn has none of that kind, got none. "
            "Call network.collapse() first, if the layer before has the activation identity."
        )
    return state


def from_state_dict(network: Network, state: Mapping[str, Any]) -> Network:
    """Give a network the weights of a `torch.nn.Sequential`, or of any state_dict of linear layers in their order.

    The dense layers take the parts called "….weight" (outputs, inputs) and "….bias" (outputs,), tensors or arrays, one
    after another, those numbered in the order of their numbers (a file of safetensors has 10 before 2); of a layer with
    `ntk` W is the weight times √inputs, and scale layers become ones. Returns the network.

    Raises:
        ParameterError: parts of other layers, another number of linear layers, a bias where the network has none, or
            numbers out of order among names of several kinds.
        ShapeError, DataError: other shapes, or not finite numbers; nothing is changed then.
    """
    given: dict[str, dict[str, Array]] = {}
    for name in _in_order(state):
        value = state[name]
        where, _, part = name.rpartition(".")
        if part not in ("weight", "bias"):
            raise unknown_name("from_state_dict: part", name, ["0.weight", "0.bias", "2.weight", "…"])
        given.setdefault(where, {})[part] = _array(name, value)
    dense = [n for n, (layer, _) in enumerate(_layers(network), 1) if isinstance(layer, Dense)]
    if len(given) != len(dense):
        raise ParameterError(
            f"from_state_dict: expected {len(dense)} linear layers, as the network has, got {len(given)}."
        )
    new = np.ones_like(network.theta)
    views = network.architecture.views(new)
    for number, (where, parts) in zip(dense, given.items(), strict=True):
        layer, p = network.architecture.layers[number - 1], views[number - 1]
        assert isinstance(layer, Dense) and p.W is not None
        wanted = {"weight": p.W} | ({} if p.b is None else {"bias": p.b})
        described = f"from_state_dict, {network.architecture.describe(number)}"
        if parts.keys() != wanted.keys():
            raise ParameterError(
                f"{described}: expected {' and '.join(wanted)}, got {' and '.join(parts)} of {where!r}."
            )
        for part, into in wanted.items():
            if parts[part].shape != into.shape:
                raise ShapeError(f"{described}: expected {part} of shape {into.shape}, got {parts[part].shape}.")
            rows = check_matrix(described, part, parts[part].reshape(into.shape[0], -1), None, network.dtype)
            into[...] = rows.reshape(into.shape) / (layer.factor if part == "weight" else 1)
    for number, p in enumerate(views, 1):
        if p.W is not None:
            network.set(number, W=p.W, b=p.b)
    return network


def _in_order(state: Mapping[str, Any]) -> list[str]:
    """The names of a state_dict in the order of the layers."""
    names = list(state)
    for name in names:
        if not isinstance(name, str):
            raise unknown_name("from_state_dict: part", name, ["0.weight", "0.bias", "2.weight", "…"])

    def numbers(name: str) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", name.rpartition(".")[0])]

    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(re.sub(r"\d+", "#", name.rpartition(".")[0]), []).append(name)
    if len(kinds) == 1:
        return sorted(names, key=numbers)
    for alike in kinds.values():
        if alike != sorted(alike, key=numbers):
            raise ParameterError(
                f"from_state_dict: expected the layers in their order, got {', '.join(map(repr, alike))}. "
                "Pass the state_dict of the model itself, or its items in the order of the layers."
            )
    return names


def _layers(network: Network) -> list[tuple[Any, Parameters]]:
    architecture: Architecture = network.architecture
    return list(zip(architecture.layers, architecture.views(network.theta), strict=True))


def _array(name: str, value: Any) -> Array:
    """A tensor, also one on a GPU or with a gradient, as an array."""
    try:
        return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
    except (TypeError, ValueError) as error:
        raise DataError(f"from_state_dict: expected numbers in {name!r}, got something else ({error}).") from None
