"""Reading in blocks gives every row once, whatever the shape and the form that it is stored in."""

from pathlib import Path

import numpy as np
import pytest

from edgetune.architecture import row_blocks as module
from edgetune.architecture.row_blocks import row_blocks
from edgetune.architecture.weights import read_header, save_arrays
from edgetune.errors import ModelError


@pytest.mark.parametrize("shape", [(1, 5), (7, 3), (1000, 13), (4096,), ()])
@pytest.mark.parametrize("multiple", [1, 4])
def test_blocks_are_all_rows_in_order(
    shape: tuple[int, ...], multiple: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", 256)
    values = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    save_arrays(tmp_path / "x.safetensors", {"before": np.ones(3, np.float32), "w": np.asarray(values)})
    blocks = [block.copy() for block in row_blocks(read_header(tmp_path / "x.safetensors")[0]["w"], multiple)]
    np.testing.assert_array_equal(np.concatenate(blocks) if shape else blocks[0], values)
    assert all(len(block) % multiple == 0 for block in blocks[:-1])
    assert all(block.nbytes <= max(256, multiple * values.nbytes // max(len(np.atleast_1d(values)), 1)) for block in blocks)


def test_a_file_that_was_cut_meanwhile_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_arrays(file, {"w": np.ones((100, 100), np.float32)})
    info = read_header(file)[0]["w"]
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="became shorter"):
        list(row_blocks(info))
