"""The float accuracies of the zoo's index, with the commands of docs/data.md."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

DOC = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
COMMANDS = {
    re.search(r"models/([^/]+)/", line)[1]: shlex.split(line)[1:]
    for line in DOC.splitlines()
    if line.startswith("qtool evaluate -i models/")
}
MEASURED = {
    "squeezenet1_1-torchvision": 64.3,
    "mobilenet_v1_0.75_224": 83.7,
    "squeezenet1_0-deepcompression": 62.5,
    "resnet20-cifar10": 91.8,
    "mlperf-tiny-resnet8-cifar10": 87.7,
    "mnist-cntk": 98.91,
    "fashion-cnn": 90.76,
    "mlperf-tiny-dscnn-kws": 91.2,
    "mlperf-tiny-mobilenetv1-0.25-vww": 86.72,
    "mlperf-tiny-fc-autoencoder-ad": 9.4913,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_the_documented_command_gives_the_known_accuracy(zoo, cli, tmp_path, monkeypatch, name):
    monkeypatch.chdir(zoo)
    (tmp_path / "kws.toml").write_text("scale = 0.5847029\nmean = 48.5303407\n")
    command = [word.replace("/tmp/kws.toml", str(tmp_path / "kws.toml")) for word in COMMANDS[name]]

    result = cli(*command, "--json")

    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["value"] == pytest.approx(MEASURED[name], abs=0.006)


def test_every_figure_has_its_command():
    assert set(COMMANDS) == set(MEASURED)
