"""Faults that authors of augmentations make, each caught by a law; and sound ones that pass."""

import random as python_random

import numpy as np
import pytest
import torch
from planting import each, failed, planted
from torch.nn import functional

from medfuse.api import Augmentation, ImageInfo
from medfuse.core.errors import ShapeError
from medfuse.testing import check_augmentation

FLAT, SOLID = ImageInfo(2, (12, 10), (1.0, 1.0)), ImageInfo(2, (10, 9, 8), (1.0, 1.0, 3.0))


class Brighter(Augmentation):
    """A factor for each channel.

    augment:
      plugins: [{use: brighter}]
    """

    def build(self, image):
        return Scaled()


class Change:
    """Pickles, as a class of a module does."""

    def __call__(self, image, label, random):
        return self.change(image, label, random)


class Scaled(Change):
    def change(self, image, label, random):
        factors = torch.tensor(random.uniform(0.7, 1.5, len(image)), dtype=torch.float32)
        return image * factors.reshape(-1, *(1,) * (image.ndim - 1)), label


class Mirror(Augmentation):
    """Mirrors along the first axis.

    augment:
      plugins: [{use: mirror}]
    """

    def moves_voxels(self):
        return True

    def build(self, image):
        return Mirrored()


class Mirrored(Change):
    def change(self, image, label, random):
        return (image.flip(1), label.flip(1)) if random.random_sample() < 0.5 else (image, label)


class Faulty(Change):
    """What `forward` makes; a function of a module pickles too."""

    def __init__(self, forward):
        self.forward, self.kept, self.calls = forward, None, 0

    def change(self, image, label, random):
        return self.forward(self, image, label, random)


def sometimes(random):
    return random.random_sample() < 0.5


def image_alone(self, x, y, r):
    return (x.flip(1), y) if sometimes(r) else (x, y)


def label_the_other_way(self, x, y, r):
    return (x.flip(1), y.flip(2)) if sometimes(r) else (x, y)


def drawn_twice(self, x, y, r):
    return x.roll(r.randint(5), 1), y.roll(r.randint(5), 1)


def each_channel_its_own_way(self, x, y, r):
    flipped = torch.stack([c.flip(0) if n % 2 == 0 else c.flip(1) for n, c in enumerate(x)])
    return (flipped, y.flip(1)) if sometimes(r) else (x, y)


def interpolated(self, x, y, r):
    return (x.flip(1), ((y + y.roll(1, 1)).float() / 2).round().to(y)) if sometimes(r) else (x, y)


def floating(self, x, y, r):
    return (x.flip(1), y.flip(1).float()) if sometimes(r) else (x, y)


def cropped(self, x, y, r):
    return (x[:, 1:], y[:, 1:]) if sometimes(r) else (x, y)


def in_place(self, x, y, r):
    return (x.mul_(r.uniform(0.5, 1.5)), y)


def label_in_place(self, x, y, r):
    turned = y.flip(1) if sometimes(r) else y
    y.copy_(turned)
    return (x.flip(1) if turned is not y else x), y


def by_python(self, x, y, r):
    return x * python_random.uniform(0.5, 1.5), y


def by_numpy(self, x, y, r):
    return x * float(np.random.uniform(0.5, 1.5)), y


def by_torch(self, x, y, r):
    return x + 0.1 * torch.randn_like(x), y


def seeded(self, x, y, r):
    torch.manual_seed(r.randint(2**31))
    return x + 0.1 * torch.randn_like(x), y


def by_turns(self, x, y, r):
    self.calls += 1
    return (x * r.uniform(0.5, 1.5) if self.calls % 2 else x), y


def with_the_last_patch(self, x, y, r):
    mixed = x if self.kept is None or self.kept.shape != x.shape else 0.9 * x + 0.1 * self.kept
    self.kept = x.clone()
    return mixed * r.uniform(0.8, 1.2), y


def with_its_first_chance(self, x, y, r):
    self.kept = self.kept or r
    return x * self.kept.uniform(0.5, 1.5), y


def by_its_spread(self, x, y, r):
    return (x - x.mean()) / x.std() * r.uniform(0.5, 1.5), y


def by_a_root(self, x, y, r):
    return (x - x.min() - 1e-3).sqrt() * r.uniform(0.5, 1.5), y


def in_double(self, x, y, r):
    return x * torch.tensor(r.uniform(0.5, 1.5, x.shape)), y


def as_an_array(self, x, y, r):
    return x.numpy() * np.float32(r.uniform(0.5, 1.5)), y


def image_and_no_label(self, x, y, r):
    return x * r.uniform(0.5, 1.5)


def of_two_channels(self, x, y, r):
    first, second = x
    return torch.stack([first * r.uniform(0.5, 1.5), second]), y


def into_one_buffer(self, x, y, r):
    if self.kept is None or self.kept.shape != x.shape:
        self.kept = torch.empty_like(x)
    return self.kept.copy_(x * r.uniform(0.5, 1.5)), y


def nothing(self, x, y, r):
    return x, y


STILL = {
    "moves the image alone": ("image and label move alike", image_alone),
    "moves labels and does not say so": ("labels move where it says so", label_the_other_way),
    "crops": ("patches keep their shape and type", cropped),
    "works in place": ("patches stay as they are", in_place),
    "draws from `random` of Python": ("the same chance gives the same patch", by_python),
    "draws from numpy": ("the same chance gives the same patch", by_numpy),
    "draws from torch": ("chance of others is left alone", by_torch),
    "sets torch's seed": ("chance of others is left alone", seeded),
    "changes every second patch": ("a patch depends on no other", by_turns),
    "mixes with the patch before": ("a patch depends on no other", with_the_last_patch),
    "keeps its first generator": ("the same chance gives the same patch", with_its_first_chance),
    "divides by a spread of 0": ("voxels stay finite", by_its_spread),
    "takes roots of what is negative": ("voxels stay finite", by_a_root),
    "answers in float64": ("patches keep their shape and type", in_double),
    "answers with an array": ("some patches change", as_an_array),
    "answers without the label": ("some patches change", image_and_no_label),
    "takes two channels": ("patches of other channels keep theirs", of_two_channels),
    "hands out one buffer": ("changed patches outlive the next call", into_one_buffer),
    "does nothing": ("some patches change", nothing),
}
MOVING = {
    "turns the label another way": ("image and label move alike", label_the_other_way),
    "draws once for each": ("image and label move alike", drawn_twice),
    "turns each channel its own way": ("image and label move alike", each_channel_its_own_way),
    "interpolates labels": ("labels keep their values", interpolated),
    "makes labels floats": ("patches keep their shape and type", floating),
    "changes the label in place": ("patches stay as they are", label_in_place),
}


def making(plugin, forward):
    return planted(plugin, build=lambda self, image: Faulty(forward))()


@pytest.mark.parametrize("image", [FLAT, SOLID], ids=["flat", "solid"])
@each(
    {name: (Brighter, *rest) for name, rest in STILL.items()}
    | {n: (Mirror, *rest) for n, rest in MOVING.items()}
)
def test_a_faulty_augmentation_is_caught(fault, image):
    plugin, check, forward = fault
    assert check in failed(check_augmentation, making(plugin, forward), image)


def test_one_that_cannot_be_pickled_is_caught():
    faulty = planted(Brighter, build=lambda self, image: lambda x, y, r: (x * r.uniform(0.5, 1.5), y))
    assert "it survives pickling" in failed(check_augmentation, faulty(), FLAT)


class Turned(Change):
    """Rotates by some degrees, label by nearest voxels, and changes contrast besides."""

    def change(self, image, label, random):
        turn = float(random.uniform(-0.4, 0.4))
        matrix = torch.eye(image.ndim)[: image.ndim - 1]
        matrix[:2, :2] = torch.tensor([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        grid = functional.affine_grid(matrix[None].float(), [1, 1, *image.shape[1:]], align_corners=False)
        sampled = functional.grid_sample(image[None], grid, align_corners=False)[0]
        moved = functional.grid_sample(label[None].float(), grid, mode="nearest", align_corners=False)[0]
        return sampled * float(random.uniform(0.7, 1.3)), moved.to(label)


class Seldom(Change):
    """Noise, in one patch of twenty."""

    def change(self, image, label, random):
        if random.random_sample() > 0.05:
            return image, label
        return image + torch.tensor(random.normal(0, 0.1, image.shape), dtype=torch.float32), label


class Inverted(Change):
    """Dark is bright, and a channel is dropped now and then."""

    def change(self, image, label, random):
        image = -image if sometimes(random) else image
        dropped = random.randint(2 * len(image))
        return torch.stack([c * (n != dropped) for n, c in enumerate(image)]), label


def of_two_channels_alone(self, image):
    if image.channels != 2 or image.patch_size not in ((12, 10), (10, 9, 8)):
        raise ShapeError("takes two channels, of one size")
    return Scaled()


@pytest.mark.parametrize("image", [FLAT, SOLID], ids=["flat", "solid"])
@pytest.mark.parametrize(
    "plugin",
    [
        Brighter,
        Mirror,
        planted(Mirror, build=lambda self, image: Turned()),
        planted(Brighter, build=lambda self, image: Seldom()),
        planted(Brighter, build=lambda self, image: Inverted()),
        planted(Brighter, build=of_two_channels_alone),
    ],
)
def test_a_sound_augmentation_passes(plugin, image):
    check_augmentation(plugin(), image)
