"""The commands that make by hand what tune made."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qtool.formats.atomic import replacing
from qtool.stages._search import Setting, Trial


def commands(
    best: Trial | None,
    name: str,
    setting: Setting,
    max_drop: float,
) -> tuple[str, ...]:
    """Return the shell pipeline that makes the best model, and writes its --layers-from file."""
    if best is None:
        return ()
    listed, split = Path(f"{setting.output}.layers"), setting.split
    lines = ["# types of layers, for quantize --layers-from", *best.layers]
    with replacing(listed) as file:
        file.write(("\n".join(lines) + "\n").encode())
    reading, extra = _typed(setting.opened), _typed(setting.options)
    source, made = (shlex.quote(t) for t in (name, setting.output))
    static = source
    found = []
    if split[0] is not None:
        static = "calibrated.qtm"
        extra += f" --data {shlex.quote(split[0])}{reading}"
        found.append(
            f"qtool calibrate --input {source} --data {shlex.quote(split[0])}{reading} --gram "
            f"--output {static}"
        )
    found.append(
        f"qtool quantize --input {static}{extra} --layers-from {shlex.quote(str(listed))} "
        f"--output {made}"
    )
    found.append(
        f"qtool evaluate --input {made} --reference {source} --data {shlex.quote(split[1])}"
        f"{reading} --max-drop {max_drop:g}"
    )
    return tuple(found)


def _typed(options: Mapping[str, Any]) -> str:
    """Return options as they are typed, each with a space in front."""
    words = []
    for key, value in options.items():
        flag = f"--{key.replace('_', '-')}"
        if key == "per_channel":
            words.append("--per-channel" if value else "--per-tensor")
        elif isinstance(value, (list, tuple)):
            words += [f"{flag} {shlex.quote(str(v))}" for v in value]
        else:
            words.append(flag if value is True else f"{flag} {shlex.quote(str(value))}")
    return "".join(f" {word}" for word in words)
