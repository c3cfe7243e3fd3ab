"""A folder as Hugging Face has them: weights, configuration, and a card whose head programs read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medfuse.core.text import yaml_text
from medfuse.model.hub import SHARED_WEIGHTS
from medfuse.sharing.clean import cleaned_text
from medfuse.sharing.description import Description
from medfuse.sharing.model import SharedModel, write_json

CONFIG = "config.json"
PIPELINE = "pipeline.yaml"
_PRIVATE = ("data", "report", "name", "split", "track")
KNOWN_LICENSES = frozenset(
    """
    afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 cc0-1.0
    cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0
    cdla-permissive-1.0 cdla-permissive-2.0 ecl-2.0 epl-1.0 epl-2.0 eupl-1.1 eupl-1.2 gpl-2.0 gpl-3.0 isc
    lgpl-2.1 lgpl-3.0 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl-1.0 ofl-1.1 osl-3.0 pddl-1.0 postgresql unlicense
    wtfpl zlib
    """.split()  # noqa: SIM905  # a list of words reads better so
)
"""The names that the hub knows licences by; any other is `other` with a name of its own."""


def write(folder: Path, model: SharedModel) -> None:
    """Weights, what they say of themselves, the pipeline that made them, and the card."""
    model.write_weights(folder / SHARED_WEIGHTS)
    facts = {key: value for key, value in model.facts.items() if key != "data"}
    shown = {"model_type": "medfuse", "architectures": ["medfuse"], **facts, "data": model.facts["data"]}
    write_json(folder / CONFIG, shown)
    if pipeline := _pipeline(model):
        (folder / PIPELINE).write_text(pipeline, encoding="utf-8")
    model.write_about(folder, _how(), head=f"---\n{yaml_text(head(model.description))}---\n\n")


def _pipeline(model: SharedModel) -> str:
    """The pipeline with every value, without where its data lie and what its cases are called."""
    path = model.weights.with_name("resolved.yaml")
    if not path.is_file():
        return ""
    from medfuse.core.document import Document

    said = Document.load(path).data
    kept = {key: value for key, value in said.items() if key not in _PRIVATE}
    data = said.get("data", {})
    kept = {"name": said.get("name"), "data": {"use": data.get("use"), "root": "DATA"}, **kept}
    note = "# The pipeline that made the weights, without where its data lie: set data.root and the like.\n"
    return note + yaml_text(cleaned_text(kept, instead="FILE"))


def _how() -> list[str]:
    return [
        "```\npip install medfuse\nmedfuse infer FOLDER --input SCANS --output LABELS\n```",
        "`FOLDER` is this folder, or `hub:OWNER/NAME`, the name of the repository that it is in. Nothing in "
        "it is run: its network is made of layers that medfuse knows, or of plugins that you have installed.",
        "`medfuse init DATA --from FOLDER` starts a training on your own data from these weights.",
    ]


def head(said: Description) -> dict[str, Any]:
    """The card's metadata."""
    tags = ["medfuse", "medical", "segmentation", f"{said.dims}d"]
    tags += [tag for one in said.modalities if (tag := _tag(one))]
    tags += [tag for label in said.labels[:20] if (tag := _tag(label.name))]
    made: dict[str, Any] = {
        **_license(said.license),
        "library_name": "medfuse",
        "pipeline_tag": "image-segmentation",
        "tags": [*dict.fromkeys(tags)],
    }
    bases = [_repository(source.source) for source in said.sources]
    if known := [*dict.fromkeys(base for base in bases if base)]:
        made["base_model"] = known
    if said.score is not None and said.score.overall.dice is not None:
        made["metrics"] = ["dice"]
        made["model-index"] = [{"name": said.name, "results": [_results(said)]}]
    return made


def _license(name: str) -> Mapping[str, str]:
    if not name:
        return {}
    known = re.sub(r"-(only|or-later)$", "", name.lower())
    if known in KNOWN_LICENSES:
        return {"license": known}
    return {"license": "other", "license_name": name.lower().replace(" ", "-"), "license_link": "LICENSE"}


def _tag(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60]


def _repository(source: str) -> str:
    """`OWNER/NAME` of what came from the hub; "" for anything else."""
    found = re.fullmatch(r"([\w.-]+/[\w.-]+)(/[^\s@]+)?@[0-9a-zA-Z.]+", source)
    return found[1] if found else ""


def _results(said: Description) -> dict[str, Any]:
    assert said.score is not None, "asked before"
    means = [("mean foreground Dice", said.score.overall)]
    means += [(f"Dice of {label.name}", label) for label in said.score.labels]
    return {
        "task": {"type": "image-segmentation", "name": "Segmentation"},
        "dataset": {
            "type": "held-out-cases",
            "name": f"{said.score.overall.cases} {said.score.of} of its own data",
        },
        "metrics": [
            {"type": "dice", "name": name, "value": mean.dice}
            for name, mean in means
            if mean.dice is not None
        ],
    }
