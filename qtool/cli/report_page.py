"""How `qtool report` makes its page."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtool.cli import console, options, shell
from qtool.errors import QtoolError, UsageError

if TYPE_CHECKING:
    from qtool.model import Model
    from qtool.page.subject import Page
    from qtool.stages.report import ModelReport

ENDINGS = (".html", ".htm")
log = logging.getLogger("qtool")


def check(output: str, as_json: bool) -> None:
    """Check, before anything is read, that the page can be made and written there."""
    from qtool.formats.atomic import check_target
    from qtool.page import check_libraries

    options.check_json(as_json, output)
    if output != "-":
        if Path(output).suffix.lower() not in ENDINGS:
            raise UsageError(f"{output}: a report is a page; name it .html")
        check_target(output)
    check_libraries()


def write(
    input_: str,
    reference: str | None,
    output: str,
    *,
    sampling: dict[str, Any],
    labels: str | None,
    curve: str | None,
    as_json: bool,
    **measuring: Any,
) -> None:
    """Load, measure, and write the page."""
    check(output, as_json)
    _check_samples(sampling, measuring, reference)
    from qtool import formats
    from qtool.page import render
    from qtool.page.curve import read_curve
    from qtool.stages.run import read_labels

    names = () if labels is None else read_labels(labels)
    drawn = None if curve is None else read_curve(curve)
    model = formats.load(input_)
    other = None if reference is None else formats.load(reference)
    found = _measured(model, other, sampling, **measuring)
    page = replace(_page(found, input_, reference), labels=names, curve=drawn, source=model.source)
    _save(render(page).encode("utf-8", "replace"), output)
    if as_json:
        options.print_json(found.to_json())


def _has_data(sampling: dict[str, Any]) -> bool:
    return sampling["data"] is not None or sampling["random"]


def _check_samples(
    sampling: dict[str, Any], measuring: dict[str, Any], reference: str | None
) -> None:
    """Fail on options about samples that contradict each other, or lack the samples."""
    from qtool.stages.evaluate import check_request

    metric, target = measuring["metric"], measuring["target"]
    check_request(metric, target, reference=reference is not None,
                  preprocess=sampling["preprocess"])  # fmt: skip
    if _has_data(sampling):
        return
    if metric or target or measuring["output_name"]:
        raise UsageError("--metric, --target and --output-name are about samples: give --data")
    alone = [f"--{key}" for key in ("preprocess", "samples", "shuffle") if sampling[key]]
    if alone:
        raise UsageError(f"{alone[0]} is about samples: give them with --data")


def _measured(
    model: Model,
    reference: Model | None,
    sampling: dict[str, Any],
    *,
    metric: str | None,
    target: str | None,
    output_name: str | None,
    **rest: Any,
) -> ModelReport:
    from qtool.stages.evaluate import samples_for
    from qtool.stages.report import report

    data = None
    if _has_data(sampling):
        data = samples_for(model, reference, metric=metric, target=target, **sampling)
    return report(
        model, reference=reference, data=data, metric=metric, target=target, output=output_name,
        progress=console.track, **rest,
    )  # fmt: skip


def _page(found: ModelReport, path: str, reference: str | None) -> Page:
    """Return the page of a report, with what is known of the files."""
    from qtool.page.subject import Page

    theirs = None
    if reference is not None and found.reference is not None:
        theirs = _bytes(reference, found.reference.weight_bytes)
    return Page(
        found,
        name=_name(path),
        reference_name="" if reference is None else _name(reference),
        file_bytes=_bytes(path, found.inspection.weight_bytes),
        reference_bytes=theirs,
        script=shell.script(found.inspection.history, found.inspection.preprocess, _name(path)),
    )


def _name(path: str) -> str:
    return "model.qtm" if path == "-" else Path(path).name


def _bytes(path: str, weight_bytes: int) -> int | None:
    """Return the size of a file, with its weights where an .onnx has them beside it."""
    if path == "-":
        return None
    n_bytes = os.path.getsize(path)
    outside = path.lower().endswith(".onnx") and weight_bytes > n_bytes
    return n_bytes + (weight_bytes if outside else 0)


def _save(content: bytes, output: str) -> None:
    from qtool.formats.atomic import replacing

    if output != "-":
        with replacing(output) as file:
            file.write(content)
        log.info("wrote %s: %d KB; open it in a browser", output, len(content) // 1000)
        return
    try:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise QtoolError(f"cannot write standard output: {error.strerror or error}") from error
