"""A folder that `docker build` makes an image of: the weights and `medfuse infer`."""

from __future__ import annotations

import re
from pathlib import Path

from medfuse.model.hub import SHARED_WEIGHTS
from medfuse.sharing.entry import write_entry
from medfuse.sharing.formats import slug
from medfuse.sharing.model import SharedModel

MODEL = "model"
DOCKERFILE = """# {name}: docker build --tag {tag} .
# BASE is an image of medfuse, which the Dockerfile in its repository makes: docker build --tag medfuse .
ARG BASE=medfuse
FROM ${{BASE}}
LABEL org.opencontainers.image.title="{name}"{license}
COPY {model} /opt/{model}
HEALTHCHECK NONE
ENTRYPOINT ["sh", "/opt/{model}/segment.sh"]
CMD ["/input", "/output"]
"""


def write(folder: Path, model: SharedModel) -> None:
    """Dockerfile, weights and what goes with them."""
    said, tag = model.description, slug(model.name)
    (folder / MODEL).mkdir()
    model.write_weights(folder / MODEL / SHARED_WEIGHTS)
    write_entry(folder / MODEL / "segment.sh", SHARED_WEIGHTS)
    license = f' \\\n      org.opencontainers.image.licenses="{said.license}"' if said.license else ""
    name = re.sub(r'["\\$\s]+', " ", model.name)
    text = DOCKERFILE.format(name=name, tag=tag, license=license, model=MODEL)
    (folder / "Dockerfile").write_text(text, encoding="utf-8")
    (folder / ".dockerignore").write_text(f"*\n!{MODEL}\n", encoding="utf-8")
    model.write_about(folder, _how(tag))


def _how(tag: str) -> list[str]:
    return [
        f"```\ndocker build --tag {tag} .\ndocker run --rm --network none "
        f"--volume /path/to/scans:/input:ro --volume /path/to/labels:/output {tag}\n```",
        "The base is the image `medfuse`, which the Dockerfile in medfuse's repository makes, and which "
        "computes on the CPU; `--build-arg BASE=…` names another, such as one with CUDA, for "
        "`docker run --gpus all`. What follows `/input /output` are options of `medfuse infer`, such as "
        "`--format dicom_seg`.",
        f"Without a container: `sh {MODEL}/segment.sh SCANS LABELS`, where medfuse is installed.",
    ]
