"""Inspection: everything that training computes and more, as values; nothing here changes a network."""
