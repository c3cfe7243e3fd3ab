"""What a service is sent, and what it answered, as its clients write and read it."""

from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path

import nibabel
import numpy as np


def parts(response) -> dict[str, tuple[str, bytes]]:
    """A form: field → (name of its file, content)."""
    head = f"Content-Type: {response.headers['content-type']}\r\n\r\n".encode()
    said = BytesParser(policy=HTTP).parsebytes(head + response.content)
    return {
        part.get_param("name", header="content-disposition"): (
            part.get_filename() or "",
            part.get_payload(decode=True),
        )
        for part in said.iter_parts()
    }


def labels(content: bytes, name: str, folder: Path) -> np.ndarray:
    """A label map that came as bytes."""
    path = folder / f"answered-{name}"
    path.write_bytes(content)
    return np.asarray(nibabel.load(path).dataobj)


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


def attached(path: Path, field: str = "file", name: str = "") -> dict[str, tuple[str, bytes]]:
    """A file, for a form."""
    return {field: (name or path.name, path.read_bytes())}
