"""How good a model is: its loss on held-out rows, token by token, and its answers against the right ones."""
