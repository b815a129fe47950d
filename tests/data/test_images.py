from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from qtool.data import open_samples
from qtool.errors import DataError, UnsupportedError, UsageError
from qtool.model import TensorSpec

SPECS = [TensorSpec("image", "float32", ("N", 3, 8, 8))]
NHWC = [TensorSpec("image", "float32", ("N", 8, 8, 3))]


def save(path, rng, size=(8, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"RGB": (3,), "L": ()}[mode]
    pixels = rng.integers(0, 256, (size[1], size[0], *channels), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def labels(samples):
    return [None if s.label is None else s.label.tolist() for s in samples]


@pytest.mark.parametrize(
    "text",
    [
        "file,label\nb.png,4\na.png,1\n",
        "b.png,4,extra\na.png,1,extra\n",
        "id,label,file\n0,4,b.png\n1,1,a.png\n",
    ],
)
def test_labels_csv_orders_and_labels_the_pictures(tmp_path, rng, text):
    a, b = save(tmp_path / "a.png", rng), save(tmp_path / "b.png", rng)
    (tmp_path / "labels.csv").write_text(text)

    samples = list(open_samples(str(tmp_path), NHWC, preprocess="none", labels=True))

    assert labels(samples) == [[4], [1]]
    np.testing.assert_array_equal(samples[0].feeds["image"][0], b)
    np.testing.assert_array_equal(samples[1].feeds["image"][0], a)


def test_labels_csv_may_lie_beside_the_folder_images(tmp_path, rng):
    save(tmp_path / "images" / "a.png", rng)
    (tmp_path / "labels.csv").write_text("a.png,3\n")

    assert labels(open_samples(str(tmp_path), SPECS, preprocess="none", labels=True)) == [[3]]


@pytest.mark.parametrize(
    ("folders", "expected"), [(("dog", "cat"), [0, 1]), (("10", "9"), [9, 10])]
)
def test_a_folder_per_class_gives_labels(tmp_path, rng, folders, expected):
    for folder in folders:
        save(tmp_path / folder / "a.png", rng)

    found = labels(open_samples(str(tmp_path), SPECS, preprocess="none", labels=True))

    assert sorted(found) == [[label] for label in expected]


def test_a_list_names_pictures_relative_to_itself(tmp_path, rng):
    save(tmp_path / "in" / "a b.png", rng)
    save(tmp_path / "in" / "c.png", rng)
    (tmp_path / "list.txt").write_text("# two\nin/a b.png 2\n\nin/c.png\t7\n")

    samples = open_samples(str(tmp_path / "list.txt"), SPECS, preprocess="none", labels=True)

    assert labels(samples) == [[2], [7]]


def test_a_list_without_labels_feeds_samples_without(tmp_path, rng):
    save(tmp_path / "a.png", rng)
    (tmp_path / "list.txt").write_text("a.png\n")

    samples = open_samples(str(tmp_path / "list.txt"), SPECS, preprocess="none", labels=None)

    assert labels(samples) == [None]


def test_pictures_are_read_ahead_in_order(tmp_path, rng):
    pixels = [save(tmp_path / f"{i:02}.png", rng) for i in range(30)]

    samples = open_samples(str(tmp_path), NHWC, preprocess="none")

    for sample, expected in zip(samples, pixels, strict=True):
        np.testing.assert_array_equal(sample.feeds["image"][0], expected)


def test_shorter_side_is_resized_and_the_centre_cropped(tmp_path, rng):
    save(tmp_path / "a.png", rng, size=(31, 20))
    given = {"resize": 10, "crop": 8}

    (sample,) = open_samples(str(tmp_path), NHWC, preprocess=given)

    image = Image.open(tmp_path / "a.png").resize((15, 10), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(sample.feeds["image"][0], np.asarray(image)[1:9, 3:11])


def test_caffe_is_bgr_less_the_mean(tmp_path, rng):
    pixels = save(tmp_path / "a.png", rng)

    (sample,) = open_samples(
        str(tmp_path), NHWC, preprocess={"channels": "BGR", "mean": [104, 117, 123]}
    )

    expected = pixels[..., ::-1].astype(np.float32) - np.float32([104, 117, 123])
    np.testing.assert_array_equal(sample.feeds["image"][0], expected)


def test_a_model_of_one_channel_gets_grey(tmp_path, rng):
    pixels = save(tmp_path / "a.png", rng, mode="L")

    (sample,) = open_samples(
        str(tmp_path), [TensorSpec("x", "uint8", (1, 1, 8, 8))], preprocess="none"
    )

    np.testing.assert_array_equal(sample.feeds["x"][0, 0], pixels)


def refused(source, kind=DataError, specs=SPECS, preprocess="none", **options):
    with pytest.raises(kind) as raised:
        list(open_samples(str(source), specs, preprocess=preprocess, **options))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_pictures_need_preprocessing_to_be_said(tmp_path, rng):
    save(tmp_path / "a.png", rng)

    assert "--preprocess imagenet|tf|caffe|unit|none" in refused(
        tmp_path, UsageError, preprocess=None
    )


def test_a_picture_of_another_size_is_named(tmp_path, rng):
    save(tmp_path / "a.png", rng, size=(9, 8))

    assert "a.png: shape [3,8,9] does not fit input image: float32[N,3,8,8]" in refused(tmp_path)


def test_a_missing_picture_is_named_with_its_line(tmp_path):
    (tmp_path / "labels.csv").write_text("file,label\ngone.png,1\n")

    message = refused(tmp_path)

    assert "labels.csv line 2: " in message
    assert "gone.png: there is no such file" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.png,cat\n", "line 2: label 'cat' is not a number"),
        ("file,label\na.png\n", "line 2: 1 columns; needs file and label"),
        ("file,class\na.png,1\n", "needs the columns file, label"),
        ("a.png,nan\n", "line 1: label 'nan' is not a number"),
    ],
)
def test_a_wrong_labels_csv_is_named_with_its_line(tmp_path, rng, text, message):
    save(tmp_path / "a.png", rng)
    (tmp_path / "labels.csv").write_text(text)

    assert message in refused(tmp_path, labels=True)


def test_pictures_without_labels_are_named_where_labels_are_needed(tmp_path, rng):
    save(tmp_path / "a.png", rng)

    assert "a.png has no label; give a labels.csv" in refused(tmp_path, labels=True)


def test_what_is_no_picture_is_refused_before_the_first_sample(tmp_path, rng):
    save(tmp_path / "a.png", rng)
    (tmp_path / "b.png").write_bytes(b"no picture")

    with pytest.raises(DataError, match=r"b\.png is not a picture"):
        open_samples(str(tmp_path), SPECS, preprocess="none")


def test_a_picture_that_is_cut_short_is_named(tmp_path, rng):
    save(tmp_path / "a.png", rng, size=(64, 64))
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])

    assert "a.png is damaged or cut short" in refused(tmp_path)


def png(width, height):
    """Return a PNG whose header claims this size."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("size", [(12_000, 12_000), (60_000, 60_000)])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, size):
    (tmp_path / "a.png").write_bytes(png(*size))

    message = refused(tmp_path)

    assert "pictures may have 89000000 pixels at most" in message or "decompression bomb" in message


def test_a_resize_that_would_explode_is_refused(tmp_path):
    Image.new("RGB", (20_000, 1)).save(tmp_path / "a.png")

    assert "would become 5120000x256" in refused(tmp_path, preprocess={"resize": 256})


def test_a_picture_smaller_than_the_crop_is_refused(tmp_path, rng):
    save(tmp_path / "a.png", rng, size=(6, 8))

    assert "too small to crop 8x8 from" in refused(tmp_path, preprocess={"crop": 8})


def test_sixteen_bit_pictures_are_refused(tmp_path):
    Image.new("I;16", (8, 8)).save(tmp_path / "a.png")

    assert "use 8 bits per channel" in refused(tmp_path)


def test_models_of_two_inputs_take_no_pictures(tmp_path, rng):
    save(tmp_path / "a.png", rng)
    two = [*SPECS, TensorSpec("b", "float32", (1,))]

    assert "models of one input" in refused(tmp_path, UnsupportedError, two)


def test_a_model_that_does_not_tell_its_layout_needs_it_said(tmp_path, rng):
    save(tmp_path / "a.png", rng)
    vague = [TensorSpec("x", "float32", ("N", None, None, None))]

    assert "say layout in the preprocessing file" in refused(tmp_path, UsageError, vague)
    (sample,) = open_samples(str(tmp_path), vague, preprocess={"layout": "NCHW"})
    assert sample.feeds["x"].shape == (1, 3, 8, 8)
