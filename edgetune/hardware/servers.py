"""Other programs on this machine that hold models in memory, by the names of their processes."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import psutil

LEAST = 100_000_000  # bytes: less is no model
PROCESSES = {
    "ollama": "Ollama",
    "lm studio": "LM Studio",
    "lmstudio": "LM Studio",
    "lms": "LM Studio",
    "llama-server": "llama-server",
    "llamafile": "llamafile",
    "koboldcpp": "KoboldCpp",
    "local-ai": "LocalAI",
    "jan": "Jan",
    "omlx": "oMLX",
}
MODULES = {
    "mlx_lm.server": "mlx_lm.server",
    "mlx_vlm.server": "mlx_vlm.server",
    "llama_cpp.server": "llama-cpp-python's server",
    "vllm": "vLLM",
}


class Server(NamedTuple):
    """A program that serves models, and the bytes that its processes have in memory."""

    name: str
    memory_bytes: int


def model_servers() -> list[Server]:
    """Those that hold as much as a model, the largest first."""
    held: Counter[str] = Counter()
    for process in psutil.process_iter(["name", "cmdline", "memory_info"]):
        memory = process.info["memory_info"]  # None: not ours to see
        name = server_name(process.info["name"] or "", process.info["cmdline"] or [])
        if name and memory:
            held[name] += memory.rss
    return [Server(name, bytes_) for name, bytes_ in held.most_common() if bytes_ >= LEAST]


def server_name(process: str, command: Iterable[str]) -> str:
    """What serves models under that name and command; empty: something else."""
    stem = process.lower().removesuffix(".exe")
    for start, name in PROCESSES.items():
        if stem == start or stem.startswith((f"{start} ", f"{start}_", f"{start}-")):
            return name
    words = [word.rpartition("/")[2] for word in command]
    if words[1:2] == ["-m"] and words[2:4] == ["mlx_lm", "server"]:
        return "mlx_lm.server"
    return next((MODULES[word] for word in words[:3] if word in MODULES), "")
