"""SEG and RTSTRUCT are label maps on the grid of their image; what does not fit is told."""

import drawn
import numpy as np
import pytest
import scanner
from elsewhere import DATA
from pydicom import dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from medfuse.core.errors import DataError
from medfuse.core.label_table import entries_of
from medfuse.volumes.dicom.about import About
from medfuse.volumes.dicom.index import as_volume_file, read_index
from medfuse.volumes.dicom.seg import write_seg
from medfuse.volumes.label_maps import fitted, segment_values
from medfuse.volumes.read import read_geometry, read_labels

PLANES = {
    "axial": scanner.AXIAL,
    "coronal": scanner.CORONAL,
    "sagittal": scanner.SAGITTAL,
    "oblique": scanner.OBLIQUE,
    "feet first": (-1, 0, 0, 0, 1, 0),
}
CLASSES = {"background": 0, "liver": 1, "tumour": 2}
REAL = DATA / "dicom_seg"
TORSO = REAL.parent / "ct_torso"
real = pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is not there")


def read(path, image, labels=CLASSES, order=()):
    found = fitted({"case": (path, image)}, labels, order)
    if found.faults:
        raise DataError(*found.faults["case"])
    return read_labels(found.files["case"]), found.notes


@pytest.fixture
def scan(tmp_path):
    slices, folder = drawn.series(tmp_path / "ct")
    return slices, as_volume_file(folder)


def stored(d, tmp_path, name="seg.dcm"):
    return scanner.save(d, tmp_path / name, ExplicitVRLittleEndian)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("plane", PLANES)
def test_a_seg_is_the_label_map_that_it_was_made_of(kind, plane, tmp_path):
    slices, folder = drawn.series(tmp_path / "ct", orientation=PLANES[plane])
    masks = drawn.masks()
    image = as_volume_file(folder)
    path = stored(drawn.segmentation(slices, masks, kind), tmp_path)
    found, notes = read(path, image)
    assert np.array_equal(found.array, drawn.label_map(masks))
    assert not found.geometry.differences(read_geometry(image))
    assert notes == ()


def test_sources_in_another_order_change_nothing(scan, tmp_path):
    slices, image = scan
    masks = drawn.masks()
    back = {name: mask[:, :, ::-1] for name, mask in masks.items()}
    path = stored(drawn.segmentation(slices[::-1], back), tmp_path)
    assert np.array_equal(read(path, image)[0].array, drawn.label_map(masks))


def test_compressed_frames_are_read(scan, tmp_path):
    from pydicom.uid import RLELossless

    slices, image = scan
    masks = drawn.masks()
    made = drawn.segmentation(slices, masks, "LABELMAP", transfer_syntax_uid=RLELossless)
    made.save_as(tmp_path / "seg.dcm")
    assert np.array_equal(read(tmp_path / "seg.dcm", image)[0].array, drawn.label_map(masks))


def test_fractions_count_from_one_half_on(scan, tmp_path):
    slices, image = scan
    share = np.random.default_rng(0).random((12, 10, 7))
    path = stored(drawn.segmentation(slices, {"liver": share}, "FRACTIONAL"), tmp_path)
    found, notes = read(path, image)
    assert np.array_equal(found.array, np.rint(share * 255) >= 127.5)
    assert "from one half on" in notes[0]


def test_a_seg_fits_an_image_whose_axes_are_turned(scan, tmp_path):
    """The same voxels in a NIfTI file whose axes are swapped and flipped."""
    import nibabel

    slices, image = scan
    masks = drawn.masks()
    path = stored(drawn.segmentation(slices, masks), tmp_path)
    flip = np.array([[0, 0, -1, 11.0], [-1, 0, 0, 9], [0, 1, 0, 0], [0, 0, 0, 1]])
    turned = drawn.label_map(masks)[::-1, ::-1].transpose(1, 2, 0).astype(np.uint8)
    other = nibabel.Nifti1Image(turned, read_geometry(image).affine @ flip)
    nibabel.save(other, tmp_path / "other.nii")
    assert np.array_equal(read(path, tmp_path / "other.nii")[0].array, turned)


def test_segments_are_known_by_name_and_others_are_told(scan, tmp_path):
    slices, image = scan
    masks = drawn.masks(names=("KIDNEY", "Tumour", "liver"))
    path = stored(drawn.segmentation(slices, masks), tmp_path)
    found, notes = read(path, image)
    assert np.array_equal(found.array, 2 * masks["Tumour"] + masks["liver"])
    assert "KIDNEY is none of the classes" in notes[0]


def test_numbers_count_where_no_name_is_known(scan, tmp_path):
    slices, image = scan
    masks = drawn.masks(names=("Leber", "Geschwulst"))
    path = stored(drawn.segmentation(slices, masks), tmp_path)
    found, notes = read(path, image)
    assert np.array_equal(found.array, drawn.label_map(masks))
    assert "Leber is 1, Geschwulst is 2" in notes[0]


def test_a_name_in_one_case_says_that_numbers_mean_nothing_in_others(scan, tmp_path):
    """A case without a liver has none, whatever the number of its segment."""
    slices, image = scan
    one = stored(drawn.segmentation(slices, drawn.masks(names=("liver",))), tmp_path, "one.dcm")
    two = stored(drawn.segmentation(slices, drawn.masks(names=("spleen",))), tmp_path, "two.dcm")
    found = fitted({"one": (one, image), "two": (two, image)}, CLASSES)
    assert read_labels(found.files["one"]).array.any()
    assert not read_labels(found.files["two"]).array.any()


def test_segments_that_overlap_are_refused_or_settled_by_their_order(scan, tmp_path):
    slices, image = scan
    masks = drawn.masks()
    masks["tumour"] = masks["tumour"] | (masks["liver"] & (np.arange(7) > 3))
    path = stored(drawn.segmentation(slices, masks), tmp_path)
    both = int((masks["tumour"] & masks["liver"]).sum())
    with pytest.raises(DataError, match=rf"liver and tumour \({both} voxels\)"):
        read(path, image)
    over = np.where(masks["tumour"], 2, masks["liver"])
    assert np.array_equal(read(path, image, order=(1, 2))[0].array, over)
    under = np.where(masks["liver"], 1, 2 * masks["tumour"])
    assert np.array_equal(read(path, image, order=(2, 1))[0].array, under)


def test_regions_within_each_other_are_written_as_their_order_says(scan, tmp_path):
    slices, image = scan
    core = drawn.masks()["liver"]
    masks = {"core": core, "whole": core | drawn.masks()["tumour"]}
    path = stored(drawn.segmentation(slices, masks), tmp_path)
    wanted = np.where(core, 2, masks["whole"])
    labels = {"background": 0, "whole": (1, 2), "core": 2}
    assert np.array_equal(read(path, image, labels, (1, 2))[0].array, wanted)
    assert np.array_equal(read(path, image, labels)[0].array, wanted)


def test_voxels_that_nobody_annotated_are_a_segment_too(scan, tmp_path):
    slices, image = scan
    masks = drawn.masks(names=("core", "ignore"))
    path = stored(drawn.segmentation(slices, masks), tmp_path)
    regions = {"background": 0, "whole": (1, 2), "core": 2, "ignore": 9}
    wanted = np.where(masks["core"], 2, 9 * masks["ignore"])
    assert np.array_equal(read(path, image, regions, (1, 2))[0].array, wanted)
    plain = {"background": 0, "core": 2, "ignore": 9}
    assert np.array_equal(read(path, image, plain)[0].array, wanted)


@pytest.mark.parametrize(
    "how",
    [
        {"origin": (-20.0, -30.0, 41.0)},
        {"origin": (-19.2, -30.0, 40.0)},
        {"pixel_mm": (0.8, 0.8)},
        {"step_mm": 2.0},
        {"orientation": scanner.CORONAL},
        {"orientation": scanner.OBLIQUE},
    ],
)
def test_another_grid_is_refused(how, scan, tmp_path):
    own, image = scan
    slices = scanner.headers(scanner.voxels(), **how)
    for d in slices:
        d.FrameOfReferenceUID = own[0].FrameOfReferenceUID
    path = stored(drawn.segmentation(slices, drawn.masks()), tmp_path)
    with pytest.raises(DataError, match=r"lie on another grid than the image, 12×10×7 voxels"):
        read(path, image)


def test_a_seg_of_another_scan_on_the_same_grid_is_refused(scan, tmp_path):
    _, image = scan
    path = stored(drawn.segmentation(scanner.headers(scanner.voxels()), drawn.masks()), tmp_path)
    with pytest.raises(DataError, match="of another scan"):
        read(path, image)


def test_a_seg_by_itself_has_its_own_grid_and_numbers(scan, tmp_path):
    slices, image = scan
    masks = drawn.masks()
    found = read_labels(stored(drawn.segmentation(slices, masks), tmp_path))
    assert np.array_equal(found.array, drawn.label_map(masks))
    assert not read_geometry(image).differences(found.geometry)


def test_every_name_has_a_value_of_its_own(scan, tmp_path):
    slices, _ = scan
    one = stored(drawn.segmentation(slices, drawn.masks(names=("liver", "spleen"))), tmp_path, "one.dcm")
    two = stored(drawn.segmentation(slices, drawn.masks(names=("Spleen", "tumour"))), tmp_path, "two.dcm")
    assert segment_values([one, two]) == {"liver": 1, "spleen": 2, "tumour": 3}


def square(plane, k, low, high):
    """The outline of pixels low … high - 1 of slice k, in LPS mm."""
    corners = np.array([(low, low), (high, low), (high, high), (low, high)]) - 0.5
    index = np.column_stack([corners, np.full(4, k), np.ones(4)])
    return (np.diag([-1, -1, 1, 1]) @ scanner.affine(plane) @ index.T).T[:, :3]


@pytest.mark.parametrize("plane", PLANES)
def test_contours_within_contours_are_holes(plane, tmp_path):
    slices, folder = drawn.series(tmp_path / "ct", orientation=PLANES[plane])
    rings = [square(PLANES[plane], 3, *ends) for ends in ((1, 9), (3, 7), (4, 6))]
    path = stored(drawn.structures(slices, {"Liver": rings}), tmp_path)
    wanted = np.zeros((12, 10, 7), bool)
    wanted[1:9, 1:9, 3], wanted[3:7, 3:7, 3], wanted[4:6, 4:6, 3] = True, False, True
    found, notes = read(path, as_volume_file(folder))
    assert np.array_equal(found.array, wanted)
    assert notes == ()


def test_a_keyhole_is_a_hole(scan, tmp_path):
    slices, image = scan
    outer, inner = square(scanner.AXIAL, 3, 1, 9), square(scanner.AXIAL, 3, 3, 7)
    keyhole = np.concatenate([outer, outer[:1], inner[::-1], inner[-1:], outer[:1]])
    wanted = np.zeros((12, 10, 7), bool)
    wanted[1:9, 1:9, 3], wanted[3:7, 3:7, 3] = True, False
    path = stored(drawn.structures(slices, {"liver": [keyhole]}), tmp_path)
    assert np.array_equal(read(path, image)[0].array, wanted)


def test_a_contour_that_is_there_twice_is_there(scan, tmp_path):
    slices, image = scan
    ring = square(scanner.AXIAL, 3, 1, 9)
    path = stored(drawn.structures(slices, {"liver": [ring, ring]}), tmp_path)
    assert read(path, image)[0].array.sum() == 64


def test_contours_near_a_slice_are_in_it_and_those_between_slices_are_refused(scan, tmp_path):
    slices, image = scan
    near = square(scanner.AXIAL, 3.04, 1, 9)
    path = stored(drawn.structures(slices, {"liver": [near]}), tmp_path)
    assert read(path, image)[0].array[:, :, 3].sum() == 64
    path = stored(drawn.structures(slices, {"liver": [square(scanner.AXIAL, 3.5, 1, 9)]}), tmp_path)
    with pytest.raises(DataError, match="between the slices"):
        read(path, image)


def test_contours_of_a_coarser_image_are_refused(scan, tmp_path):
    slices, _ = scan
    _, fine = drawn.series(tmp_path / "fine", (12, 10, 60), step_mm=0.5)
    rings = [square(scanner.AXIAL, k, 1, 9) for k in range(7)]
    path = stored(drawn.structures(slices, {"liver": rings}), tmp_path)
    image = as_volume_file(fine)
    with pytest.raises(DataError, match="of another scan"):
        read(path, image)
    import nibabel

    nibabel.save(nibabel.Nifti1Image(np.zeros((12, 10, 60)), read_geometry(image).affine), tmp_path / "a.nii")
    with pytest.raises(DataError, match="5 slices of the image apart"):
        read(path, tmp_path / "a.nii")


def test_points_and_lines_are_no_areas(scan, tmp_path):
    slices, image = scan
    ring = square(scanner.AXIAL, 3, 1, 9)
    made = drawn.structures(slices, {"liver": [ring, ring + np.array([0, 0, 2.5])]}, kind="OPEN_PLANAR")
    with pytest.raises(DataError, match="region 1 consists of OPEN_PLANAR, which have no area"):
        read(stored(made, tmp_path), image)
    assert not read(stored(made, tmp_path), image, {"background": 0, "tumour": 9})[0].array.any()
    made.ROIContourSequence[0].ContourSequence[0].ContourGeometricType = "CLOSED_PLANAR"
    assert read(stored(made, tmp_path), image)[0].array.sum() == 64


def test_a_folder_with_a_series_and_its_contours_is_a_label_map(tmp_path):
    slices, folder = drawn.series(tmp_path / "both")
    stored(drawn.structures(slices, {"liver": [square(scanner.AXIAL, 3, 1, 9)]}), folder)
    assert read_labels(folder).array.sum() == 64


def test_contours_alone_say_no_grid(scan, tmp_path):
    slices, _ = scan
    path = stored(drawn.structures(slices, {"liver": [square(scanner.AXIAL, 3, 1, 9)]}), tmp_path)
    with pytest.raises(DataError, match="contours and has no voxels"):
        read_labels(path)


def broken_seg(d, how):
    if how == "no segments":
        del d.SegmentSequence
    if how == "repeated numbers":
        for item in d.SegmentSequence:
            item.SegmentNumber = 1
    if how == "no places":
        for group in d.PerFrameFunctionalGroupsSequence:
            del group.PlanePositionSequence
    if how == "no groups":
        del d.PerFrameFunctionalGroupsSequence
    if how == "few pixels":
        d.PixelData = d.PixelData[:20]
    if how == "no pixels":
        del d.PixelData
    if how == "many frames":
        d.NumberOfFrames = 10**7
    if how == "a position that is no number":
        d.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = [1, 2]
    return d


@pytest.mark.parametrize(
    "how",
    [
        "no segments",
        "repeated numbers",
        "no places",
        "no groups",
        "few pixels",
        "no pixels",
        "many frames",
        "a position that is no number",
    ],
)
@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_a_broken_seg_is_a_line(how, kind, scan, tmp_path):
    slices, image = scan
    path = stored(broken_seg(drawn.segmentation(slices, drawn.masks(), kind), how), tmp_path)
    with pytest.raises(DataError, match=r"seg\.dcm"):
        read(path, image)


def broken_structures(d, how):
    contour = d.ROIContourSequence[0].ContourSequence[0]
    if how == "no regions":
        del d.StructureSetROISequence
    if how == "an odd number of numbers":
        contour.ContourData = contour.ContourData[:-1]
    if how == "far away":
        contour.ContourData = ["1e30"] * len(contour.ContourData)
    if how == "upright":
        contour.ContourData = ["-20", "-30", "40", "-15", "-30", "50", "-20", "-25", "50"]
    if how == "beside the image":
        contour.ContourData = [str(float(x) + 5000 * (n % 3 == 0)) for n, x in enumerate(contour.ContourData)]
    return d


@pytest.mark.parametrize(
    "how", ["no regions", "an odd number of numbers", "far away", "upright", "beside the image"]
)
def test_broken_structures_are_a_line(how, scan, tmp_path):
    slices, image = scan
    made = drawn.structures(slices, {"liver": [square(scanner.AXIAL, 3, 1, 9)]})
    with pytest.raises(DataError, match=r"seg\.dcm"):
        read(stored(broken_structures(made, how), tmp_path), image)


@pytest.mark.parametrize("text", [b"NaN", b"inf", b"1,5", b"?"])
def test_coordinates_that_are_no_numbers_are_a_line(text, scan, tmp_path):
    slices, image = scan
    made = drawn.structures(slices, {"liver": [square(scanner.AXIAL, 3, 1, 9)]})
    path = stored(made, tmp_path)
    content = path.read_bytes()
    number = made.ROIContourSequence[0].ContourSequence[0].ContourData[0].original_string.encode()
    assert content.count(number) >= 1
    path.write_bytes(content.replace(number, text.ljust(len(number)), 1))
    with pytest.raises(DataError, match=r"seg\.dcm"):
        read(path, image)


def array_or_line(path, image):
    try:
        return read(path, image)[0].array
    except DataError as error:
        return str(error)


def mutated(content, random):
    """Bytes changed, taken away, put in, or set to lengths that are no lengths."""
    made, how = bytearray(content), random.integers(4)
    for _ in range(random.choice([1, 1, 3, 10])):
        at, some = int(random.integers(132, len(made) - 60)), int(random.integers(1, 50))
        if how == 0:
            made[at] = random.integers(256)
        elif how == 1:
            del made[at : at + some]
        elif how == 2:
            made[at:at] = random.bytes(some)
        else:
            made[at : at + 4] = [b"\xff\xff\xff\xff", b"\0\0\0\0", b"9999", b"-1e9"][random.integers(4)]
    return bytes(made)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP", "RTSTRUCT"])
def test_mutated_objects_are_read_or_are_a_line(kind, scan, tmp_path):
    slices, image = scan
    if kind == "RTSTRUCT":
        made = drawn.structures(slices, {"liver": [square(scanner.AXIAL, k, 1, 9) for k in range(5)]})
    else:
        made = drawn.segmentation(slices, drawn.masks(), kind)
    content, random = stored(made, tmp_path, "whole.dcm").read_bytes(), np.random.default_rng(0)
    for _ in range(70):
        (tmp_path / "mutated.dcm").write_bytes(mutated(content, random))
        found = fitted({"case": (tmp_path / "mutated.dcm", image)}, CLASSES)
        if found.faults:
            assert "mutated.dcm" in found.faults["case"][0]
        elif found.files["case"].suffix == ".json":
            said = array_or_line(tmp_path / "mutated.dcm", image)
            assert "mutated.dcm" in said if isinstance(said, str) else said.shape == (12, 10, 7)


@pytest.mark.parametrize("kind", ["labelmap", "binary"])
@pytest.mark.parametrize("plane", PLANES)
def test_what_medfuse_writes_it_reads(plane, kind, tmp_path):
    pytest.importorskip("highdicom", reason="highdicom comes with the extra dicom")
    _, folder = drawn.series(tmp_path / "ct", orientation=PLANES[plane])
    image, labels = as_volume_file(folder), drawn.label_map(drawn.masks()).astype(np.uint8)
    write_seg(tmp_path / "seg.dcm", labels, read_index(image), entries_of(CLASSES), About(), kind=kind)
    assert np.array_equal(read(tmp_path / "seg.dcm", image)[0].array, labels)


@pytest.mark.parametrize("object_of", ["seg", "structures"])
def test_a_file_that_was_cut_is_a_line_or_what_it_was(object_of, scan, tmp_path):
    slices, image = scan
    whole = drawn.masks()
    made = (
        drawn.segmentation(slices, whole)
        if object_of == "seg"
        else drawn.structures(slices, {"liver": [square(scanner.AXIAL, k, 1, 9) for k in range(5)]})
    )
    content = stored(made, tmp_path, "whole.dcm").read_bytes()
    wanted = read(tmp_path / "whole.dcm", image)[0].array
    cut = tmp_path / "cut.dcm"
    for end in np.linspace(140, len(content) - 1, 60).astype(int):
        cut.write_bytes(content[:end])
        found = array_or_line(cut, image)
        assert "cut.dcm" in found if isinstance(found, str) else np.array_equal(found, wanted), end


@real
def test_a_real_seg_equals_the_same_mask_in_nrrd():
    image = as_volume_file(REAL / "ct-3slice")
    found, _ = read(REAL / "liver.dcm", image, {"background": 0, "Liver": 1})
    wanted = read_labels(REAL / "liver_seg.nrrd")
    assert np.array_equal(found.array, wanted.array)
    assert not wanted.geometry.differences(found.geometry)


@real
@pytest.mark.parametrize("name", ["GREEN", "ORANGE", "PURPLE", "LIGHT_BLUE", "DARK_BLUE"])
def test_each_segment_of_a_real_seg_is_what_its_frames_hold(name):
    path = REAL / "partial_overlaps.dcm"
    d = dcmread(path)
    number = next(s.SegmentNumber for s in d.SegmentSequence if s.SegmentLabel == name)
    wanted = np.zeros((512, 512, 3), bool)
    for pixels, group in zip(d.pixel_array, d.PerFrameFunctionalGroupsSequence, strict=True):
        if group.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number:
            z = float(group.PlanePositionSequence[0].ImagePositionPatient[2])
            wanted[:, :, round(z + 128.69)] = pixels.T
    found, notes = read(path, as_volume_file(REAL / "ct-3slice"), {"background": 0, name.lower(): 1})
    assert np.array_equal(found.array, wanted)
    assert "left out" in notes[0]


@pytest.mark.skipif(not TORSO.is_dir(), reason=f"{TORSO} is not there")
def test_a_seg_of_a_real_series_is_the_mask_that_it_was_made_of(tmp_path):
    """Slices as a scanner placed them, to its rounding; a mask whose rows are the other way round."""
    image = as_volume_file(TORSO / "dicom_series")
    flipped_file = TORSO / "dicom_series_model_output_flipped_y.nii.gz"
    flipped = read_labels(flipped_file)
    files = sorted((TORSO / "dicom_series").iterdir())
    slices = sorted(map(dcmread, files), key=lambda d: float(d.ImagePositionPatient[2]))
    ways = np.diag(np.linalg.solve(read_geometry(image).affine, flipped.geometry.affine))[:3]
    labels = flipped.array[tuple(slice(None, None, int(np.rint(way))) for way in ways)]
    for n, d in enumerate(slices):  # what was taken out of them so that they say nobody's name
        d.SOPClassUID, d.SOPInstanceUID = CTImageStorage, f"2.25.1{n}"
        d.StudyInstanceUID = d.SeriesInstanceUID = "2.25.2"
        d.PatientID = d.PatientName = d.PatientBirthDate = d.PatientSex = d.AccessionNumber = ""
        d.StudyID = d.StudyDate = d.StudyTime = d.ReferringPhysicianName = ""
    made = drawn.segmentation(slices, {"organ": labels > 0})
    made.save_as(tmp_path / "seg")
    found, _ = read(tmp_path / "seg", image, {"background": 0, "organ": 1})
    assert np.array_equal(found.array, labels > 0)
    turned, _ = read(tmp_path / "seg", flipped_file, {"background": 0, "organ": 1})
    assert np.array_equal(turned.array, flipped.array > 0)
