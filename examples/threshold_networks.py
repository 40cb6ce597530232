"""The three threshold networks of 003 (problems 1 to 3): weights by hand, every value in view."""

import chainrule as cr


def network(inputs: int, W_hidden: object, b_hidden: object, W_out: object, b_out: float) -> cr.Network:
    """A network of step units with the given parameters; its output decides ŷ = 1 where z ≥ 0."""
    net = cr.Network(inputs, [cr.Dense(len(b_hidden), "step"), cr.Dense(1, "step")])
    return net.set(1, W=W_hidden, b=b_hidden).set(2, W=[W_out], b=[b_out])


first = network(1, [[1], [1]], [-1, -3], [-1, 2], 0.5)
print("problem 1, ŷ is 0 on [1, 3) only:")
print(" ", {x: int(first.decide([[x]])[0, 0]) for x in (0, 0.9, 1, 2, 2.9, 3, 4)})

second = network(1, [[1], [1]], [-2, -4], [1, -2], -0.5)
print("problem 2, the four points of the table and x = 3.5:")
print(" ", {x: int(second.decide([[x]])[0, 0]) for x in (0, 1, 3, 5, 3.5)})

third = network(2, [[1, 0], [0, 1], [1, 1]], [0, 0, -1], [1, 1, -1], -1.5)
print("problem 3, 1 inside the triangle x₁ ≥ 0, x₂ ≥ 0, x₁ + x₂ < 1:")
for x2 in (1.0, 0.75, 0.5, 0.25, 0.0, -0.25):
    row = third.decide([[x1 / 4, x2] for x1 in range(-1, 5)])[:, 0]
    print(f"  x₂ = {x2:+.2f}  ", " ".join(map(str, row)))
