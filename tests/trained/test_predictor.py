"""A model as a function: an array in, its label map out, from any number of threads."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import nibabel
import numpy as np
import pytest
import torch
from phantoms import AFFINE, SHAPE

from medfuse import DataError, Predictor
from medfuse.trained.loading import load_trained
from medfuse.trained.trained import Prepared

SPACING = (1.5, 1.5, 2.0)


@pytest.fixture(scope="module")
def predictor(finished_run) -> Predictor:
    return Predictor.load(finished_run.folder, device="cpu")


def voxels(finished_run, number: int = 0) -> np.ndarray:
    image = nibabel.load(finished_run.data / "imagesTr" / f"cube_{number:02d}.nii.gz")
    return np.asarray(image.dataobj)


def test_an_array_gets_the_labels_that_its_file_gets(predictor, finished_run, tmp_path):
    outcome = predictor.files(finished_run.data / "imagesTr" / "cube_00.nii.gz", tmp_path)
    assert outcome.done == ("cube_00",)
    written = np.asarray(nibabel.load(tmp_path / "cube_00.nii.gz").dataobj)
    labels = predictor(voxels(finished_run), affine=AFFINE)
    assert labels.shape == SHAPE
    np.testing.assert_array_equal(labels, written)


def test_spacing_alone_means_axes_to_the_right_front_and_head(predictor, finished_run):
    array = voxels(finished_run)
    np.testing.assert_array_equal(predictor(array, spacing=SPACING), predictor(array, affine=AFFINE))
    np.testing.assert_array_equal(predictor(array[None], spacing=SPACING), predictor(array, spacing=SPACING))


def test_axes_that_point_elsewhere_give_the_same_labels_turned(predictor, finished_run):
    array, turned = voxels(finished_run), AFFINE.copy()
    turned[:, 0] *= -1
    labels = predictor(array[::-1].copy(), affine=turned)
    np.testing.assert_array_equal(labels[::-1], predictor(array, affine=AFFINE))


@pytest.mark.parametrize("runtime", ["auto", "torch"])
def test_two_threads_predict_what_one_does(finished_run, runtime):
    weights = finished_run.folder / "weights_last.safetensors"
    predictor = Predictor(load_trained([weights], device="cpu", overrides=[f"runtime.use={runtime}"]))
    arrays = [voxels(finished_run, number) for number in range(4)]
    alone = [predictor(array, spacing=SPACING) for array in arrays]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda array: predictor(array, spacing=SPACING), arrays))
    for one, other in zip(alone, together):
        np.testing.assert_array_equal(one, other)


def test_threads_take_turns_at_a_network():
    inside, most = [], []

    def run(windows):
        inside.append(1)
        most.append(len(inside))
        threading.Event().wait(0.02)
        inside.pop()
        return windows

    network = Prepared(lambda windows, kept: run)
    threads = [threading.Thread(target=network, args=(torch.zeros(1, 1, 2, 2),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]


def test_what_is_given_is_left_as_it_was(predictor, finished_run):
    array = voxels(finished_run)
    before = array.copy()
    predictor(array, spacing=SPACING)
    np.testing.assert_array_equal(array, before)


def test_labels_have_names(predictor):
    assert predictor.labels == {"background": 0, "cube": 1}


@pytest.mark.parametrize(
    ("array", "options", "word"),
    [
        (np.zeros((10, *SHAPE)), {"spacing": SPACING}, "has 10 channels of 1"),
        (np.zeros((4, 4)), {"spacing": SPACING}, r"shape \(4, 4\)"),
        (np.full(SHAPE, np.nan), {"spacing": SPACING}, "NaN"),
        (np.zeros(SHAPE, complex), {"spacing": SPACING}, "complex"),
        (np.zeros(SHAPE), {}, "three numbers in mm, or an affine"),
        (np.zeros(SHAPE), {"spacing": (1, 1)}, "channels of 1"),  # as that of an image of two axes
        (np.zeros(SHAPE), {"spacing": (1, 1, 1, 1)}, "three numbers"),
        (np.zeros(SHAPE), {"spacing": (1, 1, 0)}, "not invertible"),
        (np.zeros(SHAPE), {"affine": np.zeros((3, 3))}, "4×4"),
        (np.zeros(SHAPE), {"affine": AFFINE, "spacing": (1, 1, 1)}, "not that of the affine"),
    ],
)
def test_what_cannot_be_right_is_refused(predictor, array, options, word):
    with pytest.raises(DataError, match=word):
        predictor(array, **options)


@pytest.mark.parametrize("shape", [(5, 6, 4), (20, 18, 1), (1, 18, 16), (1, 1, 1)])
@pytest.mark.parametrize("dtype", ["int8", "uint16", ">i4", "float64", ">f4"])
def test_small_volumes_of_every_type_get_labels_of_their_shape(predictor, shape, dtype):
    array = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    assert predictor(array, spacing=SPACING).shape == shape


def test_importing_medfuse_loads_no_torch():
    code = "import sys, medfuse; medfuse.__all__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


CHOICE = "runtime={use: auto, candidates: [{use: torch, precision: fp32}, {use: torch, precision: bf16}]}"


def test_a_predictor_tells_its_engine(finished_run):
    predictor = Predictor.load(finished_run.folder, overrides=["runtime={use: torch, precision: fp32}"])
    assert predictor.engines == []
    predictor(voxels(finished_run), spacing=SPACING)
    (engine,) = predictor.engines
    assert (engine["runtime"], engine["precision"], engine["device"]) == ("torch", "fp32", "cpu")


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_a_folder_is_finished_by_the_engine_of_its_first_case(finished_run, tmp_path, kind):
    images, output = sorted((finished_run.data / "imagesTr").glob("*.nii.gz"))[:2], tmp_path / "out"
    predictor = Predictor.load(finished_run.folder, overrides=[CHOICE])
    predictor.files(images[0], output)
    manifest = json.loads((output / "manifest.json").read_text())
    (entry,) = manifest["cases"].values()
    entry["engines"][0]["precision"] = kind  # as if the clock had chosen so
    (output / "manifest.json").write_text(json.dumps(manifest))
    predictor.files(images, output)
    manifest = json.loads((output / "manifest.json").read_text())
    assert [entry["engines"][0]["precision"] for entry in manifest["cases"].values()] == [kind, kind]
