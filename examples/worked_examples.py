"""The fourteen worked examples of the five texts, run: what the source says, and what was found (docs/worked_examples.md).

python examples/worked_examples.py > docs/worked_examples.md
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

import chainrule as cr

failures: list[str] = []


def show(value: Any) -> str:
    """A number with four digits, without the sign of a zero."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return str(value)
    value = float(value)
    return "0" if abs(value) < 1e-12 else f"{value:.4g}".replace("-", "−")


def row(values: Iterable[Any]) -> str:
    """A vector in brackets."""
    return "(" + ", ".join(show(value) for value in np.ravel(np.asarray(values))) + ")"


def heading(number: int, source: str, title: str) -> None:
    print(f"## {number}. {title} ({source})\n")


def table(names: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    print("| " + " | ".join(names) + " |")
    print("|" + "---|" * len(names))
    for cells in rows:
        print("| " + " | ".join(show(cell) for cell in cells) + " |")
    print()


def compare(what: str, found: Any, expected: Any, tolerance: float = 1e-10) -> None:
    """A sentence with OK or "differs", by comparing all the numbers."""
    found, expected = np.asarray(found, dtype=float), np.asarray(expected, dtype=float)
    same = found.shape == expected.shape and np.allclose(found, expected, rtol=tolerance, atol=tolerance)
    if not same:
        failures.append(what)
    print(f"Expected {what}; found {'the same: **OK**' if same else 'something else: **differs**'}.\n")


def sigma(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def numbers(*shape: int) -> np.ndarray:
    """Numbers between −1 and 1 that are the same everywhere."""
    k = np.arange(1, math.prod(shape) + 1)
    return (np.mod(0.618034 * k, 1.0) * 2 - 1).reshape(shape)


def thresholds(W_hidden: Any, b_hidden: Any, W_out: Any, b_out: float) -> tuple[cr.Network, cr.Network]:
    """A network of hard thresholds, and the same one without the last threshold."""
    inputs = np.shape(W_hidden)[1]
    decision, logit = (
        cr.Network(inputs, [cr.Dense(len(W_hidden), "step"), cr.Dense(1, output)])
        .set(1, W=W_hidden, b=b_hidden)
        .set(2, [W_out], [b_out])
        for output in ("step", "identity")
    )
    return decision, logit


print("# Worked examples")
print()
print("The examples that the five texts 000 … 004 work out, computed by this library. This page is what")
print(
    "[worked_examples.py](../examples/worked_examples.py) prints; each result is compared with the source's number or formula."
)

print()

# ------------------------------------------------------------------------------------------------------------------
heading(1, "000 §1.3", "The absolute value from two rectifiers")
net = cr.Network(1, [cr.Dense(2, "relu"), cr.Dense(1)]).set(1, W=[[1], [-1]], b=[0, 0]).set(2, W=[[1, 1]], b=[0])
x = np.array([-3, -0.5, 0, 2, 1e6])
table(["x", "ŷ"], zip(x, net.predict(x)[:, 0], strict=True))
compare("ŷ to be the absolute value of x", net.predict(x)[:, 0], np.abs(x), 0)

# ------------------------------------------------------------------------------------------------------------------
heading(2, "002 §7", "The chain rule for one neuron, for chains of neurons, and for three functions")
w, x2, target = 0.3, 2.0, 1.0
neuron = cr.Network(1, [cr.Dense(1, "sigmoid", bias=False)]).set(1, W=[[w]])
a = sigma(w * x2)
factors = (-(target / a - (1 - target) / (1 - a)), a * (1 - a), x2)
found = neuron.gradient([x2], [target]).dC_dW[1][0, 0]
table(
    ["∂L/∂a", "∂a/∂z", "∂z/∂w", "product", "(σ(z) − y) x", "found"],
    [(*factors, math.prod(factors), (a - target) * x2, found)],
)
compare("(σ(z) − y) x, the product of the three factors of (7.7)",
        [found, found], [(a - target) * x2, math.prod(factors)])  # fmt: skip
for depth in (2, 5):
    ws = 1 + 0.5 * numbers(depth)
    chain = cr.Network(1, [cr.Dense(1, "tanh", bias=False)] * depth)
    values = [0.7]
    for number, weight in enumerate(ws, 1):
        chain.set(number, W=[[weight]])
        values.append(math.tanh(weight * values[-1]))
    gradient = chain.gradient([0.7], [0.2], loss="squared").dC_dW
    by_hand = []
    for number in range(1, depth + 1):
        product = 2 * (values[-1] - 0.2)
        for later in range(depth, number, -1):
            product *= (1 - values[later] ** 2) * ws[later - 1]
        by_hand.append(product * (1 - values[number] ** 2) * values[number - 1])
    each = [gradient[number][0, 0] for number in range(1, depth + 1)]
    print(f"{depth} tanh units in a row, ∂L/∂w of each layer: {row(each)}.\n")
    compare("the products of (7.17) and (7.30)", each, by_hand)


@cr.activation("sin(z)", range=(-1, 1))
def sine(xp: Any, real: Any) -> Any:
    return np.sin, lambda z, a: np.cos(z), lambda z, a: -a


parts = [(cr.Dense(1), [[1]], [2]), (cr.Dense(1), [[3]], [0]), (cr.Dense(1, sine), [[1]], [0])]
outputs = []
for depth in (1, 2, 3):
    functions = cr.Network(1, [layer for layer, _, _ in parts[:depth]])
    for number, (_, W, b) in enumerate(parts[:depth], 1):
        functions.set(number, W=W, b=b)
    outputs.append(functions.predict([10.0])[0, 0])
table(["x", "f = x + 2", "g = 3 f", "h = sin g"], [(10, *outputs)])
compare("12, 36 and sin 36", outputs, [12, 36, math.sin(36)])

# ------------------------------------------------------------------------------------------------------------------
heading(3, "002 §7", "A layer that squares")
net = cr.Network(3, [cr.Dense(3, "square", bias=False)]).set(1, W=np.eye(3))
t = net.trace([[1, 2, 3]], [[0, 0, 0]])
print(f"At z = {row(t[1].z)}: a = {row(t[1].a)}, and the rows of ∂a/∂z are", end=" ")
print(", ".join(row(line) for line in t.jacobian(wrt="z", layer=1)[0]) + ".\n")
compare("a = (1, 4, 9)", t[1].a, [[1, 4, 9]], 0)
compare("∂a/∂z = diag(2, 4, 6)", t.jacobian(wrt="z", layer=1)[0], np.diag([2, 4, 6]), 0)

# ------------------------------------------------------------------------------------------------------------------
heading(4, "003 §1, problem 1", "An interval from two thresholds")
decision, logit = thresholds([[1], [1]], [-1, -3], [-1, 2], 0.5)
x = np.array([0, 0.99, 1, 2, 2.99, 3, 4])
z, y_hat = logit.predict(x)[:, 0], decision.decide(x)[:, 0]
table(["x", "z", "ŷ"], zip(x, z, y_hat, strict=True))
compare("z = 0.5 below 1, −0.5 on [1, 3), 1.5 from 3 on", z,
        [0.5, 0.5, -0.5, -0.5, -0.5, 1.5, 1.5], 0)  # fmt: skip
compare("ŷ = 0 on [1, 3) only", y_hat, [1, 1, 0, 0, 0, 1, 1], 0)

# ------------------------------------------------------------------------------------------------------------------
heading(5, "003 §1, problem 2", "The table of four points, and x = 3.5")
decision, logit = thresholds([[1], [1]], [-2, -4], [1, -2], -0.5)
x = np.array([0, 1, 3, 5, 3.5])
t = logit.trace(x, np.zeros(5))
table(["x", "zᴴ₁", "zᴴ₂", "u₁", "u₂", "z", "ŷ"],
      zip(x, *t[1].z.T, *t[1].a.T, t[2].z[:, 0], decision.decide(x)[:, 0], strict=True))  # fmt: skip
compare("zᴴ = (x − 2, x − 4)", t[1].z, np.stack([x - 2, x - 4], axis=1), 0)
compare("u = (0, 0, 1, 1, 1) and (0, 0, 0, 1, 0)", t[1].a.T, [[0, 0, 1, 1, 1], [0, 0, 0, 1, 0]], 0)
compare("z = −0.5, −0.5, 0.5, −1.5, 0.5", t[2].z[:, 0], [-0.5, -0.5, 0.5, -1.5, 0.5], 0)
compare("ŷ = 0, 0, 1, 0, 1", decision.decide(x)[:, 0], [0, 0, 1, 0, 1], 0)

# ------------------------------------------------------------------------------------------------------------------
heading(6, "003 §1, problem 3", "A triangle from three thresholds")
decision, _ = thresholds([[1, 0], [0, 1], [1, 1]], [0, 0, -1], [1, 1, -1], -1.5)
steps = np.arange(-1, 6) / 4
table(["x₂ \\ x₁", *map(show, steps)],
      [[x_2, *decision.decide([[x_1, x_2] for x_1 in steps])[:, 0]] for x_2 in steps[::-1]])  # fmt: skip
grid = np.array(list(itertools.product(np.arange(-8, 17) / 8, repeat=2)))
inside = (grid[:, 0] >= 0) & (grid[:, 1] >= 0) & (grid.sum(axis=1) < 1)
print(f"{len(grid)} points on a finer grid, {inside.sum()} of them inside.\n")
compare("ŷ = 1 exactly where x₁ ≥ 0, x₂ ≥ 0 and x₁ + x₂ < 1", decision.decide(grid)[:, 0], inside, 0)

# ------------------------------------------------------------------------------------------------------------------
heading(7, "003 §1, problem 4", "The output layer follows from the task")
tasks = [
    ("letters in 20 × 20 pixels", 400, 26, "softmax", "categorical_cross_entropy"),
    ("two classes, 120 features", 120, 1, "sigmoid", "binary_cross_entropy"),
    ("the next price from five", 5, 1, "identity", "squared"),
]
rows, counts, expected_counts, same_loss = [], [], [], []
for task, inputs, units, output, loss in tasks:
    net = cr.Network(inputs, [cr.Dense(10, "relu"), cr.Dense(units, output)])
    X, y = numbers(4, inputs), np.array([0, 1, 1, 0])
    counts.append(net.P)
    expected_counts.append(10 * (inputs + 1) + units * 11)
    same_loss.append(net.cost(X, y) == net.cost(X, y, loss=loss))
    rows.append((task, inputs, units, output, loss, net.P))
table(["task", "inputs", "outputs", "output layer", "loss", "parameters with 10 hidden units"], rows)
compare("the losses of the table to be the default ones", same_loss, [1, 1, 1], 0)
compare("Σ n_l (n_{l−1} + 1) parameters", counts, expected_counts, 0)

# ------------------------------------------------------------------------------------------------------------------
heading(8, "003 §2", "Jacobians and gradients in closed form")
print("f(x) = (x₁ + x₂x₃, x₁² + 3x₂) as a network of squares, by uv = ((u + v)² − (u − v)²)/4:\n")
net = cr.Network(3, [cr.Dense(7, "square"), cr.Dense(2, bias=False)])
net.set(1, W=[[1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 1, -1], [1, 0, 0], [0, 1, 0], [0, 1, 0]], b=[1, -1, 0, 0, 0, 1, -1])
net.set(2, W=np.array([[1, -1, 1, -1, 0, 0, 0], [0, 0, 0, 0, 4, 3, -3]]) / 4)
x1, x2, x3 = 0.5, -2.0, 3.0
jacobian = net.trace([[x1, x2, x3]], [[0, 0]]).jacobian()[0]
table(["at x = (0.5, −2, 3)", "∂/∂x₁", "∂/∂x₂", "∂/∂x₃"], [("f₁", *jacobian[0]), ("f₂", *jacobian[1])])
compare("[[1, x₃, x₂], [2x₁, 3, 0]]", jacobian, [[1, x3, x2], [2 * x1, 3, 0]])

X, y, w, b = numbers(5, 3), np.array([1, 0, 0, 1, 1]), np.array([0.5, -1, 2]), 0.4
G = cr.Network(3, [cr.Dense(1, "sigmoid")]).set(1, W=[w], b=[b]).gradient(X, y, aggregate="sum")
error = sigma(X @ w + b) - y
print(f"Logistic loss of five samples: ∂J/∂w = {row(G.dC_dW[1])}, ∂J/∂b = {row(G.dC_db[1])}.\n")
compare("Σᵢ (σ(zᵢ) − yᵢ) x_ij and Σᵢ (σ(zᵢ) − yᵢ)",
        [*G.dC_dW[1][0], *G.dC_db[1]], [*(error @ X), error.sum()])  # fmt: skip

W, b, x = 2 * numbers(3, 2), numbers(3), np.array([0.8, -0.6])
t = cr.Network(2, [cr.Dense(3, "sigmoid")]).set(1, W=W, b=b).trace([x], [[0, 0, 0]], loss="squared")
slope = sigma(W @ x + b) * (1 - sigma(W @ x + b))
tensor = t.jacobian(wrt="W", layer=1, full=True)[0]
print(f"A sigmoid layer with three units: f′(z) = {row(t[1].da_dz)}.\n")
compare("∂u/∂z = diag(f′)", t.jacobian(wrt="z", layer=1)[0], np.diag(slope))
compare("∂uᵢ/∂W_ij = f′(zᵢ) xⱼ", np.einsum("iij->ij", tensor), np.outer(slope, x))
compare("∂uᵢ/∂xⱼ = f′(zᵢ) W_ij", t.jacobian()[0], slope[:, None] * W)

target = np.array([1.0, -1.0, 0.5])
t = cr.Network(2, [cr.Dense(3)]).set(1, W=W, b=b).trace([x], [target])
u = W @ x + b - target
print(f"‖y − Wx − b‖² = {show(t.cost)}: by b {row(t[1].dC_db)}, by x {row(t[1].dC_da_prev)}.\n")
compare("2(zᵢ − yᵢ)xⱼ by W_ij", t[1].dC_dW, 2 * np.outer(u, x))
compare("2(zᵢ − yᵢ) by bᵢ", t[1].dC_db, 2 * u)
compare("2Wᵀ(z − y) by x", t[1].dC_da_prev[0], 2 * W.T @ u)

# ------------------------------------------------------------------------------------------------------------------
heading(9, "003 §3, problem 1", "ReLU and softmax with categorical cross-entropy, by indices")
N, n_i, n_h, n_o = 4, 3, 4, 3
X, labels = numbers(N, n_i), [2, 0, 1, 2]
W_hidden, b_hidden, W_out, b_out = 2 * numbers(n_h, n_i), numbers(n_h), numbers(n_o, n_h), numbers(n_o)
net = cr.Network(n_i, [cr.Dense(n_h, "relu"), cr.Dense(n_o, "softmax")]).set(1, W_hidden, b_hidden).set(2, W_out, b_out)
G = net.gradient(X, labels, aggregate="sum")
z_hidden = [[sum(W_hidden[j, k] * X[i, k] for k in range(n_i)) + b_hidden[j] for j in range(n_h)] for i in range(N)]
hidden = [[max(0, z) for z in line] for line in z_hidden]
z_out = [[sum(W_out[j, k] * hidden[i][k] for k in range(n_h)) + b_out[j] for j in range(n_o)] for i in range(N)]
d_out = [
    [math.exp(z_out[i][j]) / sum(map(math.exp, z_out[i])) - (labels[i] == j) for j in range(n_o)] for i in range(N)
]
d_u = [[sum(d_out[i][j] * W_out[j, k] for j in range(n_o)) for k in range(n_h)] for i in range(N)]
d_hidden = [[d_u[i][j] * (z_hidden[i][j] > 0) for j in range(n_h)] for i in range(N)]
by_out = [[sum(d_out[i][j] * hidden[i][k] for i in range(N)) for k in range(n_h)] for j in range(n_o)]
by_hidden = [[sum(d_hidden[i][j] * X[i, k] for i in range(N)) for k in range(n_i)] for j in range(n_h)]
loss = sum(math.log(sum(map(math.exp, z_out[i]))) - z_out[i][labels[i]] for i in range(N))
table(["", "found"], [("L", G.cost), ("∂L/∂bᴼ", row(G.dC_db[2])), ("∂L/∂bᴴ", row(G.dC_db[1])),
                      ("first row of ∂L/∂Wᴼ", row(G.dC_dW[2][0])), ("first row of ∂L/∂Wᴴ", row(G.dC_dW[1][0]))])  # fmt: skip
for name, ours, theirs in (
    ("L by (18)", G.cost, loss),
    ("∂L/∂Wᴼ_jk = Σᵢ ∂L/∂zᴼ_ij u_ik", G.dC_dW[2], by_out),
    ("∂L/∂bᴼ_j = Σᵢ ∂L/∂zᴼ_ij", G.dC_db[2], np.sum(d_out, axis=0)),
    ("∂L/∂Wᴴ_jk = Σᵢ ∂L/∂zᴴ_ij x_ik", G.dC_dW[1], by_hidden),
    ("∂L/∂bᴴ_j = Σᵢ ∂L/∂zᴴ_ij", G.dC_db[1], np.sum(d_hidden, axis=0)),
):
    compare(f"{name}", ours, theirs)

# ------------------------------------------------------------------------------------------------------------------
heading(10, "003 §3, problem 2", "A sum of exponentials with squared error")
N, M, n = 5, 3, 2
X, y, W, b, alpha = numbers(N, n), numbers(N), 0.5 * numbers(M, n), 0.5 * numbers(M), 2 * numbers(M)
net = cr.Network(n, [cr.Dense(M, "exp"), cr.Dense(1, bias=False)]).set(1, W, b).set(2, [alpha])
G = net.gradient(X, y, aggregate="sum")
exps = [[math.exp(sum(W[j, k] * X[i, k] for k in range(n)) + b[j]) for j in range(M)] for i in range(N)]
by_y = [2 * (sum(alpha[j] * exps[i][j] for j in range(M)) - y[i]) for i in range(N)]
by_z = [[by_y[i] * alpha[j] * exps[i][j] for j in range(M)] for i in range(N)]
table(["", "found"], [("L", G.cost), ("∂L/∂α", row(G.dC_dW[2])), ("∂L/∂b", row(G.dC_db[1])),
                      ("first row of ∂L/∂W", row(G.dC_dW[1][0]))])  # fmt: skip
compare("∂L/∂α_j = Σᵢ 2(ŷᵢ − yᵢ) u_ij", G.dC_dW[2][0], np.transpose(exps) @ by_y)
compare("∂L/∂W_jk = Σᵢ 2(ŷᵢ − yᵢ) α_j u_ij x_ik", G.dC_dW[1], np.transpose(by_z) @ X)
compare("∂L/∂b_j = Σᵢ 2(ŷᵢ − yᵢ) α_j u_ij", G.dC_db[1], np.sum(by_z, axis=0))
print(
    "Its computation graph has the edges "
    + ", ".join(f"{start} → {end}" for start, end in net.graph("squared").edges)
    + ".\n"
)

# ------------------------------------------------------------------------------------------------------------------
heading(11, "001 §3.2", "Jacobians of outputs by weights of any layer")
rows = []
checks = []
for sizes, l in (((2, 3, 4, 2, 5, 3), 3), ((4, 3, 2), 2), ((4, 3, 2), 1)):
    L = len(sizes) - 1
    net = cr.Network(sizes[0], [cr.Dense(units, "tanh") for units in sizes[1:]])
    for number in range(1, L + 1):
        net.set(number, W=numbers(sizes[number], sizes[number - 1]), b=0.3 * numbers(sizes[number]))
    t = net.trace(numbers(1, sizes[0]), np.zeros((1, sizes[-1])), loss="squared")
    tensor = t.jacobian(wrt="W", layer=l, full=True)[0]
    by_sums = np.zeros(tensor.shape)
    for v, p, q in np.ndindex(*tensor.shape):  # the sum over all paths from unit p of layer l to output v
        for path in itertools.product(*(range(size) for size in sizes[l + 1 : L])):
            units = (p, *path, v) if l < L else (p,)
            if units[-1] != v:
                continue
            product = t[l].da_dz[0, p] * t[l].a_prev[0, q]
            for number, (below, above) in enumerate(itertools.pairwise(units), l + 1):
                product *= t[number].da_dz[0, above] * t[number].W[above, below]
            by_sums[v, p, q] += product
    shape = " × ".join(map(str, tensor.shape))
    rows.append((L, l, " − ".join(map(str, sizes)), shape, tensor[0, 0, 0], by_sums[0, 0, 0]))
    checks.append((f"∂aᴸ/∂Wˡ for L = {L}, l = {l} to be the sums over indices", tensor, by_sums))
table(["L", "l", "units", "shape of ∂aᴸ/∂Wˡ", "its first entry", "by index sums"], rows)
for check in checks:
    compare(*check)

# ------------------------------------------------------------------------------------------------------------------
heading(12, "004 §4", "The AND function, one sample at a time")
X, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 0, 0, 1])
right, small = [], []
for seed in range(20):
    draw = np.random.RandomState(seed).randn  # in the order in which the paper's layers draw
    net = cr.Network(2, [cr.Dense(3, "tanh"), cr.Dense(1, "tanh")])
    net.set(1, W=draw(3, 2), b=draw(3)).set(2, W=draw(1, 3), b=draw(1))
    net.fit(X, y, loss="squared", optimizer=cr.SGD(0.1), epochs=1000, batch_size=1, sampling="sequential")
    y_hat = net.predict(X)[:, 0]
    right.append(((y_hat >= 0.5) == y).all())
    small.append(np.mean((y_hat - y) ** 2) < 1e-3)
print("A 2–3–1 tanh network from 20 random starts, N(0, 1), with η = 0.1 and 1 000 epochs:\n")
table(["starts", "classified right", "mean squared error below 0.001"], [(20, sum(right), sum(small))])
compare("all 20 to be right, with an error below 0.001", [sum(right), sum(small)], [20, 20], 0)
net = cr.Network(2, [cr.Dense(3, "tanh"), cr.Dense(1, "tanh")])
parameters = [[2 * numbers(3, 2), numbers(3, 1)], [numbers(1, 3), numbers(1, 1)]]
for number, (W, b) in enumerate(parameters, 1):
    net.set(number, W=W, b=b[:, 0])
errors = []
for _ in range(4):  # the paper's own loop in columns, W used before it is updated
    error = 0.0
    for x, truth in zip(X, y, strict=True):
        a_s = [x[:, None]]
        for W, b in parameters:
            a_s.append(np.tanh(W @ a_s[-1] + b))
        error += float((truth - a_s[-1][0, 0]) ** 2) / 4
        delta = 2 * (a_s[-1] - truth)
        for number in (1, 0):
            delta = delta * (1 - a_s[number + 1] ** 2)
            W, b = parameters[number]
            parameters[number] = [W - 0.1 * delta @ a_s[number].T, b - 0.1 * delta]
            delta = W.T @ delta
    errors.append(error)
run = net.fit(X, y, loss="squared", optimizer=cr.SGD(0.1), epochs=4, batch_size=1, sampling="sequential")
found = [epoch["train_cost"] for epoch in run.history]
table(["epoch", "mean error by the paper's loop", "found"], zip(range(1, 5), errors, found, strict=True))
compare("the mean errors of the paper's own loop, corrected", found, errors)

# ------------------------------------------------------------------------------------------------------------------
heading(13, "004, appendix A", "A stack of identity layers is one affine map")
sizes = (4, 5, 3, 2)
net = cr.Network(4, [cr.Dense(units) for units in sizes[1:]])
for number, (inputs, units) in enumerate(itertools.pairwise(sizes), 1):
    net.set(number, W=numbers(units, inputs), b=numbers(units))
one = net.collapse()
W = net.W(3) @ net.W(2) @ net.W(1)
b = net.W(3) @ net.W(2) @ net.b(1) + net.W(3) @ net.b(2) + net.b(3)
table(
    ["", "W", "b"],
    [("first row", row(one.W(1)[0]), show(one.b(1)[0])), ("second row", row(one.W(1)[1]), show(one.b(1)[1]))],
)
compare("W = W₃W₂W₁", one.W(1), W)
compare("b = W₃W₂b₁ + W₃b₂ + b₃", one.b(1), b)
compare("the same predictions", one.predict(numbers(6, 4)), net.predict(numbers(6, 4)))

# ------------------------------------------------------------------------------------------------------------------
heading(14, "004, appendix B", "Rows and columns")
m, n, N = 4, 3, 5
W, b, X, y = numbers(n, m), numbers(n), numbers(N, m), numbers(N, n)
t = cr.Network(m, [cr.Dense(n, "tanh")]).set(1, W=W, b=b).trace(X, y, loss="squared", aggregate="sum")
a_rows, a_columns = np.tanh(X @ W.T + b), np.tanh(W @ X.T + b[:, None])
d_rows, d_columns = 2 * (a_rows - y) * (1 - a_rows**2), 2 * (a_columns - y.T) * (1 - a_columns**2)
print(f"The first row of ∂C/∂W is {row(t[1].dC_dW[0])}.\n")
for name, ours, rows_form, columns_form in (
    ("a", t[1].a, a_rows, a_columns.T),
    ("∂C/∂W", t[1].dC_dW, (X.T @ d_rows).T, d_columns @ X),
    ("∂C/∂b", t[1].dC_db, d_rows.sum(axis=0), d_columns.sum(axis=1)),
    ("∂C/∂X", t[1].dC_da_prev, d_rows @ W, (W.T @ d_columns).T),
):
    compare(f"{name} from rows and, transposed, from columns", [ours, ours], [rows_form, columns_form])

print("All fourteen agree." if not failures else f"{len(failures)} differ: " + "; ".join(failures))
