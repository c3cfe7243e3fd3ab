"""Small vision transformers as others write them, for tests of token maps."""

import torch
from torch import nn
from torch.nn import functional

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
LINEAR = {2: "bicubic", 3: "trilinear"}


class Attention(nn.Module):
    """Fused, or with its weights spelled out."""

    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.fused:
            mixed = functional.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads, fused)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patches, `registers` + 1 tokens in front where `cls`, blocks, and a norm.

    positions: `interpolated` to any size, `fixed` to that of `size`, or `none`. order: `xy`; `yx`, where the
    first axis is the fastest; or `backwards` along the first axis.
    """

    def __init__(
        self,
        size=(32, 48),
        patch=8,
        width=12,
        depth=4,
        heads=3,
        channels=1,
        cls=True,
        registers=0,
        positions="interpolated",
        order="xy",
        fused=True,
        norm=True,
    ) -> None:
        super().__init__()
        dims = len(size)
        stride = (patch,) * dims if isinstance(patch, int) else tuple(patch)
        self.order, self.positions, self.mode = order, positions, LINEAR[dims]
        self.patch_embed = CONV[dims](channels, width, stride, stride)
        self.grid = tuple(n // s for n, s in zip(size, stride))
        self.cls_token = nn.Parameter(torch.randn(1, 1, width)) if cls else None
        self.register_tokens = nn.Parameter(torch.randn(1, registers, width)) if registers else None
        if positions != "none":
            self.pos_embed = nn.Parameter(0.1 * torch.randn(1, width, *self.grid))
        self.blocks = nn.ModuleList([Block(width, heads, fused) for _ in range(depth)])
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()

    def embedded(self, x):
        x = self.patch_embed(x)
        if self.positions == "fixed":
            x = x + self.pos_embed
        elif self.positions == "interpolated":
            x = x + functional.interpolate(self.pos_embed, x.shape[2:], mode=self.mode)
        if self.order == "yx":
            x = x.transpose(2, 3)
        elif self.order == "backwards":
            x = x.flip(2)
        x = x.flatten(2).mT
        front = [t for t in (self.cls_token, self.register_tokens) if t is not None]
        return torch.cat([*(t.expand(x.shape[0], -1, -1) for t in front), x], 1)

    def forward(self, x):
        x = self.embedded(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Pairs(ViT):
    """Blocks that return their tokens and something else, as some of transformers' do."""

    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        self.blocks = nn.ModuleList([WithMore(block) for block in self.blocks])

    def forward(self, x):
        x = self.embedded(x)
        for block in self.blocks:
            x, _ = block(x)
        return self.norm(x)


class WithMore(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.block(x), None


class Perceptron(nn.Module):
    """Patches by a linear layer, so that no layer makes a map, for images of one size."""

    def __init__(self, size=(32, 48), patch=8, width=12, depth=2, channels=1) -> None:
        super().__init__()
        self.patch = (patch,) * len(size) if isinstance(patch, int) else tuple(patch)
        places = torch.Size(n // s for n, s in zip(size, self.patch)).numel()
        self.embed = nn.Linear(channels * torch.Size(self.patch).numel(), width)
        self.pos_embed = nn.Parameter(torch.randn(1, places, width))
        self.blocks = nn.ModuleList([Block(width, 2, True) for _ in range(depth)])

    def forward(self, x):
        for axis, s in enumerate(self.patch):
            x = x.unfold(2 + axis, s, s)
        dims = len(self.patch)
        x = x.movedim(1, -1).flatten(1, dims).flatten(2)
        x = self.embed(x) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return x


class Chain(nn.Sequential):
    """A transformer that is a chain of its layers, without positions."""

    def __init__(self, patch=8, width=12) -> None:
        embed = nn.Sequential(nn.Conv2d(1, width, patch, patch), nn.Flatten(2), Turned())
        super().__init__(embed, Block(width, 2, True), Block(width, 2, True), nn.LayerNorm(width))


class Turned(nn.Module):
    def forward(self, x):
        return x.mT


class Returning(ViT):
    """Returns what each block makes, too, as MONAI's does."""

    def forward(self, x):
        x, made = self.embedded(x), []
        for block in self.blocks:
            x = block(x)
            made.append(x)
        return self.norm(x), made


class Strict(ViT):
    """Refuses an image that is no multiple of its patches, before any of its layers runs, as timm's do."""

    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        self.patch_size = self.patch_embed.kernel_size

    def forward(self, x):
        for n, s in zip(x.shape[2:], self.patch_size):
            assert n % s == 0, f"Input height ({n}) should be divisible by patch size ({s})."
        return super().forward(x)
