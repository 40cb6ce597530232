"""AND on a 2-3-1 tanh network, in the style of 004: layers as objects, one sample at a time, in fixed order."""

import numpy as np

import chainrule as cr

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
y = np.array([0, 0, 0, 1])

network = cr.Network(
    2,
    [
        cr.Dense(3, "tanh", init="normal", bias_init="normal"),
        cr.Dense(1, "tanh", init="normal", bias_init="normal"),
    ],
    seed=0,
)


def show(row: dict[str, float]) -> None:
    if row["epoch"] % 250 == 0:
        print(f"epoch {row['epoch']:4d}: mean error {row['train_cost']:.6f}")


network.fit(
    X, y, loss="squared", optimizer=cr.SGD(0.1), epochs=1000, batch_size=1, sampling="sequential", on_epoch=show
)
for inputs, truth, value in zip(X, y, network.predict(X)[:, 0], strict=True):
    print(inputs, "AND is", truth, "predicted", f"{value:+.3f}")
print("all right:", bool(((network.predict(X)[:, 0] >= 0.5) == y).all()))
