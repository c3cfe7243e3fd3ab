"""Training steps of a planned network in any size, measured on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from medfuse.api import ImageInfo
from medfuse.core.errors import ShapeError
from medfuse.core.reporter import Reporter
from medfuse.core.text import by
from medfuse.core.topology import SMALLEST, plan_kernels, plan_strides

if TYPE_CHECKING:
    import torch

    from medfuse.data.plan import DataPlan
    from medfuse.model.segmenter import Segmenter
    from medfuse.train.cost import StepCost

Dimensions = Literal["3", "2", "2.5"]

MOST_CHANNELS = {2: 512, 3: 320}  # Isensee et al. 2021
SLICES = 2
"""Slices of a 2.5-D patch: each is seen with its neighbours, and costs what a 2-D patch does."""


class Bench:
    """Builds the planned network in any size, and trains it for a few steps to see what that costs."""

    def __init__(
        self, plan: DataPlan, dimensions: Dimensions, device: torch.device, reporter: Reporter
    ) -> None:
        self.plan, self.dimensions, self.device = plan, dimensions, device
        self._reporter = reporter
        self.precision = "fp32"
        self.checkpointing, self.accumulates = False, False

    @property
    def dims(self) -> int:
        """Axes along which a patch is planned."""
        return 3 if self.dimensions == "3" else 2

    def on(self, spacing_mm: tuple[float, float, float], reason: str) -> Bench:
        """The same for voxels of another size, for a reason."""
        reasons = {**self.plan.reasons, "spacing_mm": reason}
        made = Bench(
            replace(self.plan, spacing_mm=spacing_mm, reasons=reasons),
            self.dimensions,
            self.device,
            self._reporter,
        )
        made.precision = self.precision
        made.checkpointing, made.accumulates = self.checkpointing, self.accumulates
        return made

    def saving(self, *, accumulates: bool) -> Bench:
        """The same with maps computed again, and where it `accumulates` one patch after the other too."""
        made = Bench(self.plan, self.dimensions, self.device, self._reporter)
        made.precision, made.checkpointing, made.accumulates = self.precision, True, accumulates
        return made

    def image(self, patch_size: Sequence[int]) -> ImageInfo:
        """What the network is given for a planned patch, which is flat for 2.5-D."""
        patch = (*patch_size, SLICES) if self.dimensions == "2.5" else tuple(patch_size)
        return ImageInfo(self.plan.image.channels, patch, self.plan.spacing_mm[: len(patch)])

    def encoder(self, width: int, patch_size: Sequence[int]) -> dict[str, Any]:
        """Depth, strides, kernels and channels by nnU-Net's rules, for a patch of 2 or 3 sides.

        Raises ShapeError where it is too small for a U-Net.
        """
        dims = len(patch_size)
        spacing = self.plan.spacing_mm[:dims]
        strides = plan_strides(ImageInfo(1, tuple(patch_size), spacing))
        if len(strides) < 2:
            needs = f"{2 * SMALLEST} voxels along two axes, or {3 * SMALLEST} along one"
            raise ShapeError(
                f"patches of {by(patch_size)} voxels are too small for a U-Net, which halves them once at "
                f"least: that takes {needs}; give larger images, or finer ones"
            )
        return {
            "use": "unet_encoder",
            "channels": [min(width * 2**i, MOST_CHANNELS[dims]) for i in range(len(strides))],
            "strides": [list(stride) for stride in strides],
            "kernels": [list(kernel) for kernel in plan_kernels(spacing, strides)],
        }

    def model(self, width: int, patch_size: Sequence[int]) -> dict[str, Any]:
        encoder = self.encoder(width, patch_size)
        if self.dimensions == "2.5":
            encoder = {"use": "slices", "neighbours": 1, "of": encoder}
        model: dict[str, Any] = {
            "backbones": {"encoder": encoder},
            "fusion": {"decoded": {"use": "unet_decoder", "inputs": ["encoder.*"]}},
            "head": {"input": "decoded"},
        }
        if len(plain(encoder)["strides"]) > 2:
            schedule = {"use": "constant", "weight": 0.5, "ratio": 0.5}
            model["aux"] = {"heads": ["decoded.*"], "schedule": schedule}
        return model

    def load(self) -> None:
        """Import what a first step would, so that its time is not taken for that of the step."""
        from medfuse import registry
        from medfuse.api import Loss

        import_module("medfuse.train.cost")
        loss = registry.get(Loss.group, "dice_ce")()
        assert isinstance(loss, Loss)
        loss.build(len(self.plan.classes))

    def network(self, width: int, patch_size: Sequence[int]) -> Segmenter:
        """The planned network, its weights by chance."""
        from medfuse.model.graph import plan_graph
        from medfuse.model.segmenter import build_segmenter
        from medfuse.model.settings import ModelSettings

        settings = ModelSettings.model_validate(self.model(width, patch_size))
        return build_segmenter(plan_graph(settings, self.image(patch_size), len(self.plan.classes)))

    def choose(self, width: int, patch_size: tuple[int, ...], batch: int) -> None:
        """Choose the precision to measure in, once, on a small step: it takes time that no step takes."""
        import torch

        from medfuse.core.device import choose_precision

        image, model = self.image(patch_size), self.network(width, patch_size)
        example = torch.randn(batch, image.channels, *image.patch_size, device=self.device)
        chosen = choose_precision("auto", model.to(self.device), example, backward=True)
        self._reporter.say(f"  measuring on {self.device.type} in {chosen.kind}: {chosen.reason}")
        self.precision = chosen.kind

    def measure(self, width: int, patch_size: tuple[int, ...], batch: int) -> StepCost:
        """What a training step of this network costs, with AdamW, which keeps most."""
        from medfuse import registry
        from medfuse.api import Loss
        from medfuse.model.graph import plan_graph
        from medfuse.model.held import held
        from medfuse.model.segmenter import build_segmenter
        from medfuse.model.settings import ModelSettings
        from medfuse.train.cost import measure_step
        from medfuse.train.objective import Objective
        from medfuse.train.settings import TrainSettings
        from medfuse.train.targets import supervised

        image, classes = self.image(patch_size), len(self.plan.classes)
        settings = ModelSettings.model_validate(self.model(width, patch_size))
        graph = plan_graph(settings, image, classes)
        loss = registry.get(Loss.group, "dice_ce")()
        assert isinstance(loss, Loss)
        judged = supervised(loss, classes, regions=self.plan.regions, ignored=self.plan.ignored)
        objective = Objective(judged, graph.aux, settings.aux.schedule if settings.aux else None)
        shape = (batch, image.channels, *image.patch_size)
        return measure_step(
            lambda: build_segmenter(graph),
            objective,
            TrainSettings(
                steps=1,
                optimizer="adamw",
                precision="bf16" if self.precision == "bf16" else "fp32",
                checkpointing=self.checkpointing,
                accumulate=batch if self.accumulates else 1,
            ),
            segments=lambda model: held(model, image, graph.aux, batch=batch).segments,
            shape=shape,
            classes=classes,
            device=self.device,
        )


def plain(encoder: Mapping[str, Any]) -> Mapping[str, Any]:
    """The U-Net's own encoder, which 2.5-D wraps."""
    return encoder.get("of", encoder)
