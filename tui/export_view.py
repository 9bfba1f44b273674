"""What the export screen says, as content: pure functions of the export as it stands, and of the width there is."""

import shlex
from dataclasses import replace
from pathlib import Path

from textual.content import Content

from edgetune.units import count, duration, size
from tui.dashboard import keys, quiet
from tui.export_state import ADAPTER, STEPS, Certified, ExportState, Mark, Phase, Proof, hop_of, step_of
from tui.literal import literal, one_line
from tui.widgets.bars import track

MARKS: dict[Mark, tuple[str, str]] = {
    "open": ("○", "$quiet"),
    "now": ("●", "$primary"),
    "done": ("✓", "$success"),
    "failed": ("✗", "$error"),
}
FELT = 0.05  # nats per token that are lost: from here on it is worth a colour


def delta(proof: Proof) -> tuple[str, str]:
    """The loss that a file adds, and the style that says how much that is."""
    text = "exact" if abs(proof.loss_delta) < 5e-4 and proof.kl < 1e-4 else f"{proof.loss_delta:+.3f}"
    if proof.refused:
        return f"✗{text}", "$error"
    return text, "$warning" if proof.loss_delta > FELT else "$success"


def same(proof: Proof) -> str:
    """How often the likeliest token is that of the trained model; the nearest whole percent below 100."""
    return "100%" if proof.same > 0.9995 else f"{min(100 * proof.same, 99.9):.1f}%"


def step_lines(state: ExportState, out: Path, width: int) -> list[Content]:
    """The five steps: done, at work with a bar, or to come."""
    lines = [step_line(state, step, out, width) for step in STEPS]
    if state.phase == "working" and (state.stage is None or step_of(state.stage.name) == "Read"):
        text = state.stage.name if state.stage else "opening the run"
        lines[0] = literal("◌ ", "$primary") + literal(f"{'Read':<10}") + one_line(text, "$quiet")
    return lines


def step_line(state: ExportState, step: str, out: Path, width: int) -> Content:
    """One step."""
    mark = state.mark(step)
    glyph, style = MARKS[mark]
    head = literal(f"{glyph} ", style) + literal(f"{step:<10}", "bold" if mark == "now" else "" if mark == "done" else "$quiet")
    if mark == "now" and state.stage is not None:
        return head + now_part(state, width - 12)
    seconds = state.seconds.get(step)
    took = quiet(f"  {duration(seconds)}") if mark == "done" and seconds else Content("")
    return (head + one_line(about(state, step, out), "" if mark == "done" else "$quiet") + took).truncate(width, ellipsis=True)


def now_part(state: ExportState, width: int) -> Content:
    """What is at work, how far, and how long yet."""
    assert state.stage is not None
    left = state.stage.seconds_left
    name = one_line(state.stage.name.partition(" ")[2] or state.stage.name).truncate(22, ellipsis=True)
    cells = max(width - 48, 6)
    shown = name + Content(" " * (24 - name.cell_length)) + track(state.stage.share, cells)
    return (
        shown
        + literal(f" {int(100 * state.stage.share):>3}%")
        + quiet(f"  {duration(left) + ' left' if left is not None else '':>16}")
    )


def about(state: ExportState, step: str, out: Path) -> str:
    """What a step does, or did."""
    match step:
        case "Merge":
            return "the adapter into the base's float weights"
        case "Convert":
            return "to GGUF: " + ", ".join(name.partition(" ")[2] for name in state.stages("Convert"))
        case "Quantise":
            return ", ".join(state.quantised) or "nothing asked for"
        case "Verify":
            if state.proofs:
                return f"{len(state.proofs)} of {state.hops} models scored on the held-out rows"
            return "every file on held-out rows, in llama.cpp"
        case _:
            return f"{out.name}/ beside the run" if state.phase != "done" else f"{out}"


def result_line(certified: Certified) -> Content:
    """What was proved."""
    rows = f"{count(certified.rows)} {'held-out' if certified.held_out else 'trained'} rows, {count(certified.tokens)} tokens"
    files = len(certified.files)
    shown = literal(f"✓ {files} {'file' if files == 1 else 'files'} proved", "bold $success") + quiet(f" on {rows}")
    if certified.ends and certified.ends[1]:
        shown += quiet(f" · {certified.ends[0]} of {certified.ends[1]} answers end")
    return shown


def proof_lines(proofs: dict[str, Proof], files: dict[str, Path]) -> list[Content]:
    """Every hop of the chain: loss against the trained model, divergence, same token."""
    lines = [quiet(f"{'':<12}{'loss':>7}{'KL':>8}{'same':>8}")]
    for name, proof in proofs.items():
        text, style = delta(proof)
        label = {"base + adapter": "trained", "GGUF base + adapter": ADAPTER}.get(name, name.removeprefix("GGUF "))
        if name == "base + adapter":
            text, style = "–", "$quiet"
        lines.append(one_line(label) + Content(" " * max(19 - len(label) - len(text), 1)) + literal(text, style)
                     + quiet(f"{proof.kl:>8.4f}{same(proof):>8}"))  # fmt: skip
    return lines


def command_for(kind: str, file: Path, base: str) -> str:
    """What runs a file anywhere."""
    if kind == ADAPTER:
        return f"llama-cli -m {shlex.quote(base + '.gguf')} --lora {shlex.quote(str(file))} -cnv"
    return f"llama-cli -m {shlex.quote(str(file))} -cnv"


def quality(kind: str, state: ExportState, certified: Certified) -> Proof | None:
    """How a type scores: as it is proved now, or was before."""
    return state.proofs.get(hop_of(kind)) or certified.proofs.get(hop_of(kind))


def need_line(need: int, free: int) -> Content:
    """Whether there is room for it."""
    if not need:
        return quiet(f"{size(free)} free on the disk")
    fits = need <= free
    text = f"needs {size(need)}, {size(free)} free "
    return literal(text) + literal("✓" if fits else "✗ too little", "$success" if fits else "$error")


def waiting(phase: str) -> list[Content]:
    """What stands in the steps' place before anything was exported."""
    if phase == "cancelled":
        return [literal("■ Cancelled: no file was touched.", "$warning"), keys("e", "export again")]
    return [quiet("The files are made, and proved on rows that training never saw."), keys("space", "select", "e", "export")]


def ended(state: ExportState, phase: Phase) -> ExportState:
    """The state of an export that is over."""
    return replace(state, phase=phase)
