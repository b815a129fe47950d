"""What the first bytes of a file look like, for the message that says it is not a model."""

from __future__ import annotations

SIGNATURES = (
    (b"PK\x03\x04", "a ZIP file"),
    (b"PK\x05\x06", "an empty ZIP file"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file (Keras?); export it to ONNX"),
    (b"\x1f\x8b", "a gzip file; unpack it"),
    (b"BZh", "a bzip2 file; unpack it"),
    (b"\xfd7zXZ", "an xz file; unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstd file; unpack it"),
    (b"%PDF", "a PDF"),
    (b"\x7fELF", "a program"),
    (b"GGUF", "a GGUF model"),
    (b"ORTM", "an onnxruntime .ort model; use the .onnx that it was made from"),
    (b"\x80\x02", "a Python pickle (PyTorch?); export it to ONNX"),
    (b"version https://git-lfs", "a Git LFS pointer; run git lfs pull"),
    (b"<!DOCTYPE", "a web page; the download failed?"),
    (b"<html", "a web page; the download failed?"),
    (b"{", "JSON"),
)

ONNX = "an ONNX model"
QTM = "a .qtm model"
# ir_version, one byte, is followed by one of the next fields of a ModelProto.
ONNX_TAGS = tuple(bytes([tag]) for tag in (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42))


def looks_like(head: bytes) -> str:
    """Return what a file that begins with head seems to be, or "" when that is unknown."""
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model"
    if head.startswith(b"PK\x03\x04") and b"manifest.json" in head[:64]:
        return QTM
    if head.startswith(b"PK\x03\x04") and b"data.pkl" in head[:80]:
        return "a PyTorch checkpoint; export it to ONNX"
    for signature, kind in SIGNATURES:
        if head.startswith(signature):
            return kind
    if head[:1] == b"\x08" and head[2:3] in ONNX_TAGS:
        return ONNX
    try:
        text = head.decode()
    except UnicodeDecodeError:
        return ""
    return "text" if text and text.isprintable() or "\n" in text else ""
