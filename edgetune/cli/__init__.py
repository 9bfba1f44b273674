"""The face for scripts: one module per noun. `main` holds the app and its one error handler, `output` the only print()."""
