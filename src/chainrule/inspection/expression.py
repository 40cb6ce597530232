"""Expressions as data, and their three renderings: text, LaTeX, and MathML that a browser draws by itself.

Derivations are built of these nodes once; how they look is decided here and nowhere else.
"""

from __future__ import annotations

import ast
import html
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import ParameterError


@dataclass(frozen=True)
class Symbol:
    """A letter with an upper and a lower index, such as W with (1) above and 0,2 below; `hat` for ŷ."""

    base: str
    above: str = ""
    below: str = ""
    hat: bool = False


@dataclass(frozen=True)
class Number:
    """A number, shown with `digits` significant digits."""

    value: float
    digits: int = 6


@dataclass(frozen=True)
class Row:
    """A vector written out, as a row or as a column."""

    items: tuple[Expression, ...]
    column: bool = False


@dataclass(frozen=True)
class Sum:
    """Terms added up."""

    terms: tuple[Expression, ...]


@dataclass(frozen=True)
class Negative:
    """Minus an expression; in a sum it is subtracted."""

    body: Expression


@dataclass(frozen=True)
class Product:
    """Factors with an operator between them: "" (juxtaposition), "·", "⊙" or "⊗"."""

    factors: tuple[Expression, ...]
    operator: str = "·"


@dataclass(frozen=True)
class Fraction:
    """A quotient; `derivative` writes ∂ before both parts."""

    top: Expression
    bottom: Expression
    derivative: bool = False


@dataclass(frozen=True)
class Power:
    """base to an exponent; exponent "T" is the transpose."""

    base: Expression
    exponent: Expression


@dataclass(frozen=True)
class Function:
    """A function with its arguments, such as tanh′(z); a subscripted derivative has `primes` > 0."""

    name: str
    arguments: tuple[Expression, ...]
    primes: int = 0


@dataclass(frozen=True)
class Over:
    """A big sum Σ over an index."""

    index: str
    body: Expression


@dataclass(frozen=True)
class Relation:
    """Sides with a sign between each two, "=" by default."""

    sides: tuple[Expression, ...]
    sign: str = "="


@dataclass(frozen=True)
class Cases:
    """Values with their conditions."""

    branches: tuple[tuple[Expression, Expression | None], ...]


@dataclass(frozen=True)
class Words:
    """Plain words inside a formula."""

    text: str


Expression = (
    Symbol | Number | Row | Sum | Negative | Product | Fraction | Power | Function | Over | Relation | Cases | Words
)

TRANSPOSE = Symbol("T")


def equals(*sides: Expression) -> Relation:
    """a = b = c …"""
    return Relation(sides)


def partial(top: Expression, bottom: Expression) -> Fraction:
    """∂top/∂bottom."""
    return Fraction(top, bottom, derivative=True)


def number(value: float, digits: int) -> str:
    """A number in significant digits; what `float` reads back is the number to those digits."""
    return f"{value + 0.0:.{digits}g}"  # −0 is written 0


# -- text -----------------------------------------------------------------------------------------------------------


def text(e: Expression) -> str:
    """One line of plain text (Unicode)."""
    match e:
        case Symbol(base, above, below, hat):
            return (
                ("ŷ" if hat and base == "y" else base) + (f"^{above}" if above else "") + (f"_{below}" if below else "")
            )
        case Number(value, digits):
            return number(value, digits)
        case Row(items, _):
            return "(" + ", ".join(map(text, items)) + ")"
        case Sum(terms):
            return _added(terms, text, " + ", " − ")
        case Negative(body):
            return "−" + _group(body, text)
        case Product(factors, operator):
            between = f" {operator} " if operator else " "
            return between.join(_group(f, text) for f in factors)
        case Fraction(top, bottom, derivative):
            d = "∂" if derivative else ""
            below = f"({text(bottom)})" if isinstance(bottom, Product | Fraction) else _group(bottom, text)
            return f"{d}{_group(top, text)}/{d}{below}"
        case Power(base, exponent):
            raised = "ᵀ" if exponent == TRANSPOSE else f"^{_group(exponent, text, whole=True)}"
            return _group(base, text, whole=True) + raised
        case Function(name, arguments, primes):
            return name + "′" * primes + "(" + ", ".join(map(text, arguments)) + ")"
        case Over(index, body):
            return f"Σ_{index} {_summand(body, text)}"
        case Relation(sides, sign):
            return f" {sign} ".join(map(text, sides))
        case Cases(branches):
            return "; ".join(f"{text(v)} if {text(c)}" if c is not None else f"{text(v)} else" for v, c in branches)
        case Words(words):
            return words


def _group(
    e: Expression, render: Callable[[Expression], str], opening: str = "(", closing: str = ")", whole: bool = False
) -> str:
    """The rendering of an operand, in brackets where it would be misread; `whole`: of a power's base or exponent."""
    loose = isinstance(e, Sum | Negative | Over | Relation | Cases) or (isinstance(e, Number) and e.value < 0)
    loose = loose or (whole and isinstance(e, Product | Fraction | Power))
    loose = loose or (whole and isinstance(e, Number) and "e" in number(e.value, e.digits))
    return opening + render(e) + closing if loose else render(e)


def _summand(e: Expression, render: Callable[[Expression], str], opening: str = "(", closing: str = ")") -> str:
    """What stands behind a Σ, in brackets where a reader would take a part of it only."""
    return opening + render(e) + closing if isinstance(e, Sum | Negative | Relation | Cases) else render(e)


def _added(
    terms: tuple[Expression, ...],
    render: Callable[[Expression], str],
    plus: str,
    minus: str,
    opening: str = "(",
    closing: str = ")",
) -> str:
    shown = _group(terms[0], render, opening, closing) if isinstance(terms[0], Relation | Cases) else render(terms[0])
    for term in terms[1:]:
        body, sign = (term.body, minus) if isinstance(term, Negative) else (term, plus)
        shown += sign + _group(body, render, opening, closing)
    return shown


# -- LaTeX ----------------------------------------------------------------------------------------------------------

_GREEK = {
    "δ": r"\delta", "γ": r"\gamma", "φ": r"\varphi", "θ": r"\theta", "η": r"\eta", "λ": r"\lambda", "ℒ": r"\mathcal{L}",
    "∇φ": r"\nabla\varphi", "…": r"\dots", "ε": r"\varepsilon", "α": r"\alpha", "τ": r"\tau", "Λ": r"\Lambda",
}  # fmt: skip
_OPERATORS = {"": r"\,", "·": r"\cdot", "⊙": r"\odot", "⊗": r"\otimes"}
_SIGNS = {"=": "=", "≥": r"\ge", "≤": r"\le", ">": ">", "<": "<", "≈": r"\approx"}
_LATEX_BRACKETS = (r"\left(", r"\right)")
_KNOWN = {"exp", "log", "tanh", "max", "min"}


def latex(e: Expression) -> str:
    """LaTeX for math mode; it needs amsmath for cases and matrices."""
    match e:
        case Symbol(base, above, below, hat):
            letter = _GREEK.get(base, base if len(base) == 1 else rf"\mathit{{{_escape(base)}}}")
            letter = rf"\hat{{{letter}}}" if hat else letter
            return letter + (f"^{{{above}}}" if above else "") + (f"_{{{below}}}" if below else "")
        case Number(value, digits):
            shown, _, power = number(value, digits).partition("e")
            return rf"{shown} \cdot 10^{{{int(power)}}}" if power else shown
        case Row(items, column):
            return r"\begin{pmatrix} " + (r" \\ " if column else " & ").join(map(latex, items)) + r" \end{pmatrix}"
        case Sum(terms):
            return _added(terms, latex, " + ", " - ", *_LATEX_BRACKETS)
        case Negative(body):
            return "-" + _group(body, latex, *_LATEX_BRACKETS)
        case Product(factors, operator):
            return f" {_OPERATORS[operator]} ".join(_group(f, latex, *_LATEX_BRACKETS) for f in factors)
        case Fraction(top, bottom, derivative):
            d = r"\partial " if derivative else ""
            return rf"\frac{{{d}{latex(top)}}}{{{d}{latex(bottom)}}}"
        case Power(base, exponent):
            raised = r"\mathsf{T}" if exponent == TRANSPOSE else latex(exponent)
            return f"{{{_group(base, latex, *_LATEX_BRACKETS, whole=True)}}}^{{{raised}}}"
        case Function(name, arguments, primes):
            inner = ", ".join(map(latex, arguments))
            return _function_name(name) + "'" * primes + rf"\left({inner}\right)"
        case Over(index, body):
            return rf"\sum_{{{index}}} {_summand(body, latex, *_LATEX_BRACKETS)}"
        case Relation(sides, sign):
            return f" {_SIGNS[sign]} ".join(map(latex, sides))
        case Cases(branches):
            rows = [
                rf"{latex(v)} & \text{{if }} {latex(c)}" if c is not None else rf"{latex(v)} & \text{{else}}"
                for v, c in branches
            ]
            return r"\begin{cases} " + r" \\ ".join(rows) + r" \end{cases}"
        case Words(words):
            return rf"\text{{{_escape(words)}}}"


def _function_name(name: str) -> str:
    """A function's name in math mode, where only ASCII letters, digits and _ are safe outside of text."""
    base, _, below = name.partition("_")
    if base in _GREEK:
        return _GREEK[base] + (rf"_{{\text{{{_escape(below)}}}}}" if below else "")
    if name.lower() in _KNOWN:
        return "\\" + name.lower()
    plain = name.isascii() and name.replace("_", "").isalnum()
    return rf"\operatorname{{{_escape(name)}}}" if plain else rf"\operatorname{{\text{{{_escape(name)}}}}}"


_ESCAPES = {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}"} | {c: "\\" + c for c in "_&%$#{}"}
_ESCAPES |= {c: f"${shown}$" for c, shown in _GREEK.items() if len(c) == 1} | {
    "→": r"$\to$",
    "ŷ": r"$\hat{y}$",
    "∂": r"$\partial$",
}


def _escape(words: str) -> str:
    return "".join(_ESCAPES.get(c, c) for c in words)


# -- MathML ---------------------------------------------------------------------------------------------------------


def mathml(e: Expression) -> str:
    """Presentation MathML, without the surrounding <math>; every text in it is escaped."""
    match e:
        case Symbol(base, above, below, hat):
            letter = f"<mi>{html.escape(base)}</mi>"
            letter = f"<mover>{letter}<mo>^</mo></mover>" if hat else letter
            up, down = f"<mtext>{html.escape(above)}</mtext>", f"<mtext>{html.escape(below)}</mtext>"
            if above and below:
                return f"<msubsup>{letter}{down}{up}</msubsup>"
            return f"<msup>{letter}{up}</msup>" if above else f"<msub>{letter}{down}</msub>" if below else letter
        case Number(value, digits):
            return f"<mn>{number(value, digits)}</mn>"
        case Row(items, column):
            cells = [f"<mtd>{mathml(item)}</mtd>" for item in items]
            rows = "".join(f"<mtr>{cell}</mtr>" for cell in cells) if column else f"<mtr>{''.join(cells)}</mtr>"
            return f"<mrow><mo>(</mo><mtable>{rows}</mtable><mo>)</mo></mrow>"
        case Sum(terms):
            return f"<mrow>{_added(terms, mathml, '<mo>+</mo>', '<mo>−</mo>', *_BRACKETS)}</mrow>"
        case Negative(body):
            return f"<mrow><mo>−</mo>{_group(body, mathml, *_BRACKETS)}</mrow>"
        case Product(factors, operator):
            between = f"<mo>{operator}</mo>" if operator else "<mspace width='0.2em'/>"
            return "<mrow>" + between.join(_group(f, mathml, *_BRACKETS) for f in factors) + "</mrow>"
        case Fraction(top, bottom, derivative):
            d = "<mo>∂</mo>" if derivative else ""
            return f"<mfrac><mrow>{d}{mathml(top)}</mrow><mrow>{d}{mathml(bottom)}</mrow></mfrac>"
        case Power(base, exponent):
            return f"<msup><mrow>{_group(base, mathml, *_BRACKETS, whole=True)}</mrow><mrow>{mathml(exponent)}</mrow></msup>"
        case Function(name, arguments, primes):
            shown = f"<mi>{html.escape(name)}</mi>" + ("<mo>" + "′" * primes + "</mo>" if primes else "")
            inner = "<mo>,</mo>".join(map(mathml, arguments))
            return f"<mrow>{shown}<mo>(</mo>{inner}<mo>)</mo></mrow>"
        case Over(index, body):
            return f"<mrow><munder><mo>∑</mo><mi>{html.escape(index)}</mi></munder>{_summand(body, mathml, *_BRACKETS)}</mrow>"
        case Relation(sides, sign):
            return "<mrow>" + f"<mo>{html.escape(sign)}</mo>".join(map(mathml, sides)) + "</mrow>"
        case Cases(branches):
            rows = "".join(
                f"<mtr><mtd>{mathml(v)}</mtd><mtd><mtext>{'if ' if c is not None else 'else'}</mtext>"
                f"{mathml(c) if c is not None else ''}</mtd></mtr>"
                for v, c in branches
            )
            return f"<mrow><mo>{{</mo><mtable>{rows}</mtable></mrow>"
        case Words(words):
            return f"<mtext>{html.escape(words)}</mtext>"


_BRACKETS = ("<mo>(</mo>", "<mo>)</mo>")

# -- formula texts of records ----------------------------------------------------------------------------------------

_COMPARISONS = {ast.Gt: ">", ast.Lt: "<", ast.GtE: "≥", ast.LtE: "≤", ast.Eq: "="}
_NAMES = {"y_hat": Symbol("y", hat=True), "delta": Symbol("δ"), "alpha": Symbol("α"), "tau": Symbol("τ")}


def parse(formula: str) -> Expression:
    """The text of a record's formula as an expression.

    Raises:
        ParameterError: the text is not in the syntax that formula texts have.
    """
    try:
        return _parsed(ast.parse(formula, mode="eval").body)
    except (SyntaxError, KeyError, ValueError) as error:
        raise ParameterError(f"Formula {formula!r}: expected SymPy's syntax, got {error}.") from None


def _parsed(node: ast.expr) -> Expression:
    match node:
        case ast.Constant(value) if isinstance(value, int | float) and not isinstance(value, bool):
            exact = [d for d in range(1, 18) if float(number(value, d)) == value] or [17]
            return Number(value, next((d for d in exact if d < 8 and "e" not in number(value, d)), exact[0]))
        case ast.Name(name):
            return _NAMES.get(name, Symbol(name))
        case ast.Subscript(ast.Name(name), ast.Name(index)):
            return Symbol(name, below=index)
        case ast.UnaryOp(ast.USub(), operand):
            return Negative(_parsed(operand))
        case ast.BinOp(left, ast.Add(), right):
            return Sum((_parsed(left), _parsed(right)))
        case ast.BinOp(left, ast.Sub(), right):
            return Sum((_parsed(left), Negative(_parsed(right))))
        case ast.BinOp(left, ast.Mult(), right):
            return Product((_parsed(left), _parsed(right)))
        case ast.BinOp(left, ast.Div(), right):
            return Fraction(_parsed(left), _parsed(right))
        case ast.BinOp(left, ast.Pow(), right):
            return Power(_parsed(left), _parsed(right))
        case ast.Compare(left, [sign], [right]):
            return Relation((_parsed(left), _parsed(right)), _COMPARISONS[type(sign)])
        case ast.Call(ast.Name("Piecewise"), branches):
            return Cases(tuple(_branch(branch) for branch in branches))
        case ast.Call(ast.Name("Sum"), [body, ast.Tuple([ast.Name(index), *_])]):
            return Over(index, _parsed(body))
        case ast.Call(ast.Name(name), arguments):
            return Function(name, tuple(_parsed(argument) for argument in arguments))
    raise ValueError(ast.unparse(node))


def _branch(node: ast.expr) -> tuple[Expression, Expression | None]:
    if not isinstance(node, ast.Tuple):
        raise ValueError(ast.unparse(node))
    value, condition = node.elts
    if isinstance(condition, ast.Constant) and condition.value is True:
        return _parsed(value), None
    return _parsed(value), _parsed(condition)
