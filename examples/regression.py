"""Regression on a real table: the diabetes data, the mean and the 90 % quantile of the disease's progress."""

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

import chainrule as cr

X, y = load_diabetes(return_X_y=True, scaled=True)
X = X / X.std(axis=0)
X, X_test, y, y_test = train_test_split(X, y, test_size=0.2, random_state=0)
X, X_valid, y, y_valid = train_test_split(X, y, test_size=0.2, random_state=0)
mean, scale = y.mean(), y.std()

predictions = {}
for loss in ("squared", "quantile(0.9)"):
    network = cr.Network(10, [cr.Dense(32, "silu"), cr.Dropout(0.2), cr.Dense(1)], seed=0)
    run = network.fit(
        X,
        (y - mean) / scale,
        validation=(X_valid, (y_valid - mean) / scale),
        loss=loss,
        penalty=1e-3,
        optimizer=cr.AdamW(0.003),
        epochs=100,
        patience=20,
    )
    predictions[loss] = network.predict(X_test)[:, 0] * scale + mean
    print(f"{loss}: {run}")

rmse = np.sqrt(np.mean((predictions["squared"] - y_test) ** 2))
print(f"test RMSE {rmse:.1f}; the mean alone gives {y_test.std():.1f}")
print(f"share of test rows below the predicted 90 % quantile: {np.mean(y_test <= predictions['quantile(0.9)']):.2f}")
