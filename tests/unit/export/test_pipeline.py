"""Nothing comes to its place before it is proved, and what loses the training never does."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgetune.adapters.dora import matrices_of, with_magnitudes
from edgetune.adapters.lora import LoraAdapter, LoraFactors
from edgetune.adapters.peft import write_peft
from edgetune.architecture.load import load_model
from edgetune.architecture.spec import read_spec
from edgetune.architecture.weights import WeightFolder, save_arrays, save_safetensors, to_bfloat16
from edgetune.errors import AdapterError, BeyondRange, ChildFailed, ConfigError, DiskFull, InputError, VerificationFailed
from edgetune.events import Event, HopScored, Progress, Warned
from edgetune.export import pipeline
from edgetune.export.certificate import Certificate
from edgetune.export.gguf_adapter import read_gguf_adapter
from edgetune.export.held_out import HeldOut
from edgetune.export.pipeline import ExportResult, Source, bytes_per_parameter, export, file_name
from edgetune.files import sha256
from edgetune.llamacpp.client import LlamaChild
from edgetune.text.chat_template import load_template
from edgetune.text.examples import Example
from edgetune.text.tokenizer import load_tokenizer

pytestmark = pytest.mark.slow  # together

TALK = [{"role": "user", "content": "Who sees the red house?"}, {"role": "assistant", "content": "I do."}]


@pytest.fixture(scope="module")
def held_out(tiny_model: Path) -> HeldOut:
    tokenizer = load_tokenizer(tiny_model)
    template = load_template(tiny_model, tokenizer)
    assert template is not None
    rendered = template.encode(TALK)
    texts = [(template.render(TALK), rendered.ids.tolist())]
    examples = [Example(rendered.ids, rendered.trained, "rows.jsonl", line) for line in range(1, 5)]
    plain = [("Hello there", tokenizer.encode("Hello there"))]
    return HeldOut(examples, texts, plain, [template.prompt(TALK[:1])], template.end_ids, answer_tokens=6)


@pytest.fixture
def source(tiny_model: Path, adapter_folder: Path, held_out: HeldOut) -> Source:
    return Source("someone/tiny", tiny_model, adapter_folder, held_out)


def run(source: Source, kinds: list[str], out: Path) -> tuple[ExportResult, list[Event]]:
    events: list[Event] = []
    return export(source, kinds, out, 2, events.append), events


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def certificate_in(folder: Path) -> Certificate:
    return msgspec.json.decode((folder / "certificate.json").read_bytes(), type=Certificate)


def test_files_and_their_certificate(source: Source, tmp_path: Path) -> None:
    result, events = run(source, ["q8_0", "F16", "Q8_0", " f32 ", "BF16", "Q6_K"], tmp_path / "out")
    assert [file.kind for file in result.files] == ["F16", "Q8_0", "F32", "BF16", "Q6_K"]
    names = [f"someone-tiny-{kind}.gguf" for kind in ("BF16", "F16", "F32", "Q6_K", "Q8_0")]
    assert left_in(tmp_path / "out") == ["certificate.json", *names]
    certificate = certificate_in(tmp_path / "out")
    assert result.certificate == tmp_path / "out" / "certificate.json" and certificate.refusals == []
    assert [hop.name for hop in certificate.hops] == [
        "base + adapter",
        "merged",
        *(f"GGUF {file.kind}" for file in result.files),
    ]
    for file, hop in zip(result.files, certificate.hops[2:], strict=True):
        assert file.hop == hop and hop.file == file.path.name and hop.verdict == "proved"
        assert (hop.bytes, hop.sha256) == (file.path.stat().st_size, sha256(file.path))
    assert certificate.hops[1].kl < 1e-6 and certificate.hops[2].kl < 1e-3 and certificate.hops[1].top1_agreement == 1
    assert certificate.tokenizer is not None and (certificate.tokenizer.texts, certificate.tokenizer.differences) == (2, [])
    assert certificate.turn_end is not None and certificate.turn_end.asked == 1
    assert (certificate.rows, certificate.base, certificate.held_out) == (4, "someone/tiny", True)
    assert abs(certificate.base_loss - certificate.hops[0].loss) > 0.01
    assert [event.hop for event in events if isinstance(event, HopScored)] == [hop.name for hop in certificate.hops]
    assert {event.stage for event in events if isinstance(event, Progress)} >= {"scoring the base", "merging", "scoring F16"}
    text = (tmp_path / "out" / "certificate.json").read_text()
    assert str(tmp_path) not in text and str(source.model) not in text


def test_the_adapter_alone_is_proved_on_its_base(source: Source, lora: LoraAdapter, tmp_path: Path) -> None:
    result = export(source, ["Q8_0"], tmp_path / "out", 2, lambda _: None, adapter_gguf=True)
    names = ["certificate.json", "someone-tiny-Q8_0.gguf", "someone-tiny-adapter.gguf"]
    assert [file.kind for file in result.files] == ["Q8_0", "adapter"] and left_in(tmp_path / "out") == names
    hop = certificate_in(tmp_path / "out").hops[-1]
    assert (hop.name, hop.file, hop.verdict) == ("GGUF base + adapter", names[-1], "proved") and hop.kl < 1e-3
    back = read_gguf_adapter(tmp_path / "out" / names[-1], read_spec(source.model))
    assert back.factors.keys() == lora.factors.keys() and back.base_model == "someone/tiny"


def test_an_adapter_that_is_not_what_was_trained_is_refused(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def halved(file: Path, adapter: LoraAdapter, spec: Any) -> None:
        written(file, adapter.with_arrays({name: array / 2 for name, array in adapter.trained_arrays().items()}), spec)

    written = pipeline.write_gguf_adapter
    monkeypatch.setattr(pipeline, "write_gguf_adapter", halved)
    with pytest.raises(VerificationFailed, match=r"base \+ adapter"):
        export(source, ["F16"], tmp_path / "out", 2, lambda _: None, adapter_gguf=True)
    assert left_in(tmp_path / "out") == ["certificate.json", "someone-tiny-F16.gguf"]


def test_an_adapter_that_cannot_stand_alone_is_told_at_once(source: Source, lora: LoraAdapter, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no adapter here"):
        export(replace(source, adapter=None), ["F16"], tmp_path / "out", 2, lambda _: None, adapter_gguf=True)
    (tmp_path / "dora").mkdir()
    write_peft(tmp_path / "dora", with_magnitudes(lora, matrices_of(load_model(source.model))))
    dora = replace(source, adapter=tmp_path / "dora")
    with pytest.raises(AdapterError, match="DoRA") as caught:
        export(dora, ["F16"], tmp_path / "out", 2, lambda _: None, adapter_gguf=True)
    assert "merge" in caught.value.hint and not (tmp_path / "out").exists()
    assert export(dora, ["F16"], tmp_path / "out", 2, lambda _: None).files[0].hop.verdict == "proved"


def test_a_model_without_an_adapter_is_its_own_reference(source: Source, tmp_path: Path) -> None:
    bare = replace(source, adapter=None, held_out=replace(source.held_out, is_held_out=False))
    result, _ = run(bare, ["Q8_0"], tmp_path)
    certificate = certificate_in(tmp_path)
    assert [hop.name for hop in certificate.hops] == ["model", "GGUF F16", "GGUF Q8_0"]
    assert certificate.base_loss == certificate.hops[0].loss and certificate.held_out is False
    assert left_in(tmp_path) == ["certificate.json", "someone-tiny-Q8_0.gguf"]  # the F16 was only on the way
    with LlamaChild(result.files[0].path) as child:
        assert child.info.vocab_size == read_spec(source.model).vocab


# ---- what must not be handed over --------------------------------------------------------------------------------------


def refused(source: Source, kinds: list[str], out: Path) -> VerificationFailed:
    with pytest.raises(VerificationFailed) as caught:
        run(source, kinds, out)
    assert caught.value.exit_code == 5 and str(out / "certificate.json") in caught.value.hint
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    return caught.value


def damaged(folder: Path) -> None:
    """The model with one matrix of its last layer turned round."""
    weights = WeightFolder(folder)
    arrays = {name: weights.floats(name) for name in weights.tensors}
    for kind in ("gate_proj", "up_proj"):
        arrays[f"model.layers.1.mlp.{kind}.weight"] *= -1.5
    (folder / "model.safetensors").unlink()
    save_arrays(folder / "model.safetensors", arrays, {"format": "pt"})


def put_old_files(out: Path, *kinds: str) -> None:
    """What an earlier export left there."""
    out.mkdir()
    for kind in kinds:
        (out / f"someone-tiny-{kind}.gguf").write_text("of an earlier export")
    (out / "mine.txt").write_text("not ours")


def test_a_merge_that_lost_the_training_is_refused(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merge = pipeline.merge

    def bad(model: Path, adapter: Path, out: Path, *rest: Any, **more: Any) -> None:
        merge(model, adapter, out, *rest, **more)
        damaged(out)

    monkeypatch.setattr(pipeline, "merge", bad)
    put_old_files(tmp_path / "out", "F16", "Q8_0")
    error = refused(source, ["F16", "Q8_0"], tmp_path / "out")
    assert "merged loses" in str(error)
    assert left_in(tmp_path / "out") == ["certificate.json", "mine.txt"]  # no file of that name may pass for proved
    assert certificate_in(tmp_path / "out").hops[1].verdict == "refused"


def test_a_gguf_of_another_model_is_refused(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, other = pipeline.write_gguf, shutil.copytree(source.model, tmp_path / "other")
    damaged(other)
    monkeypatch.setattr(pipeline, "write_gguf", lambda model, *rest, **more: write(other, *rest, **more))
    error = refused(source, ["F16"], tmp_path / "out")
    assert "GGUF F16 loses" in str(error) and left_in(tmp_path / "out") == ["certificate.json"]
    assert [hop.verdict for hop in certificate_in(tmp_path / "out").hops] == ["reference", "proved", "refused"]


def test_a_bad_quantisation_alone_is_refused_and_the_others_kept(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize, other = pipeline.quantize, shutil.copytree(source.model, tmp_path / "other")
    damaged(other)

    def bad(float16: Path, out: Path, kind: str, *rest: Any) -> None:
        pipeline.write_gguf(other, tmp_path / "other.gguf", "F16")
        quantize(tmp_path / "other.gguf", out, kind, *rest)

    monkeypatch.setattr(pipeline, "quantize", bad)
    put_old_files(tmp_path / "out", "Q4_K_M")
    error = refused(source, ["F16", "Q8_0", "Q4_K_M"], tmp_path / "out")
    assert "GGUF Q4_K_M loses" in str(error) and "F16" not in str(error)
    assert "someone-tiny-F16.gguf, someone-tiny-Q8_0.gguf" in error.hint and "more bits" in error.hint
    assert left_in(tmp_path / "out") == ["certificate.json", "mine.txt", "someone-tiny-F16.gguf", "someone-tiny-Q8_0.gguf"]


@pytest.mark.parametrize(
    ("change", "said"),
    [(lambda held: replace(held, plain=[("Hello there", [7, 8, 9])]), "tokenizer reads 'Hello there' otherwise"),
     (lambda held: replace(held, texts=[("<|user|>x", [1])]), "tokenizer reads"),
     (lambda held: replace(held, end_ids=frozenset(range(400))), "answers of the GGUF do not end")],
)  # fmt: skip
def test_ids_that_differ_and_answers_that_do_not_end_refuse_everything(
    change: Callable[[HeldOut], HeldOut], said: str, source: Source, tmp_path: Path
) -> None:
    error = refused(replace(source, held_out=change(source.held_out)), ["F16", "Q8_0"], tmp_path)
    assert said in str(error) and "more bits" not in error.hint
    assert left_in(tmp_path) == ["certificate.json"]


@pytest.mark.parametrize("stage", ["merge", "write_gguf", "quantize", "LlamaChild"])
def test_53_a_failure_on_the_way_leaves_nothing_behind(
    stage: str, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even what was made before it: it is not proved. What an earlier export proved stays as it was."""
    out = tmp_path / "out"
    run(source, ["F16"], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    calls: list[int] = []
    real = getattr(pipeline, stage)

    def fails_later(*arguments: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == (1 if stage in ("merge", "quantize") else 2):
            raise ChildFailed("died") if stage == "LlamaChild" else DiskFull("no room left")
        return real(*arguments, **more)

    monkeypatch.setattr(pipeline, stage, fails_later)
    with pytest.raises((ChildFailed, DiskFull)):
        run(source, ["F16", "Q8_0", "Q4_K_M"], out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_prompt_longer_than_every_row_has_room(source: Source, tmp_path: Path) -> None:
    """Rows can be left out of the scoring, or be shorter than the prompts. Asked with every id as an end, llama.cpp answers."""
    prompt = [*source.held_out.prompts[0]] * 30
    held = replace(source.held_out, prompts=[prompt], end_ids=frozenset(range(400)))
    assert "1 of 1 answers of the GGUF do not end" in str(refused(replace(source, held_out=held), ["F16"], tmp_path))


# ---- before it starts --------------------------------------------------------------------------------------------------


def test_an_unknown_type_is_told_before_anything_is_written(source: Source, tmp_path: Path) -> None:
    for kind in ("Q9_X", "", "IQ2_XXS"):
        with pytest.raises(ConfigError) as caught:
            run(source, ["F16", kind], tmp_path / "out")
        assert caught.value.hint
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_another_base_leaves_an_empty_folder(source: Source, tmp_path: Path) -> None:
    write_peft(
        tmp_path,
        LoraAdapter(
            {"model.layers.7.mlp.up_proj": LoraFactors(np.ones((1, 32), np.float32), np.ones((64, 1), np.float32), 1.0)}
        ),
    )
    with pytest.raises(AdapterError, match="no module"):
        run(replace(source, adapter=tmp_path), ["F16"], tmp_path / "out")
    assert left_in(tmp_path / "out") == []


def test_too_little_disk_is_told_first(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgetune import files

    monkeypatch.setattr(files, "free_space", lambda path: 1000)
    with pytest.raises(DiskFull, match="of disk at"):
        run(source, ["F16"], tmp_path)
    assert left_in(tmp_path) == []


def test_the_disk_that_an_export_needs() -> None:
    assert bytes_per_parameter(["F16"], merges=False) == 2 and bytes_per_parameter(["F16"], merges=True) == 6
    assert bytes_per_parameter(["F32", "BF16", "Q8_0"], merges=True) == pytest.approx(13.1)


def test_a_place_that_cannot_be(source: Source, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot write"):
        run(source, ["F16"], tmp_path / "file" / "out")


def test_what_a_killed_export_left_is_swept(source: Source, tmp_path: Path) -> None:
    old = tmp_path / ".export-abc.part"
    old.mkdir()
    (old / "merged").write_text("half")
    run(replace(source, adapter=None), ["F16"], tmp_path)
    assert left_in(tmp_path) == ["certificate.json", "someone-tiny-F16.gguf"]


def test_an_export_leaves_a_running_one_into_the_same_folder_alone(source: Source, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        scratch = tmp_path / f".export-abc.{other.pid}.part"
        scratch.mkdir()
        run(replace(source, adapter=None), ["F16"], tmp_path)
        assert scratch.is_dir()
        other.communicate(b"\n")
    run(replace(source, adapter=None), ["F16"], tmp_path)
    assert not scratch.exists()


# ---- what F16 cannot hold ----------------------------------------------------------------------------------------------


@pytest.fixture
def wide_numbers(source: Source, tmp_path: Path) -> Source:
    """A bfloat16 model without an adapter, with one number beyond float16 that no row comes to feel."""
    model = shutil.copytree(source.model, tmp_path / "model")
    weights = WeightFolder(source.model)
    arrays = {name: weights.floats(name) for name in weights.tensors}
    arrays["model.layers.1.mlp.up_proj.weight"][3, 5] = 99840  # exact in bfloat16
    arrays["model.layers.1.post_attention_layernorm.weight"][5] = 0  # nor does an activation: llama.cpp quantises those too
    arrays["model.layers.1.mlp.down_proj.weight"][:, 3] = 0
    save_safetensors(
        model / "new.safetensors",
        [(name, "BF16", array.shape) for name, array in arrays.items()],
        lambda name: to_bfloat16(arrays[name]),
    )
    (model / "new.safetensors").replace(model / "model.safetensors")
    return replace(source, model=model, adapter=None)


@pytest.mark.parametrize(("kinds", "first"), [(["BF16"], "BF16"), (["F32", "BF16"], "F32"), (["Q6_K"], "BF16")])
def test_another_type_of_floats_takes_f16s_place(kinds: list[str], first: str, wide_numbers: Source, tmp_path: Path) -> None:
    result, events = run(wide_numbers, kinds, tmp_path / "out")
    certificate = certificate_in(tmp_path / "out")
    assert [file.kind for file in result.files] == kinds and certificate.first == first
    names = [hop.name for hop in certificate.hops]
    assert names == ["model", *(f"GGUF {kind}" for kind in dict.fromkeys([first, *kinds]))]
    assert certificate.refusals == [] and certificate.hops[1].kl < 1e-3 and certificate.tokenizer is not None
    tried = [event.message for event in events if isinstance(event, Warned)]
    if kinds == ["Q6_K"]:
        assert "up_proj.weight holds 99840, more than F16's 65504" in certificate.first_reason == tried[0].split(": BF16")[0]
    else:
        assert certificate.first_reason == "F16 was not asked for" and not tried


def test_f16_is_refused_where_it_is_asked_for_and_cannot_be(wide_numbers: Source, tmp_path: Path) -> None:
    with pytest.raises(BeyondRange, match="more than F16's 65504"):
        run(wide_numbers, ["F16", "BF16"], tmp_path / "out")
    assert left_in(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("name", "file"),
    [("someone/tiny", "someone-tiny"), ("../../etc/passwd", "etc-passwd"), ("Ünï cödé", "n--c-d"), ("\x1b[31m", "x1b-31m"),
     ("", "model"), ("...", "model"), ("a" * 99, "a" * 48), ("Llama-3.2_1B", "Llama-3.2_1B")],
)  # fmt: skip
def test_a_model_s_name_becomes_a_file_s(name: str, file: str) -> None:
    assert file_name(name) == file


def test_the_certificate_holds_just_what_it_says(source: Source, tmp_path: Path) -> None:
    run(replace(source, adapter=None), ["F16"], tmp_path)
    assert set(json.loads((tmp_path / "certificate.json").read_text())) == {
        "format", "edgetune", "base", "held_out", "rows", "tokens", "base_loss", "trained_on", "first", "first_reason", "hops",
        "tokenizer", "turn_end",
    }  # fmt: skip
