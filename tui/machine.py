"""The machine in the top bar: chip, memory, and how much of it is free."""

from edgetune.hardware.limits import available_memory, total_memory


class MachineLine:
    """Reads what changes; the chip's name is read once."""

    def __init__(self) -> None:
        self.chip = ""
        self.texts: tuple[str, str] = ("", "")

    def look(self) -> None:
        """Reads the memory anew."""
        if not self.chip:
            from edgetune.hardware.machine import chip

            self.chip = short(chip())
        total, free = total_memory() / 1e9, available_memory() / 1e9
        self.texts = (f"{self.chip} · {total:.0f} GB · {free:.1f} free", f"{total - free:.1f}/{total:.0f} GB")


def short(chip: str) -> str:
    """A chip's name without what nobody reads: "Apple M2 Pro" is "M2 Pro"."""
    for noise in ("(R)", "(TM)", "(tm)", "Apple ", "CPU", "Processor"):
        chip = chip.replace(noise, "")
    words = [word for word in chip.split("@")[0].split() if not word.endswith("-Core")]
    return " ".join(words)[:22].strip()
