from __future__ import annotations

import json

import numpy as np
import pytest

from qtool.data import PRESETS, read_preprocess
from qtool.data.preprocess import Preprocess, from_json
from qtool.errors import QtoolError, UsageError

SHAPE = ("N", 3, 224, 224)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json(name):
    preset = read_preprocess(name, SHAPE)

    assert read_preprocess(json.loads(json.dumps(preset.to_json())), SHAPE) == preset


@pytest.mark.parametrize(
    ("side", "resize"), [(224, 256), (227, 256), (240, 256), (192, 219), (299, 342), (32, 37)]
)
def test_a_preset_takes_its_crop_from_the_model(side, resize):
    preset = read_preprocess("imagenet", ("N", side, side, 3))

    assert (preset.resize, preset.crop, preset.layout) == (resize, (side, side), "NHWC")


@pytest.mark.parametrize("ending", ["toml", "json"])
def test_a_file_says_every_key(tmp_path, ending):
    keys = {"channels": "BGR", "resize": [10, 12], "crop": 8, "interpolation": "bicubic", "std": 2}
    keys |= {
        "scale": "1/255",
        "mean": [1, 2, 3],
        "layout": "NCHW",
        "floats": True,
        "dtype": "float32",
    }
    text = json.dumps(keys)
    if ending == "toml":
        text = "\n".join(f"{k} = {json.dumps(v)}" for k, v in keys.items())
    (tmp_path / f"p.{ending}").write_text(text)

    found = read_preprocess(str(tmp_path / f"p.{ending}"), SHAPE)

    assert found == Preprocess(
        channels="BGR", resize=(10, 12), crop=(8, 8), interpolation="bicubic", std=(2.0,),
        scale=1 / 255, mean=(1.0, 2.0, 3.0), layout="NCHW", floats=True, dtype="float32",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cropp": 3}, "no preprocessing key named 'cropp': did you mean 'crop'?"),
        ({"scale": "a"}, "scale = 'a' is not a finite number"),
        ({"scale": float("inf")}, "is not a finite number"),
        ({"scale": True}, "is not a finite number"),
        ({"std": [1, 0, 1]}, "std = [1, 0, 1] is not a list of numbers other than 0"),
        ({"crop": [1, 2, 3]}, "is not a size in pixels"),
        ({"crop": -1}, "is not a size in pixels"),
        ({"channels": "CMYK"}, "is not one of RGB, BGR, GRAY"),
        ({"channels": ["RGB"]}, "is not one of RGB, BGR, GRAY"),
        ({"floats": 1}, "is not true or false"),
        ({"mean": [1, 2]}, "2 values of mean for 3 channels"),
        ({"layout": "NHWC"}, "preprocessing says NHWC, but the model's input has shape"),
        ({"scale": "1/0"}, "scale = '1/0' is not"),
    ],
)
def test_a_wrong_value_is_named(given, message):
    with pytest.raises(UsageError) as raised:
        read_preprocess(given, SHAPE)

    assert message in str(raised.value)


@pytest.mark.parametrize("given", [[], 3, "nothing", "imagnet"])
def test_what_is_no_preprocessing_is_refused(given):
    with pytest.raises(UsageError):
        read_preprocess(given, SHAPE)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"scale = ", b"[1]"])
def test_a_file_that_is_neither_is_refused(tmp_path, content):
    for name in ("p.toml", "p.json"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(QtoolError, match=name):
            read_preprocess(str(tmp_path / name), SHAPE)


def test_values_are_scaled_then_shifted_then_divided():
    x = np.array([10, 20], np.uint8)

    y = from_json({"scale": 0.5, "mean": 1, "std": 2}).values(x, -1)

    np.testing.assert_array_equal(y, np.float32([2, 4.5]))


def test_nothing_to_do_keeps_the_dtype():
    x = np.array([2**40], np.int64)

    assert Preprocess().values(x, -1) is x
