"""Records as a user would write them, for several tests."""

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
