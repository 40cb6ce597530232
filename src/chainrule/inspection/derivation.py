"""The derivation of one number: the chain rule, symbols first, then with this network's numbers, factor by factor.

A derivation is data: steps, each with its relations as expressions. Text, LaTeX and HTML are renderings of it.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..arrays import Array
from ..errors import ParameterError
from ..formulas.activations import identity
from ..formulas.losses import on_logits
from .expression import (
    TRANSPOSE,
    Expression,
    Function,
    Number,
    Over,
    Power,
    Product,
    Relation,
    Row,
    Sum,
    Symbol,
    Words,
    equals,
    latex,
    mathml,
    parse,
    partial,
    text,
)
from .jacobians import Layout, check_passable
from .trace import LayerTrace, Trace

What = Literal["W", "b", "x", "cost", "output"]
Form = Literal["row", "column"]
SHOWN = 6  # terms of a sum, or elements of a vector, that are written out


@dataclass(frozen=True)
class Step:
    """One step: what it finds, and the relations that show it."""

    title: str
    relations: tuple[Expression, ...]
    source: str = ""


@dataclass(frozen=True, repr=False)
class Derivation:
    """Steps that lead to one number.

    Attributes:
        title: what is derived. value: the number. steps: how.
    """

    title: str
    value: float
    steps: tuple[Step, ...]

    def text(self) -> str:
        """Plain text."""
        lines = [self.title, ""]
        for k, step in enumerate(self.steps, 1):
            lines.append(f"{k}. {step.title}" + (f"  [{step.source}]" if step.source else ""))
            lines += [f"     {text(relation)}" for relation in step.relations]
        return "\n".join(lines)

    def latex(self) -> str:
        """LaTeX: an enumeration of displayed formulas, which needs amsmath."""
        lines = [r"\begin{enumerate}"]
        for step in self.steps:
            lines.append(rf"\item {latex(Words(step.title))[6:-1]}")
            lines += [rf"\[ {latex(relation)} \]" for relation in step.relations]
        return "\n".join([*lines, r"\end{enumerate}"])

    def html(self) -> str:
        """An HTML fragment with MathML; it loads nothing."""
        items = []
        for step in self.steps:
            shown = "".join(f"<div><math display='block'>{mathml(r)}</math></div>" for r in step.relations)
            source = f" <small>{html.escape(step.source)}</small>" if step.source else ""
            items.append(f"<li><p>{html.escape(step.title)}{source}</p>{shown}</li>")
        return f"<section class='derivation'><h3>{html.escape(self.title)}</h3><ol>{''.join(items)}</ol></section>"

    def _repr_html_(self) -> str:
        return self.html()

    def __repr__(self) -> str:
        return self.text()


@dataclass(frozen=True)
class _Writer:
    """How numbers and vectors are written in one derivation."""

    digits: int
    form: Form

    def number(self, value: Any) -> Number:
        return Number(float(value), self.digits)

    def vector(self, values: Array) -> Row:
        items: list[Expression] = [self.number(v) for v in values[:SHOWN]]
        if len(values) > SHOWN:
            items = [*items[: SHOWN - 1], Symbol("…"), self.number(values[-1])]
        return Row(tuple(items), column=self.form == "column")

    def sum(self, terms: Sequence[Expression]) -> Expression:
        shown = list(terms[:SHOWN])
        if len(terms) > SHOWN:
            shown = [*shown[: SHOWN - 1], Symbol("…"), terms[-1]]
        return Sum(tuple(shown)) if len(shown) > 1 else shown[0]


def explain(
    t: Trace,
    what: What,
    layer: int | None = None,
    index: tuple[int, ...] | int | None = None,
    *,
    sample: int | None = None,
    form: Form = "row",
    layout: Layout = "denominator",
    digits: int = 6,
) -> Derivation:
    """The derivation of ∂C/∂W_pq ("W", index (p, q)), ∂C/∂b_p ("b", p), ∂C/∂x_iq ("x", q, for one sample), of
    the cost itself ("cost"), or of the prediction alone ("output", the forward pass; index: the unit, 0 by default).

    The factors are those of one sample, by default the one with the largest share; the sum over the samples follows.
    `form` writes vectors as rows (z = a Wᵀ + b) or columns (z = W a + b); in `layout` "denominator" ∂C/∂W is shaped
    like W, in "numerator" it is the transpose. Units and samples count from 0, layers from 1.

    Raises:
        ParameterError: an index outside its layer, a layer that does not exist or lacks what is asked, or a step
            function on the way.
    """
    if what not in ("W", "b", "x", "cost", "output"):
        raise ParameterError(f"explain: expected 'W', 'b', 'x', 'cost' or 'output', got {what!r}.")
    for name, value, known in (("form", form, ("row", "column")), ("layout", layout, ("numerator", "denominator"))):
        if value not in known:
            raise ParameterError(f"explain: expected {name} {known[0]!r} or {known[1]!r}, got {value!r}.")
    if isinstance(digits, bool) or not isinstance(digits, int | np.integer) or not 1 <= digits <= 17:
        raise ParameterError(f"explain: expected digits from 1 to 17, got {digits!r}.")
    if sample is not None:
        _check_index("sample", sample, len(t.X))
    if what in ("cost", "output", "x") and layer is not None:
        raise ParameterError(
            f"explain: expected no layer for {what!r}, which belongs to the whole network, got {layer!r}."
        )
    if what == "cost" and index is not None:
        raise ParameterError(f"explain: expected no index for 'cost', got {index!r}.")
    w = _Writer(digits, form)
    if what == "cost":
        return Derivation("The cost C", t.cost, (*_forward(t, w, sample or 0), *_cost(t, w, sample or 0)))

    if what == "output":
        unit = 0 if index is None else index
        _check_index("output", unit, t.architecture.outputs)
        y_hat = float(t.y_hat[sample or 0, unit])
        return Derivation(f"The output ŷ_{unit} of sample {sample or 0}", y_hat, tuple(_forward(t, w, sample or 0)))

    number = 1 if what == "x" else layer
    if number is None:
        raise ParameterError(f"explain: expected the layer of {what}, got none. Pass layer=1, for instance.")
    here: LayerTrace = t[t.architecture.check_layer("explain", number)]
    place = () if index is None else tuple(index) if isinstance(index, tuple | list | np.ndarray) else (index,)
    shares, symbol = _shares(t, here, what, place)
    check_passable(t.architecture, number, len(t.layers))
    i = int(np.argmax(np.abs(shares))) if sample is None else sample
    if what == "x" and sample is None:
        i = 0
    steps = [*_forward(t, w, i), *_cost(t, w, i), *_deltas(t, w, i, number)]
    if what != "x" and number < len(t.layers) and not here.layer.g.rowwise:
        steps.append(_unit(t, w, i, number, place[0]))
    if what == "x":
        steps.append(_input(t, w, i, place[0]))
        return Derivation(f"∂C/∂x_{place[0]} for sample {i}", float(here.dC_da_prev[i, place[0]]), tuple(steps))
    steps.append(_one_sample(here, w, i, what, place, symbol, float(shares[i])))
    total, whole = _all_samples(t, here, w, what, place, symbol, shares, layout)
    steps.append(whole)
    return Derivation(f"∂C/∂{text(symbol)}", total, tuple(steps))


def _check_index(name: str, value: Any, size: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < size:
        raise ParameterError(
            f"explain: expected {'an' if name == 'output' else 'a'} {name} from 0 to {size - 1}, got {value!r}."
        )


def _shares(t: Trace, here: LayerTrace, what: What, place: tuple[int, ...]) -> tuple[Array, Symbol]:
    """Each sample's share of the derivative (N,), and the symbol of what it is taken by."""
    if what == "x":
        if len(place) != 1:
            raise ParameterError(f"explain: expected one index for x, its column, got {place!r}.")
        _check_index("column of X", place[0], t.X.shape[1])
        return here.dC_da_prev[:, place[0]], Symbol("x", below=str(place[0]))
    parameter = here.W if what == "W" else here.b
    if parameter is None:
        raise ParameterError(f"explain: expected a layer with {what}, got {t.architecture.describe(here.number)}.")
    if len(place) != parameter.ndim:
        raise ParameterError(f"explain: expected {parameter.ndim} indices for {what}, got {place!r}.")
    for axis, (value, size) in enumerate(zip(place, parameter.shape, strict=True)):
        _check_index(f"{('row', 'column')[axis]} of {what}" if parameter.ndim > 1 else f"unit of {what}", value, size)
    p, q = place[0], place[-1]
    part = here.layer.per_sample(here.dC_dz[:, p : p + 1], here.a_prev[:, q : q + 1] if what == "W" else here.a_prev)
    values = part.W if what == "W" else part.b
    assert values is not None
    return values.reshape(len(t.X)), Symbol(what, str(here.number), ",".join(map(str, place)))


# -- steps ----------------------------------------------------------------------------------------------------------


def _formula(formula: str) -> Expression:
    """A record's formula; one that is in words is shown as they are."""
    try:
        return parse(formula)
    except ParameterError:
        return Words(formula)


def _of(name: str, number: int) -> Symbol:
    return Symbol("x") if (name, number) == ("a", 0) else Symbol(name, str(number))


def _forward(t: Trace, w: _Writer, i: int) -> list[Step]:
    """z and a of every layer for one sample."""
    steps = []
    for here in t.layers:
        l, g = here.number, here.layer.g
        W, b, a_prev = Symbol("W", str(l)), Symbol("b", str(l)), _of("a", l - 1)
        factor = getattr(here.layer, "factor", 1.0)
        if here.W is None:
            mapped: Expression = a_prev if here.mask is None else Product((a_prev, Symbol("m", str(l))), "⊙")
        elif here.W.ndim == 1:
            mapped = Product((a_prev, W), "⊙")
        else:
            order = (a_prev, Power(W, TRANSPOSE)) if w.form == "row" else (W, a_prev)
            mapped = Product(((w.number(factor), *order) if factor != 1 else order), "")
        terms = (mapped, b) if here.b is not None else (mapped,)
        z, a = _of("z", l), _of("a", l)
        relations: list[Expression] = [equals(z, Sum(terms) if len(terms) > 1 else mapped, w.vector(here.z[i]))]
        if not g.same(identity):
            relations.append(equals(a, Function(g.name, (z,)), w.vector(here.a[i])))
        title = f"Forward, {here.layer} (layer {l}), sample {i}"
        if l == 1:
            relations.insert(0, equals(Symbol("x"), w.vector(t.X[i])))
        if g.formula and g.name not in ("identity", "tanh", "exp"):
            relations.append(equals(Function(g.name, (Symbol("z"),)), _formula(g.formula)))
        steps.append(Step(title, tuple(relations), g.source if not g.same(identity) else ""))
    return steps


def _cost(t: Trace, w: _Writer, i: int) -> list[Step]:
    """The loss of one sample, the cost, and ∇φ."""
    cost, L = t.cost_record, Symbol("L", below=str(i))
    loss = cost.loss
    per_output = [w.number(v) for v in t.loss_per_output[i]]
    averaged = cost.average_outputs and len(per_output) > 1
    added = w.sum(per_output)
    if averaged:
        added = Product((w.number(1 / len(per_output)), Sum((added,)) if len(per_output) > 1 else added))
    relations: list[Expression] = [
        equals(Symbol("y", hat=True), w.vector(t.y_hat[i])),
        equals(Symbol("y"), w.vector(cost.smooth(t.y)[i])),
    ]
    if loss.formula:
        relations.append(equals(Symbol("ℒ"), _formula(loss.formula)))
    relations.append(equals(L, added, w.number(t.loss[i])))
    first, last = Symbol("L", below="0"), Symbol("L", below=str(len(t.loss) - 1))
    losses = {1: (first,), 2: (first, last)}.get(len(t.loss), (first, Symbol("…"), last))
    aggregate = Function(f"φ_{cost.aggregate.name}", losses)
    terms: list[Expression] = [w.number(t.cost - t.penalty)]
    total: list[Expression] = [aggregate]
    if t.penalty:
        total.append(Function("R", (Symbol("θ"),)))
        terms.append(w.number(t.penalty))
    whole = equals(Symbol("C"), w.sum(total), *([w.sum(terms)] if t.penalty else []), w.number(t.cost))
    seed = equals(partial(Symbol("C"), L), Symbol("∇φ", below=str(i)), w.number(t.dC_dL[i]))
    return [
        Step(f"Loss {loss} of sample {i}", tuple(relations), loss.source),
        Step(
            f"Cost, φ = {cost.aggregate} of {len(t.loss)} sample{'s' * (len(t.loss) > 1)}",
            (whole, seed),
            cost.aggregate.source,
        ),
    ]


def _deltas(t: Trace, w: _Writer, i: int, down_to: int) -> list[Step]:
    """δ from the output layer down to a layer, for one sample."""
    steps = []
    for here in reversed(t.layers[down_to - 1 :]):
        l, g = here.number, here.layer.g
        delta, C = Symbol("δ", str(l)), Symbol("C")
        relations: list[Expression] = []
        if l == len(t.layers):
            cost = t.cost_record
            pair = on_logits(g, cost.loss)
            outputs = t.y.shape[1]
            mean = (w.number(1 / outputs),) if cost.average_outputs and outputs > 1 else ()
            arriving = (Symbol("∇φ", below=str(i)), *mean)
            if pair is not None and not g.same(identity):
                rest = pair.derivative(here.z[i : i + 1], cost.smooth(t.y)[i : i + 1])[0]
                numbers = (w.number(t.dC_dL[i]), *mean, w.vector(rest))
                relations.append(
                    equals(Product((*arriving, partial(Symbol("ℒ"), Symbol("z", str(l))))), Product(numbers))
                )
                relations.append(equals(delta, partial(C, Symbol("z", str(l))), w.vector(here.dC_dz[i])))
                steps.append(
                    Step(f"δ of the output layer: {g} with {cost.loss}, a fused pair", tuple(relations), pair.source)
                )
                continue
            product = Product((*arriving, partial(Symbol("ℒ"), Symbol("y", hat=True))))
            relations.append(equals(partial(C, Symbol("y", hat=True)), product, w.vector(here.dC_da[i])))
            title = "δ of the output layer"
        else:
            above: LayerTrace = t[l + 1]
            relations.append(_handed_down(t, w, above, i, here.dC_da[i], Symbol("a", str(l))))
            title = f"δ of layer {l}"
        arriving_symbol = partial(C, _of("a", l))
        if g.rowwise:
            gamma = Symbol("γ", str(l))
            order = (arriving_symbol, gamma) if w.form == "row" else (Power(gamma, TRANSPOSE), arriving_symbol)
            relations.append(equals(delta, Product(order, ""), w.vector(here.dC_dz[i])))
        elif g.same(identity):
            relations.append(equals(delta, arriving_symbol, w.vector(here.dC_dz[i])))
        else:
            z = Symbol("z", str(l))
            relations.append(equals(Symbol("γ", str(l)), Function(g.name, (z,), primes=1), w.vector(here.da_dz[i])))
            relations.append(
                equals(
                    delta,
                    Product((arriving_symbol, Symbol("γ", str(l))), "⊙"),
                    Product((w.vector(here.dC_da[i]), w.vector(here.da_dz[i])), "⊙"),
                    w.vector(here.dC_dz[i]),
                )
            )
        steps.append(Step(title, tuple(relations), g.source if not g.same(identity) else ""))
    return steps


def _handed_down(t: Trace, w: _Writer, above: LayerTrace, i: int, value: Array, by: Symbol) -> Relation:
    """∂C/∂a_prev = δ W, or Wᵀ δ in columns."""
    l = above.number
    delta, W = Symbol("δ", str(l)), Symbol("W", str(l))
    factor = getattr(above.layer, "factor", 1.0)
    if above.W is None:
        product: Expression = delta if above.mask is None else Product((delta, Symbol("m", str(l))), "⊙")
    elif above.W.ndim == 1:
        product = Product((delta, W), "⊙")
    else:
        order = (delta, W) if w.form == "row" else (Power(W, TRANSPOSE), delta)
        product = Product(((w.number(factor), *order) if factor != 1 else order), "")
    return equals(partial(Symbol("C"), by), product, w.vector(value))


def _unit(t: Trace, w: _Writer, i: int, l: int, p: int) -> Step:
    """δ of one unit, the sum over the units above written out."""
    here, above = t[l], t[l + 1]
    C, a, delta = Symbol("C"), Symbol("a", str(l), str(p)), Symbol("δ", str(l), str(p))
    arriving = w.number(here.dC_da[i, p])
    relations: list[Expression] = []
    if above.W is not None and above.W.ndim == 2:
        factor = getattr(above.layer, "factor", 1.0)
        symbols = (Symbol("δ", str(l + 1), "k"), Symbol("W", str(l + 1), f"k,{p}"))
        terms = [Product((w.number(d), w.number(v))) for d, v in zip(above.dC_dz[i], above.W[:, p], strict=True)]
        both: tuple[Expression, ...] = (Over("k", Product(symbols)), w.sum(terms))
        if factor != 1:
            both = tuple(Product((w.number(factor), Sum((side,)))) for side in both)
        relations.append(equals(partial(C, a), *both, arriving))
    gamma = Symbol("γ", str(l), str(p))
    numbers = Product((arriving, w.number(here.da_dz[i, p])))
    relations.append(equals(delta, Product((partial(C, a), gamma)), numbers, w.number(here.dC_dz[i, p])))
    return Step(f"δ of unit {p} of layer {l}, written out", tuple(relations), "004 (18), (21)")


def _input(t: Trace, w: _Writer, i: int, q: int) -> Step:
    first: LayerTrace = t[1]
    whole = _handed_down(t, w, first, i, first.dC_da_prev[i], Symbol("x"))
    one = equals(partial(Symbol("C"), Symbol("x", below=str(q))), w.number(first.dC_da_prev[i, q]))
    return Step(f"The derivative by the input, sample {i}", (whole, one))


def _one_sample(
    here: LayerTrace, w: _Writer, i: int, what: What, place: tuple[int, ...], symbol: Symbol, share: float
) -> Step:
    l, p = here.number, place[0]
    delta = Symbol("δ", str(l), str(p))
    C = Symbol("C", below=str(i))
    if what == "b":
        relation = equals(partial(C, symbol), delta, w.number(share))
    else:
        q = place[-1]
        a_prev = Symbol("x", below=str(q)) if l == 1 else Symbol("a", str(l - 1), str(q))
        factor = getattr(here.layer, "factor", 1.0)
        symbols, numbers = (delta, a_prev), (w.number(here.dC_dz[i, p]), w.number(here.a_prev[i, q]))
        if factor != 1:
            symbols, numbers = (w.number(factor), *symbols), (w.number(factor), *numbers)  # type: ignore[assignment]
        relation = equals(partial(C, symbol), Product(symbols), Product(numbers), w.number(share))
    return Step(f"The share of sample {i}", (relation,), "002 (7.10); 004 (16)")


def _all_samples(
    t: Trace,
    here: LayerTrace,
    w: _Writer,
    what: What,
    place: tuple[int, ...],
    symbol: Symbol,
    shares: Array,
    layout: Layout,
) -> tuple[float, Step]:
    at_W, at_b = t.architecture.places[here.number - 1]
    at = at_W if what == "W" else at_b
    parameter = here.W if what == "W" else here.b
    assert at is not None and parameter is not None
    total = float(t.dC_dtheta[at].reshape(parameter.shape)[place])
    C = Symbol("C")
    delta, a_prev = Symbol("δ", str(here.number)), _of("a", here.number - 1)
    relations: list[Expression] = []
    if what == "W" and len(place) == 2:
        first, second = (delta, a_prev) if layout == "denominator" else (a_prev, delta)
        shaped = (Power(first, TRANSPOSE), second) if w.form == "row" else (first, Power(second, TRANSPOSE))
        factor = getattr(here.layer, "factor", 1.0)
        by_W: list[Expression] = [Over("i", Product((w.number(factor), *shaped) if factor != 1 else shaped, ""))]
        if t.penalty:
            by_W.append(partial(Symbol("R"), Symbol("W", str(here.number))))
        relations.append(equals(partial(C, Symbol("W", str(here.number))), w.sum(by_W)))
    slope = np.zeros_like(t.theta)
    t.cost_record.penalty.add_gradient(t.architecture, t.theta, slope)
    penalty = float(slope[at].reshape(parameter.shape)[place])
    terms = [w.number(v) for v in shares]
    parts: list[Expression] = [Over("i", partial(Symbol("C", below="i"), symbol))]
    if t.penalty:
        parts.append(partial(Symbol("R"), symbol))
        relations.append(equals(partial(Symbol("R"), symbol), w.number(penalty)))
    relations.append(
        equals(
            partial(C, symbol),
            w.sum(parts),
            w.sum([*terms, *([w.number(penalty)] if t.penalty else [])]),
            w.number(total),
        )
    )
    return total, Step(
        "The sum over the samples" + (" and the penalty" if t.penalty else ""), tuple(relations), "003 §3; 004 (17)"
    )
