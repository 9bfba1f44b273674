"""From a run or a model folder to GGUF files and their certificate: merge, convert, quantise, and prove every hop."""

import importlib.metadata
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from edgetune.adapters.attach import open_adapted
from edgetune.adapters.lora import LoraAdapter
from edgetune.adapters.open import open_adapter
from edgetune.architecture.spec import ModelSpec, read_spec
from edgetune.architecture.weights import WeightFolder
from edgetune.config import QuantizeBase
from edgetune.errors import ConfigError, VerificationFailed
from edgetune.events import Event, HopScored, Progress, Warned
from edgetune.export.certificate import (
    EXACT,
    QUANTIZED,
    Certificate,
    Hop,
    Limit,
    Reference,
    Scores,
    TrainedOn,
    allowed_loss,
    gguf_blocks,
    judged,
    own_blocks,
    reference_of,
)
from edgetune.export.gguf_adapter import place_modules, write_gguf_adapter
from edgetune.export.gguf_file import FILE_TYPES, Kind, write_gguf
from edgetune.export.held_out import HeldOut, check_ends, check_tokens
from edgetune.export.merge import merge, quantized_warning
from edgetune.export.quantize import quant_type, quantize
from edgetune.files import clean, disk_errors, flush, move, require_space, safe_name, sweep, whole_file, write_file
from edgetune.llamacpp.client import LlamaChild

OnEvent = Callable[[Event], None]
ADAPTER = "adapter"  # among the files' kinds
WRITTEN_BY_US: Mapping[str, Kind] = {kind: kind for kind in FILE_TYPES}  # the others are quantised by llama.cpp


@dataclass(frozen=True)
class Source:
    """What is exported: a model folder, an adapter on it or none, and the rows that prove it.

    `quantize_base`: the adapter was trained on the model's weights in that precision. What is exported has them in floats.
    """

    name: str
    model: Path
    adapter: Path | None
    held_out: HeldOut
    quantize_base: QuantizeBase = "none"


@dataclass(frozen=True)
class Exported:
    """One file that is handed over."""

    kind: str
    path: Path
    hop: Hop


@dataclass(frozen=True)
class ExportResult:
    """All files, and the certificate beside them."""

    files: tuple[Exported, ...]
    certificate: Path


def export(
    source: Source, kinds: Sequence[str], out: Path, workers: int, on_event: OnEvent, adapter_gguf: bool = False
) -> ExportResult:
    """Writes NAME-KIND.gguf for every kind into `out`, and certificate.json. Nothing comes to `out` before it is proved.

    With `adapter_gguf` also NAME-adapter.gguf, which llama.cpp adds to a GGUF of the base.

    Raises:
        ConfigError: an unknown type, one that needs an importance matrix, or no adapter where one is asked for.
        ModelError, AdapterError: the source is damaged, or llama.cpp has no form for it.
        DiskFull: not enough room; nothing is left behind.
        VerificationFailed: a hop lost what was trained: its file is not handed over, the certificate says why.
    """
    wanted = list(dict.fromkeys(known_kind(kind) for kind in kinds))
    spec, name = read_spec(source.model), safe_name(file_name(source.name))
    adapter = checked_adapter(source, spec) if adapter_gguf else None
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        sweep(out)
    with scratch(out) as temporary, reference_of(source.held_out.examples, spec.vocab, temporary) as reference:
        weights = spec.parameters * (bytes_per_parameter(wanted, source.adapter is not None) + 2 * adapter_gguf)
        require_space(out, round(weights) + reference.values.nbytes)
        prover = Prover(source, spec, reference, workers, on_event)
        prover.own_models(temporary)
        merged = temporary / "merged" if source.adapter else source.model
        float16 = temporary / f"{name}-F16.gguf"
        write_gguf(merged, float16, "F16", on_event, name=source.name)
        hops = {"F16": prover.gguf("F16", float16, EXACT, full=True)}
        for kind in [kind for kind in wanted if kind != "F16"]:
            path = temporary / f"{name}-{kind}.gguf"
            if kind in WRITTEN_BY_US:
                write_gguf(merged, path, WRITTEN_BY_US[kind], on_event, name=source.name)
            else:
                quantize(float16, path, kind, on_event)
            hops[kind] = prover.gguf(kind, path, EXACT if kind in ("F32", "BF16") else QUANTIZED)
        if adapter is not None:
            path = temporary / f"{name}-adapter.gguf"
            write_gguf_adapter(path, replace(adapter, base_model=source.name), spec)
            hops[ADAPTER] = prover.gguf_adapter(path, temporary / "base.gguf")
            wanted.append(ADAPTER)
        files = tuple(Exported(kind, out / hop.file, hop) for kind, hop in hops.items() if kind in wanted)
        return hand_over(prover.certificate(), files, temporary, out)


def checked_adapter(source: Source, spec: ModelSpec) -> LoraAdapter:
    """The adapter that is to become a file of its own, looked at before anything is computed.

    Raises:
        ConfigError: there is none.
        AdapterError: llama.cpp cannot add it to a model.
    """
    if source.adapter is None:
        raise ConfigError("--adapter-gguf: there is no adapter here", hint="name a run, or give --adapter")
    adapter = open_adapter(source.adapter)
    place_modules(adapter, spec)
    return adapter


def bytes_per_parameter(kinds: Sequence[str], merges: bool) -> float:
    """What an export needs on the disk at once: the merged model, the F16 file, and those that are asked for."""
    sizes = {"F32": 4.0, "F16": 0.0, "BF16": 2.0}
    return (4 if merges else 0) + 2 + sum(sizes.get(kind, 1.1) for kind in kinds)


class Prover:
    """Scores one model after the other on the same rows, and keeps what came of it."""

    def __init__(self, source: Source, spec: ModelSpec, reference: Reference, workers: int, on_event: OnEvent):
        self.source, self.spec, self.reference, self.workers, self.on_event = source, spec, reference, workers, on_event
        self.hops: list[Hop] = []
        self.tokens = self.ends = self.trained_on = None
        self.base_loss = 0.0

    def own_models(self, temporary: Path) -> None:
        """The reference, the base, and the merged model, which is written here."""
        source, reference = self.source, self.reference
        tuned = open_adapted(source.model, source.adapter)
        own = reference.fill(own_blocks(tuned, reference, self.workers, self.counter("scoring the tuned model")))
        self.base_loss = self.reference_loss = own.loss
        self.add(Hop(name="base + adapter" if source.adapter else "model", loss=own.loss, verdict="reference"))
        if source.adapter is None:
            if warning := quantized_warning(WeightFolder(source.model)):
                self.on_event(warning)
            return
        base = open_adapted(source.model)
        self.base_loss = reference.loss_of(own_blocks(base, reference, self.workers, self.counter("scoring the base")))
        if source.quantize_base != "none":
            self.as_trained()
        merge(source.model, source.adapter, temporary / "merged", self.on_event, dtype="float32")
        blocks = own_blocks(
            open_adapted(temporary / "merged"), reference, self.workers, self.counter("scoring the merged model")
        )
        self.add(judged("merged", reference.compare(blocks), own.loss, self.base_loss, EXACT))

    def as_trained(self) -> None:
        """The adapter on the quantised weights that it was trained on: a warning if it misses them in what is exported."""
        source, precision = self.source, self.source.quantize_base
        trained = open_adapted(source.model, source.adapter, precision)
        blocks = own_blocks(trained, self.reference, self.workers, self.counter(f"scoring the adapter on its {precision} base"))
        scores = self.reference.compare(blocks)
        delta = scores.loss - self.reference_loss
        self.trained_on = TrainedOn(
            quantize_base=precision, loss=scores.loss, loss_delta=delta, kl=scores.kl, top1_agreement=scores.top1_agreement
        )
        self.tell(f"{precision} base", scores, delta)
        if -delta > allowed_loss(self.base_loss, self.reference_loss, EXACT):
            message = f"the adapter was trained on weights in {precision}; on the float weights it is {-delta:.3f} nats worse"
            self.on_event(Warned(message=message, hint='train with a milder training.quantize_base: "8bit" or "none"'))

    def gguf(self, kind: str, file: Path, limit: Limit, full: bool = False) -> Hop:
        """A GGUF in llama.cpp. `full`: also its tokenizer, and whether its answers end."""
        held_out = self.source.held_out
        asked = [*(len(row.tokens) for row in self.reference.rows), *(len(prompt) for prompt in held_out.prompts)]
        context = max(asked) + 2 * held_out.answer_tokens + 8
        with LlamaChild(file, context=context, cache_type="f32", gpu_layers=0) as child:
            scores = self.reference.compare(gguf_blocks(child, self.reference, self.counter(f"scoring {kind}")))
            hop = judged(f"GGUF {kind}", scores, self.reference_loss, self.base_loss, limit, file)
            self.add(hop)
            if full:
                self.tokens = check_tokens(child, held_out)
                self.ends = check_ends(child, open_adapted(self.source.model, self.source.adapter), held_out)
        return hop

    def gguf_adapter(self, file: Path, base: Path) -> Hop:
        """An adapter's GGUF in llama.cpp, on a float16 GGUF of the base that is written for this."""
        write_gguf(self.source.model, base, "F16", self.on_event)
        context = max(len(row.tokens) for row in self.reference.rows) + 8
        with LlamaChild(base, context=context, cache_type="f32", gpu_layers=0) as child:
            child.adapt([(file, 1.0)])
            scores = self.reference.compare(gguf_blocks(child, self.reference, self.counter("scoring the adapter's GGUF")))
        hop = judged("GGUF base + adapter", scores, self.reference_loss, self.base_loss, EXACT, file)
        self.add(hop)
        return hop

    def counter(self, stage: str) -> Callable[[], None]:
        """Tells how many rows are scored."""
        done, total = 0, len(self.reference.rows)

        def row() -> None:
            nonlocal done
            done += 1
            self.on_event(Progress(stage=stage, done=done, total=total, unit="rows"))

        return row

    def add(self, hop: Hop) -> None:
        """Keeps a hop and tells of it."""
        self.hops.append(hop)
        self.tell(hop.name, hop, hop.loss_delta)

    def tell(self, name: str, scores: Hop | Scores, delta: float) -> None:
        """How one model scores against the reference."""
        self.on_event(
            HopScored(hop=name, loss=scores.loss, loss_delta=delta, kl=scores.kl, top1_agreement=scores.top1_agreement)
        )

    def certificate(self) -> Certificate:
        """What was proved so far."""
        return Certificate(
            edgetune=importlib.metadata.version("edgetune"),
            base=self.source.name,
            held_out=self.source.held_out.is_held_out,
            rows=len(self.reference.rows),
            tokens=self.reference.tokens,
            base_loss=self.base_loss,
            trained_on=self.trained_on,
            hops=self.hops,
            tokenizer=self.tokens,
            turn_end=self.ends,
        )


def known_kind(kind: str) -> str:
    """A type's name as llama.cpp spells it.

    Raises:
        ConfigError: there is no such type, or it cannot be made without an importance matrix.
    """
    name = kind.strip().upper()
    if not name:
        raise ConfigError("--to names no type", hint="for example --to F16,Q8_0,Q4_K_M")
    return name if name in WRITTEN_BY_US else quant_type(name)[0]


def file_name(name: str) -> str:
    """A model's name without what a file's name cannot hold."""
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in clean(name))
    return kept.strip("-.")[:48] or "model"


@contextmanager
def scratch(out: Path) -> Generator[Path]:
    """A folder beside the files for what is only needed on the way; a killed export's is swept by the next one."""
    with disk_errors(out):
        folder = Path(tempfile.mkdtemp(prefix=".export-", suffix=".part", dir=out))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_certificate(certificate: Certificate, out: Path) -> Path:
    """certificate.json, beside the files."""
    path = out / "certificate.json"
    with whole_file(path, "certificate") as part:
        write_file(part, msgspec.json.format(msgspec.json.encode(certificate), indent=2) + b"\n", "certificate-content")
    return path


def hand_over(certificate: Certificate, files: Sequence[Exported], temporary: Path, out: Path) -> ExportResult:
    """Writes the certificate down, then moves what it proves to its place. Of what is refused, no older file stays either.

    Raises:
        VerificationFailed: something was refused.
    """
    path = write_certificate(certificate, out)
    reasons = certificate.refusals
    lost = [hop.name for hop in certificate.hops if hop.verdict == "refused"]
    everything = len(reasons) > len(lost) or "merged" in lost or "GGUF F16" in lost
    kept = [file for file in files if not everything and file.hop.verdict == "proved"]
    with disk_errors(out):
        for file in files:
            if file in kept:
                move(temporary / file.path.name, file.path, "export")
            else:
                file.path.unlink(missing_ok=True)
        flush(out)
    if reasons:
        named = f"handed over: {', '.join(file.path.name for file in kept)}; " if kept else ""
        advice = "; take a type with more bits" if not everything else ""
        raise VerificationFailed("not handed over: " + "; ".join(reasons), hint=f"{named}{path} has every figure{advice}")
    return ExportResult(tuple(files), path)
