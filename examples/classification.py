"""Classification of real data: handwritten digits, 8 × 8 pixels, ten classes; saved and read again."""

import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import chainrule as cr

X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(X / 16, y, test_size=0.2, random_state=0, stratify=y)
X, X_valid, y, y_valid = train_test_split(X, y, test_size=0.15, random_state=0, stratify=y)

network = cr.Network(64, [cr.Dense(128, "relu"), cr.Dropout(0.2), cr.Dense(10, "softmax")], seed=0, dtype="float32")
run = network.fit(
    X, y, validation=(X_valid, y_valid), optimizer=cr.Adam(0.003), schedule="cosine", epochs=60, monitor="error_rate"
)
print(network)
print(run)
print(f"test error {np.mean(network.decide(X_test) != y_test):.1%}")

with tempfile.TemporaryDirectory() as folder:
    network.save(Path(folder) / "digits.safetensors")
    again = cr.Network.load(Path(folder) / "digits.safetensors")
print("the same after saving and loading:", np.array_equal(again.predict(X_test), network.predict(X_test)))
