from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from qtool import formats
from qtool.errors import DataError, FormatError, ModelError, UsageError
from qtool.model import Model, Statistics, Step, TensorStatistics
from qtool.stages.merge import merge


def part(index, n, *, exponent=-10, name="x", **changes):
    """Return a model with the statistics of one shard: the value 2 in tensor x, once."""
    tensor = TensorStatistics(2.0, 2.0, 1, 0, exponent, 2048, np.ones(1, np.int64))
    statistics = Statistics("hash", "samples", 5, (f"{index}/{n}",), {name: tensor})
    options = {"samples": 5, "source": "samples", "shard": f"{index}/{n}"}
    model = Model(ir.Model(ir.Graph([], [], nodes=[]), ir_version=8), statistics)
    model = replace(model, history=(Step("freeze"), Step("calibrate", options, "1")))
    return replace(model, statistics=replace(statistics, **changes))


def test_counts_and_samples_add_up():
    merged = merge([part(2, 3), part(3, 3), part(1, 3)])

    assert merged.statistics.n_samples == 15
    assert merged.statistics.shards == ()
    assert merged.statistics.tensors["x"].counts.tolist() == [3]


def test_history_is_that_of_the_whole_run():
    merged = merge([part(1, 2), part(2, 2)])

    whole = Step("calibrate", {"samples": 10, "source": "samples"}, "1")
    assert merged.history == (Step("freeze"), whole)


def test_the_only_shard_of_one_is_whole():
    assert merge([part(1, 1)]).statistics.shards == ()


PARTS = [part(1, 3), part(2, 3), part(3, 3)]
UNKNOWN = replace(PARTS[1], history=())
OTHER_OPTIONS = replace(
    PARTS[1], history=(Step("freeze"), Step("calibrate", {"tensors": ["x"]}, "1"))
)

BAD = [
    (PARTS[:2], UsageError, "1 of 3 shards are missing: 3/3"),
    (PARTS[2:], UsageError, "2 of 3 shards are missing: 1/3, 2/3"),
    ([*PARTS, PARTS[1]], UsageError, "shard 2/3 is given twice: model 2 and model 4"),
    ([*PARTS[:2], part(3, 4)], DataError, "model 3 and model 1 differ in their number of shards"),
    ([PARTS[0], part(2, 3, model="x"), PARTS[2]], ModelError, "model 2 is another model"),
    ([PARTS[0], part(2, 3, source="random"), PARTS[2]], DataError, "differ in their data"),
    ([PARTS[0], OTHER_OPTIONS, PARTS[2]], DataError, "differ in their history"),
    ([PARTS[0], replace(PARTS[1], preprocess={}), PARTS[2]], DataError, "their preprocessing"),
    ([PARTS[0], part(2, 3, name="z"), PARTS[2]], DataError, "tensor 'x' is not in all shards"),
    ([PARTS[0], part(2, 3, exponent=5), PARTS[2]], DataError, "tensor 'x': statistics cannot be"),
    ([PARTS[0], replace(PARTS[1], statistics=None)], ModelError, "model 2 has no statistics"),
    ([PARTS[0], part(2, 3, shards=())], ModelError, "model 2 is complete, no shard"),
    ([PARTS[0], UNKNOWN], ModelError, "model 2 was changed after qtool calibrate"),
    ([part(1, 3, shards=("1/x",))], FormatError, "name their shard"),
    ([part(1, 3, shards=("4/3",))], FormatError, "name their shard"),
    ([part(1, 3, shards=("1/3", "2/3"))], FormatError, "name their shard"),
    ([part(1, 999999999)], UsageError, r"999999998 of 999999999 shards are missing: 2.* \.\.\.$"),
]


@pytest.mark.parametrize(("parts", "kind", "message"), BAD, ids=[message for *_, message in BAD])
def test_shards_that_do_not_make_a_whole_are_refused(parts, kind, message):
    with pytest.raises(kind, match=message):
        merge(parts)


def test_a_tensor_that_only_a_later_shard_has_is_refused():
    extra = dict(PARTS[0].statistics.tensors, z=PARTS[0].statistics.tensors["x"])

    with pytest.raises(DataError, match="tensor 'z' is not in all shards"):
        merge([PARTS[0], part(2, 3, tensors=extra), PARTS[2]])


@pytest.fixture
def shards(tmp_path, cli):
    """The model, and its statistics in three shards and whole."""
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y) { y=Relu(x) }'
    )
    formats.save(Model(ir.from_onnx_text(text)), tmp_path / "m.onnx")
    whole = ["calibrate", "-i", tmp_path / "m.onnx", "--random", "--samples", "7"]
    for name, more in [("w", []), *((str(i), ["--shard", f"{i}/3"]) for i in (1, 2, 3))]:
        result = cli(*whole, "-o", tmp_path / f"{name}.qtm", *more)
        assert result.exit_code == 0, result.stderr
    return tmp_path


def test_command_gives_the_bytes_of_the_whole_run(shards, cli):
    names = [shards / f"{i}.qtm" for i in (3, 1, 2)]

    result = cli("merge", *names[:2], "-i", names[2], "-o", shards / "all.qtm")

    assert result.exit_code == 0, result.stderr
    assert (shards / "all.qtm").read_bytes() == (shards / "w.qtm").read_bytes()


def test_command_names_the_files_in_errors(shards, cli):
    one = shards / "1.qtm"

    result = cli("merge", one, one, "-o", shards / "all.qtm")

    assert result.exit_code == 2
    assert result.stderr == f"error: shard 1/3 is given twice: {one} and {one}\n"
    assert not (shards / "all.qtm").exists()


def test_command_needs_shards(cli):
    result = cli("merge", "-o", "all.qtm")

    assert result.exit_code == 2
    assert "give the shards to merge" in result.stderr


def test_shards_of_other_samples_are_refused(shards, tmp_path, cli, rng):
    np.save(tmp_path / "a.npy", rng.normal(size=(12, 4)).astype(np.float32))
    for name, rows, index in (("a1", "[0:6]", 1), ("a2", "[6:12]", 2), ("b2", "[0:6]", 2)):
        cli("calibrate", "-i", shards / "m.onnx", "--data", f"{tmp_path / 'a.npy'}{rows}",
            "--shard", f"{index}/2", "-o", tmp_path / f"{name}.qtm")  # fmt: skip

    mixed = cli("merge", tmp_path / "a1.qtm", tmp_path / "a2.qtm", "-o", tmp_path / "m.qtm")
    right = cli("merge", tmp_path / "a1.qtm", tmp_path / "b2.qtm", "-o", tmp_path / "m.qtm")

    assert (mixed.exit_code, right.exit_code) == (1, 0)
    assert "differ in their samples; calibrate all shards with the same data" in mixed.stderr
