from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image

from qtool.data import open_samples
from qtool.errors import DataError, FormatError, QtoolError, UnsupportedError, UsageError
from qtool.model import TensorSpec

PICTURE = [TensorSpec("image", "float32", ("N", 3, 8, 8))]
VECTOR = [TensorSpec("features", "float32", ("N", 5))]
UINT8 = {"channels": "RGB", "scale": 1 / 255, "layout": "NCHW"}


@pytest.fixture(autouse=True)
def heard(caplog):
    caplog.set_level(logging.DEBUG, "qtool")
    logger = logging.getLogger("qtool")
    before, logger.propagate = logger.propagate, True
    yield caplog
    logger.propagate = before


def feeds(samples):
    return [sample.feeds for sample in samples]


@pytest.mark.parametrize("key", ["features", "x"])
def test_rows_of_an_npz_are_samples(tmp_path, rng, key):
    x = rng.normal(size=(3, 5)).astype(np.float32)
    np.savez(tmp_path / "a.npz", **{key: x}, y=np.arange(3))

    samples = list(open_samples(str(tmp_path / "a.npz"), VECTOR, labels=True))

    np.testing.assert_array_equal(np.concatenate([s.feeds["features"] for s in samples]), x)
    np.testing.assert_array_equal(np.concatenate([s.label for s in samples]), [0, 1, 2])
    assert [s.where for s in samples] == [f"{tmp_path / 'a.npz'} row {i}" for i in range(3)]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_stored_and_compressed_members_hold_the_same(tmp_path, rng, save):
    x = np.asfortranarray(rng.normal(size=(4, 5)).astype(np.float32))
    save(tmp_path / "a.npz", x=x)

    found = open_samples(str(tmp_path / "a.npz"), VECTOR)

    np.testing.assert_array_equal(found[2].feeds["features"], x[2:3])


def test_a_large_compressed_member_is_mapped_from_a_temporary_file(tmp_path, rng, monkeypatch):
    monkeypatch.setattr("qtool.data.arrays.MAX_IN_MEMORY", 64)
    x = rng.normal(size=(40, 5)).astype(np.float32)
    np.savez_compressed(tmp_path / "a.npz", x=x)

    found = open_samples(str(tmp_path / "a.npz"), VECTOR)

    np.testing.assert_array_equal(found[39].feeds["features"], x[39:])


def test_a_npy_is_the_only_input(tmp_path, rng):
    x = rng.normal(size=(3, 5)).astype(np.float32)
    np.save(tmp_path / "a.npy", x)

    assert open_samples(str(tmp_path / "a.npy"), VECTOR).n == 3


def test_a_folder_holds_batches_and_single_samples(tmp_path, rng):
    x = rng.normal(size=(4, 5)).astype(np.float32)
    np.save(tmp_path / "a.npy", x[:3])
    np.save(tmp_path / "b.npy", x[3])

    found = feeds(open_samples(str(tmp_path), VECTOR))

    np.testing.assert_array_equal(np.concatenate([f["features"] for f in found]), x)


def test_a_folder_of_more_files_than_stay_open_is_read_twice_the_same(tmp_path, rng):
    for i in range(12):
        np.savez(tmp_path / f"{i:02}.npz", x=np.full((2, 5), i, np.float32), y=[i, i])

    samples = open_samples(str(tmp_path), VECTOR, labels=True)

    assert [int(s.label[0]) for s in samples] == [int(s.feeds["features"][0, 0]) for s in samples]
    np.testing.assert_array_equal(samples.labels(), np.repeat(np.arange(12), 2))


def test_a_folder_with_an_array_per_input_is_one_table(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 5), np.float32))
    np.save(tmp_path / "y.npy", np.arange(3))

    samples = open_samples(str(tmp_path), VECTOR, labels=True)

    assert samples.n == 3
    assert samples[2].label == [2]


def test_integer_pictures_are_transposed_and_scaled(tmp_path, rng):
    x = rng.integers(0, 256, (2, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "a.npz", x=x)

    samples = open_samples(str(tmp_path / "a.npz"), PICTURE, preprocess="imagenet")

    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    expected = np.moveaxis((x / np.float32(255) - mean) / std, -1, 1)
    np.testing.assert_allclose(samples[1].feeds["image"], expected[1:], rtol=1e-5, atol=1e-6)


def test_pictures_without_channel_axis_get_one(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 8, 8), np.uint8))
    grey = [TensorSpec("image", "float32", (1, 1, 8, 8))]

    samples = open_samples(str(tmp_path / "a.npz"), grey)

    assert samples.n == 4
    assert samples[0].feeds["image"].shape == (1, 1, 8, 8)


def test_raw_integers_without_preprocessing_are_warned_of(tmp_path, heard):
    np.savez(tmp_path / "a.npz", x=np.full((1, 3, 8, 8), 200, np.uint8))

    samples = open_samples(str(tmp_path / "a.npz"), PICTURE)

    assert samples[0].feeds["image"].max() == 200
    assert "integers are fed as they are" in heard.text


def test_stored_preprocessing_leaves_floats_alone(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((1, 3, 8, 8), np.float32))

    samples = open_samples(str(tmp_path / "a.npz"), PICTURE, preprocess=UINT8)

    assert samples[0].feeds["image"].max() == 1


def test_given_preprocessing_is_done_to_floats_and_remembered(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.full((1, 3, 8, 8), 255, np.float32))

    first = open_samples(str(tmp_path / "a.npz"), PICTURE, preprocess="unit")
    again = open_samples(str(tmp_path / "a.npz"), PICTURE, preprocess=first.preprocess)

    assert first[0].feeds["image"].max() == 1
    np.testing.assert_array_equal(again[0].feeds["image"], first[0].feeds["image"])


def test_two_inputs_are_matched_by_name(tmp_path):
    specs = [TensorSpec("a", "float32", ("N", 2)), TensorSpec("b", "int64", ("N", 3))]
    np.savez(tmp_path / "a.npz", a=np.zeros((4, 2), np.float32), b=np.ones((4, 3), np.int32))

    samples = open_samples(str(tmp_path / "a.npz"), specs)

    assert {k: (v.shape, v.dtype.name) for k, v in samples[3].feeds.items()} == {
        "a": ((1, 2), "float32"),
        "b": ((1, 3), "int64"),
    }


RECURRENT = [
    TensorSpec("input", "float32", ("T", 6)),
    TensorSpec("h", "float32", (1, 1, 4)),
]


def test_arrays_that_fit_the_model_whole_are_one_sample(tmp_path):
    np.savez(tmp_path / "a.npz", input=np.zeros((9, 6), "f4"), h=np.zeros((1, 1, 4), "f4"))

    samples = open_samples(str(tmp_path / "a.npz"), RECURRENT)

    assert [len(samples), samples[0].n] == [1, 9]
    assert samples[0].feeds["input"].shape == (9, 6)


def test_one_more_axis_counts_whole_samples(tmp_path):
    np.savez(tmp_path / "a.npz", input=np.zeros((5, 9, 6), "f4"), h=np.zeros((5, 1, 1, 4), "f4"))

    samples = open_samples(str(tmp_path / "a.npz"), RECURRENT)

    assert samples.n == 5
    assert samples[4].feeds["h"].shape == (1, 1, 4)


def test_a_scalar_is_shared_by_all_samples(tmp_path):
    specs = [*VECTOR, TensorSpec("rate", "int64", ())]
    np.savez(tmp_path / "a.npz", features=np.zeros((3, 5), np.float32), rate=np.int64(16000))

    samples = open_samples(str(tmp_path / "a.npz"), specs)

    assert [int(s.feeds["rate"]) for s in samples] == [16000] * 3


def test_rows_and_samples_and_seed_choose_samples(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((50, 5), np.float32), y=np.arange(50))
    source = f"{tmp_path / 'a.npz'}[10:40]"

    def labels(**options):
        return [int(s.label[0]) for s in open_samples(source, VECTOR, labels=True, **options)]

    assert labels(samples=3) == [10, 11, 12]
    assert sorted(labels(shuffle=True, seed=-1)) == list(range(10, 40))
    assert labels(shuffle=True, samples=4, seed=1) == labels(shuffle=True, samples=4, seed=1)
    assert labels(shuffle=True, seed=1) != labels(shuffle=True, seed=2)


def test_a_fixed_batch_is_filled_by_repeating_the_last_sample(tmp_path):
    x = np.arange(25, dtype=np.float32).reshape(5, 5)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(5))
    fixed = [TensorSpec("features", "float32", (4, 5))]

    samples = open_samples(str(tmp_path / "a.npz"), fixed, labels=True)

    assert [s.n for s in samples] == [4, 1]
    np.testing.assert_array_equal(samples[1].feeds["features"], x[[4, 4, 4, 4]])
    np.testing.assert_array_equal(samples[1].label, [4])


def test_batch_groups_samples_where_the_model_lets_it(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((5, 5), np.float32))

    samples = open_samples(str(tmp_path / "a.npz"), VECTOR, batch=2)

    assert [s.feeds["features"].shape[0] for s in samples] == [2, 2, 1]
    assert (samples.n, len(samples)) == (5, 3)


def test_random_samples_depend_on_seed_and_place_only():
    specs = [*VECTOR, TensorSpec("mask", "bool", ("N", 5)), TensorSpec("u", "uint8", (1, 3))]

    one = open_samples(None, specs, random=True, samples=4, seed=3)
    other = open_samples(None, specs, random=True, samples=9, seed=3)

    assert one.source == "random"
    for name in one[3].feeds:
        np.testing.assert_array_equal(one[3].feeds[name], other[3].feeds[name])


def test_random_samples_of_an_unknown_size_say_how_to_set_it():
    with pytest.raises(DataError, match="--set-dim height=SIZE"):
        open_samples(None, [TensorSpec("x", "float32", ("N", 3, "height", 8))], random=True)


def check_refused(kind, message, source, specs=VECTOR, **options):
    with pytest.raises(kind) as raised:
        list(open_samples(str(source), specs, **options))
    assert message in str(raised.value), raised.value
    assert "\n" not in str(raised.value)


def test_a_missing_array_is_named_with_the_closest_one(tmp_path):
    np.savez(tmp_path / "a.npz", feature=np.zeros((3, 5), np.float32))

    check_refused(DataError, "did you mean 'feature'?", tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((3, 6), "f4")}, "shape [3,6], which does not fit input features"),
        ({"x": np.zeros((0, 5), "f4")}, "holds no samples"),
        ({"x": np.array([["a"]])}, "cannot be fed to input features"),
        ({"x": np.zeros((3, 5), "f4"), "y": np.zeros(4)}, "4 labels for 3 samples"),
        ({"x": np.zeros((3, 5), "c8"), "y": np.zeros(3)}, "complex64 values cannot be fed"),
        ({"x": np.zeros((2, 5), "f4"), "y": np.array([0, np.nan])}, "labels hold NaN"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)

    check_refused(DataError, message, tmp_path / "a.npz", labels=None)


def test_missing_labels_are_named_with_the_arrays_there_are(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 5), "f4"), labels=np.zeros(3))

    check_refused(
        DataError, "known: labels, x; name it with --label-key", tmp_path / "a.npz", labels=True
    )


def test_nan_is_found_before_anything_runs_and_its_row_is_named(tmp_path):
    x = np.zeros((9, 5), np.float32)
    x[7, 2] = np.nan
    np.savez(tmp_path / "a.npz", x=x)

    with pytest.raises(DataError, match=r"a\.npz row 7: input 'features' holds NaN"):
        open_samples(str(tmp_path / "a.npz"), VECTOR)


def test_integers_that_the_input_cannot_hold_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.full((1, 5), 300, np.int64))
    narrow = [TensorSpec("x", "uint8", ("N", 5))]

    check_refused(DataError, "values do not fit uint8", tmp_path / "a.npz", narrow)


def test_pickled_objects_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{}, []], dtype=object))

    check_refused(DataError, "pickled Python objects", tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"x" * 500])
def test_other_bytes_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)

    check_refused(FormatError, name, tmp_path / name)


def test_a_file_that_ends_too_early_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((100, 5), np.float32))
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content[:-8])

    check_refused(FormatError, "needs 2128 bytes but the file has 2120", tmp_path / "a.npy")


@pytest.mark.parametrize("name", ["missing.npz", "missing/folder"])
def test_a_missing_source_is_named(tmp_path, name):
    check_refused(QtoolError, "no such file or folder", tmp_path / name)


def test_an_empty_folder_is_refused(tmp_path):
    check_refused(DataError, "holds no samples", tmp_path)


def test_an_unknown_kind_of_file_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("1,2\n")

    check_refused(UsageError, "no source of samples", tmp_path / "a.csv")


def test_pictures_and_arrays_in_one_folder_are_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", np.zeros(5))

    check_refused(DataError, "both pictures and arrays", tmp_path)


def test_a_model_without_inputs_or_with_strings_is_refused():
    with pytest.raises(UnsupportedError, match="takes no inputs"):
        open_samples(None, [], random=True)
    with pytest.raises(UnsupportedError, match="takes strings"):
        open_samples(None, [TensorSpec("s", "str", (1,))], random=True)


def test_no_source_at_all_is_wrong_usage():
    with pytest.raises(UsageError, match="--data, or use --random"):
        open_samples(None, VECTOR)
    with pytest.raises(UsageError, match="contradict"):
        open_samples("a.npz", VECTOR, random=True)


def test_a_step_and_its_complement_share_out_the_samples(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(10, dtype=np.float32)[:, None])
    spec = [TensorSpec("x", "float32", (None, 1))]

    def values(suffix):
        samples = open_samples(f"{tmp_path / 'a.npy'}{suffix}", spec)
        return [int(s.feeds["x"].item()) for s in samples]

    assert values("[::4]") == [0, 4, 8]
    assert values("[!::4]") == [1, 2, 3, 5, 6, 7, 9]
    assert values("[1:9:3]") == [1, 4, 7]
    assert values("[!2:8]") == [0, 1, 8, 9]


def test_a_step_of_zero_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 1), np.float32))
    with pytest.raises(UsageError, match="no range of samples"):
        open_samples(f"{tmp_path / 'a.npy'}[::0]", [TensorSpec("x", "float32", (None, 1))])
