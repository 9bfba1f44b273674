"""The alphabet of byte-level BPE (GPT-2): each byte is one printable character."""

PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
HIDDEN = [byte for byte in range(256) if byte not in PRINTABLE]
BYTE_OF = {chr(byte): byte for byte in PRINTABLE} | {chr(256 + at): byte for at, byte in enumerate(HIDDEN)}


def to_bytes(piece: str) -> bytes:
    """The bytes that a piece of the vocabulary stands for; a character outside the alphabet stands for itself."""
    return b"".join(bytes((BYTE_OF[char],)) if char in BYTE_OF else char.encode("utf-8", "replace") for char in piece)
