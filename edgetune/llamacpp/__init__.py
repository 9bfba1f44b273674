"""llama.cpp, in a process of its own: a file that makes it abort or fault ends that process and nothing else."""

from edgetune.llamacpp.client import LlamaChild, quantize

__all__ = ["LlamaChild", "quantize"]
