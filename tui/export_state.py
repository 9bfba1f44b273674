"""An export as its events tell it: which step is at work, how far it is, and how each file scores."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from edgetune.events import Event, HopScored, Progress

Phase = Literal["none", "working", "done", "failed", "cancelled"]
Mark = Literal["open", "now", "done", "failed"]
ADAPTER = "adapter"


class Format(NamedTuple):
    """A type of file. `bits`: per weight, about; 0 for the adapter alone, which is counted otherwise."""

    kind: str
    bits: float
    use: str


FORMATS = (
    Format("Q4_K_M", 4.89, "phones, 4 GB"),
    Format("Q5_K_M", 5.70, "a little better"),
    Format("Q8_0", 8.50, "this machine"),
    Format("F16", 16.0, "archive, exact"),
    Format("Q6_K", 6.56, "between Q5 and Q8"),
    Format("Q3_K_M", 4.00, "very small devices"),
    Format(ADAPTER, 0.0, "llama.cpp --lora"),
)
USUAL = frozenset({"Q4_K_M", "Q8_0"})
WRITTEN_BY_US = ("F16", "Q8_0")  # the others are quantised by llama.cpp
STEPS = ("Merge", "Convert", "Quantise", "Verify", "Place")


class Proof(NamedTuple):
    """How one model of the chain scores on the held-out rows."""

    loss_delta: float
    kl: float
    same: float
    refused: bool = False


class Stage(NamedTuple):
    """A stage of the child's work: when it began, and how far it is."""

    name: str
    began: float
    done: float
    total: float
    now: float

    @property
    def share(self) -> float:
        """How much of it is done."""
        return self.done / self.total if self.total else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far."""
        passed = self.now - self.began
        return passed * (1 - self.share) / self.share if self.share > 0.02 and passed > 0.5 else None


@dataclass(frozen=True)
class ExportState:
    """What is known of an export that is at work, or done."""

    kinds: tuple[str, ...] = ()
    phase: Phase = "none"
    stage: Stage | None = None
    finished: frozenset[str] = frozenset()  # stages
    seconds: dict[str, float] = field(default_factory=lambda: dict[str, float]())  # of each step
    proofs: dict[str, Proof] = field(default_factory=lambda: dict[str, Proof]())  # by hop

    def after(self, event: Event) -> "ExportState":
        """The state after one more event."""
        match event:
            case HopScored():
                proof = Proof(event.loss_delta, event.kl, event.top1_agreement)
                return replace(self, proofs=self.proofs | {event.hop: proof})
            case Progress():
                return self.after_progress(event)
            case _:
                return self

    def after_progress(self, event: Progress) -> "ExportState":
        """A stage goes on, or another begins."""
        stage = self.stage
        same = stage is not None and stage.name == event.stage
        began = stage.began if stage and same else stage.now if stage else event.time
        finished, seconds = self.finished, self.seconds
        if stage and not same:
            finished = finished | {stage.name}
        step = step_of(event.stage)
        before = stage.now if stage else event.time
        seconds = seconds | {step: seconds.get(step, 0.0) + max(event.time - before, 0)}
        new = Stage(event.stage, began, event.done, event.total, event.time)
        return replace(self, stage=new, finished=finished, seconds=seconds)

    def mark(self, step: str) -> Mark:
        """Whether a step is done, at work, or to come."""
        if self.phase == "done":
            return "done"
        if self.stage is not None and self.phase in ("working", "failed") and step_of(self.stage.name) == step:
            return "now" if self.phase == "working" else "failed"
        wanted = self.stages(step)
        if wanted and all(any(name == done for done in self.finished) for name in wanted):
            return "done"
        return "open"

    def stages(self, step: str) -> list[str]:
        """The stages that a step consists of."""
        own = ["F16", *(kind for kind in self.kinds if kind in WRITTEN_BY_US and kind != "F16")]
        match step:
            case "Merge":
                return ["merging"]
            case "Convert":
                return [f"writing {kind}" for kind in own]
            case "Quantise":
                return [f"quantising to {kind}" for kind in self.quantised]
            case "Verify":
                adapter = ["scoring the adapter's GGUF"] if ADAPTER in self.kinds else []
                kinds = dict.fromkeys(["F16", *(kind for kind in self.kinds if kind != ADAPTER)])
                return ["scoring the merged model", *(f"scoring {kind}" for kind in kinds), *adapter]
            case _:
                return []

    @property
    def quantised(self) -> list[str]:
        """The types that llama.cpp makes."""
        return [kind for kind in self.kinds if kind not in WRITTEN_BY_US and kind != ADAPTER]

    @property
    def hops(self) -> int:
        """How many models are scored: the reference, the merged one, F16 and the others."""
        return 3 + len([kind for kind in self.kinds if kind != "F16"])


def step_of(stage: str) -> str:
    """The step that a stage of the child belongs to."""
    for start, step in (("merging", "Merge"), ("writing", "Convert"), ("quantising", "Quantise"), ("scoring", "Verify")):
        if stage.startswith(start):
            return step
    return "Read"


def hop_of(kind: str) -> str:
    """The name of a type's hop in the certificate."""
    return "GGUF base + adapter" if kind == ADAPTER else f"GGUF {kind}"


class Certified(NamedTuple):
    """What an export's folder holds: files by type, their proofs by hop, and what they were proved on."""

    files: dict[str, Path]
    proofs: dict[str, Proof]
    rows: int = 0
    tokens: int = 0
    held_out: bool = True
    ends: tuple[int, int] | None = None  # answers that end, of those that should


def read_certificate(out: Path) -> Certified:
    """The certificate beside the files, and those of its files that are there. Nothing where there is none, or a broken one."""
    try:
        told: dict[str, Any] = json.loads((out / "certificate.json").read_text("utf-8"))
        proofs: dict[str, Proof] = {}
        files: dict[str, Path] = {}
        for hop in told["hops"]:
            name = str(hop["name"])
            refused = hop["verdict"] == "refused"
            proofs[name] = Proof(float(hop["loss_delta"]), float(hop["kl"]), float(hop["top1_agreement"]), refused)
            file = out / Path(str(hop["file"])).name
            if hop["file"] and file.is_file():
                files[ADAPTER if name == hop_of(ADAPTER) else name.removeprefix("GGUF ")] = file
        ends = told.get("turn_end")
        ended = (int(ends["gguf_ended"]), int(ends["reference_ended"])) if ends else None
        return Certified(files, proofs, int(told["rows"]), int(told["tokens"]), bool(told["held_out"]), ended)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Certified({}, {})
