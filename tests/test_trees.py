"""State comes back from the disk as it was, to the bit and to the type."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedmed.flower import serialization
from fedmed.flower.arrays import record_of, size_of
from fedmed.models import from_record, to_record


def test_round_trip(tmp_path: Path) -> None:
    arrays = {"w": np.array([[1.5, np.nan]], np.float32), "scalar": np.array(3, np.float32)}
    tree: dict[Any, Any] = {
        "records": RecordDict(
            {
                "arrays": to_record(arrays),
                "metrics": MetricRecord({"loss": 0.1, "n": 3, "list": [1.0, 2.0]}),
                "config": ConfigRecord({"name": "x", "raw": b"\x00\xff", "flag": True}),
            }
        ),
        "momentum": [np.arange(6).reshape(2, 3)[:, ::2], Array(np.zeros(2, np.int64))],
        7: (None, "text", float("inf"), 1e-300),
        "empty": np.zeros((0, 4)),
    }
    serialization.save(tree, tmp_path / "tree.safetensors")
    back = serialization.load(tmp_path / "tree.safetensors")
    assert list(back) == list(tree)
    for name, array in from_record(back["records"]["arrays"]).items():
        np.testing.assert_array_equal(array, arrays[name])
        assert array.shape == arrays[name].shape
    assert back["records"]["metrics"] == tree["records"]["metrics"]
    assert back["records"]["config"] == tree["records"]["config"]
    np.testing.assert_array_equal(back["momentum"][0], tree["momentum"][0])
    assert back["momentum"][1].numpy().dtype == np.int64
    assert back[7] == tree[7]
    assert back["empty"].shape == (0, 4)


def test_what_cannot_be_kept_is_named(tmp_path: Path) -> None:
    with pytest.raises(serialization.NotATree, match="tree/inner/1: a set cannot be checkpointed"):
        serialization.save({"inner": [1, {2}]}, tmp_path / "tree.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_arrays_travel_as_flowers_own() -> None:
    """What is kept decoded has the bytes of Flower's array, and what is read is a copy."""
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    ours = record_of({"weight": values, "scalar": np.asarray(np.float32(2))})
    theirs = ArrayRecord({"weight": Array(values), "scalar": Array(np.asarray(np.float32(2)))})
    assert ours.object_id == theirs.object_id
    assert size_of(ours) == 28
    ours["weight"].numpy()[0] = 9
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(ours))["weight"].numpy(), values)
