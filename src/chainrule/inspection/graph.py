"""The computation graph of a network and its loss (003 §3, figures 1 and 2) as data, with DOT and SVG.

Each node is one computation or one given value; data and parameters are sources. The main chain runs from x to L.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Literal

from ..core.architecture import Architecture
from ..formulas.activations import identity
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
            formula = node.formula.replace("\\", "\\\\").replace('"', '\\"')
            lines.append(f'  "{node.name}" [label="{formula}\\n{node.shape}", fillcolor="{_COLORS[node.kind]}"];')
        lines += [f'  "{start}" -> "{end}";' for start, end in self.edges]
        return "\n".join([*lines, "}"])

    def svg(self) -> str:
        """A drawing: the main chain from left to right, parameters and target below what they enter."""
        gap, height, top = 34, 52, 40
        boxes: dict[str, tuple[int, int, int]] = {}  # x, y, width
        x = 16
        room = {node.name: 16 + max(8 * len(node.formula), 7 * len(node.shape)) for node in self.nodes}
        for node in self.nodes:
            if node.kind == "computation" or node.name == "x":
                below = [room[start] + 8 for start, end in self.edges if end == node.name and start not in boxes]
                width = max(96, 8 + room[node.name], sum(below) - 8)
                boxes[node.name] = (x, top, width)
                x += width + gap
        for end in list(boxes):
            sources = [start for start, into in self.edges if into == end and start not in boxes]
            for k, start in enumerate(sources):
                left, _, width = boxes[end]
                part = (width - 8 * (len(sources) - 1)) // len(sources)
                boxes[start] = (left + k * (part + 8), top + height + gap, part)
        drawn = [_arrow(boxes[start], boxes[end], height, gap) for start, end in self.edges]
        for node in self.nodes:
            left, y, width = boxes[node.name]
            middle = left + width / 2
            drawn.append(
                f'<rect x="{left}" y="{y}" width="{width}" height="{height}" rx="12" fill="{_COLORS[node.kind]}"/>'
                f'<text x="{middle}" y="{y + 22}">{html.escape(node.formula)}</text>'
                f'<text x="{middle}" y="{y + 41}" class="shape">{html.escape(node.shape)}</text>'
            )
        size = (x - gap + 16, top + 2 * height + gap + 16)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" width="{size[0]}" '
            f'height="{size[1]}" role="img" aria-label="computation graph">{_STYLE}{"".join(drawn)}</svg>'
        )


_STYLE = (
    "<style>text{font:14px sans-serif;text-anchor:middle;fill:#1f2933}.shape{font-size:11px;fill:#52606d}"
    "rect{stroke:#9aa5b1}path.edge{stroke:#52606d;stroke-width:1.4;fill:none}</style>"
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0,0 L8,4 L0,8 z" fill="#52606d"/></marker></defs>'
)


def _arrow(start: tuple[int, int, int], end: tuple[int, int, int], height: int, gap: int) -> str:
    """An edge: straight between neighbours and upwards, an arc over the nodes that it passes by."""
    (x1, y1, w1), (x2, y2, w2) = start, end
    if y1 > y2:
        middle = x1 + w1 / 2
        line = f"M{middle},{y1} L{middle},{y2 + height + 2}"
    elif x2 - (x1 + w1) <= gap:
        line = f"M{x1 + w1},{y1 + height / 2} L{x2 - 2},{y2 + height / 2}"
    else:
        line = f"M{x1 + w1 / 2},{y1} C{x1 + w1 / 2},{y1 - 40} {x2 + w2 / 2},{y2 - 40} {x2 + w2 / 2},{y2 - 2}"
    return f'<path class="edge" d="{line}" marker-end="url(#tip)"/>'


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
        c = getattr(layer, "factor", 1.0)
        formula = (f"{c:.4g} " if c != 1 else "") + formula + (f" + b^{number}" if layer.b_shape else "")
        nodes.append(Node(z, f"z^{number} = {formula}", shape, "computation"))
        edges += [(before, z), *((f"{name}{number}", z) for name, _ in parameters)]
        before, shown = z, f"z^{number}"
        if not layer.g.same(identity):
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
