"""Models out: merged folders and GGUF files, each whole or absent, each checked before it is written."""
