"""Damaged, hostile and vanishing files, and processes that die: llama.cpp may fall, its parent gets a sentence.

Numbers in the names are those of the fault plan.
"""

import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from edgetune.errors import ChildFailed, EdgeTuneError, ModelError
from edgetune.llamacpp import LlamaChild, protocol
from edgetune.llamacpp.client import require_gguf
from edgetune.llamacpp.process import ChildProcess
from tests.faults.gguf_bytes import Gguf, decode, text, write_lora

pytestmark = pytest.mark.slow  # together

ROOT = Path(__file__).resolve().parents[2]
STORY = [1, 403, 407, 261, 378]


@pytest.fixture(scope="module")
def story(assets: Path) -> bytes:
    return (assets / "weights" / "stories260K-gguf" / "stories260K.gguf").read_bytes()


@pytest.fixture
def gguf(story: bytes, tmp_path: Path) -> Path:
    file = tmp_path / "model.gguf"
    file.write_bytes(story)
    return file


def open_and_answer(file: Path, threads: int = 1) -> list[int]:
    with LlamaChild(file, context=64, threads=threads) as child:
        return [token.id for token in child.generate(STORY, max_tokens=5, temperature=0)]


# ---- 47: bad files ---------------------------------------------------------------------------------------------------


def put(key: str, number: float) -> Callable[[Gguf], None]:
    return lambda file: file.put(key, number)


def drop(key: str) -> Callable[[Gguf], None]:
    return lambda file: file.keys.pop(key) and None


def tensor(**changes: object) -> Callable[[Gguf], None]:
    def change(file: Gguf) -> None:
        for name, value in changes.items():
            setattr(file.tensors[3], name, value)

    return change


def counts(**changes: int) -> Callable[[Gguf], None]:
    def change(file: Gguf) -> None:
        for name, value in changes.items():
            setattr(file, name, value)

    return change


def same_token_twice(file: Gguf) -> None:
    tokens = file.texts("tokenizer.ggml.tokens")
    file.put_texts("tokenizer.ggml.tokens", [tokens[-1], *tokens[1:]])


def fewer_tokens(file: Gguf) -> None:
    file.put_texts("tokenizer.ggml.tokens", file.texts("tokenizer.ggml.tokens")[:100])


def string_without_end(file: Gguf) -> None:
    file.keys["general.name"] = (8, struct.pack("<Q", 1 << 60) + b"llama")


def array_of_arrays(file: Gguf) -> None:
    file.keys["general.tags"] = (9, struct.pack("<IQ", 9, 1 << 40))


def nothing_but_noughts(file: Gguf) -> None:
    file.data = bytes(len(file.data))


def not_a_number(file: Gguf) -> None:
    file.data = np.full(len(file.data) // 4, np.nan, np.float32).tobytes()


MUTATIONS: dict[str, Callable[[Gguf], None]] = {
    "no layers": put("llama.block_count", 0),
    "a billion layers": put("llama.block_count", 1_000_000_000),
    "no heads": put("llama.attention.head_count", 0),
    "heads that do not divide": put("llama.attention.head_count", 7),
    "no width": put("llama.embedding_length", 0),
    "a wrong width": put("llama.embedding_length", 65),
    "an endless width": put("llama.embedding_length", 0xFFFFFFFF),
    "a wrong rotation": put("llama.rope.dimension_count", 6),
    "an unknown architecture": lambda file: file.put_text("general.architecture", "\x1b[2Jnothing"),
    "no architecture": drop("general.architecture"),
    "no tokens": drop("tokenizer.ggml.tokens"),
    "a token twice": same_token_twice,
    "fewer tokens than rows": fewer_tokens,
    "an unknown tokenizer": lambda file: file.put_text("tokenizer.ggml.model", "nothing"),
    "a string without an end": string_without_end,
    "an array of arrays": array_of_arrays,
    "an odd alignment": put("general.alignment", 7),
    "a tensor of no known type": tensor(kind=200),
    "a tensor of another type": tensor(kind=14),
    "a tensor of another shape": tensor(dims=[64, 63]),
    "a tensor without end": tensor(dims=[1 << 62, 1 << 62]),
    "a tensor of nothing": tensor(dims=[0, 64]),
    "a tensor behind the end": tensor(offset=1 << 40),
    "a nameless tensor": tensor(name=b""),
    "a tensor of another name": tensor(name=b"blk.0.attn_q.w"),
    "more tensors than there are": counts(tensor_count=49),
    "countless tensors": counts(tensor_count=1 << 62),
    "countless keys": counts(key_count=1 << 62),
    "version 1": counts(version=1),
    "a version of the future": counts(version=4),
    "the other byte order": counts(version=3 << 24),
}
HARMLESS: dict[str, Callable[[Gguf], None]] = {
    "no context of its own": put("llama.context_length", 0),
    "weights of nought": nothing_but_noughts,
    "an unknown key": lambda file: file.put_text("a.key", "that nobody knows"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_47_a_bad_file_gets_a_sentence(story: bytes, tmp_path: Path, name: str):
    file = decode(story)
    MUTATIONS[name](file)
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(file.encode())
    with pytest.raises((ChildFailed, ModelError)) as caught:
        open_and_answer(bad)
    told = caught.value.message + caught.value.hint
    assert str(bad) in told and caught.value.hint and "Traceback" not in told and "\x1b" not in told


@pytest.mark.parametrize("name", HARMLESS)
def test_47_what_only_looks_odd_is_opened(story: bytes, tmp_path: Path, name: str):
    file = decode(story)
    HARMLESS[name](file)
    odd = tmp_path / "odd.gguf"
    odd.write_bytes(file.encode())
    assert len(open_and_answer(odd)) <= 5


def test_47_weights_that_are_no_numbers_give_an_answer_or_a_sentence(story: bytes, tmp_path: Path):
    file = decode(story)
    not_a_number(file)
    bad = tmp_path / "nan.gguf"
    bad.write_bytes(file.encode())
    try:
        open_and_answer(bad)
    except ChildFailed as error:
        assert error.hint


@pytest.mark.slow
def test_47_random_damage_never_hangs_and_always_gets_a_sentence(story: bytes, tmp_path: Path):
    chance, bad = random.Random(47), tmp_path / "bad.gguf"
    request = protocol.Generate(
        ids=STORY, max_tokens=3, temperature=1, top_k=40, top_p=0.9, min_p=0.05, repeat_penalty=1.1, seed=1, stop_ids=[]
    )
    talk = ChildProcess(bad)
    opened = refused = 0
    for _ in range(400):
        raw = bytearray(story)
        for _ in range(chance.choice([1, 1, 2, 4, 16])):
            raw[chance.randrange(20_000 if chance.random() < 0.9 else len(raw))] ^= 1 << chance.randrange(8)
        bad.write_bytes(raw[: chance.randrange(len(raw))] if chance.random() < 0.05 else raw)
        if not talk.open:
            talk = ChildProcess(bad)
        try:
            require_gguf(bad)
            answer_of(talk, protocol.Load(gguf=os.fsencode(bad), context=64))
            answer_of(talk, request)
            opened += 1
        except EdgeTuneError as error:
            assert error.message.startswith(f"{bad}: ") and "\x1b" not in error.message and error.hint != "Traceback"
            refused += 1
    talk.close()
    assert opened > 50 and refused > 50


def answer_of(talk: ChildProcess, request: protocol.Request) -> protocol.AnyReply:
    talk.send(request)
    while isinstance(reply := talk.receive(20), protocol.Progress | protocol.Token):
        pass
    return reply


@pytest.mark.parametrize("length", [0, 3, 4, 23, 24, 1000, 20_000, 600_000, 1_185_375])
def test_47_a_file_that_is_cut_short(gguf: Path, length: int):
    os.truncate(gguf, length)
    with pytest.raises((ChildFailed, ModelError), match=r"model\.gguf: "):
        open_and_answer(gguf)


def test_47_what_is_no_file(tmp_path: Path):
    with pytest.raises(ModelError, match="no such file"):
        LlamaChild(tmp_path / "absent.gguf")
    with pytest.raises(ModelError, match="is a folder"):
        LlamaChild(tmp_path)
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ModelError, match="not a regular file"):
        LlamaChild(tmp_path / "pipe.gguf")
    (tmp_path / "loop.gguf").symlink_to(tmp_path / "loop.gguf")
    with pytest.raises(ModelError, match="symbolic links"):
        LlamaChild(tmp_path / "loop.gguf")


def test_a_file_name_need_not_be_characters(gguf: Path):
    odd = gguf.with_name(os.fsdecode(b"mod\xff\n\"el'.gguf"))
    gguf.rename(odd)
    assert len(open_and_answer(odd)) == 5


# ---- 48: files that change while they are in use ---------------------------------------------------------------------


def test_48_a_file_that_is_replaced_stays_in_use(gguf: Path):
    with LlamaChild(gguf, context=256, threads=1) as child:
        before = [token.id for token in child.generate(STORY, max_tokens=20, temperature=0)]
        other = gguf.with_name("other.gguf")
        other.write_bytes(b"something else")
        os.replace(other, gguf)
        assert [token.id for token in child.generate(STORY, max_tokens=20, temperature=0)] == before


def test_48_a_file_that_is_cut_while_in_use_gets_a_sentence(gguf: Path):
    with LlamaChild(gguf, context=256, threads=1) as child:
        os.truncate(gguf, 0)
        with pytest.raises(ChildFailed, match="was cut or overwritten while it was in use"):
            list(child.generate(STORY, max_tokens=20, temperature=0))
        with pytest.raises(ChildFailed, match="has ended"):
            child.words()


# ---- 49, 50: adapters in GGUF form -----------------------------------------------------------------------------------


def scores(child: LlamaChild) -> np.ndarray:
    return child.score(STORY, range(len(STORY)))


def test_49_a_bad_adapter_gets_a_sentence_and_the_chat_goes_on(gguf: Path, tmp_path: Path):
    bad = {
        "adapter": write_lora(tmp_path / "kind.gguf", 1, kind="model"),
        "arch": write_lora(tmp_path / "architecture.gguf", 1, architecture="qwen2"),
        "wrong base model": write_lora(tmp_path / "width.gguf", 1, inputs=96),
    }
    with LlamaChild(gguf, context=256, threads=1) as child:
        before = scores(child)
        for reason, file in bad.items():
            with pytest.raises(ChildFailed, match=f"cannot open the adapter: .*{reason}"):
                child.adapt([(file, 1.0)])
        with pytest.raises(ModelError, match="no such file"):
            child.adapt([(tmp_path / "absent.gguf", 1.0)])
        with pytest.raises(ChildFailed, match="cannot open the adapter"):
            child.adapt([(gguf, 1.0)])
        assert np.array_equal(scores(child), before)


def test_50_adapters_are_swapped_without_a_trace(gguf: Path, tmp_path: Path):
    one, two = write_lora(tmp_path / "one.gguf", 1), write_lora(tmp_path / "two.gguf", 2)

    def fresh(*adapters: tuple[Path, float]) -> np.ndarray:
        with LlamaChild(gguf, context=256, threads=1) as child:
            child.adapt(adapters)
            return scores(child)

    with LlamaChild(gguf, context=256, threads=1) as child:
        base = scores(child)
        for adapters in ([(one, 1.0)], [(two, 1.0)], [(one, 0.5), (two, 1.0)], [(one, 1.0)]):
            child.adapt(adapters)
            list(child.generate(STORY, max_tokens=10))
            with_adapters = scores(child)
            assert np.array_equal(with_adapters, fresh(*adapters))
            assert np.abs(with_adapters - base).max() > 0.01
        child.adapt([])
        assert np.array_equal(scores(child), base)


def test_50_an_answer_with_another_adapter_is_not_built_on_the_old_cache(gguf: Path, tmp_path: Path):
    with LlamaChild(gguf, context=256, threads=1) as child:
        list(child.generate(STORY, max_tokens=5, temperature=0))
        child.adapt([(write_lora(tmp_path / "one.gguf", 1), 1.0)])
        list(child.generate(STORY, max_tokens=5, temperature=0))
        assert child.generated and child.generated.reused == 0


# ---- processes that die ----------------------------------------------------------------------------------------------


def child_of(pid: int) -> psutil.Process:
    (child,) = psutil.Process(pid).children()
    return child


def test_a_killed_child_gets_a_sentence(gguf: Path):
    with LlamaChild(gguf, context=2048, threads=1) as child:
        answer = child.generate(STORY, max_tokens=2000, temperature=0)
        next(answer)
        child_of(os.getpid()).kill()
        with pytest.raises(ChildFailed, match="was killed, most likely because memory ran out"):
            list(answer)


def test_an_abort_leaves_no_core_dump_and_no_zombie(story: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    file = decode(story)
    same_token_twice(file)
    (tmp_path / "bad.gguf").write_bytes(file.encode())
    with pytest.raises(ChildFailed, match=r"llama\.cpp gave up"):
        LlamaChild(tmp_path / "bad.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.gguf"]
    assert psutil.Process().children() == []


PARENT = """
import sys
from pathlib import Path
from edgetune.llamacpp import LlamaChild
child = LlamaChild(Path(sys.argv[1]), context=2048, threads=1)
print(child.process.process.pid, flush=True)
for _ in range(1000):
    for token in child.generate([1], max_tokens=2000, temperature=1.0):
        pass
"""


@pytest.fixture
def parent(gguf: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", PARENT, str(gguf)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
    yield running
    running.kill()
    running.wait()
    if running.stdout:
        running.stdout.close()


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_the_child_dies_with_its_parent(parent: subprocess.Popen[bytes], by: signal.Signals):
    assert parent.stdout
    child = psutil.Process(int(parent.stdout.readline()))
    time.sleep(0.2)
    assert child.is_running()
    parent.send_signal(by)
    assert child in psutil.wait_procs([child], timeout=10)[0]


def test_ctrl_c_in_the_middle_of_an_answer_leaves_the_child_in_step(gguf: Path):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        with LlamaChild(gguf, context=2048, threads=1) as child:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(KeyboardInterrupt):
                for _ in range(1000):
                    for _ in child.generate(STORY, max_tokens=2000, temperature=1.0):
                        pass
            try:
                assert child.tokenize("Once", add_special=True, parse_special=False) == [1, 403]
            except ChildFailed as error:
                assert "has ended" in error.message
    finally:
        signal.signal(signal.SIGALRM, old)


def test_garbage_on_standard_input_is_refused_and_the_child_lives(gguf: Path):
    with LlamaChild(gguf, context=256, threads=1) as child:
        os.write(child.process.stdin, b"\xff not JSON\n")
        with pytest.raises(ChildFailed, match="not a request"):
            child.words()
        assert isinstance(child.process.receive(20), protocol.Words)


def test_the_helper_writes_what_it_reads(story: bytes):
    assert decode(story).encode() == story
    assert text(b"ab") == b"\x02\0\0\0\0\0\0\0ab"
