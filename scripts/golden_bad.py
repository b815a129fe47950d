"""The files of tests/golden/bad: damaged, lying and hostile ones, each with one thing wrong."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qtool.codecs import lz
from qtool.formats import container, onnx_proto, packed_graph, qtm_file
from qtool.formats import packed as format_packed
from qtool.formats.packed_graph import Table

Json = Any
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(40)
MEMBERS = qtm_file.MEMBERS


# ---- .onnx ----


def tiny(**changes: Any) -> onnx.ModelProto:
    """Return y = x + w, with some parts of the graph exchanged."""
    weights = np.arange(64, dtype=np.float32)
    parts: dict[str, Any] = {
        "nodes": [helper.make_node("Add", ["x", "w"], ["y"])],
        "inputs": [helper.make_tensor_value_info("x", TensorProto.FLOAT, [64])],
        "outputs": [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64])],
        "initializers": [numpy_helper.from_array(weights, "w")],
    } | changes
    graph = helper.make_graph(
        parts["nodes"], "tiny", parts["inputs"], parts["outputs"], parts["initializers"]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def edited(edit: Callable[[onnx.ModelProto], object]) -> Callable[[], bytes]:
    """Return a maker of the tiny model after an edit."""

    def make() -> bytes:
        proto = tiny()
        edit(proto)
        return bytes(proto.SerializeToString(deterministic=True))

    return make


def nodes(*made: onnx.NodeProto) -> Callable[[], bytes]:
    """Return a maker of the tiny model with other nodes."""
    return lambda: bytes(tiny(nodes=made).SerializeToString(deterministic=True))


def node(op_type: str, inputs: list[str], outputs: list[str], **more: Any) -> onnx.NodeProto:
    """Return a node named after its first output."""
    return helper.make_node(op_type, inputs, outputs, name=f"n_{outputs[0]}", **more)


def weight(**fields: Any) -> Callable[[], bytes]:
    """Return a maker of the tiny model with another weight."""

    def edit(proto: onnx.ModelProto) -> None:
        tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[64])
        proto.graph.initializer[0].CopyFrom(tensor)
        for field, value in fields.items():
            if isinstance(value, list):
                proto.graph.initializer[0].ClearField(field)
                getattr(proto.graph.initializer[0], field).extend(value)
            else:
                setattr(proto.graph.initializer[0], field, value)

    return edited(edit)


def external(**entries: str) -> Callable[[], bytes]:
    """Return a maker of the tiny model whose weight is external data."""
    made = [onnx.StringStringEntryProto(key=k, value=v) for k, v in entries.items()]
    return weight(data_location=TensorProto.EXTERNAL, external_data=made)


def deep_subgraphs() -> bytes:
    """Return a model of 32 Ifs, each inside of the one before."""
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64])]
    inner = helper.make_graph([node("Add", ["x", "w"], ["y"])], "g", [], out)
    for _ in range(31):
        outer = node("If", ["x"], ["y"], then_branch=inner, else_branch=helper.make_graph([node("Neg", ["x"], ["y"])], "e", [], out))  # fmt: skip  # noqa: E501
        inner = helper.make_graph([outer], "g", [], out)
    return bytes(tiny(nodes=list(inner.node)).SerializeToString(deterministic=True))


def recursive_function() -> bytes:
    """Return a model with a function that calls itself by way of another."""
    proto = tiny(nodes=[node("A", ["x"], ["y"], domain="f")])
    opsets = [helper.make_opsetid("f", 1)]
    for name, calls in (("A", "B"), ("B", "A")):
        body = [helper.make_node(calls, ["a"], ["b"], domain="f")]
        proto.functions.append(helper.make_function("f", name, ["a"], ["b"], body, opsets))
    proto.opset_import.append(helper.make_opsetid("f", 1))
    return bytes(proto.SerializeToString(deterministic=True))


def bad_utf8() -> bytes:
    """Return the tiny model, its input's name no UTF-8."""
    return edited(lambda p: None)().replace(b"\x01x", b"\x01\xff")


def sparse(proto: onnx.ModelProto) -> None:
    """Add a sparse initializer."""
    proto.graph.sparse_initializer.add().dims.append(4)


def map_input(proto: onnx.ModelProto) -> None:
    """Make the input a map."""
    proto.graph.input[0].type.map_type.key_type = TensorProto.INT64


def no_type(proto: onnx.ModelProto) -> None:
    """Add an attribute without a type."""
    proto.graph.node[0].attribute.add(name="alpha")


ONNX: dict[str, Callable[[], bytes]] = {
    "empty.onnx": lambda: b"",
    "random.onnx": lambda: random.Random(0).randbytes(500),
    "png.onnx": lambda: PNG,
    "text.onnx": lambda: b"not a model\n" * 9,
    "page.onnx": lambda: b"<!DOCTYPE html><html><title>404</title></html>\n",
    "lfs.onnx": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "tflite.onnx": lambda: b"\x1c\0\0\0TFL3" + bytes(40),
    "qtm.onnx": lambda: qtm(),
    "truncated.onnx": lambda: edited(lambda p: None)()[:200],
    "no-graph.onnx": edited(lambda p: p.ClearField("graph")),
    "no-opset.onnx": edited(lambda p: p.ClearField("opset_import")),
    "no-ir-version.onnx": edited(lambda p: p.ClearField("ir_version")),
    "newer-ir.onnx": edited(lambda p: setattr(p, "ir_version", 99)),
    "opset-6.onnx": edited(lambda p: setattr(p.opset_import[0], "version", 6)),
    "opset-999.onnx": edited(lambda p: setattr(p.opset_import[0], "version", 999)),
    "two-opsets.onnx": edited(lambda p: p.opset_import.add(domain="", version=12)),
    "external-parent.onnx": external(location="../secret"),
    "external-absolute.onnx": external(location="/etc/passwd"),
    "external-missing.onnx": external(location="nothing.data"),
    "external-folder.onnx": external(location="."),
    "external-short.onnx": external(location="empty.onnx"),
    "external-beyond.onnx": external(location="random.onnx", offset="400"),
    "external-huge.onnx": external(location="random.onnx", offset=str(1 << 62)),
    "external-length.onnx": external(location="random.onnx", length="255"),
    "external-negative.onnx": external(location="random.onnx", offset="-1"),
    "external-unknown-key.onnx": external(location="random.onnx", __class__="x"),
    "external-and-raw.onnx": weight(
        data_location=TensorProto.EXTERNAL, raw_data=bytes(256),
        external_data=[onnx.StringStringEntryProto(key="location", value="random.onnx")],
    ),
    "dims-negative.onnx": weight(dims=[-64], raw_data=bytes(256)),
    "dims-overflow.onnx": weight(dims=[1 << 40, 1 << 40], raw_data=bytes(256)),
    "dims-more-than-data.onnx": weight(dims=[1 << 30], raw_data=bytes(256)),
    "raw-length.onnx": weight(raw_data=bytes(255)),
    "no-data.onnx": weight(),
    "two-fields.onnx": weight(raw_data=bytes(256), float_data=[1.0] * 64),
    "wrong-field.onnx": weight(int64_data=[1] * 64),
    "unknown-dtype.onnx": weight(data_type=77, raw_data=bytes(256)),
    "raw-strings.onnx": weight(data_type=TensorProto.STRING, raw_data=bytes(256)),
    "shape-negative.onnx": edited(
        lambda p: setattr(p.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", -2)
    ),
    "shape-absurd.onnx": edited(
        lambda p: setattr(p.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 1 << 60)
    ),
    "cycle.onnx": nodes(node("Add", ["x", "b"], ["a"]), node("Add", ["a", "w"], ["b"]),
                        node("Neg", ["b"], ["y"])),
    "cycle-subgraph.onnx": nodes(
        node("If", ["x"], ["y"], then_branch=helper.make_graph(
            [node("Neg", ["y"], ["z"])], "g", [],
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, [64])])),
    ),
    "unknown-input.onnx": nodes(node("Add", ["x", "q"], ["y"])),
    "unknown-output.onnx": nodes(node("Add", ["x", "w"], ["q"])),
    "two-outputs.onnx": nodes(node("Add", ["x", "w"], ["y"]), node("Neg", ["x"], ["y"])),
    "output-is-weight.onnx": nodes(node("Add", ["x", "w"], ["w"]), node("Neg", ["w"], ["y"])),
    "two-weights.onnx": edited(lambda p: p.graph.initializer.append(p.graph.initializer[0])),
    "no-op-type.onnx": nodes(node("", ["x"], ["y"])),
    "no-attribute-type.onnx": edited(no_type),
    "sparse.onnx": edited(sparse),
    "map.onnx": edited(map_input),
    "device.onnx": edited(lambda p: p.graph.node[0].device_configurations.add()),
    "deep.onnx": deep_subgraphs,
    "recursive-function.onnx": recursive_function,
    "utf8.onnx": bad_utf8,
}  # fmt: skip


# ---- .qtm ----


def parts(**changes: bytes | None) -> dict[str, bytes]:
    """Return the members of the tiny model's .qtm, some exchanged or (None) left out."""
    from freeze_golden import tiny as tiny_model

    data = memoryview(qtm_file.dumps(tiny_model()))
    found = container.read(data, "tiny", MEMBERS)
    members = {m.name: bytes(container.content(data, "", m, 1 << 20)) for m in found.values()}
    for name, content in changes.items():
        member = name.replace("_", ".")
        if content is None:
            del members[member]
        else:
            members[member] = content
    return members


def join(members: Mapping[str, bytes] | list[tuple[str, bytes]]) -> bytes:
    """Return the archive of these members, its checksums right."""
    file = io.BytesIO()
    pairs = members.items() if isinstance(members, Mapping) else members
    container.write(file, [stored(name, content) for name, content in pairs])
    return file.getvalue()


def stored(name: str, content: bytes) -> tuple[container.Member, list[bytes]]:
    """Return a member that is not compressed."""
    size = len(content)
    return container.Member(name, container.STORED, size, size, zlib.crc32(content)), [content]


def qtm(**changes: bytes | None) -> bytes:
    """Return the .qtm of these members; the manifest is made to agree with them."""
    members = parts(**changes)
    manifest = json.loads(members["manifest.json"])
    manifest["members"] = {
        name: {"size": len(content), "crc32": f"{zlib.crc32(content):08x}"}
        for name, content in members.items()
        if name != "manifest.json"
    }
    members["manifest.json"] = json.dumps(manifest).encode()
    return join(members)


def manifest(edit: Callable[[dict[str, Json]], object]) -> Callable[[], bytes]:
    """Return a maker of the tiny .qtm after an edit of its manifest."""

    def make() -> bytes:
        members = parts()
        value = json.loads(members["manifest.json"])
        edit(value)
        return join(members | {"manifest.json": json.dumps(value).encode()})

    return make


def row(**changes: Json) -> Callable[[], bytes]:
    """Return a maker of the tiny .qtm after changes to its tensor's row."""
    return manifest(lambda value: value["tensors"][0].update(changes))


def text(content: bytes) -> Callable[[], bytes]:
    """Return a maker of the tiny .qtm with another manifest.json."""
    return lambda: join(parts(manifest_json=content))


def patched(find: bytes, new: bytes, *, last: bool = False) -> Callable[[], bytes]:
    """Return a maker of the tiny .qtm with some bytes exchanged."""

    def make() -> bytes:
        data = qtm()
        at = data.rindex(find) if last else data.index(find)
        return data[:at] + new + data[at + len(new) :]

    return make


def flipped(member: str) -> Callable[[], bytes]:
    """Return a maker of the tiny .qtm with one bit of a member flipped."""

    def make() -> bytes:
        data = bytearray(qtm())
        found = container.read(memoryview(bytes(data)), "tiny", MEMBERS)[member]
        data[found.start + found.length // 2] ^= 4
        return bytes(data)

    return make


def directory(**changes: int) -> Callable[[], bytes]:
    """Return a maker of the tiny .qtm, the directory entry of its tensors.bin changed."""

    def make() -> bytes:
        data = bytearray(qtm())
        at = data.rindex(b"PK\1\2")
        values = list(container.CENTRAL.unpack_from(data, at))
        places = {"method": 4, "crc": 7, "length": 8, "size": 9, "offset": 16}
        for field, value in changes.items():
            values[places[field]] = value
        container.CENTRAL.pack_into(data, at, *values)
        return bytes(data)

    return make


def deflated(content: bytes, *, size: int | None = None) -> Callable[[], bytes]:
    """Return a maker of the tiny .qtm with a deflated manifest, which may lie about its size."""

    def make() -> bytes:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        data = packer.compress(content) + packer.flush()
        n_content = len(content) if size is None else size
        crc = zlib.crc32(content)
        first = container.Member("manifest.json", container.DEFLATED, n_content, len(data), crc)
        file = io.BytesIO()
        others = [stored(name, content) for name, content in list(parts().items())[1:]]
        container.write(file, [(first, [data]), *others])
        return file.getvalue()

    return make


def foreign_zip() -> bytes:
    """Return what any other program zips."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("hello.txt"), b"hello\n")
    return file.getvalue()


def graph(edit: Callable[[onnx.ModelProto], object]) -> Callable[[], bytes]:
    """Return a maker of the tiny .qtm after an edit of its graph."""

    def make() -> bytes:
        proto = onnx.ModelProto.FromString(parts()["graph.onnx"])
        edit(proto)
        return qtm(graph_onnx=proto.SerializeToString(deterministic=True))

    return make


def entry(key: str, value: str) -> Callable[[onnx.ModelProto], object]:
    """Return an edit of where the graph says that its weight is."""

    def edit(proto: onnx.ModelProto) -> None:
        for found in proto.graph.initializer[0].external_data:
            if found.key == key:
                found.value = value

    return edit


def half(proto: onnx.ModelProto) -> None:
    """Make the graph's weight the second half of what the table has."""
    proto.graph.initializer[0].dims[0] = 32
    entry("offset", "128")(proto)
    entry("length", "128")(proto)


def statistics(content: bytes) -> Callable[[], bytes]:
    """Return a maker of the tiny .qtm with this statistics.bin."""
    return lambda: qtm(statistics_bin=content)


STATISTICS = {"model": "", "source": "samples", "n_samples": 1, "shards": []}
HISTOGRAM = b"\1\0\0" + b"\1x" + struct.pack("<2f", -1, 1)  # one tensor, x, up to its numbers

QTM: dict[str, Callable[[], bytes]] = {
    "empty.qtm": lambda: b"",
    "random.qtm": lambda: random.Random(0).randbytes(500),
    "png.qtm": lambda: PNG,
    "zip.qtm": foreign_zip,
    "onnx.qtm": edited(lambda p: None),
    "truncated.qtm": lambda: qtm()[:-100],
    "longer.qtm": lambda: qtm() + b"\0",
    "flipped-manifest.qtm": flipped("manifest.json"),
    "flipped-graph.qtm": flipped("graph.onnx"),
    "flipped-tensor.qtm": flipped("tensors.bin"),
    "flipped-header.qtm": patched(b"PK\3\4\x14", b"PK\3\4\x15"),
    "swapped-graph.qtm": lambda: join(parts(graph_onnx=edited(lambda p: None)())),
    "extra-member.qtm": lambda: join({**parts(), "notes.txt": b"hello"}),
    "other-order.qtm": lambda: join(dict(reversed(parts().items()))),
    "no-tensors.qtm": lambda: qtm(tensors_bin=None),
    "duplicate-member.qtm": lambda: join([*parts().items(), *parts().items()]),
    "renamed-member.qtm": patched(b"graph.onnx", b"tensors.bi", last=True),
    "lying-size.qtm": directory(size=0xFFFF0000),
    "lying-both-sizes.qtm": directory(size=0xFFFF0000, length=0xFFFF0000),
    "lying-offset.qtm": directory(offset=0),
    "lying-method.qtm": directory(method=8),
    "unknown-method.qtm": directory(method=14),
    "bomb.qtm": deflated(bytes(17_000_000)),
    "lying-bomb.qtm": deflated(bytes(100_000), size=100),
    "manifest-not-json.qtm": text(b"hello"),
    "manifest-not-utf8.qtm": text(b'{"format": "\xff"}'),
    "manifest-nan.qtm": text(b'{"format": NaN}'),
    "manifest-infinity.qtm": text(b'{"format": 1e999}'),
    "manifest-half-character.qtm": text(b'{"format": "\\ud800"}'),
    "manifest-deep.qtm": text(b"[" * 9999),
    "manifest-list.qtm": text(b"[]"),
    "other-format.qtm": manifest(lambda m: m.update(format="zip")),
    "newer-version.qtm": manifest(lambda m: m.update(version=2)),
    "version-0.qtm": manifest(lambda m: m.update(version=0)),
    "version-float.qtm": manifest(lambda m: m.update(version=1.0)),
    "version-true.qtm": manifest(lambda m: m.update(version=True)),
    "no-history.qtm": manifest(lambda m: m.pop("history")),
    "history-of-numbers.qtm": manifest(lambda m: m.update(history=[1])),
    "preprocess-list.qtm": manifest(lambda m: m.update(preprocess=[])),
    "member-10-gb.qtm": manifest(lambda m: m["members"]["tensors.bin"].update(size=10**10)),
    "tensor-10-gb.qtm": row(shape=[10**10], length=10**10 * 4),
    "tensor-elsewhere.qtm": row(offset=64),
    "tensor-short.qtm": row(length=252),
    "tensor-offset-true.qtm": row(offset=False),
    "tensor-negative.qtm": row(shape=[-64]),
    "tensor-overflow.qtm": row(shape=[1 << 40, 1 << 40]),
    "tensor-dtype.qtm": row(dtype="float33"),
    "tensor-strings.qtm": row(dtype="string"),
    "tensor-crc.qtm": row(crc32="0000000G"),
    "codec-unknown.qtm": row(codecs=[{"id": 200}]),
    "codec-none.qtm": row(codecs=[]),
    "codec-length.qtm": row(codecs=[{"id": 0}, {"id": 0, "length": 10**10}]),
    "graph-elsewhere.qtm": graph(entry("location", "/etc/passwd")),
    "graph-offset.qtm": graph(entry("offset", "32")),
    "graph-half.qtm": graph(half),
    "graph-unknown-input.qtm": graph(lambda p: p.graph.node[0].input.__setitem__(0, "q")),
    "graph-not-onnx.qtm": lambda: qtm(graph_onnx=PNG),
    "statistics-missing.qtm": manifest(lambda m: m.update(statistics=STATISTICS)),
    "statistics-source.qtm": manifest(lambda m: m.update(statistics=STATISTICS | {"source": "?"})),
    "statistics-shards.qtm": manifest(lambda m: m.update(statistics=STATISTICS | {"shards": [1]})),
    "statistics-unowned.qtm": statistics(HISTOGRAM + bytes([1, 0, 0, 0, 1, 0, 1])),
    "statistics-empty.qtm": statistics(b""),
    "statistics-cut.qtm": statistics(HISTOGRAM),
    "statistics-count.qtm": statistics(HISTOGRAM + bytes([9, 0, 0, 0, 1, 0, 8])),
    "statistics-bins.qtm": statistics(
        HISTOGRAM + bytes([1, 0, 0, 0, 1]) + b"\xff\xff\xff\xff\x0f" + b"\1"
    ),
    "statistics-tables.qtm": statistics(b"\xff\xff\xff\xff\x0f\0\0"),
    "statistics-gram.qtm": statistics(b"\0\1\0\1w\1" + b"\xff\xff\xff\xff\x0f" * 2 + bytes(9)),
    "statistics-no-gram.qtm": statistics(b"\0\1\0\1w\1\0" + b"\xff\xff\xff\xff\x0f" + bytes(9)),
    "statistics-nan.qtm": statistics(b"\1\0\0\1x" + struct.pack("<2f", np.nan, 1) + bytes(5)),
    "statistics-exponent.qtm": statistics(HISTOGRAM + b"\1\0\xff\xff\x7f\0\1\0\1"),
    "statistics-longer.qtm": statistics(bytes(9)),
    "statistics-number.qtm": statistics(b"\xff" * 30),
}  # fmt: skip

# ---- packed .qtm ----


def packed(
    edit: Callable[[Table, list[bytes], onnx.ModelProto], object], **changes: Any
) -> Callable[[], bytes]:
    """Return a maker of a packed model, edited; rows that change get the right checksums.

    Damaged rows are frozen in version 2, whose rows are the same.
    """

    def make() -> bytes:
        import freeze_golden

        small = edit is nothing and "crc" not in changes
        model = freeze_golden.tiny() if small else freeze_golden.codecs()
        found = format_packed.pack(
            model.ir.clone(), max=False, threads=1, progress=format_packed.no_progress
        )
        plain = onnx_proto.serialize(found.graph, locations=False)
        data, proto = list(found.data), onnx.ModelProto.FromString(plain)
        edit(found.table, data, proto)
        for row, stored in zip(found.table.rows, data, strict=True):
            row.length = len(stored)
            row.crc = changes.get("crc", zlib.crc32(stored))
        details = changes.get("details", DETAILS)
        graph = proto.SerializeToString(deterministic=True)
        of_manifest = changes.get("of_manifest", zlib.crc32(PACKED_MANIFEST))
        head = packed_graph.dumps(packed_graph.Head(found.table, details, graph, of_manifest))
        head = changes.get("head", bytes)(head)
        found.table.place(len(head))
        again = format_packed.Packed(found.table, data, found.graph)
        rows = b"".join(again.pieces(len(head)))
        return join(
            {"manifest.json": PACKED_MANIFEST, "packed.bin": changes.get("all", head + rows)}
        )

    return make


PACKED_MANIFEST = b'{"format":"qtm","version":3,"producer":"qtool 0.1.0"}'
DETAILS = b'{"source":null,"history":[],"preprocess":null,"statistics":null}'


def sealed(edit: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Return an edit of a head after which its checksum is right."""

    def edited(head: bytes) -> bytes:
        found = edit(head[:-4])
        return found + struct.pack("<I", zlib.crc32(found))

    return edited


def head(codec: int, content: bytes, coded: bytes, noise: bytes) -> Callable[[bytes], bytes]:
    """Return what exchanges a head; content is its size as it is stored."""
    sizes = content + bytes([len(noise), len(coded)])
    crcs = struct.pack("<2I", zlib.crc32(PACKED_MANIFEST), 0)
    return sealed(lambda h: bytes([codec]) + sizes + crcs + noise + coded)


LZ_CODE = lz.encode_text(np.arange(64, dtype=np.uint8)) or b""


def row_data(number: int, new: Callable[[bytes], bytes], codec: int | None = None) -> Any:
    """Return an edit of what a row holds, and perhaps of its codec."""

    def edit(table: Table, data: list[bytes], proto: onnx.ModelProto) -> None:
        data[number] = new(data[number])
        if codec is not None:
            table.rows[number].codec = codec

    return edit


def dims(name: str, *sizes: int) -> Any:
    """Return an edit of a tensor's dims."""

    def edit(table: Table, data: list[bytes], proto: onnx.ModelProto) -> None:
        tensor = next(t for t in proto.graph.initializer if t.name == name)
        tensor.dims[:] = sizes
        for info in proto.graph.value_info:
            if info.name == name:
                del info.type.tensor_type.shape.dim[:]

    return edit


def refer(which: int, row: int) -> Any:
    """Return an edit of the row that a tensor wants."""

    def edit(table: Table, data: list[bytes], proto: onnx.ModelProto) -> None:
        table.wanted = [row if k == which else r for k, r in enumerate(table.wanted)]

    return edit


def fewer(table: Table, data: list[bytes], proto: onnx.ModelProto) -> None:
    """Let the last tensor have no row."""
    table.wanted = table.wanted[:-1]


def more(table: Table, data: list[bytes], proto: onnx.ModelProto) -> None:
    """Let there be a row of no tensor."""
    table.wanted = [*table.wanted, 0]


def located(table: Table, data: list[bytes], proto: onnx.ModelProto) -> None:
    """Let a tensor say where it is."""
    proto.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")


def swap(table: Table, data: list[bytes], proto: onnx.ModelProto) -> None:
    """Exchange the bytes of two rows, but not their checksums' places."""
    data[0], data[1] = data[1], data[0]


def extra_row(table: Table, data: list[bytes], proto: onnx.ModelProto) -> None:
    """Add a row that no tensor uses."""
    table.rows.append(packed_graph.Row(0, 1, 0))
    data.append(b"x")


def nothing(table: Table, data: list[bytes], proto: onnx.ModelProto) -> None:
    """Edit nothing."""


def two_graphs() -> bytes:
    """Return a .qtm with a packed graph beside the plain one."""
    members = parts()
    known = {*members, "packed.bin"}
    return join({name: members.get(name, b"\0\0") for name in MEMBERS if name in known})


RANS, ARITH, LZ = 3, 4, 10
PACKED_BAD: dict[str, Callable[[], bytes]] = {
    "packed3-truncated.qtm": packed(row_data(0, lambda d: d[:-3])),
    "packed3-crc.qtm": packed(nothing, crc=7),
    "packed3-swapped.qtm": packed(swap),
    "packed3-unknown-codec.qtm": packed(row_data(0, lambda d: d, 200)),
    "packed3-bomb.qtm": packed(dims("blocks", 1 << 40)),
    "packed3-no-row.qtm": packed(refer(0, 99)),
    "packed3-other-row.qtm": packed(refer(10, 1)),
    "packed3-extra-row.qtm": packed(extra_row),
    "packed3-fewer-rows.qtm": packed(fewer),
    "packed3-more-rows.qtm": packed(more),
    "packed3-located.qtm": packed(located),
    "packed3-lz-words.qtm": packed(row_data(6, lambda d: b"\2" + d, LZ)),
    "packed3-lz-cut.qtm": packed(row_data(6, lambda d: b"\1", LZ)),
    "packed3-head-bomb.qtm": packed(nothing, head=head(LZ, b"\x80\x80\x80\x20", b"\1", b"")),
    "packed3-head-arith-bomb.qtm": packed(
        nothing, head=head(ARITH, b"\x80\x80\x80\4", b"\1", b"")
    ),
    "packed3-head-10-gb.qtm": packed(
        nothing, head=head(LZ, b"\x80\x80\x80\x80\x28", b"\1", b"")
    ),
    "packed3-head-codec.qtm": packed(nothing, head=head(RANS, b"\5", b"abcde", b"")),
    "packed3-head-table.qtm": packed(nothing, head=head(0, b"\4", b"\0\0\x7f\1", b"")),
    "packed3-head-details.qtm": packed(nothing, head=head(0, b"\4", b"\x7f\0\0\0", b"")),
    "packed3-head-checksums.qtm": packed(nothing, head=head(0, b"\5", b"\0\0\1\0\0", b"x")),
    "packed3-head-cut.qtm": packed(nothing, all=b"\x0a\x7f\0\x7f" + bytes(40)),
    "packed3-head-code-cut.qtm": packed(nothing, head=head(LZ, b"\x40", LZ_CODE[:-2], b"")),
    "packed3-head-code-longer.qtm": packed(nothing, head=head(LZ, b"\x40", LZ_CODE + b"\1", b"")),
    "packed3-head-code-short.qtm": packed(nothing, head=head(LZ, b"\x3f", LZ_CODE, b"")),
    "packed3-head-flipped.qtm": packed(nothing, head=lambda h: h[:-9] + b"\xff" + h[-8:]),
    "packed3-head-code.qtm": packed(nothing, head=sealed(lambda h: h[:-9] + b"\xff" + h[-8:])),
    "packed3-head-empty.qtm": packed(nothing, all=b""),
    "packed3-other-manifest.qtm": packed(nothing, of_manifest=7),
    "packed3-details-list.qtm": packed(nothing, details=b"[]"),
    "packed3-details-nothing.qtm": packed(nothing, details=b"{}"),
    "packed3-with-graph-onnx.qtm": two_graphs,
}  # fmt: skip


BAD: dict[str, Callable[[], bytes]] = ONNX | QTM | PACKED_BAD
