"""Transformers of volumes, whose tokens are patches with positions that are learned or rotated."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SWIGLU = 4 * 2 / 3  # width of a gated layer, relative to the embedding
BASE = 10_000.0  # of the wave lengths of rotations


class Primus(nn.Module):
    """x (batch, channels, x, y, z) → tokens (batch, registers + places, channels), with nnssl's names."""

    def __init__(
        self,
        channels_in: int,
        *,
        channels: int,
        depth: int,
        heads: int,
        patch: int,
        grid: Sequence[int],
        registers: int = 0,
        layer_scale: bool = False,
        inner_norm: bool = False,
    ) -> None:
        super().__init__()
        self.down_projection = nn.ModuleDict({"proj": nn.Conv3d(channels_in, channels, patch, stride=patch)})
        self.eva = _Eva(channels, depth, heads, grid, registers, layer_scale, inner_norm)
        if registers:
            self.register_tokens = nn.Parameter(1e-6 * torch.randn(1, registers, channels))
        self.registers = registers
        _initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        embedded: Tensor = self.down_projection["proj"](x)
        tokens = embedded.flatten(2).mT
        if self.registers:
            tokens = torch.cat([self.register_tokens.expand(len(x), -1, -1), tokens], 1)
        result: Tensor = self.eva(tokens, embedded.shape[2:])
        return result


class _Eva(nn.Module):
    """Blocks with rotated positions (Fang et al. 2023), in three axes (Wald et al. 2025)."""

    def __init__(
        self,
        channels: int,
        depth: int,
        heads: int,
        grid: Sequence[int],
        registers: int,
        layer_scale: bool,
        inner_norm: bool,
    ) -> None:
        super().__init__()
        self.grid, self.registers, self.turns = tuple(grid), registers, channels // heads // (2 * len(grid))
        self.pos_embed = nn.Parameter(torch.empty(1, registers + prod(grid), channels))
        self.blocks = nn.ModuleList(
            _EvaBlock(channels, heads, registers, layer_scale, inner_norm) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        tokens = tokens + positions(self.pos_embed, self.registers, self.grid, grid)
        sine, cosine = rotations(grid, self.turns, tokens)
        for block in self.blocks:
            tokens = block(tokens, sine, cosine)
        result: Tensor = self.norm(tokens)
        return result


class _EvaBlock(nn.Module):
    def __init__(
        self, channels: int, heads: int, registers: int, layer_scale: bool, inner_norm: bool
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = _EvaAttention(channels, heads, registers, inner_norm)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = _SwiGLU(channels, int(channels * SWIGLU))
        if layer_scale:
            self.gamma_1 = nn.Parameter(torch.full((channels,), 0.1))
            self.gamma_2 = nn.Parameter(torch.full((channels,), 0.1))
        self.layer_scale = layer_scale

    def forward(self, tokens: Tensor, sine: Tensor, cosine: Tensor) -> Tensor:
        seen = self.attn(self.norm1(tokens), sine, cosine)
        tokens = tokens + (self.gamma_1 * seen if self.layer_scale else seen)
        thought = self.mlp(self.norm2(tokens))
        return tokens + (self.gamma_2 * thought if self.layer_scale else thought)


class _EvaAttention(nn.Module):
    def __init__(self, channels: int, heads: int, registers: int, inner_norm: bool) -> None:
        super().__init__()
        self.num_heads, self.registers = heads, registers
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels, bias=False)
        self.v_proj = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels) if inner_norm else nn.Identity()
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, sine: Tensor, cosine: Tensor) -> Tensor:
        def by_head(made: Tensor) -> Tensor:
            return made.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

        def rotated(made: Tensor) -> Tensor:
            first, places = made[:, :, : self.registers], made[:, :, self.registers :]
            return torch.cat([first, places * cosine + _quarter_turn(places) * sine], 2)

        query, key = rotated(by_head(self.q_proj(tokens))), rotated(by_head(self.k_proj(tokens)))
        value = by_head(self.v_proj(tokens))
        seen = functional.scaled_dot_product_attention(query, key, value)
        result: Tensor = self.proj(self.norm(seen.transpose(1, 2).flatten(2)))
        return result


class _SwiGLU(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.fc1_g = nn.Linear(channels, inner)
        self.fc1_x = nn.Linear(channels, inner)
        self.norm = nn.LayerNorm(inner)
        self.fc2 = nn.Linear(inner, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        gated = functional.silu(self.fc1_g(tokens)) * self.fc1_x(tokens)
        result: Tensor = self.fc2(self.norm(gated))
        return result


class Dino(nn.Module):
    """x (batch, channels, x, y, z) → tokens (batch, 1 + places, channels), the class token first; 3DINO's
    names (Xu et al. 2025)."""

    def __init__(
        self, channels_in: int, *, channels: int, depth: int, heads: int, patch: int, grid: Sequence[int]
    ) -> None:
        super().__init__()
        self.grid = tuple(grid)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(channels_in, channels, patch, stride=patch)})
        self.cls_token = nn.Parameter(1e-6 * torch.randn(1, 1, channels))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + prod(grid), channels))
        self.blocks = nn.ModuleList(_DinoBlock(channels, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        _initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        embedded: Tensor = self.patch_embed["proj"](x)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), embedded.flatten(2).mT], 1)
        tokens = tokens + positions(self.pos_embed, 1, self.grid, embedded.shape[2:], shift=0.1)
        for block in self.blocks:
            tokens = block(tokens)
        result: Tensor = self.norm(tokens)
        return result


class _DinoBlock(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = _Attention(channels, heads)
        self.ls1 = _LayerScale(channels)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = _Mlp(channels)
        self.ls2 = _LayerScale(channels)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        result: Tensor = tokens + self.ls2(self.mlp(self.norm2(tokens)))
        return result


class _Attention(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value)
        result: Tensor = self.proj(seen.transpose(1, 2).flatten(2))
        return result


class _Mlp(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.fc2(functional.gelu(self.fc1(tokens)))
        return result


class _LayerScale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), 1e-5))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.gamma


def positions(
    learned: Tensor, prefix: int, grid: Sequence[int], wanted: Sequence[int], shift: float = 0.0
) -> Tensor:
    """(1, prefix + places, channels) that were learned for a grid, interpolated for the one that is wanted.

    shift: what the network's own code adds to each size, and so to where it looks; its weights know no other.
    """
    if tuple(grid) == tuple(wanted):
        return learned
    here = learned[:, prefix:].mT.unflatten(2, tuple(grid))
    how: dict[str, Any] = {"size": tuple(wanted)}
    if shift:
        how = {"scale_factor": tuple((n + shift) / m for n, m in zip(wanted, grid))}
    there = functional.interpolate(here, mode="trilinear", align_corners=False, **how)
    return torch.cat([learned[:, :prefix], there.flatten(2).mT], 1)


def rotations(grid: Sequence[int], turns: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Sine and cosine (places, 2 · axes · turns) by which the numbers of each place are rotated, in pairs.

    The axes of the networks that learned these were (z, y, x); so pairs of z come first.
    """
    speeds = BASE ** -(torch.arange(turns, device=like.device, dtype=torch.float32) / turns)
    steps = [torch.arange(n, device=like.device, dtype=torch.float32) for n in grid]
    places = torch.stack(torch.meshgrid(*steps, indexing="ij")[::-1], -1).flatten(0, -2)
    angles = (places[..., None] * speeds).flatten(1).repeat_interleave(2, 1)
    return angles.sin().to(like.dtype), angles.cos().to(like.dtype)


def _quarter_turn(numbers: Tensor) -> Tensor:
    """(a, b, c, d, …) → (-b, a, -d, c, …)."""
    return torch.stack([-numbers[..., 1::2], numbers[..., ::2]], -1).flatten(-2)


def _initialize(network: nn.Module) -> None:
    """Normal weights of 0.02, cut at 2, and biases 0, as vision transformers begin."""
    for name, parameter in network.named_parameters():
        if name.endswith(("pos_embed", "proj.weight")) or (name.endswith("weight") and parameter.ndim == 2):
            nn.init.trunc_normal_(parameter, std=0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
