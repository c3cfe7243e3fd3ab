"""Augmentation guided by a map: where it acts, that it is repeated, and what of the network it touches."""

import numpy as np
import pytest
import torch
from phantoms import write_dataset, write_pipeline
from torch import nn

from medfuse.api import ImageInfo
from medfuse.core import intensities
from medfuse.core.errors import PipelineError
from medfuse.core.reporter import Reporter
from medfuse.model.graph import plan_graph
from medfuse.model.settings import ModelSettings
from medfuse.train.guided import Guided, change_intensities, deform, displacement, high_regions, taper
from medfuse.train.log import read_rows
from medfuse.train.settings import GuidedSettings, RegionSettings
from medfuse.trained.loading import load_trained
from medfuse.verbs.check import check_pipeline
from medfuse.verbs.run import run_pipeline

SIZE = (12, 10, 8)
STRONG = {"noise": 1, "blur": 1, "brightness": 1, "contrast": 1, "gamma": 1}
EVERYTHING = {"inside": STRONG, "outside": None, "erase": 1, "deform": 2}


def batch():
    random = torch.Generator().manual_seed(0)
    image = torch.randn(2, 2, *SIZE, generator=random)
    return image, (image[:, :1] > 0).long(), torch.randn(2, 3, *SIZE, generator=random)


def guided(seed=1, **settings) -> Guided:
    where = {} if "threshold" in settings else {"percentile": 90}
    return Guided(GuidedSettings(map="a.b", **(where | settings)), (1.0, 1.0, 2.0), seed)


def corner(size=SIZE):
    """A map that is high in one corner."""
    activation = torch.zeros(2, 1, *size)
    activation[:, :, :4, :4, :4] = 1
    return activation


@pytest.mark.parametrize("where", [{"percentile": 100}, {"threshold": 1e9}])
def test_where_nothing_is_high_nothing_changes(where):
    image, label, activation = batch()
    made = guided(**where, **EVERYTHING).change(image, label, activation, 0)
    assert torch.equal(made[0], image)
    assert torch.equal(made[1], label)


def test_outside_the_mask_the_image_is_the_same_to_the_last_bit():
    image, label, _ = batch()
    made, _ = guided(threshold=0.5, inside=STRONG).change(image, label, corner(), 0)
    changed = (made != image).any(1, keepdim=True)
    assert torch.equal(changed, corner() > 0)


def test_inside_the_mask_it_is_the_same_where_only_outside_is_given():
    image, label, _ = batch()
    made, _ = guided(threshold=0.5, outside=STRONG).change(image, label, corner(), 0)
    assert torch.equal((made != image).any(1, keepdim=True), corner() == 0)


def test_the_percentile_is_of_each_patchs_own_voxels():
    _, _, activation = batch()
    activation[1] *= 100
    mask = high_regions(activation, SIZE, percentile=90)
    assert mask.mean((1, 2, 3, 4)).tolist() == pytest.approx([0.1, 0.1], abs=1e-3)


def test_a_coarse_map_has_soft_edges_on_the_patchs_grid():
    activation = torch.zeros(1, 1, 4, 4)
    activation[..., 2:] = -1
    mask = high_regions(activation, (16, 16), threshold=0.5)
    assert mask[0, 0, 0].tolist() == sorted(mask[0, 0, 0].tolist())
    assert set(mask.unique().tolist()) > {0.0, 1.0}


def test_the_high_region_is_erased_to_its_mean():
    image, label, _ = batch()
    made, same = guided(threshold=0.5, erase=1).change(image, label, corner(), 0)
    region = image[0, 0, :4, :4, :4]
    assert torch.allclose(made[0, 0, :4, :4, :4], region.mean(), atol=1e-5)
    assert torch.equal(same, label)


@pytest.mark.parametrize("axis", range(3))
def test_labels_follow_the_deformation(axis):
    half = torch.zeros(1, *SIZE)
    half.narrow(axis + 1, SIZE[axis] // 2, SIZE[axis] - SIZE[axis] // 2).fill_(1)
    field = displacement(SIZE, (2.0, 2.0, 2.0), np.random.RandomState(3))
    image, label = deform(half, half.long(), field)
    assert torch.equal((image > 0.5).long(), label)
    assert not torch.equal(label, half.long())


def test_a_deformation_moves_by_its_field_along_each_axis():
    ramps = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in SIZE), indexing="ij"))
    field = displacement(SIZE, (1.0, 1.0, 1.0), np.random.RandomState(3))
    image, _ = deform(ramps, ramps[:1].long(), field)
    last = torch.tensor(SIZE).view(3, 1, 1, 1) - 1.0
    assert torch.allclose(image, (ramps + field).clamp(min=torch.zeros(()), max=last), atol=1e-4)


def test_a_displacement_keeps_its_limit_on_every_axis():
    field = displacement((40, 40), (3.0, 0.5), np.random.RandomState(0)).abs()
    assert 0.3 < field[0].max() <= 3
    assert 0.05 < field[1].max() <= 0.5


def test_a_deformation_fades_out_beyond_the_mask():
    mask = torch.zeros(1, 20, 20)
    mask[:, 8:12, 8:12] = 1
    faded = taper(mask, (3.0, 3.0))[0]
    assert faded.diff(dim=0).abs().max() < 0.2
    assert not faded[:5].any()
    assert faded[5:15, 10].all()


def test_the_same_seed_and_step_give_the_same_batch():
    parts = batch()
    first, again = (guided(**EVERYTHING).change(*parts, 7) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    for other in (guided(seed=2, **EVERYTHING).change(*parts, 7), guided(**EVERYTHING).change(*parts, 8)):
        assert not torch.equal(other[0], first[0])


@pytest.mark.parametrize("name", STRONG)
def test_each_change_of_intensity_is_drawn_by_its_probability(name):
    image = batch()[0][0]
    always, never = RegionSettings(**{name: 1}), RegionSettings()
    assert not torch.equal(change_intensities(image, always, np.random.RandomState(0)), image)
    assert torch.equal(change_intensities(image, never, np.random.RandomState(0)), image)


@pytest.mark.parametrize("name", STRONG)
@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_changes_of_intensity_are_those_of_augment_times_the_strength(name, strength):
    """At a strength of 1 to the last bit: both are MONAI's, made in one place."""
    image = batch()[0][0]
    ours = change_intensities(image, RegionSettings(**{name: 1}, strength=strength), np.random.RandomState(5))
    theirs = getattr(intensities, name)(1.0).set_random_state(state=np.random.RandomState(5))(image)
    assert torch.equal(ours, torch.as_tensor(theirs)) == (strength == 1)


def test_gamma_keeps_mean_and_deviation():
    image = batch()[0][0]
    made = change_intensities(image, RegionSettings(gamma=1), np.random.RandomState(0))
    assert made.mean().item() == pytest.approx(image.mean().item(), abs=1e-5)
    assert made.std().item() == pytest.approx(image.std().item(), rel=1e-4)


class Mapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.frozen = nn.BatchNorm3d(2), nn.Dropout(0.5).eval()

    def forward(self, image, maps=()):
        made = self.frozen(self.norm(image))
        return made, {}, dict.fromkeys(maps, made)


def test_looking_leaves_statistics_modes_and_gradients_alone():
    model, (image, _, _) = Mapped(), batch()
    seen = guided(erase=1).look(model, image)
    assert not seen.requires_grad
    assert not model.norm.running_mean.any()
    assert (model.training, model.norm.training, model.frozen.training) == (True, True, False)


def test_steps_between_and_the_first_steps_are_left_alone():
    due = guided(erase=1, every=2, begin=0.5)
    assert [due.is_due(step, step / 8) for step in range(8)] == [False] * 4 + [True, False, True, False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"erase": 1}, "give percentile or threshold"), ({"percentile": 90}, "nothing is changed")],
)
def test_settings_that_say_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GuidedSettings(map="a", **settings)


MODEL = {
    "backbones": {"encoder": {"use": "unet_encoder", "base_channels": 4, "stages": 3, "convs": 1}},
    "taps": {"encoder": {"use": "sequential_truncation"}},
    "fusion": {"fused": {"use": "concat", "inputs": ["encoder.stages.0", "encoder.stages.1"]}},
    "head": {"input": "fused"},
}


def graph(watched):
    settings = ModelSettings.model_validate(MODEL)
    return plan_graph(settings, ImageInfo(1, (16, 16), (1.0, 1.0)), 2, {watched: ("train", "guided", "map")})


def test_a_map_that_only_training_looks_at_is_tapped():
    made = graph("encoder.stages.2")
    assert [tap.name for tap in made.backbones[0].taps] == ["stages.0", "stages.1", "stages.2"]
    assert made.rows()[-2]["used_by"] == ["training"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("encoder.stage.2", "did you mean 'encoder.stages.2'"), ("encoder.*", "one map is looked at")],
)
def test_a_map_that_is_not_there_is_a_problem_at_its_own_key(name, message):
    with pytest.raises(PipelineError, match=message) as caught:
        graph(name)
    assert [p.path for p in caught.value.problems] == [("train", "guided", "map")]


def test_a_run_changes_batches_and_its_weights_load_with_the_map(tmp_path):
    file = write_pipeline(tmp_path / "cubes.yaml", write_dataset(tmp_path / "data"))
    guided = "{map: encoder.stages.1, percentile: 80, inside: {noise: 1}, erase: 0.5, deform: 1, begin: 0}"
    file.write_text(file.read_text().replace("train: {", f"train: {{guided: {guided}, "))
    assert "training" in check_pipeline(file)
    result = run_pipeline(file, runs=tmp_path, reporter=Reporter(quiet=True))
    plain = run_pipeline(
        file, ["train.guided=null", "name=plain"], runs=tmp_path, reporter=Reporter(quiet=True)
    )
    ours, theirs = (read_rows(r.folder / "metrics.jsonl") for r in (result, plain))
    assert [row["loss"] for row in ours if "loss" in row] != [row["loss"] for row in theirs if "loss" in row]
    assert load_trained([result.folder / "weights_last.safetensors"])
