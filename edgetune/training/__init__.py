"""How it is trained: loss, optimiser, loop, checkpoints."""
