"""The compiled engine: formulas compiled by Numba into loops over numbers."""
