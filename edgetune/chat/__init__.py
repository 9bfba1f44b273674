"""Talking with a model, offline: through llama.cpp in a child process, or with our own decoder."""
