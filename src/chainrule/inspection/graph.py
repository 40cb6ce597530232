"""The computation graph of a network and its loss (003 §3, figures 1 and 2) as data, with DOT and SVG.

Each node is one computation or one given value; data and parameters are sources. The main chain runs from x to L.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Literal

from ..core.architecture import Architecture
from ..formulas.losses import Loss, on_logits

Kind = Literal["data", "parameter", "computation"]
_COLORS: dict[Kind, str] = {"data": "#d3f9d8", "parameter": "#d0ebff", "computation": "#f1f3f5"}


@dataclass(frozen=True)
class Node:
    """A node: its name, such as "z1"; what it is, as text; its shape; its kind."""

    name: str
    formula: str
    shape: str
    kind: Kind


@dataclass(frozen=True)
class Graph:
    """Nodes, and edges (from, to) by name, in the order of the computation."""

    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...]

    def dot(self) -> str:
        """The graph in Graphviz's language."""
        lines = ["digraph network {", "  rankdir=LR;", '  node [shape=ellipse, style=filled, fontname="sans-serif"];']
        for node in self.nodes:
            label = f"{node.formula}\\n{node.shape}".replace('"', '\\"')
            lines.append(f'  "{node.name}" [label="{label}", fillcolor="{_COLORS[node.kind]}"];')
        lines += [f'  "{start}" -> "{end}";' for start, end in self.edges]
        return "\n".join([*lines, "}"])

    def svg(self) -> str:
        """A drawing: the main chain from left to right, the parameters and the target below what they enter."""
        width, gap, height = 168, 36, 52
        chain = [node for node in self.nodes if node.kind == "computation" or node.name == "x"]
        place = {node.name: (20 + k * (width + gap), 24) for k, node in enumerate(chain)}
        below: dict[str, int] = {}
        for start, end in self.edges:
            if start not in place:
                below[end] = below.get(end, 0) + 1
                place[start] = (place[end][0], 24 + below[end] * (height + gap))
        total_width = 40 + len(chain) * (width + gap) - gap
        total_height = 48 + height + max(below.values(), default=0) * (height + gap)
        shapes = []
        for start, end in self.edges:
            (x1, y1), (x2, y2) = place[start], place[end]
            if y1 == y2:
                line = (x1 + width, y1 + height // 2, x2 - 2, y2 + height // 2)
            else:
                offset = width // 2 + (y1 - y2) // (height + gap) * 14 - 21
                line = (x1 + offset, y1, x2 + offset, y2 + height + 2)
            shapes.append('<line x1="{}" y1="{}" x2="{}" y2="{}" class="edge" marker-end="url(#tip)"/>'.format(*line))
        for node in self.nodes:
            x, y = place[node.name]
            shapes.append(
                f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="12" fill="{_COLORS[node.kind]}"/>'
                f'<text x="{x + width / 2}" y="{y + 22}">{html.escape(node.formula)}</text>'
                f'<text x="{x + width / 2}" y="{y + 41}" class="shape">{html.escape(node.shape)}</text>'
            )
        style = (
            "text{font:14px sans-serif;text-anchor:middle;fill:#1f2933}.shape{font-size:11px;fill:#52606d}"
            "rect{stroke:#9aa5b1}.edge{stroke:#52606d;stroke-width:1.4}"
        )
        tip = (
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
            'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#52606d"/></marker></defs>'
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total_width} {total_height}" '
            f'width="{total_width}" height="{total_height}" role="img" aria-label="computation graph">'
            f"<style>{style}</style>{tip}{''.join(shapes)}</svg>"
        )


def computation_graph(architecture: Architecture, loss: Loss) -> Graph:
    """The graph of a forward pass and its loss; a loss that is one of the logits (003 (17), (18)) starts from z."""
    nodes = [Node("x", "x", f"(N, {architecture.inputs})", "data")]
    edges: list[tuple[str, str]] = []
    before, shown = "x", "x"
    for number, layer in enumerate(architecture.layers, 1):
        z, a = f"z{number}", f"a{number}"
        shape = f"(N, {layer.outputs})"
        parameters = [(name, s) for name, s in (("W", layer.W_shape), ("b", layer.b_shape)) if s is not None]
        for name, size in parameters:
            nodes.append(Node(f"{name}{number}", f"{name}^{number}", " × ".join(map(str, size)), "parameter"))
        if layer.W_shape is None:
            formula = f"{shown} ⊙ mask"
        else:
            formula = f"{shown} ⊙ W^{number}" if len(layer.W_shape) == 1 else f"{shown} W^{number}ᵀ"
        formula += f" + b^{number}" if layer.b_shape else ""
        nodes.append(Node(z, f"z^{number} = {formula}", shape, "computation"))
        edges += [(before, z), *((f"{name}{number}", z) for name, _ in parameters)]
        before, shown = z, f"z^{number}"
        if layer.g.name != "identity":
            nodes.append(Node(a, f"a^{number} = {layer.g}(z^{number})", shape, "computation"))
            edges.append((z, a))
            before, shown = a, f"a^{number}"
    L = len(architecture.layers)
    pair = on_logits(architecture.output_activation, loss)
    start = f"z{L}" if pair is not None and pair.name != loss.name else before
    nodes.append(Node("y", "y", f"(N, {architecture.outputs})", "data"))
    nodes.append(Node("L", f"L = {(pair or loss).name}", "(N,)", "computation"))
    edges += [(start, "L"), ("y", "L")]
    return Graph(tuple(nodes), tuple(edges))
