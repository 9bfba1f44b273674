"""Whether `mlx.launch` started this process beside others that train the same run. Nothing of MLX is loaded to tell."""

import os


def is_launched() -> bool:
    """Whether `mlx.launch` started this process."""
    return "MLX_RANK" in os.environ


def rank() -> int:
    """Which of the processes this is; 0 is the first, and the only one elsewhere."""
    return int(os.environ.get("MLX_RANK", "0"))
