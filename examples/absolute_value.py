"""|x| with two hidden units (000 §1.3): one ReLU for each sign of x; first set by hand, then learned."""

import numpy as np

import chainrule as cr

network = cr.Network(1, [cr.Dense(2, "relu"), cr.Dense(1)])
network.set(1, W=[[1], [-1]], b=[0, 0]).set(2, W=[[1, 1]], b=[0])
for x in (-3.0, -0.5, 0.0, 2.0):
    print(f"x = {x:+.1f}: relu(x) + relu(-x) = {network.predict([[x]])[0, 0]:.1f}")

rng = np.random.default_rng(0)
x = rng.uniform(-2, 2, (200, 1))
y = np.abs(x) + rng.normal(0, 0.1, x.shape)
learned = cr.Network(1, [cr.Dense(2, "relu"), cr.Dense(1)], seed=1)
run = learned.fit(x, y, optimizer=cr.Adam(0.02), epochs=200, starts=4)
grid = np.linspace(-2, 2, 41)[:, None]
print(f"learned from noise 0.1, best of {len(run.starts)} starts: largest error on [-2, 2] is", end=" ")
print(f"{np.abs(learned.predict(grid) - np.abs(grid)).max():.2f}")
