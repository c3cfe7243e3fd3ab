"""What a pipeline can start from: a checkpoint, a folder or a name that says which network it is of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from medfuse import registry
from medfuse.api import Backbone, ImageInfo
from medfuse.core.errors import CheckpointError, MedfuseError
from medfuse.core.text import typed
from medfuse.data.settings import scaling
from medfuse.imports.nnssl import is_nnssls, read_nnssl
from medfuse.imports.start import Start
from medfuse.model.hub import PREFIX, SHARED_WEIGHTS, fetch_shared, shared_repository
from medfuse.trained.loading import read_weights, shared_weights

HUB_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[^\s@]+))?")
TAKEN = (
    "give a checkpoint of nnssl, a run of medfuse or its weights, a MONAI bundle, a folder with a "
    "config.json, or a name of huggingface.co such as facebook/dinov2-small"
)
_WEIGHTS = "weights_last.safetensors"


def read_start(source: str) -> Start:
    """What `source` says of itself. Raises CheckpointError for what says nothing."""
    if source.startswith(PREFIX):
        return _of_shared(source)
    path = Path(source).expanduser()
    if path.is_dir():
        return _of_folder(path)
    if path.suffix == ".zip" and path.exists():
        return _of_bundle(path)
    if path.exists():
        return _of_file(path)
    if (found := HUB_NAME.fullmatch(source)) and not source.startswith("."):
        return _of_hub(found["name"], found["revision"])
    raise CheckpointError(f"{source}: no such file or folder, and no name of the hub; {TAKEN}")


def _of_folder(path: Path) -> Start:
    if shared := shared_weights(path):
        return _of_medfuse(shared)
    if (path / "config.json").is_file():
        return replace(_of_hub(str(path.resolve()), None), what=str(path))
    if (path / "configs").is_dir():
        return _of_bundle(path)
    if (path / _WEIGHTS).is_file() or any(path.glob(f"fold_*/{_WEIGHTS}")):
        from medfuse.trained.loading import weights_file

        return _of_file(weights_file(path, best=False))
    if (path / "plans.json").is_file():
        raise CheckpointError(
            f"{path}: is a model of nnU-Net; run `medfuse import-nnunet {typed(path)} -o runs/NAME` first, "
            "and give that run"
        )
    raise CheckpointError(f"{path}: holds nothing that says which network it is of; {TAKEN}")


def _of_file(path: Path) -> Start:
    from medfuse.model.checkpoints import read_checkpoint

    if path.suffix == ".safetensors":
        return _of_medfuse(path)
    state = read_checkpoint(path)
    if is_nnssls(state):
        return read_nnssl(path, state)
    raise CheckpointError(
        f"{path}: holds tensors, and nothing that says of which network; write a pipeline that names it, "
        f"with model.transfer: {{encoder: {{weights: {path}}}}}, or {TAKEN}"
    )


def _of_shared(name: str) -> Start:
    """A model of the hub that medfuse trained, at the commit that it has now."""
    path = fetch_shared(name)
    repository = shared_repository(name)
    from_hub = f"{repository.name}/{SHARED_WEIGHTS}@{repository.commit()}"
    return _of_medfuse(path, {"hub": from_hub})


def _of_medfuse(path: Path, weights: Mapping[str, Any] | None = None) -> Start:
    """A run's weights: the whole model, each part of which starts from them, or from what `weights` says."""
    from medfuse.trained.facts import read_facts
    from medfuse.trained.trust import Trust

    state, said = read_weights(path)
    facts = read_facts(path, said)
    Trust.of().check(path, facts.model, facts.said)
    parts = dict.fromkeys(name.split(".")[1] for name in state if name.startswith(("backbones.", "fusion.")))
    given = dict(weights or {"weights": str(path)})
    model = {key: value for key, value in facts.said.items() if value and key != "transfer"}
    return Start(
        what=f"{facts.name or path.name} that medfuse trained",
        backbone={},
        whole={**model, "transfer": {name: {**given} for name in parts}},
        spacing_mm=facts.plan.spacing_mm,
        patch_size=facts.plan.patch_size,
        multiple=_whole_stride(facts.model.backbones, facts.plan.image),
        normalize=facts.plan.normalize,
        channels=len(facts.plan.channels),
    )


def _whole_stride(backbones: Mapping[str, Backbone], image: ImageInfo) -> tuple[int, ...]:
    """Of which a patch's sides are multiples, for the coarsest map of all."""
    maps = [f for backbone in backbones.values() for f in backbone.features(image) if not f.image_level]
    strides = [feature.stride for feature in maps]
    return tuple(max(sides) for sides in zip(*strides))


def _of_hub(name: str, revision: str | None) -> Start:
    """A network of transformers, in a folder or on the hub: it sees slices, and stays as it is."""
    try:
        return _of_network(name, revision)
    except CheckpointError as error:  # which tells of the parameter that a pipeline would have
        raise CheckpointError(
            *(line.replace("that folder as `name`", "that folder to --from") for line in error.lines)
        ) from error


def _of_network(name: str, revision: str | None) -> Start:
    if "huggingface" not in {entry.name for entry in registry.entries(Backbone.group)}:
        raise CheckpointError(
            f"{name}: is a network of transformers; install the package medfuse-huggingface, which has them"
        )
    said: dict[str, Any] = {"use": "huggingface", "name": name}
    if revision:
        said["revision"] = revision
    plugin = registry.get(Backbone.group, "huggingface")
    backbone = plugin.model_validate({key: value for key, value in said.items() if key != "use"})
    assert isinstance(backbone, Backbone)
    origin = backbone.origin()
    features = _features(backbone, name)
    tokens = len({feature.stride for feature in features}) == 1
    side = max(max(feature.stride) for feature in features)
    licensed = [f"The weights are under {origin.license}."] if origin and origin.license else []
    return Start(
        what=name,
        backbone={"use": "slices", "neighbours": 1, "channels": "each", "of": said},
        kind="tokens" if tokens else "pyramid",
        tap={"use": "tokens", "layers": "quarter"} if tokens else {},
        multiple=(side, side),
        slices=True,
        normalize=scaling(origin.normalize[0]) if origin and origin.normalize else "auto",
        channels=3,
        notes=["It learned on pictures, so it sees volumes slice by slice.", *licensed],
    )


def _features(backbone: Backbone, name: str) -> Any:
    """What it offers on an image of a size that fits most."""
    for side in (224, 256, 512, 384, 448):
        try:
            offered = backbone.features(ImageInfo(3, (side, side), (1.0, 1.0)))
            return [feature for feature in offered if not feature.image_level]
        except MedfuseError as error:
            fault = error
    raise CheckpointError(f"{name}: cannot be used ({fault.lines[0]})")


def _of_bundle(path: Path) -> Start:
    """MONAI's network as it is; the last map of each stride is fused for other labels."""
    from medfuse.imports.bundle import last_layers, read_bundle
    from medfuse.model.settings import ModelSettings
    from medfuse.trained.trust import Trust

    if path.is_file():
        raise CheckpointError(
            f"{path}: its weights are needed at each training; unzip it, and give its folder"
        )
    with read_bundle(path) as bundle:
        said = {"backbones": {"encoder": bundle.backbone()}, "head": {"input": "image"}}
        Trust.of().check(path, settings := ModelSettings.model_validate(said), said)
        features = settings.backbones["encoder"].features(bundle.plan.image)
        own = last_layers(bundle)
        last = {f.stride: f for f in features if f.channels > 1 and f.name not in own}
        fused = [f"encoder.{feature.name}" for feature in [*last.values()][:4]]
        plan = bundle.plan
        own_numbers = any(how.kind == "ct" for how in plan.normalization)
        unlike = "Its intensities are scaled by numbers that no `normalize` says; here by those of your data."
        return Start(
            what=f"{bundle.name}, a MONAI bundle",
            backbone={},
            whole={
                **said,
                "transfer": {"encoder": {"weights": str(bundle.weights), "at_least": 0.99}},
                "fusion": {"fused": {"use": "hypercolumn", "inputs": fused}},
                "head": {"input": "fused"},
            },
            spacing_mm=plan.spacing_mm,
            patch_size=plan.patch_size,
            multiple=tuple(max(sides) for sides in zip(*last)),
            normalize="auto" if own_numbers else plan.normalize,
            channels=len(plan.channels),
            notes=[*bundle.notes, unlike] if own_numbers else bundle.notes,
        )
