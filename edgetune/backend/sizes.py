"""The sizes that backends work in: how much exists at once. The planner counts with the same numbers; no library is loaded."""

BLOCK = 64  # rows of an elementwise pass, on NumPy
QUERIES = 128  # queries whose scores exist at once, on NumPy
VOCABULARY = 2048  # tokens whose logits exist at once, on NumPy
TILE_BYTES = 1 << 25  # of the logits that exist at once in a loss, on MLX
NARROWEST = 1024  # tokens of the vocabulary in such a tile
SHORTEST, SHARE = 64, 16  # on MLX lengths are padded to multiples of a sixteenth of the next power of two, and of 4

PREFIX_BYTES, PREFIX_SHARE = 10_000_000_000, 0.25  # kept on the disk of frozen layers: at most, and of what is free there


def padded(length: int) -> int:
    """The length that so many tokens are padded to on MLX."""
    step = max(SHORTEST, 1 << (length - 1).bit_length()) // SHARE
    return -(-length // step) * step


def tile_width(kept: int, tile_bytes: int = TILE_BYTES, narrowest: int = NARROWEST) -> int:
    """Tokens of the vocabulary whose logits for so many positions exist at once on MLX."""
    return max(narrowest, tile_bytes // (4 * kept) // narrowest * narrowest)
