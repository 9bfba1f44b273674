"""EdgeTune: from a person's own examples to a small model that answers on their laptop, offline and proved.

The layers, lowest first: arrays (`backend`), models and text (`architecture`, `text`, `hub`, `llamacpp`), `adapters`,
`training`, outcomes (`planner`, `evaluation`, `export`, `chat`), `workspace`, and the faces `cli` and `tui`. A file
imports its own folder and lower layers only.
"""
