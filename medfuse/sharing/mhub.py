"""A model's folder as MHub.ai has them: DICOM in, DICOM segmentation out, by the modules of mhubio."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import medfuse
from medfuse.core.errors import MedfuseError
from medfuse.core.text import yaml_text
from medfuse.model.hub import SHARED_WEIGHTS
from medfuse.sharing.description import Description
from medfuse.sharing.entry import write_entry
from medfuse.sharing.formats import slug
from medfuse.sharing.model import SharedModel, write_json
from medfuse.sharing.text import score_lines, training_text

NOT_SAID = "not said"
WEIGHTS = "weights"
RUNNER = "MedfuseRunner"
DOCKERFILE = """FROM mhubai/base:latest

# An environment of its own, as MHub asks for
RUN uv venv -p 3.11 .venv_medfuse \\
 && uv pip install --no-cache -p .venv_medfuse "medfuse[dicom]=={version}"
ENV MEDFUSE=/app/.venv_medfuse/bin/medfuse

# Import the MHub model definition, in whose folder the weights lie
ARG MHUB_MODELS_REPO
RUN buildutils/import_mhub_model.sh {name} ${{MHUB_MODELS_REPO}}

ENTRYPOINT ["mhub.run"]
CMD ["--config", "/app/models/{name}/config/default.yml"]
"""
MODULE = '''"""Runs medfuse on a DICOM series, and hands on the DICOM segmentation that it writes."""

import os
import shutil
import tempfile

from mhubio.core import IO, Instance, InstanceData, Module

SEGMENT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "{weights}", "segment.sh")


class {runner}(Module):
    @IO.Instance()
    @IO.Input("in_data", "dicom:mod={modality}", the="the scan")
    @IO.Output(
        "out_data",
        "{name}.seg.dcm",
        "dicomseg:mod=seg:model={name}",
        data="in_data",
        the="a segment for each label",
    )
    def task(self, instance: Instance, in_data: InstanceData, out_data: InstanceData) -> None:
        with tempfile.TemporaryDirectory() as made:
            command = ["sh", SEGMENT, in_data.abspath, made, "--format", "dicom_seg", "--quiet"]
            self.v(">> run: ", " ".join(command))
            self.subprocess(command, text=True)
            files = sorted(file for file in os.listdir(made) if file.endswith(".dcm"))
            if len(files) != 1:
                raise RuntimeError(f"one series makes one segmentation, and there are {{len(files)}}")
            shutil.move(os.path.join(made, files[0]), out_data.abspath)
'''


def write(folder: Path, model: SharedModel) -> None:
    """Raises MedfuseError for a model of several channels, as MHub's importer hands on one series."""
    said, name = model.description, slug(model.name, "_")
    if len(said.channels) > 1:
        names = ", ".join(channel.name for channel in said.channels)
        raise MedfuseError(
            f"{model.weights}: takes {len(said.channels)} channels ({names}), and an MHub model one "
            "DICOM series; export it as docker or huggingface"
        )
    (folder / WEIGHTS).mkdir()
    model.write_weights(folder / WEIGHTS / SHARED_WEIGHTS)
    write_entry(folder / WEIGHTS / "segment.sh", SHARED_WEIGHTS)
    texts = {"name": name, "version": medfuse.__version__, "runner": RUNNER, "weights": WEIGHTS}
    modality = _modality(said)
    for path, text in (
        ("dockerfiles/Dockerfile", DOCKERFILE.format(**texts)),
        (f"utils/{RUNNER}.py", MODULE.format(**texts, modality=modality.lower())),
        ("utils/__init__.py", f"from .{RUNNER} import {RUNNER} as {RUNNER}\n"),
        ("__init__.py", ""),
        ("config/default.yml", yaml_text(workflow(said, name, modality))),
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    write_json(folder / "meta.json", meta(said, name))
    model.write_about(folder, _how(name))


def _modality(said: Description) -> str:
    """As DICOM has it: CT, MR, PT; a channel that is named after a sequence is one of MR."""
    found = said.channels[0].modality or said.channels[0].name
    known = {"CT": "CT", "PT": "PT", "PET": "PT", "US": "US", "MG": "MG", "CR": "CR", "DX": "DX"}
    return known.get(found.strip().upper(), "MR")


def workflow(said: Description, name: str, modality: str) -> dict[str, Any]:
    """config/default.yml: DICOM is imported, segmented and handed out."""
    return {
        "general": {
            "data_base_dir": "/app/data",
            "version": "1.0.0",
            "description": f"{said.name}: DICOM to DICOM segmentation, by medfuse",
        },
        "execute": ["DicomImporter", RUNNER, "DataOrganizer"],
        "modules": {
            "DicomImporter": {
                "source_dir": "input_data",
                "import_dir": "sorted_data",
                "sort_data": True,
                "meta": {"mod": "%Modality"},
            },
            RUNNER: {},
            "DataOrganizer": {"targets": [f"dicomseg:mod=seg-->[i:sid]/{name}.seg.dcm"]},
        },
    }


def meta(said: Description, name: str) -> dict[str, Any]:
    """meta.json, in the words of MHub's schema; what the records do not tell is `not said`."""
    digest = hashlib.sha256("".join(said.weights).encode()).digest()
    classes = [label.name for label in said.labels]
    judged = said.score.overall.cases if said.score else 0
    approach = "ensemble" if len(said.weights) > 1 else f"{said.dims}D"
    network = f"a network of {said.parameters:,} parameters" if said.parameters else "a network"
    return {
        "id": str(uuid.UUID(bytes=digest[:16], version=4)),
        "name": name,
        "title": said.name,
        "summary": {
            "description": f"Segments {', '.join(classes[:20])} in {', '.join(said.modalities)}.",
            "inputs": [
                {
                    "label": "Input image",
                    "description": f"A scan that its training images are like: {channel.name}"[:200],
                    "format": "DICOM",
                    "modality": _modality(said),
                    "bodypartexamined": NOT_SAID,
                    "slicethickness": _thickness(said),
                    "non-contrast": False,
                    "contrast": False,
                }
                for channel in said.channels
            ],
            "outputs": [{"type": "Segmentation", "classes": classes}],
            "model": {"architecture": network, "training": "supervised", "cmpapproach": approach},
            "data": {
                "training": {"vol_samples": said.training.cases or 0},
                "evaluation": {"vol_samples": judged},
                "public": False,
                "external": False,
            },
        },
        "details": {
            "name": said.name,
            "version": "1.0.0",
            "devteam": NOT_SAID,
            "type": f"{said.dims}-D segmentation network",
            "date": {"weights": said.training.date},
            "cite": "",
            "license": {"code": "Apache-2.0", "weights": said.license or NOT_SAID},
            "publications": [],
            "github": "https://pypi.org/project/medfuse",
        },
        "info": {
            "use": {
                "title": "Intended use",
                "text": "Research. It is no medical device, and nobody approved it for the care of patients.",
            },
            "analyses": {"title": "Quantitative analyses", "text": "\n".join(score_lines(said))},
            "evaluation": {
                "title": "Evaluation data",
                "text": f"{judged} cases of its own data, which did not train it.",
            },
            "training": {"title": "Training data", "text": training_text(said.training)},
        },
    }


def _thickness(said: Description) -> str:
    if said.seen is None:
        return NOT_SAID
    low, high = (max(ends) for ends in said.seen.spacing_mm)
    return f"{low:.3g} to {high:.3g} mm"


def _how(name: str) -> Sequence[str]:
    return [
        f"Put this folder into a fork of MHub's models as `models/{name}`, its weights by Git LFS or fetched "
        "by a line of the Dockerfile, and build it as MHub's documentation says:",
        "```\ndocker build --build-arg MHUB_MODELS_REPO=https://github.com/YOU/models.git::main "
        f"--tag {name} dockerfiles\ndocker run --rm --gpus all "
        "--volume /path/to/dicom:/app/data/input_data:ro "
        f"--volume /path/to/out:/app/data/output_data {name}\n```",
        "What only its owner knows is for its owner to write: in `meta.json` whatever is `not said`, "
        "contrast, body part, publications; and `mhub.toml`, which names test data at Zenodo.",
        f"Without a container, where medfuse is installed: `sh {WEIGHTS}/segment.sh DICOM OUT --format "
        "dicom_seg`.",
    ]
