"""Archives of models, whole ones and others, made by hand."""

from __future__ import annotations

import io
import json
import struct
import tarfile

from ssdcli.registry.archive import export_model
from ssdcli.registry.manifest import tokenizer_fingerprint


def weights(values: int = 2, header: bytes | None = None, claimed: int | None = None) -> bytes:
    """A safetensors file of one tensor, its header and the length that it claims replaced by those given."""
    entry = {"dtype": "F32", "shape": [values], "data_offsets": [0, 4 * values]}
    text = json.dumps({"a": entry}).encode() if header is None else header
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text + bytes(4 * values)


def tokenizer(*tokens: str) -> bytes:
    return json.dumps({"model": {"vocab": {token: i for i, token in enumerate(tokens)}, "merges": []}}).encode()


FILES = {"model.safetensors": weights(), "tokenizer.json": tokenizer("a", "b"), "extra/README.md": b"# notes\n"}
FINGERPRINT = tokenizer_fingerprint(FILES["tokenizer.json"])


def exported(entry):
    stream = io.BytesIO()
    export_model(entry, stream)
    stream.seek(0)
    return stream


def tar(*members):
    """An archive of members: pairs of a name, or of a header, and a content."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as written:
        for name, content in members:
            header = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            header.size = len(content)
            written.addfile(header, io.BytesIO(content))
    stream.seek(0)
    return stream


def listed(files=FILES):
    return [(f"notes/{file}", content) for file, content in files.items()]


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
