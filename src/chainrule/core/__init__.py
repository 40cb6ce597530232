"""The network as mathematics: layers, architecture, cost, and the backward pass. Read in this order."""
