"""Attention of four kinds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationInfo, field_validator

from medfuse import FeatureInfo, FusionBlock, ShapeError

if TYPE_CHECKING:
    from torch import nn

KINDS_OF = {"reduction": ("squeeze_excite", "gate"), "heads": ("cross",), "tokens": ("cross",)}


class Attention(FusionBlock):
    """Maps scaled, or added to, by what they or other maps say matters.

    squeeze_excite (Hu et al. 2018): y = x · σ(W₂ relu(W₁ mean(x))), a scale per channel of x = [x₁, x₂, …].
    spatial (CBAM, Woo et al. 2018): y = x · σ(conv₇([mean(x), max(x)])) over channels, a scale per voxel.
    gate (Oktay et al. 2018): y = x₁ · σ(ψ relu(W x₁ + V [x₂, …])), a skip under its gating signals.
    cross (Vaswani et al. 2017): y = x₁ + softmax(q kᵀ / √d) v in several heads, queries from each voxel of
    LN(x₁), keys and values from those of LN(W [x₂, …]). It is for coarse maps: memory and time grow with
    voxels × tokens, and where there are more voxels than `tokens`, keys and values are means of blocks.
    Every σ begins near 0.95, so that what follows learns from maps at their own scale.

        gated: {use: attention, kind: gate, inputs: [encoder.stages.1, encoder.stages.3]}
        asked: {use: attention, kind: cross, inputs: [a.layer4, b.layer4], resample_to: coarsest, heads: 8}
    """

    kind: Literal["squeeze_excite", "spatial", "gate", "cross"] = Field(
        description="squeeze_excite and spatial keep all maps side by side; gate and cross keep the first"
    )
    reduction: int = Field(
        2, ge=1, description="squeeze_excite and gate: hidden channels are x's divided by this, at least 1"
    )
    heads: int = Field(4, ge=1, description="cross: parts of the channels that attend on their own")
    tokens: int = Field(
        4096, ge=1, description="cross: keys and values at most; larger grids are averaged over blocks"
    )

    @field_validator("reduction", "heads", "tokens")
    @classmethod
    def _belongs_to_the_kind(cls, value: int, info: ValidationInfo) -> int:
        name, kind = str(info.field_name), info.data.get("kind")
        default = cls.model_fields[name].default  # resolved.yaml says the defaults too
        if kind and kind not in KINDS_OF[name] and value != default:
            raise ValueError(
                f"kind {kind} has no {name}, which is for {' and '.join(KINDS_OF[name])}; remove it"
            )
        return value

    def plan(self, inputs: Sequence[FeatureInfo]) -> FeatureInfo:
        first = inputs[0]
        if self.kind == "squeeze_excite" or self.kind == "spatial":
            return FeatureInfo("attention", sum(x.channels for x in inputs), first.stride)
        if len(inputs) < 2:
            other = {"gate": "a gating signal", "cross": "a map to take keys and values from"}[self.kind]
            raise ShapeError(f"attention of kind {self.kind} takes {first.name} and {other}; add an input")
        if self.kind == "cross" and first.channels % self.heads:
            fitting = [str(n) for n in range(1, first.channels + 1) if first.channels % n == 0]
            raise ShapeError(
                f"attention cannot split the {first.channels} channels of {first.name} into {self.heads} "
                f"heads; set `heads` to one of {', '.join(fitting)}"
            )
        return FeatureInfo("attention", first.channels, first.stride)

    def build(self, inputs: Sequence[FeatureInfo]) -> nn.Module:
        from medfuse.builtin.nets import attention

        channels, dims = [x.channels for x in inputs], inputs[0].dims
        if self.kind == "squeeze_excite":
            return attention.SqueezeExcite(sum(channels), max(1, sum(channels) // self.reduction))
        if self.kind == "spatial":
            return attention.SpatialAttention(dims)
        if self.kind == "gate":
            return attention.AttentionGate(channels, max(1, channels[0] // self.reduction), dims)
        return attention.CrossAttention(channels, self.heads, self.tokens)
