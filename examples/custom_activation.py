"""An activation and a loss of one's own: a formula with its derivatives, used wherever a name is."""

import numpy as np

import chainrule as cr


@cr.activation("z / (1 + Abs(z))", range=(-1, 1))
def softsign(xp, real):
    one, two = real(1), real(2)

    def g(z):
        return z / (one + xp.abs(z))

    def dg(z, a):
        return (one - xp.abs(a)) ** 2

    def d2g(z, a):
        return -two * xp.sign(z) * (one - xp.abs(a)) ** 3

    return g, dg, d2g


@cr.loss("(y_hat - y)**4")
def fourth_power(xp, real):
    def value(y_hat, y):
        return (y_hat - y) ** 4

    def derivative(y_hat, y):
        return real(4) * (y_hat - y) ** 3

    def second(y_hat, y):
        return real(12) * (y_hat - y) ** 2

    return value, derivative, second


rng = np.random.default_rng(0)
X = rng.uniform(-2, 2, (300, 2))
y = np.sin(2 * X[:, 0]) * X[:, 1]
network = cr.Network(2, [cr.Dense(24, softsign), cr.Dense(24, softsign), cr.Dense(1)])
run = network.fit(X, y, loss=fourth_power, optimizer=cr.Adam(0.01), schedule="cosine", epochs=200)
print(network)
print(f"cost from {run.history[0]['train_cost']:.4f} to {run.history[-1]['train_cost']:.1e}")

# The gradient against central differences, for one weight of the first layer.
gradient, h = network.gradient(X, y, loss=fourth_power).dC_dW[1][0, 0], 1e-5
W = network.W(1).copy()
costs = []
for step in (h, -h):
    W[0, 0] += step
    costs.append(network.set(1, W=W).cost(X, y, loss=fourth_power))
    W[0, 0] -= step
print("gradient agrees with differences:", bool(np.isclose(gradient, (costs[0] - costs[1]) / (2 * h), rtol=1e-5)))
