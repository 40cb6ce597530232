"""Derivations: every number printed is read back, every relation evaluated, every rendering parsed.

A derivation's relations are evaluated twice. Their symbols stand for arrays of a trace (`Meaning`), so that all sides
of a relation must agree to rounding; and the digits shown stand for intervals, in which the sides must meet.
"""

import dataclasses
import itertools
import re
import zlib
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import sympy

import chainrule as cr
from chainrule.errors import ParameterError
from chainrule.formulas import activations, losses
from chainrule.inspection import expression
from chainrule.inspection.derivation import SHOWN, explain
from chainrule.inspection.expression import (
    Cases,
    Expression,
    Fraction,
    Function,
    Negative,
    Number,
    Over,
    Power,
    Product,
    Relation,
    Row,
    Sum,
    Symbol,
    latex,
    mathml,
    parse,
    text,
)
from grid import all_pairs, fits, targets

PENALTIES = {"none": None, "l2": 0.2, "elastic with biases": cr.Penalty(l1=0.02, l2=0.1, biases=True)}
FACTORS = {
    "loss": list(losses.CATALOGUE),
    "output": ["softmax", "sigmoid", "identity", "exp", "tanh"],
    "hidden": ["tanh", "relu", "softmax", "elu", "selu", "gelu", "square"],
    "layers": ["dense", "no bias", "ntk", "scale", "dropout"],
    "aggregate": ["mean", "sum", "tilted(2)", "cvar(0.3)", "max"],
    "penalty": list(PENALTIES),
    "what": ["W of the first", "W of the last", "W in between", "b", "x", "cost", "output"],
    "form": ["row", "column"],
    "layout": ["numerator", "denominator"],
    "digits": [3, 6, 17],
    "sizes": [(3, 2), (3, 3), (2, 1), (8, 7)],
    "average_outputs": [False, True],
    "label_smoothing": [0.0, 0.2],
    "weights": ["none", "with zeros"],
}


def allowed(row):
    """Whether the settings chosen so far can go together."""
    if row.get("layers") == "no bias" and row.get("what") == "b":
        return False
    if row.get("output") == "softmax" and row.get("sizes") == (2, 1):
        return False  # one unit: always 1, where a logarithm is infinite
    if "loss" not in row:
        return True
    loss = losses.CATALOGUE[row["loss"]]
    if "output" in row and not fits(row["output"], row["loss"]):
        return False
    if row.get("average_outputs") and loss.categorical:
        return False
    return not row.get("label_smoothing") or loss.targets in ("one_hot", "probability")


ROWS = list(all_pairs(FACTORS, allowed))


class Meaning:
    """What the symbols of a derivation stand for: the arrays of a trace, for one sample and one parameter."""

    def __init__(self, net, t, sample, form="row", layout="denominator"):
        self.net, self.t, self.i, self.form, self.layout = net, t, sample, form, layout
        self.index: dict[str, int] = {}

    def vector(self, values):
        return values[None, :] if self.form == "row" else values[:, None]

    def place(self, below):
        return tuple(self.index[part] if part in self.index else int(part) for part in below.split(","))

    def of(self, values, below):
        """One element, or all as a row or a column; the matrices W and γ as they are."""
        if below:
            return float(values[self.place(below)])
        return values if values.ndim == 2 else self.vector(values)

    def symbol(self, e):
        t, i = self.t, self.index.get("i", self.i)
        if e.base == "…":
            raise ElidedError
        if e.above:
            here = t[int(e.above)]
            arrays = {"z": here.z, "a": here.a, "γ": here.da_dz, "δ": here.dC_dz, "m": here.mask}
            return self.of({"W": here.W, "b": here.b}[e.base] if e.base in "Wb" else arrays[e.base][i], e.below)
        if e.base in ("L", "∇φ"):
            return float({"L": t.loss, "∇φ": t.dC_dL}[e.base][self.place(e.below)[0]])
        if e.base == "C":
            return t.cost
        return self.of({"x": t.X, "y": t.y_hat if e.hat else smooth(t)}[e.base][i], e.below)

    def derivative(self, top, by):
        t, last, i = self.t, self.t.layers[-1], self.index.get("i", self.i)
        if top.base == "ℒ":
            y = smooth(t)
            pair = losses.on_logits(last.layer.g, t.cost_record.loss)
            slope = pair.derivative(last.z, y) if by.base == "z" else t.cost_record.loss.derivative(t.y_hat, y)
            return self.vector(slope[i])
        if by.base == "L":
            return float(t.dC_dL[self.place(by.below)[0]])
        if by.base in "Wb" and by.above:
            number = int(by.above)
            penalty = getattr(penalty_gradient(self.net, t), by.base)[number]
            if top.base == "R":
                found = penalty
            elif top.below:  # one sample's part
                found = getattr(t[number].per_sample(), by.base)[self.place(top.below)[0]]
            else:
                found = penalty + getattr(t[number], f"dC_d{by.base}")
            if by.below:
                return float(found[self.place(by.below)])
            return found.T if self.layout == "numerator" else found
        assert top == Symbol("C")
        if by.base == "x":
            return self.of(t[1].dC_da_prev[i], by.below)
        if by.hat:
            return self.of(last.dC_da[i], by.below)
        return self.of(getattr(t[int(by.above)], f"dC_d{by.base}")[i], by.below)

    def function(self, e):
        if e.name.startswith("φ"):
            return t_phi(self.t)
        if e.name == "R":
            return self.t.penalty
        number = int(e.arguments[0].above)
        here = self.t[number]
        z, a = here.z[self.i][None], here.a[self.i][None]
        if e.primes:
            assert e.primes == 1
            return self.vector(here.layer.g.derivative(z, a)[0])
        return self.vector(here.layer.g.value(z)[0])


class ElidedError(Exception):
    """A side with "…", which has no value by itself."""


def t_phi(t):
    value, _ = t.cost_record.aggregate.value_and_gradient(t.loss, t.s, float(t.s.mean()))
    return float(value)


def smooth(t):
    """Targets with label smoothing, written out."""
    epsilon = t.cost_record.label_smoothing
    return (1 - epsilon) * t.y + epsilon / (t.y.shape[1] if t.cost_record.loss.categorical else 2)


def penalty_gradient(net, t):
    """∂R/∂W and ∂R/∂b by layer."""
    R = t.cost_record.penalty
    parts = [
        [None if p is None else on * (R.l1 * np.sign(p) + R.l2 * p) for p, on in ((here.W, 1), (here.b, R.biases))]
        for here in t.layers
    ]

    return SimpleNamespace(**{name: {n: pair[k] for n, pair in enumerate(parts, 1)} for k, name in enumerate("Wb")})


def value(e: Expression, m: Meaning):
    """An expression's value: a number, or a two-dimensional array. Raises ElidedError."""
    match e:
        case Number(v):
            return v
        case Symbol():
            return m.symbol(e)
        case Row(items, column):
            found = np.array([value(item, m) for item in items])
            return found[:, None] if column else found[None, :]
        case Sum(terms):
            return sum(value(term, m) for term in terms)
        case Negative(body):
            return -value(body, m)
        case Product(factors, operator):
            result = value(factors[0], m)
            for factor in factors[1:]:
                other = value(factor, m)
                matrices = operator == "" and np.ndim(result) == 2 and np.ndim(other) == 2
                assert operator != "⊙" or np.shape(result) == np.shape(other)
                assert operator != "·" or np.ndim(result) == 0 or np.ndim(other) == 0
                result = result @ other if matrices else result * other
            return result
        case Fraction(top, bottom, True):
            return m.derivative(top, bottom)
        case Fraction(top, bottom):
            return value(top, m) / value(bottom, m)
        case Power(base, Symbol("T")):
            return value(base, m).T
        case Power(base, exponent):
            return value(base, m) ** value(exponent, m)
        case Function():
            return m.function(e)
        case Over():
            return sum(expanded(e, m))
    raise AssertionError(e)


def expanded(e: Over, m: Meaning) -> list:
    """The terms of Σ over samples i, or over the units k of the layer above."""
    symbols = e.body.factors[0] if e.index == "k" else None
    count = len(m.t.X) if e.index == "i" else m.t[int(symbols.above)].layer.outputs
    found = []
    for number in range(count):
        m.index[e.index] = number
        found.append(value(e.body, m))
    del m.index[e.index]
    return found


def interval(e: Expression):
    """The numbers that an expression may be, from the digits that are shown; None if it holds more than numbers."""
    match e:
        case Number(v, digits):
            shown = float(f"{v:.{digits}g}")
            size = np.floor(np.log10(abs(shown))) if shown else 0
            half = 0.5001 * 10.0 ** (size - digits + 1) if shown else 0.0
            return np.array([shown - half, shown + half])
        case Row(items):
            parts = [interval(item) for item in items]
            return None if any(part is None for part in parts) else np.stack(parts, axis=-1)
        case Sum(terms):
            parts = [interval(term) for term in terms]
            return None if any(part is None for part in parts) else sum(parts)
        case Negative(body):
            part = interval(body)
            return None if part is None else -part[::-1]
        case Product(factors):
            parts = [interval(factor) for factor in factors]
            if any(part is None for part in parts):
                return None
            result = parts[0]
            for part in parts[1:]:
                corners = np.stack([a * b for a in result for b in part])
                result = np.stack([corners.min(axis=0), corners.max(axis=0)])
            return result
    return None


def numbers(e: Expression) -> list[Number]:
    """The numbers of an expression in the order in which they are written."""
    if isinstance(e, Number):
        return [e]
    if isinstance(e, str | bool | int | None):
        return []
    if isinstance(e, tuple):
        return [found for part in e for found in numbers(part)]
    return [found for field in dataclasses.fields(e) for found in numbers(getattr(e, field.name))]


def close(a, b, scale=0.0):
    a, b = np.asarray(a, float), np.asarray(b, float)
    assert a.shape == b.shape or not (a.ndim and b.ndim), (a, b)
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12 * max(scale, np.abs(b).max(initial=0.0)) + 1e-300)


def elided(values):
    """What is written of a long vector."""
    return values if len(values) <= SHOWN else np.r_[values[: SHOWN - 1], values[-1]]


def written(e: Expression, m: Meaning) -> list | None:
    """The values that stand one by one in a sum or vector: of Σ its terms, without what "…" leaves out."""
    if isinstance(e, Row):
        return [item.value for item in e.items if isinstance(item, Number)]
    if isinstance(e, Sum):
        found = []
        for term in e.terms:
            if isinstance(term, Over):
                found += expanded(term, m)
            elif term != Symbol("…"):
                found.append(value(term, m))
        return found
    return expanded(e, m) if isinstance(e, Over) else None


def single(e: Expression) -> Expression:
    """A sum of one term is that term."""
    return single(e.terms[0]) if isinstance(e, Sum) and len(e.terms) == 1 else e


def check_written(a: list, b: list, other: Sum, scale: float) -> None:
    """Terms agree one by one; where "…" leaves some out, the first and the last ones do."""
    if len(a) != len(b):
        assert len(b) < len(a) and Symbol("…") in other.terms
        a = [*a[: len(b) - 1], a[-1]]
    close(a, b, scale)


def check_relation(relation: Relation, m: Meaning, scale: float) -> None:
    """All sides are equal: by what the symbols stand for, term by term, and by the digits shown."""
    known, parts = [], []
    for side in relation.sides:
        try:
            known.append((value(side, m), side))
        except ElidedError:
            if isinstance(side, Row):  # what is shown of it, against the whole of another side
                whole = np.ravel(known[-1][0])
                close(written(side, m), elided(whole), scale)
        if isinstance(side, Sum | Over):
            parts.append((written(side, m), side))
    for (a, _), (b, _) in itertools.pairwise(known):
        close(a, b, scale)
    for (a, _), (b, other) in itertools.pairwise(parts):
        check_written(a, b, other, scale)
    for a, b in itertools.pairwise([side for side in relation.sides if isinstance(side, Product)]):
        if len(a.factors) == len(b.factors):
            for one, two in zip(a.factors, b.factors, strict=True):
                try:
                    close(value(one, m), value(two, m), scale)
                except ElidedError:
                    one, two = single(one), single(two)
                    if isinstance(two, Row):
                        close(written(two, m), elided(np.ravel(value(one, m))), scale)
                    else:
                        check_written(written(one, m), written(two, m), two, scale)
    shown = [found for found in map(interval, relation.sides) if found is not None]
    for a, b in itertools.pairwise(shown):
        slack = 1e-14 * (np.abs(a).max() + np.abs(b).max())
        assert np.all(np.maximum(a[0], b[0]) <= np.minimum(a[1], b[1]) + slack), text(relation)


def of_formula(relation: Relation) -> bool:
    """Whether a relation is the formula of a record, f(z) = … or ℒ = …"""
    left = relation.sides[0]
    return left == Symbol("ℒ") or (isinstance(left, Function) and left.arguments == (Symbol("z"),))


# -- numbers read back ----------------------------------------------------------------------------------------------

NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"


def read_text(line: str) -> list[str]:
    """The numbers in a line of plain text; indices belong to symbols."""
    return re.findall(NUMBER, re.sub(r"[\^_](?:[0-9A-Za-z]+,?)+", "", line))


def read_latex(line: str) -> list[str]:
    """The numbers in LaTeX, powers of ten among them."""
    line = re.sub(rf"({NUMBER}) \\cdot 10\^\{{(-?\d+)\}}", r"\1e\2", line)
    return re.findall(NUMBER, re.sub(r"[\^_]\{[^{}]*\}", "", line))


def read_mathml(fragment: str) -> list[str]:
    return [found.text for found in ElementTree.fromstring(fragment).iter("mn")]


def check_numbers(relation: Relation) -> int:
    """The three renderings hold the numbers of a relation, to the digits shown; returns how many."""
    expected = numbers(relation)
    for read, rendered in ((read_text, text), (read_latex, latex), (read_mathml, mathml)):
        found = read(rendered(relation))
        assert len(found) == len(expected), rendered(relation)
        for shown, e in zip(found, expected, strict=True):
            size = len(re.sub(r"e.*|^-?0\.0*|[-.]", "", shown))
            assert size <= e.digits and float(shown) == float(f"{e.value:.{e.digits}g}"), rendered(relation)
            assert abs(float(shown) - e.value) <= 0.5001 * 10 ** (1 - e.digits) * abs(e.value)
    return len(expected)


# -- LaTeX and MathML -----------------------------------------------------------------------------------------------

COMMANDS = {
    *[
        "alpha",
        "delta",
        "eta",
        "gamma",
        "lambda",
        "nabla",
        "partial",
        "tau",
        "theta",
        "varepsilon",
        "varphi",
        "Lambda",
        "mathcal",
        "mathit",
        "mathsf",
    ],
    *[
        "hat",
        "frac",
        "sum",
        "cdot",
        "odot",
        "otimes",
        "dots",
        "ge",
        "le",
        "approx",
        "left",
        "right",
        "begin",
        "end",
        "operatorname",
        "text",
    ],
    *["exp", "log", "tanh", "max", "min"],
}


def check_latex(formula: str) -> None:
    """Well-formed for math mode: brackets, \\left … \\right and environments nest, commands are known, all is ASCII
    outside of \\text, no symbol has two superscripts, and what TeX reserves is escaped."""
    tokens = re.findall(r"\\[A-Za-z]+|\\.|.", formula, flags=re.DOTALL)
    open_: list[str] = []
    scripts: list[set[str]] = [set()]  # of the last symbol, by nesting
    at = 0
    while at < len(tokens):
        token = tokens[at]
        at += 1
        if token == r"\text":
            assert tokens[at] == "{"
            depth = 0
            while True:
                depth += {"{": 1, "}": -1}.get(tokens[at], 0)
                assert tokens[at] not in "_&%$#^~" and (
                    len(tokens[at]) == 1 or tokens[at][1:] in (*"_&%$#{}^~", "textbackslash")
                ), formula
                at += 1
                if not depth:
                    break
        elif token in (r"\begin", r"\end", r"\left", r"\right"):
            if token in (r"\begin", r"\end"):
                assert tokens[at] == "{"
                stop = tokens.index("}", at)
                name, at = "".join(tokens[at + 1 : stop]), stop + 1
                assert name in ("pmatrix", "cases"), formula
            else:
                name, at = tokens[at], at + 1
                assert name in "()", formula
            if token in (r"\begin", r"\left"):
                open_.append(name)
                scripts.append(set())
            else:
                assert open_.pop() == name.replace(")", "("), formula
                scripts.pop()
        elif token == "{":
            open_.append(token)
            scripts.append(set())
        elif token == "}":
            assert open_.pop() == "{", formula
            scripts.pop()
        elif token in ("&", r"\\"):
            assert open_ and open_[-1] in ("pmatrix", "cases"), formula
        elif token in "^_":
            assert tokens[at] == "{" and token not in scripts[-1], formula
            scripts[-1].add(token)
            continue
        elif len(token) > 1 and token[1].isalpha():
            assert token[1:] in COMMANDS, token
        elif len(token) > 1:
            assert token[1:] in ",_&%$#{}", token
        else:
            assert token.isascii() and token not in "%$#~", (token, formula)
        if token != "}" or tokens[at : at + 1] not in (["^"], ["_"]):
            scripts[-1] = set()
    assert not open_, formula


MATHML_CHILDREN = {"mfrac": 2, "msup": 2, "msub": 2, "msubsup": 3, "mover": 2, "munder": 2}
MATHML = {"math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "mtable", "mtr", "mtd", *MATHML_CHILDREN}


def check_mathml(fragment: str) -> ElementTree.Element:
    """Well-formed, of MathML's elements only, with as many children as they take."""
    root = ElementTree.fromstring(fragment)
    for element in root.iter():
        assert element.tag in MATHML, element.tag
        assert len(element) == MATHML_CHILDREN.get(element.tag, len(element))
        if element.tag in ("mtable", "mtr"):
            assert {child.tag for child in element} == {"mtr" if element.tag == "mtable" else "mtd"}
        if element.tag in ("mi", "mn", "mo", "mtext"):
            assert len(element) == 0 and element.text
        else:
            assert not (element.text or "").strip() and not (element.tail or "").strip()
    return root


def check_renderings(d) -> None:
    """All of a derivation, as text, LaTeX and HTML."""
    relations = [relation for step in d.steps for relation in step.relations]
    for relation in relations:
        check_latex(latex(relation))
        check_mathml(mathml(relation))
    whole = d.latex()
    assert whole.startswith("\\begin{enumerate}\n\\item") and whole.endswith("\\end{enumerate}")
    assert whole.count(r"\[ ") == whole.count(r" \]") == len(relations)
    root = ElementTree.fromstring(d.html())
    assert len(list(root.iter("math"))) == len(relations)
    assert {element.tag for element in root.iter()} <= MATHML | {"section", "h3", "ol", "li", "p", "small", "div"}
    assert len(list(root.iter("li"))) == len(d.steps) and root.find("h3").text == d.title
    lines = d.text().splitlines()
    assert lines[0] == d.title and len(lines) == 2 + len(d.steps) + len(relations)
    assert repr(d) == d.text() and d._repr_html_() == d.html()


# -- the selection --------------------------------------------------------------------------------------------------


def network(row):
    """The network, data and options of a row of settings."""
    rng = np.random.default_rng(zlib.crc32(repr(sorted(row.items(), key=str)).encode()))
    units, outputs = row["sizes"]
    kind = row["layers"]
    options = {"bias": kind != "no bias", "ntk": kind == "ntk"}
    between = {"scale": [cr.Scale()], "dropout": [cr.Dropout(0.4)]}.get(kind, [])
    layers = [cr.Dense(units, row["hidden"], **options), *between, cr.Dense(outputs, row["output"], **options)]
    net = cr.Network(3, layers, seed=1)
    for number, here in enumerate(net.architecture.layers, 1):
        for name in ("W", "b"):
            shape = getattr(here, f"{name}_shape")
            if shape is not None:
                net.set(number, **{name: 0.6 * rng.standard_normal(shape)})
    N = 8 if units == 8 else 5
    X = rng.standard_normal((N, 3))
    loss = losses.CATALOGUE[row["loss"]]
    y = np.concatenate([targets(rng, loss.targets, outputs)] * 2)[:N]
    s = rng.uniform(0.5, 2, N)
    s[[1, 2]] = 0
    given = {
        "loss": row["loss"],
        "aggregate": row["aggregate"],
        "penalty": PENALTIES[row["penalty"]],
        "average_outputs": row["average_outputs"],
        "label_smoothing": row["label_smoothing"],
        "sample_weight": None if row["weights"] == "none" else s,
    }
    return net, X, y, given, rng


def chosen(row, net, rng):
    """what, layer and index of a row of settings."""
    what, L = row["what"], len(net.architecture.layers)
    if what in ("cost", "output"):
        return what, None, int(rng.integers(row["sizes"][1])) if what == "output" else None
    if what == "x":
        return "x", None, int(rng.integers(3))
    if what == "b":
        layer = int(rng.choice([1, L]))
        return "b", layer, int(rng.integers(len(net.b(layer))))
    middle = 2 if row["layers"] == "scale" else 1
    layer = {"W of the first": 1, "W of the last": L, "W in between": middle}[what]
    index = tuple(int(rng.integers(size)) for size in net.W(layer).shape)
    return "W", layer, index


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_every_number_and_every_relation(row):
    net, X, y, options, rng = network(row)
    what, layer, index = chosen(row, net, rng)
    how = {"form": row["form"], "layout": row["layout"], "digits": row["digits"]}
    sample = None if rng.random() < 0.5 else int(rng.integers(len(X)))
    d = net.explain(X, y, what, layer, index, sample=sample, **how, **options)
    t = net.trace(X, y, **options)
    G = net.gradient(X, y, **options)
    place = index if isinstance(index, tuple) else (index,)
    if what in ("W", "b"):
        assert d.value == getattr(G, f"dC_d{what}")[layer][place]
        shares = getattr(t[layer].per_sample(), what)[(slice(None), *place)]
        i = int(np.argmax(np.abs(shares))) if sample is None else sample
    else:
        i = sample or 0
        array = {"cost": np.array(t.cost), "output": t.y_hat[i], "x": t[1].dC_da_prev[i]}[what]
        assert d.value == (array if what == "cost" else array[index]) and G.cost == t.cost
    meaning = Meaning(net, t, i, row["form"], row["layout"])
    final: dict[str, Relation] = {}
    for step in d.steps:
        for relation in step.relations:
            final[text(relation.sides[0])] = relation
            if of_formula(relation):
                continue
            check_numbers(relation)
            check_relation(relation, meaning, scale=max(1.0, np.abs(t.dC_dtheta).max()) if row["penalty"] else 0.0)
    check_renderings(d)

    # the arrays, number by number, as the last side of the relation for each
    ends = {f"{name}^{h.number}": (h.z if name == "z" else h.a)[i] for h in t.layers for name in "za"}
    ends = {k: v for k, v in ends.items() if k[0] == "z" or t[int(k[2:])].layer.g.name != "identity"}
    ends["x"] = X[i]
    if what != "output":
        ends |= {"ŷ": t.y_hat[i], "y": smooth(t)[i], f"L_{i}": t.loss[i], "C": t.cost, f"∂C/∂L_{i}": t.dC_dL[i]}
        terms = [found.value for found in numbers(final[f"L_{i}"])]
        averaged = row["average_outputs"] and t.y.shape[1] > 1
        np.testing.assert_allclose(terms[averaged:-1], elided(t.loss_per_output[i]), rtol=1e-15)
    if what in ("W", "b", "x"):
        first = 1 if what == "x" else layer
        ends |= {f"δ^{h.number}": h.dC_dz[i] for h in t.layers[first - 1 :]}
    if what in ("W", "b"):
        below = f"{what}^{layer}_" + ",".join(map(str, place))
        ends |= {f"∂C_{i}/∂{below}": shares[i], f"∂C/∂{below}": t.dC_dtheta[parameter_at(net, what, layer, place)]}
        if t.penalty:
            ends[f"∂R/∂{below}"] = getattr(penalty_gradient(net, t), what)[layer][place]
    if what == "x":
        ends |= {"∂C/∂x": t[1].dC_da_prev[i], f"∂C/∂x_{index}": t[1].dC_da_prev[i, index]}
    for left, array in ends.items():
        last = [found.value for found in numbers(final[left].sides[-1])]
        np.testing.assert_allclose(last, elided(np.atleast_1d(array)), rtol=1e-15, atol=0, err_msg=left)


def parameter_at(net, what, layer, place):
    """Where a parameter lies in θ: layer by layer, W before b, rows one after another."""
    start = 0
    for number, here in enumerate(net.architecture.layers, 1):
        for name, shape in (("W", here.W_shape), ("b", here.b_shape)):
            if (number, name) == (layer, what):
                return start + int(np.ravel_multi_index(place, shape))
            start += int(np.prod(shape)) if shape is not None else 0
    raise AssertionError


def test_selection_is_mixed():
    pairs = {(row["output"], row["loss"]) for row in ROWS}
    assert pairs == {(g, loss) for g in FACTORS["output"] for loss in losses.CATALOGUE if fits(g, loss)}
    assert {(row["what"], row["form"], row["digits"]) for row in ROWS} >= set(
        itertools.product(["W of the first", "b", "x"], ["row", "column"], [3, 6, 17])
    )


def test_a_wrong_number_is_found():
    """The checks of this file see a number that is off by one unit in its last digit, and a wrong factor."""
    net = cr.Network(2, [cr.Dense(2, "tanh"), cr.Dense(1)], seed=1)
    t = net.trace([[1.0, 2.0]], [[0.5]])
    m = Meaning(net, t, 0)
    good = explain(t, "W", 1, (0, 1)).steps[-2].relations[0]
    check_relation(good, m, 0.0)
    for side in (Number(t[1].per_sample().W[0, 0, 1] * (1 + 2e-6)), Number(-t[1].per_sample().W[0, 0, 1])):
        with pytest.raises(AssertionError):
            check_relation(Relation((*good.sides[:-1], side)), m, 0.0)
    d = net.explain([[1.0, 2.0]], [[0.5]], "cost", digits=3)
    assert [round(found, 9) for found in map(float, read_text("C = 1e-05 + (-2.5) · W^1_0,1 = (3, -4, …, 5)"))] == [
        1e-05, -2.5, 3, -4, 5,
    ]  # fmt: skip
    assert read_latex(r"C^{1}_{0,1} = 2.5 \cdot 10^{-7} - 3") == ["2.5e-7", "3"]
    assert sum(check_numbers(r) for step in d.steps for r in step.relations if not of_formula(r)) > 8


@pytest.mark.parametrize("bad", [r"{a", r"a}", r"\left( a", r"\left( { \right) }", r"\begin{cases} a", r"φ", r"\foo",
                                 r"a^{1}^{2}", r"a & b", r"\text{a_b}", r"\operatorname{é}", "50%"])  # fmt: skip
def test_what_the_latex_check_refuses(bad):
    with pytest.raises((AssertionError, IndexError)):
        check_latex(bad)


# -- every map, loss and output -------------------------------------------------------------------------------------

OUTPUTS = [g for g in activations.CATALOGUE if g != "step"]


@pytest.mark.parametrize("hidden", activations.CATALOGUE)
@pytest.mark.parametrize("output", OUTPUTS)
def test_renderings_of_every_activation_loss_and_output(hidden, output):
    rng = np.random.default_rng(0)
    net = cr.Network(2, [cr.Dense(2, hidden), cr.Dense(2, output)], seed=0)
    X = np.array([[0.4, -0.3], [0.2, 0.9]])
    for loss in losses.CATALOGUE:
        if not fits(output, loss):
            continue
        y = targets(rng, losses.CATALOGUE[loss].targets, 2)[:2]
        t = net.trace(X, y, loss=loss, penalty=1e-7)
        if not np.isfinite(t.dC_dtheta).all():
            continue  # the logarithm of a zero
        for form in ("row", "column"):
            check_renderings(explain(t, "W", 1 if hidden != "step" else 2, (1, 0), form=form))


@pytest.mark.parametrize("aggregate", ["mean", "sum", "tilted", "cvar", "max"])
def test_renderings_of_every_aggregate(aggregate):
    net = cr.Network(1, [cr.Dense(1)])
    for N in (1, 2, 3):
        d = net.explain(np.ones((N, 1)), np.zeros(N), "cost", aggregate=aggregate)
        check_renderings(d)
        assert f"φ_{aggregate}(L_0" in d.text()


RECORDS = [*activations.CATALOGUE.values(), *losses.CATALOGUE.values()]


@pytest.mark.parametrize("record", RECORDS, ids=str)
def test_formula_texts_parse_and_render(record):
    assert record.formula
    e = parse(record.formula)
    check_latex(latex(e))
    check_mathml(mathml(e))
    assert text(e)
    if "Piecewise" not in record.formula and "Sum" not in record.formula:
        same_value(text(e), record.formula)


def same_value(shown: str, formula: str) -> None:
    """A text read as mathematics is the formula that it was made of."""
    names = {name: sympy.Symbol(name, positive=True) for name in ("z", "y", "y_hat", "delta", "alpha", "tau", "slope")}
    for sign, code in (
        ("ŷ", "y_hat"), ("δ", "delta"), ("α", "alpha"), ("τ", "tau"), (" · ", "*"), ("·", "*"), ("−", "-"), ("^", "**"),
    ):  # fmt: skip
        shown = shown.replace(sign, code)
    at = {symbol: 0.37 + 0.11 * k for k, symbol in enumerate(names.values())}
    found, expected = (float(sympy.sympify(s, locals=names).subs(at)) for s in (shown, formula))
    assert found == pytest.approx(expected, rel=1e-12), (shown, formula)


@pytest.mark.parametrize(
    "formula",
    ["(2*z)**2", "2**(3*z)", "z**(1/2)", "(z/3)**2", "(z**2)**3", "z**2**3", "1/(z/3)", "-(3*z)**2", "(-z)**2",
     "2/(3*z)", "2/3*z", "z - (y - 1)", "z - (-y)", "-(z + y)*2", "(z + y)/2/3", "1/z**2", "exp(-z)**2", "z*(-2)",
     "1e-07*z", "(1e-07*z)**2"],
)  # fmt: skip
def test_brackets_where_they_are_needed(formula):
    e = parse(formula)
    same_value(text(e), formula)
    check_latex(latex(e))
    check_mathml(mathml(e))


@pytest.mark.parametrize(
    ("formula", "shown"),
    [("(2*z)**2", r"{\left(2 \cdot z\right)}^{2}"), ("(z/3)**2", r"{\left(\frac{z}{3}\right)}^{2}"),
     ("(z**2)**3", r"{\left({z}^{2}\right)}^{3}"), ("(z + 1)**2", r"{\left(z + 1\right)}^{2}"),
     ("z**2", "{z}^{2}"), ("exp(z)**2", r"{\exp\left(z\right)}^{2}"), ("0.1*z", r"0.1 \cdot z")],
)  # fmt: skip
def test_brackets_in_latex(formula, shown):
    assert latex(parse(formula)) == shown
    assert mathml(parse(formula)).count("<mo>(</mo>") == shown.count(r"\left(")


@pytest.mark.parametrize(
    ("formula", "shown"),
    [("Sum(z[j] + 1, (j, 0, n - 1))", "Σ_j (z_j + 1)"), ("Sum(z[j], (j, 0, n - 1)) + 1", "Σ_j z_j + 1"),
     ("Piecewise((z, z > 0), (0, True)) + 1", "(z if z > 0; 0 else) + 1"), ("(y_hat - y)**10", "(ŷ − y)^10"),
     ("100*z", "100 · z"), ("(1e-5)**z", "(1e-05)^z"), ("12345678*z", "12345678 · z"), ("2.5e20*z", "2.5e+20 · z")],
)  # fmt: skip
def test_texts_with_one_reading(formula, shown):
    e = parse(formula)
    assert text(e) == shown
    assert latex(e).count(r"\left(") == mathml(e).count("<mo>(</mo>") == shown.count("(")


def test_titles_of_a_derivation_are_text_for_pdflatex():
    """It knows no Greek letters and arrows outside of formulas."""
    net = cr.Network(2, [cr.Dense(2, "mish"), cr.Dense(1)])
    shown = net.explain([[1.0, 2.0], [0.5, 1.0]], [1.0, 2.0], "W", 1, (0, 0)).latex()
    assert shown.isascii()
    assert r"\item $\delta$ of the output layer" in shown and r"Dense 2 $\to$ 2, mish" in shown


def test_arguments_that_mean_nothing_are_refused():
    net, X, y = cr.Network(2, [cr.Dense(2, "tanh"), cr.Dense(1)]), [[1.0, 2.0]], [1.0]
    for what, layer, index in (("x", 2, 0), ("cost", 1, None), ("cost", None, 0), ("output", 1, 0)):
        with pytest.raises(ParameterError, match=r"explain: expected no (layer|index) for"):
            net.explain(X, y, what, layer, index)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="Jacobian: expected no layer for 'x'"):
        net.jacobian(X, "a", "x", layer=2)


@pytest.mark.parametrize("formula", ["z +", "z[0]", "lambda: z", "z if z else 1", "Piecewise(z)", "'z'", "0 < z < 1"])
def test_texts_that_are_no_formulas(formula):
    with pytest.raises(ParameterError, match="expected SymPy's syntax"):
        parse(formula)


def test_zero_has_no_sign():
    """A ReLU that is off gives −0 where what arrives is negative; it is written 0."""
    net = cr.Network(1, [cr.Dense(1, "relu"), cr.Dense(1)]).set(1, W=[[-1]], b=[0]).set(2, W=[[-1]], b=[0])
    d = net.explain([[1.0], [2.0]], [-1.0, -1.0], "b", 1, 0)
    shown = d.text() + d.latex() + d.html()
    assert not re.search(r"-0(?![.\d])", shown)
    assert "= 0 + 0 = 0" in d.text()


def test_names_with_special_characters_do_no_harm():
    g = dataclasses.replace(activations.sigmoid, name="<b>&amp;%_#{$}")
    ell = dataclasses.replace(losses.squared, name='a<b & "c"', source="<1> & 2")
    net = cr.Network(1, [cr.Dense(2, g), cr.Dense(1, g)], seed=0)
    d = net.explain([[1.0]], [[0.5]], "W", 1, (0, 0), loss=ell)
    check_renderings(d)
    assert "<b>" not in d.html() and "&lt;b&gt;&amp;amp;%_#{$}" in d.html() and "a&lt;b &amp; " in d.html()
    assert r"{<b>\&amp;\%\_\#\{\$\}}" in d.latex()
    text_of = "".join(ElementTree.fromstring(d.html()).itertext())
    assert g.name in text_of and ell.name in text_of


@pytest.mark.parametrize("name", ["größe", "a^b", "a~b", "a\\b", "σ"])
def test_names_that_tex_does_not_take_in_math(name):
    g = dataclasses.replace(activations.sigmoid, name=name)
    d = cr.Network(1, [cr.Dense(1, g), cr.Dense(1)], seed=0).explain([[1.0]], [[0.5]], "W", 1, (0, 0))
    check_renderings(d)
    title = d.latex().splitlines()[1]
    assert not re.search(r"(?<!\\)[\^~]|\\b", title), title


def test_a_formula_in_words_is_shown_as_words():
    """An activation of one's own may describe itself in words; what is derived does not depend on them."""
    g = dataclasses.replace(activations.tanh, name="own", formula="as tanh, but ours")
    d = cr.Network(1, [cr.Dense(1, g)], seed=0).explain([[1.0]], [[0.5]], "W", 1, (0, 0))
    check_renderings(d)


# -- details by hand ------------------------------------------------------------------------------------------------


def test_one_derivation_by_hand():
    """z = 2 · 3 − 1 = 5, a = 25, L = (25 − 20)², ∂C/∂w = 2 · 5 · 10 · 3 = 300."""
    net = cr.Network(1, [cr.Dense(1, "square")]).set(1, W=[[2]], b=[-1])
    d = net.explain([[3.0]], [[20.0]], "W", 1, (0, 0))
    assert d.value == 300 and d.title == "∂C/∂W^1_0,0"
    assert d.text().splitlines()[2:] == [
        "1. Forward, Dense 1 → 1, square (layer 1), sample 0  [002 (7.47)-(7.49)]",
        "     x = (3)",
        "     z^1 = x W^1ᵀ + b^1 = (5)",
        "     a^1 = square(z^1) = (25)",
        "     square(z) = z^2",
        "2. Loss squared of sample 0  [002 (7.41); 003 (20); 004 (8), without a factor ½]",
        "     ŷ = (25)",
        "     y = (20)",
        "     ℒ = (ŷ − y)^2",
        "     L_0 = 25 = 25",
        "3. Cost, φ = mean of 1 sample  [004 (8); mini-batches: mathematics §4]",
        "     C = φ_mean(L_0) = 25",
        "     ∂C/∂L_0 = ∇φ_0 = 1",
        "4. δ of the output layer  [002 (7.47)-(7.49)]",
        "     ∂C/∂ŷ = ∇φ_0 · ∂ℒ/∂ŷ = (10)",
        "     γ^1 = square′(z^1) = (10)",
        "     δ^1 = ∂C/∂a^1 ⊙ γ^1 = (10) ⊙ (10) = (100)",
        "5. The share of sample 0  [002 (7.10); 004 (16)]",
        "     ∂C_0/∂W^1_0,0 = δ^1_0 · x_0 = 100 · 3 = 300",
        "6. The sum over the samples  [003 §3; 004 (17)]",
        "     ∂C/∂W^1 = Σ_i δ^1ᵀ x",
        "     ∂C/∂W^1_0,0 = Σ_i ∂C_i/∂W^1_0,0 = 300 = 300",
    ]


@pytest.mark.parametrize(
    ("form", "layout", "shown"),
    [("row", "denominator", "Σ_i δ^1ᵀ x"), ("row", "numerator", "Σ_i xᵀ δ^1"),
     ("column", "denominator", "Σ_i δ^1 xᵀ"), ("column", "numerator", "Σ_i x δ^1ᵀ")],
)  # fmt: skip
def test_forms_and_layouts(form, layout, shown):
    net = cr.Network(2, [cr.Dense(2)], seed=0)
    d = net.explain([[1.0, 2.0]], [[1.0, 1.0]], "W", 1, (0, 1), form=form, layout=layout)
    assert f"∂C/∂W^1 = {shown}" in d.text()
    assert ("z^1 = x W^1ᵀ + b^1" if form == "row" else "z^1 = W^1 x + b^1") in d.text()
    pmatrix = r"\begin{pmatrix} 1 & 2 \end{pmatrix}" if form == "row" else r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"
    assert f"x = {pmatrix}" in d.latex()
    rows = ElementTree.fromstring(d.html()).find(".//mtable").findall("mtr")
    assert len(rows) == (1 if form == "row" else 2)


@pytest.mark.parametrize("digits", range(1, 18))
def test_digits(digits):
    assert expression.number(1 / 3, digits) == f"{1 / 3:.{digits}g}"
    assert float(expression.number(2.0**-40 / 3, 17)) == 2.0**-40 / 3
    assert latex(Number(2.5e20, digits)) == rf"{2.5:.{digits}g} \cdot 10^{{20}}"
    net = cr.Network(1, [cr.Dense(1, "tanh")], seed=0)
    d = net.explain([[1 / 3]], [[0.0]], "x", index=0, digits=digits)
    assert f"x = ({1 / 3:.{digits}g})" in d.text()


def test_penalty_where_the_gradient_is_large():
    """∂R/∂w is λw, not what is left of it in the difference of two large numbers."""
    net = cr.Network(1, [cr.Dense(1)]).set(1, W=[[3.0]], b=[0])
    d = net.explain([[1e8]], [[0.0]], "W", 1, (0, 0), penalty=0.1, digits=17)
    assert "∂R/∂W^1_0,0 = 0.30000000000000004" in d.text()


def test_a_past_training_step():
    """run.trace(step) can be explained like a trace of the present; dropout masks are those of the step."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((12, 2)), rng.standard_normal(12)
    net = cr.Network(2, [cr.Dense(3, "tanh"), cr.Dropout(0.5), cr.Dense(1)], seed=4)
    run = net.fit(X, y, epochs=3, batch_size=4, keep_every=2, penalty=0.1)
    for step in (0, 5, 8):
        t = run.trace(step)
        for what, layer, index in (
            ("W", 1, (2, 1)),
            ("W", 3, (0, 1)),
            ("b", 1, 0),
            ("x", None, 1),
            ("cost", None, None),
        ):
            d = explain(t, what, layer, index)
            if what in ("W", "b"):
                place = index if what == "W" else (index,)
                assert d.value == t.dC_dtheta[parameter_at(net, what, layer, place)]
                shares = getattr(t[layer].per_sample(), what)[(slice(None), *place)]
            i = int(np.argmax(np.abs(shares))) if what in ("W", "b") else 0
            for relation in (relation for part in d.steps for relation in part.relations):
                if not of_formula(relation):
                    check_numbers(relation)
                    check_relation(relation, Meaning(net, t, i), 1.0)
            check_renderings(d)
            assert "a^1 ⊙ m^2" in d.text()


def test_explaining_changes_nothing():
    net = cr.Network(2, [cr.Dense(3, "tanh"), cr.Dense(1)], seed=0)
    theta, X, y = net.theta.copy(), np.ones((2, 2)), np.zeros(2)
    first, second = (net.explain(X, y, "W", 1, (0, 0)) for _ in range(2))
    assert first == second
    np.testing.assert_array_equal(net.theta, theta)


# -- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("W", 1, (3, 0)), {}, "expected a row of W from 0 to 2, got 3"),
        (("W", 1, (-1, 0)), {}, "expected a row of W from 0 to 2, got -1"),
        (("W", 1, (0, 2)), {}, "expected a column of W from 0 to 1, got 2"),
        (("W", 1, (0,)), {}, "expected 2 indices for W"),
        (("W", 1, 0), {}, "expected 2 indices for W"),
        (("W", 1, None), {}, "expected 2 indices for W"),
        (("W", 1, (True, 0)), {}, "expected a row of W from 0 to 2, got True"),
        (("W", 1, (0.0, 1)), {}, "expected a row of W from 0 to 2, got 0.0"),
        (("W", 1, 1.5), {}, "expected 2 indices for W, got .*1.5"),
        (("W", 1, np.array([0, 5])), {}, "expected a column of W from 0 to 1, got"),
        (("W", 3, 3), {}, "expected a unit of W from 0 to 2, got 3"),
        (("b", 1, 3), {}, "expected a unit of b from 0 to 2, got 3"),
        (("b", 1, (0, 0)), {}, "expected 1 indices for b|expected 1 index for b"),
        (("x", None, 2), {}, "expected a column of X from 0 to 1, got 2"),
        (("x", None, None), {}, "expected one index for x"),
        (("x", None, (0, 1)), {}, "expected one index for x"),
        (("output", None, 1), {}, "expected an output from 0 to 0, got 1"),
        (("output", None, (0,)), {}, r"expected an output from 0 to 0, got \(0,\)"),
        (("W", 0, (0, 0)), {}, "expected a layer from 1 to 4, got 0"),
        (("W", 5, (0, 0)), {}, "expected a layer from 1 to 4, got 5"),
        (("W", "cost", (0, 0)), {}, "expected a layer from 1 to 4, got 'cost'"),
        (("W", None, (0, 0)), {}, "expected the layer of W, got none. Pass layer=1"),
        (("W", 2, (0, 0)), {}, r"expected a layer with W, got layer 2 \(Dropout 0.5\)"),
        (("b", 3, 0), {}, r"expected a layer with b, got layer 3 \(Scale 3\)"),
        (("b", 4, 0), {}, "expected a layer with b, got layer 4"),
        (("V", 1, (0, 0)), {}, "expected 'W', 'b', 'x', 'cost' or 'output', got 'V'"),
        (("cost",), {"form": "rows"}, "expected form 'row' or 'column', got 'rows'"),
        (("cost",), {"layout": "rows"}, "expected layout 'numerator' or 'denominator', got 'rows'"),
        (("cost",), {"digits": 0}, "expected digits from 1 to 17, got 0"),
        (("cost",), {"digits": 18}, "expected digits from 1 to 17, got 18"),
        (("cost",), {"digits": 2.5}, "expected digits from 1 to 17, got 2.5"),
        (("cost",), {"digits": "6"}, "expected digits from 1 to 17, got '6'"),
        (("cost",), {"sample": 2}, "expected a sample from 0 to 1, got 2"),
        (("cost",), {"sample": -1}, "expected a sample from 0 to 1, got -1"),
        (("cost",), {"loss": "categorical"}, "unknown name 'categorical'"),
    ],
)  # fmt: skip
def test_errors_are_one_sentence(arguments, options, message):
    net = cr.Network(2, [cr.Dense(3, "tanh"), cr.Dropout(0.5), cr.Scale(), cr.Dense(1, bias=False)])
    with pytest.raises(ParameterError, match=message) as error:
        net.explain(np.ones((2, 2)), np.zeros(2), *arguments, **options)
    assert "\n" not in str(error.value) and str(error.value).endswith((".", "?"))


def test_derivative_through_a_step():
    net = cr.Network(2, [cr.Dense(3, "tanh"), cr.Dense(3, "step"), cr.Dense(1)])
    data = ([[1.0, 2.0]], [[0.0]])
    message = r"^Derivative through layer 2 \(Dense 3 → 3, step\): step is flat, its derivative is 0 wherever"
    for what, layer, index in (("W", 1, (0, 0)), ("b", 2, 0), ("x", None, 0), ("W", 2, (1, 1))):
        with pytest.raises(ParameterError, match=message):
            net.explain(*data, what, layer, index)
    assert net.explain(*data, "W", 3, (0, 1)).value == net.gradient(*data).dC_dW[3][0, 1]
    for what in ("cost", "output"):
        check_renderings(net.explain(*data, what))


def test_cases_take_a_condition_or_none():
    e = Cases(((Number(1), Relation((Symbol("z"), Number(0)), "≥")), (Number(0), None)))
    assert text(e) == "1 if z ≥ 0; 0 else"
    check_latex(latex(e))
    check_mathml(mathml(e))
    for sign in ("=", "≥", "≤", ">", "<", "≈"):
        check_latex(latex(Relation((Symbol("z"), Number(0)), sign)))
        assert check_mathml(mathml(Relation((Symbol("z"), Number(0)), sign)))[1].text == sign
