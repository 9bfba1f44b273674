"""Tokens whose own rows are trained: named in the config, refused where that cannot be, kept and handed over."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_model import write_model

from edgetune.adapters.mlx_lm import write_mlx_lm
from edgetune.adapters.peft import read_peft, write_peft
from edgetune.architecture.spec import read_spec
from edgetune.architecture.weights import WeightFolder
from edgetune.cli.main import main
from edgetune.config import convert
from edgetune.errors import AdapterError, ConfigError, StoppedEarly
from edgetune.events import Event, StepFinished
from edgetune.export.gguf_adapter import write_gguf_adapter
from edgetune.planner.facts import shape_of
from edgetune.planner.trained import trained_layers, trained_parameters
from edgetune.text.tokenizer import load_tokenizer
from edgetune.training import session
from edgetune.training.session import Resources, prepare

EMBEDDING = "model.embed_tokens"


def config(model: Path, rows: Path, **adapter: Any) -> dict[str, Any]:
    return {
        "model": str(model),
        "data": {"train": [str(rows)], "valid": 0.2, "max_tokens": 64},
        "adapter": {"rank": 2, "train_tokens": ["<|user|>", "<|end|>"], **adapter},
        "training": {"steps": 4, "batch": 2, "accumulate": 1, "rate": 1e-2},
        "checks": {"eval_every": 2, "save_every": 2},
    }


def train(values: dict[str, Any], folder: Path, stop_at: int = 99) -> list[Event]:
    events: list[Event] = []
    ready = prepare(convert(values), Path(values["model"]))
    session.train(
        ready, folder, Resources(2), events.append, lambda: sum(isinstance(each, StepFinished) for each in events) >= stop_at
    )
    return events


def ids_of(model: Path, *texts: str) -> tuple[int, ...]:
    return tuple(load_tokenizer(model).control[text] for text in texts)


def test_their_rows_learn_and_no_others(tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    train(config(tiny_model, rows), tmp_path / "run")
    lora = read_peft(tmp_path / "run" / "adapter")
    assert lora.tokens.keys() == {EMBEDDING}  # the head is tied: it follows
    assert lora.tokens[EMBEDDING].ids == ids_of(tiny_model, "<|user|>", "<|end|>")
    before = WeightFolder(tiny_model).floats(f"{EMBEDDING}.weight", np.array(lora.tokens[EMBEDDING].ids))
    assert all(np.abs(now - old).max() > 1e-3 for now, old in zip(lora.tokens[EMBEDDING].values, before, strict=True))
    said = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert said["trainable_token_indices"] == list(lora.tokens[EMBEDDING].ids)


def test_a_token_may_be_named_by_its_id_and_twice(tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    (user,) = ids_of(tiny_model, "<|user|>")
    ready = prepare(convert(config(tiny_model, rows, train_tokens=[user, "<|user|>", 7])), tiny_model)
    assert ready.token_ids == (user, 7)


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (["<|nobody|>"], "'<|nobody|>' is no token of the model's tokenizer"),
        ([400], "400 has no row: the embedding has 400"),
        ([-1], "-1 has no row"),
    ],
)
def test_what_has_no_row_is_refused_by_name(tokens: list[str | int], said: str, tiny_model: Path, rows: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare(convert(config(tiny_model, rows, train_tokens=tokens)), tiny_model)
    assert said in str(caught.value) and caught.value.hint


def test_method_full_has_no_need_of_it(tiny_model: Path, rows: Path) -> None:
    with pytest.raises(ConfigError, match="method full trains every row"):
        prepare(convert(config(tiny_model, rows, method="full")), tiny_model)


def test_a_text_needs_a_tokenizer(tmp_path: Path) -> None:
    values = {"model_type": "llama", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    write_model(tmp_path / "base", {**values, "num_key_value_heads": 2, "intermediate_size": 24}, 9)
    (tmp_path / "rows.jsonl").write_text('{"input_ids": [1, 2, 3, 4, 5, 6, 7, 8, 9]}\n' * 8)
    values = config(tmp_path / "base", tmp_path / "rows.jsonl")
    with pytest.raises(ConfigError, match="has no tokenizer"):
        prepare(convert(values), tmp_path / "base")
    values["adapter"]["train_tokens"] = [3, 4]
    train(values, tmp_path / "run")
    assert read_peft(tmp_path / "run" / "adapter").tokens.keys() == {EMBEDDING, "lm_head"}  # not tied: the head has its own


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_a_stopped_run_goes_on_to_the_same_end_bit_for_bit(method: str, tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    values = config(tiny_model, rows, method=method, layers=1)
    train(values, tmp_path / "whole")
    with pytest.raises(StoppedEarly):
        train(values, tmp_path / "run", stop_at=3)
    session.resume(tmp_path / "run", prepare(convert(values), tiny_model), Resources(2), lambda event: None, lambda: False)
    ours, others = ((tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("run", "whole"))
    assert ours == others


def test_an_adapter_that_is_trained_further_keeps_its_tokens(tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    train(config(tiny_model, rows), tmp_path / "first")
    given = {"init_from": str(tmp_path / "first")}
    train(config(tiny_model, rows, train_tokens=[], **given), tmp_path / "again")
    first, again = (read_peft(tmp_path / name / "adapter").tokens[EMBEDDING] for name in ("first", "again"))
    assert again.ids == first.ids and not np.array_equal(again.values, first.values)
    with pytest.raises(ConfigError, match="are not those of the adapter"):
        train(config(tiny_model, rows, train_tokens=[5], **given), tmp_path / "other")


def test_a_plan_counts_them_and_the_layers_that_lead_to_them(tiny_model: Path, rows: Path) -> None:
    spec, values = read_spec(tiny_model), config(tiny_model, rows, layers=1)
    adapter = convert(values).adapter
    without = convert(config(tiny_model, rows, layers=1, train_tokens=[])).adapter
    shape = shape_of(spec)
    assert trained_parameters(shape, adapter) - trained_parameters(shape, without) == 2 * spec.dim
    assert (trained_layers(shape, adapter), trained_layers(shape, without)) == (2, 1)


def test_other_formats_have_no_place_for_them(tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    train(config(tiny_model, rows), tmp_path / "run")
    lora = read_peft(tmp_path / "run" / "adapter")
    with pytest.raises(AdapterError, match="mlx-lm has no form"):
        write_mlx_lm(tmp_path, lora)
    with pytest.raises(AdapterError, match="which llama"):
        write_gguf_adapter(tmp_path / "adapter.gguf", lora, read_spec(tiny_model))
    assert main(["adapter", "convert", str(tmp_path / "run"), "--to", "mlx", "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (None, "names nothing"),
        ([1], "rows are"),
        ([1, 1], "rows are"),
        ([1, -2], "rows are"),
        ("all", "rows are"),
        ({"lm_head": [1, 2]}, "absent"),
        ({"embed_tokens": [1, 2], "mlp": [3]}, "names embed_tokens, mlp"),
    ],
)
def test_a_config_that_does_not_go_with_the_rows_is_refused(
    said: object, why: str, tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    lora = session.start_adapter(prepare(convert(config(tiny_model, rows)), tiny_model), lambda event: None)
    write_peft(tmp_path, lora)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "trainable_token_indices": said}))
    with pytest.raises(AdapterError, match=why):
        read_peft(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpy", "mlx"])
def test_the_exported_model_holds_them_and_is_proved(backend: str, tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    if backend == "mlx":
        pytest.importorskip("mlx.core", reason="MLX is not installed: pip install 'edgetune[mlx-cpu]'")
    (tmp_path / "run.toml").write_text(
        f'model = "{tiny_model}"\n[data]\ntrain = ["{rows}"]\nvalid = 0.2\nmax_tokens = 64\n'
        '[adapter]\nrank = 2\ntrain_tokens = ["<|assistant|>", "<|end|>"]\n[training]\nsteps = 8\nrate = 2e-2\nbatch = 2\n'
    )
    run, out = tmp_path / "run", tmp_path / "out"
    assert main(["train", str(tmp_path / "run.toml"), "--run", str(run), "--backend", backend]) == 0
    assert main(["export", str(run), "--to", "F16,Q8_0", "--out", str(out)]) == 0
    proved = json.loads((out / "certificate.json").read_text())
    merged = next(hop for hop in proved["hops"] if hop["name"] == "merged")
    assert merged["verdict"] == "proved" and merged["kl"] < 1e-6 and len(list(out.glob("*.gguf"))) == 2
