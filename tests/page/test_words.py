from __future__ import annotations

import math

import pytest

from qtool.page import words


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.00 KB"), (120_614, "121 KB"),
     (1_234_567, "1.23 MB"), (99_950_000_000, "100 GB")],
)  # fmt: skip
def test_sizes_have_three_digits(n_bytes, text):
    assert words.size(n_bytes) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (1.0, "100 %"), (1e-9, "< 0.01 %"), (1 - 1e-9, "> 99.99 %"), (0.123, "12.3 %")],
)
def test_a_share_is_0_or_100_percent_only_where_it_is_just_that(share, text):
    assert words.share(share) == text


@pytest.mark.parametrize(("value", "text"), [(math.inf, "∞"), (-1.5, "−1.50"), (None, "")])
def test_digits_of_what_is_no_plain_number(value, text):
    assert words.digits(value) == text


def test_names_lose_control_characters_and_their_middle():
    assert words.plain("a\x00b\u202ec") == "a\ufffdb\ufffdc"
    assert words.plain("x" * 50 + "end", 12) == "xxxx…xxxxend"


@pytest.mark.parametrize(
    ("names", "shared"),
    [
        (["net/a/conv", "net/a/bn"], "net/a/"),
        (["net/conv1", "net/conv2"], "net/"),
        (["layer.1.conv", "layer.10.conv"], "layer."),
        (["conv1", "conv2"], ""),
        (["net/conv"], ""),
        ([], ""),
    ],
)
def test_what_names_share_ends_with_a_part(names, shared):
    assert words.shared_prefix(names) == shared
