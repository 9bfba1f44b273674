"""Bytes by part, seconds by part, whether it fits, and what would help."""
