"""Formulas as frozen records, each written once: activations, losses, initializers."""
