from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import click
import numpy as np
import pytest
from quant.graphs import conv_net, model_of

from qtool import formats
from qtool.cli.main import qtool
from qtool.cli.shell import script
from qtool.data import open_samples
from qtool.stages.quantize import quantize

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")


@pytest.fixture
def folder(tmp_path, rng):
    """q.qtm, model.onnx and d.npz of three labelled samples."""
    np.savez(tmp_path / "d.npz", x=rng.normal(size=(3, 3, 8, 8)).astype(np.float32), y=[0, 1, 2])
    net = conv_net(rng)
    data = open_samples(str(tmp_path / "d.npz"), net.inputs())
    formats.save(net, tmp_path / "model.onnx")
    formats.save(quantize(net, data=data, mode="static", check=False), tmp_path / "q.qtm")
    return tmp_path


@pytest.fixture
def report(cli, folder):
    def run(*words, output="report.html", model="q.qtm"):
        return cli("report", "-i", folder / model, "-o", folder / output, *words)

    return run


@pytest.fixture
def compared(report, folder):
    return lambda *words, **given: report(
        "--reference", folder / "model.onnx", "--data", folder / "d.npz", *words, **given
    )


def test_a_page_is_written_and_nothing_printed(compared, folder):
    result = compared()

    assert (result.exit_code, result.stdout) == (0, "")
    assert "report.html" in result.stderr
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "q.qtm" in text
    assert "qtool quantize --input" in text


def test_the_same_command_writes_the_same_bytes(compared, folder):
    compared(output="one.html")
    compared("--threads", "2", output="two.html")

    assert (folder / "one.html").read_bytes() == (folder / "two.html").read_bytes()


def test_json_goes_to_stdout_and_standard_output_takes_a_page(compared, cli, folder):
    printed = json.loads(compared("--json", "-q").stdout)
    page = cli("report", "-q", "-i", folder / "q.qtm", "-o", "-").stdout

    assert printed["evaluation"]["n"] == 3
    assert page.startswith("<!DOCTYPE html>")


def test_labels_are_shown(compared, folder):
    (folder / "names.txt").write_text("tench\nhen\nowl\nkoala\nfox\n", encoding="utf-8")

    compared("--labels", folder / "names.txt")

    assert "tench" in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["--labels", "none.txt"], 1, "error: cannot read labels none.txt: "),
        (["--curve", "none.json"], 1, "error: cannot read none.json: "),
        (["--metric", "top2"], 2, "error: no metric named 'top2': "),
        (["--metric", "top1"], 2, "error: --metric, --target and --output-name are about samples"),
        (["--reference", "none.onnx"], 1, "error: cannot read none.onnx: there is no such file"),
        (["--data", "none.npz"], 1, "error: "),
        (["--samples", "3"], 2, "error: --samples is about samples: give them with --data"),
        (["--worst", "-1"], 2, "error: "),
        (["--json", "-o", "-"], 2, "error: --json and --output - both need standard output"),
        (["-o", "report.onnx"], 2, "error: report.onnx: a report is a page; name it .html"),
        (["-o", "nowhere/report.html"], 1, "error: cannot write nowhere/report.html: there is no "),
    ],
)
def test_what_cannot_be_is_one_line_and_writes_nothing(cli, folder, words, code, error):
    result = cli("report", "-i", folder / "q.qtm", "-o", folder / "report.html", *words)

    assert result.exit_code == code
    assert result.stderr.startswith(error)
    assert result.stderr.count("\n") == 1
    assert not (folder / "report.html").exists()


def test_a_reference_of_other_inputs_is_refused(report, folder):
    other = model_of("net (float[n, 7] x) => (float[n, 7] y) { y = Relu(x) }")
    formats.save(other, folder / "other.onnx")

    result = report("--reference", folder / "other.onnx", "--data", folder / "d.npz")

    assert result.exit_code == 1
    assert "they must be the same" in result.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("output", ["/dev/full", "-"])
def test_a_full_disk_is_one_line(folder, output):
    words = [sys.executable, "-m", "qtool", "report", "-q", "-i", str(folder / "q.qtm"), "-o"]
    if output != "-":
        (folder / "full.html").symlink_to(output)
        output = str(folder / "full.html")
    with open("/dev/full", "wb") as full:
        ended = subprocess.run([*words, output], stdout=full, stderr=subprocess.PIPE, check=False)

    assert ended.returncode == 1
    assert ended.stderr.startswith(b"error: cannot write ")
    assert ended.stderr.count(b"\n") == 1


def test_without_the_libraries_the_command_that_installs_them_is_said(report, monkeypatch, folder):
    monkeypatch.setattr("qtool.page.find_spec", lambda name: None)

    result = report()

    assert result.exit_code == 1
    assert result.stderr == "error: a report needs jinja2: pip install 'qtool[report]'\n"


def test_a_history_is_a_script_of_commands_that_exist():
    history = [
        {"command": "freeze", "options": {"dims": {"n": 1}, "outputs": ["a b"]}, "version": ""},
        {"command": "calibrate", "options": {"samples": 3, "source": "samples", "gram": True},
         "version": ""},
        {"command": "quantize", "options": {"per_channel": False, "exclude": ["x*", "$(rm y)"]},
         "version": ""},
    ]  # fmt: skip

    lines = script(history, {"channels": "BGR"}, "q.onnx").splitlines()

    typed = [shlex.split(line) for line in lines if line.startswith("qtool ")]
    assert typed == [
        ["qtool", "freeze", "--input", "$MODEL", "--set-dim", "n=1", "--outputs", "a b",
         "--output", "step1.qtm"],
        ["qtool", "calibrate", "--input", "step1.qtm", "--data", "$DATA", "--preprocess",
         "preprocess.json", "--samples", "3", "--gram", "--output", "step2.qtm"],
        ["qtool", "quantize", "--input", "step2.qtm", "--per-tensor", "--exclude", "x*",
         "--exclude", "$(rm y)", "--output", "q.onnx"],
    ]  # fmt: skip
    group = click.Context(qtool, info_name="qtool", **qtool.context_settings)
    for words in typed:
        qtool.get_command(group, words[1]).make_context(words[1], words[2:], parent=group)


def test_the_script_compresses_again_on_the_same_samples():
    history = [
        {"command": "calibrate", "options": {"gram": True, "source": "samples"}, "version": ""},
        {"command": "compress", "version": "", "options": {
            "max_drop": 1.5, "max": True, "exclude": ["head"], "calibration": True, "slope": 0.01,
        }},
    ]  # fmt: skip

    lines = script(history, None, "s.qtm").splitlines()

    assert lines[-1] == (
        'qtool compress --input step1.qtm --data "$EVALUATION" --calibration "$DATA" '
        "--max-drop 1.5 --max --exclude head --output s.qtm  # slope=0.01"
    )
    assert any(line.startswith("EVALUATION=") for line in lines)


def test_the_script_draws_the_samples_of_a_clustering_again():
    step = {"command": "cluster", "options": {"bits": 4.0, "source": "samples"}, "version": ""}

    assert '--data "$DATA" --bits 4.0' in script([step], None, "s.qtm")


def test_a_step_that_this_qtool_does_not_know_stays_a_comment():
    text = script([{"command": "polish", "options": {"shine": 3}, "version": "9"}], None, "q.qtm")

    assert '--input "$MODEL" --output q.qtm  # shine=3' in text


def test_random_samples_are_drawn_again():
    step = {"command": "calibrate", "options": {"samples": 8, "source": "random"}, "version": ""}

    assert 'qtool calibrate --input "$MODEL" --random --samples 8 --output q.qtm' in script(
        [step], None, "q.qtm"
    )
