import json
import shutil

import pytest

from medfuse.core.errors import DataError
from medfuse.data.bids import Name
from medfuse.data.settings import SplitSettings
from medfuse.data.split import choose_split
from medfuse.testing import check_dataset

TABLE = "index\tname\tcolor\n0\tBackground\t#000000\n1\tleft\t#ff0000\n2\tright\t#00ff00\n"


def anat(subject, *ends, session="", top=""):
    """Files of one subject: `sub-1/ses-a/anat/sub-1_ses-a_T1w.nii.gz`."""
    ses = (f"ses-{session}/", f"_ses-{session}") if session else ("", "")
    return [f"{top}sub-{subject}/{ses[0]}anat/sub-{subject}{ses[1]}_{end}.nii.gz" for end in ends]


def made(subject, *ends, session="", pipeline="manual"):
    return anat(subject, *ends, session=session, top=f"derivatives/{pipeline}/")


def faults(plugin):
    with pytest.raises(DataError) as caught:
        plugin.read()
    return str(caught.value)


@pytest.fixture
def bids(files, dataset):
    """A dataset of these files, with a table of labels at the top of its derivatives."""

    def bids(*names, table=TABLE, texts=(), **fields):
        tables = {"derivatives/manual/dseg.tsv": table} if table else {}
        return dataset("bids", root=files(*names, **tables, **dict(texts)), **fields)

    return bids


def test_sessions_are_cases_of_one_patient_who_never_both_trains_and_judges(bids):
    names = [
        file
        for subject in "1234"
        for session in ("a", "b")
        for file in (*anat(subject, "T1w", session=session), *made(subject, "dseg", session=session))
    ]
    info = bids(*names).read()
    assert [case.name for case in info.cases][:2] == ["sub-1_ses-a", "sub-1_ses-b"]
    assert info.cases[0].label.name == "sub-1_ses-a_dseg.nii.gz"
    for fold in range(4):
        split = choose_split(info, SplitSettings(folds=4, fold=fold))
        assert {n[:5] for n in split.train} & {n[:5] for n in split.validation} == set()


def test_names_and_colours_come_from_the_table_and_what_the_pipeline_says_goes_first(bids):
    names = (*anat("1", "T1w"), *made("1", "dseg"))
    info = bids(*names).read()
    assert info.labels == {"background": 0, "left": 1, "right": 2}
    assert info.label_table["left"].color == "#ff0000"
    assert bids(*names, classes={"both": 1}).read().labels == {"background": 0, "both": 1}


def test_a_table_holds_for_label_maps_below_it_that_say_all_that_it_says(bids, files):
    names = (*anat("1", "T1w"), *made("1", "desc-hand_dseg"))
    other = "index\tname\n1\tother\n"
    texts = {"derivatives/manual/desc-hand_dseg.tsv": TABLE, "derivatives/manual/desc-auto_dseg.tsv": other}
    texts |= {"derivatives/else/dseg.tsv": other}
    assert {*bids(*names, table="", texts=texts).read().labels} == {"background", "left", "right"}


def test_tables_that_contradict_each_other_are_refused_with_both_lines(bids):
    own = {"derivatives/manual/sub-1/anat/sub-1_dseg.tsv": "index\tname\n2\tleft\n"}
    said = faults(bids(*anat("1", "T1w"), *made("1", "dseg"), texts=own))
    assert "sub-1_dseg.tsv:2: left is 2, and 1 in" in said
    assert "manual/dseg.tsv:3" in said


def test_a_mask_is_called_by_its_label(bids):
    info = bids(
        *anat("1", "FLAIR"), *made("1", "label-lesion_mask"), table="", images="FLAIR", labels="mask"
    ).read()
    assert info.labels == {"background": 0, "lesion": 1}


def test_without_names_the_line_says_what_to_write(bids):
    assert "write `classes: {liver: 1}`" in faults(bids(*anat("1", "T1w"), *made("1", "dseg"), table=""))


def test_several_images_are_channels_in_the_order_given(bids):
    names = (*anat("1", "T1w", "FLAIR", "ce-gd_T1w"), *made("1", "dseg"))
    info = bids(*names, images=["FLAIR", "ce-gd_T1w", "T1w"]).read()
    assert [path.name[6:-7] for path in info.cases[0].images] == ["FLAIR", "ce-gd_T1w", "T1w"]
    assert info.channels == ("FLAIR", "ce-gd_T1w", "T1w")


def test_a_channel_that_is_missing_is_named_with_its_case(bids):
    names = (*anat("1", "T1w", "FLAIR"), *anat("2", "T1w"), *made("1", "dseg"))
    assert "case sub-2 has no image sub-…_FLAIR; add it" in faults(bids(*names, images=["T1w", "FLAIR"]))


def test_runs_are_cases_and_each_has_its_own_label(bids):
    names = (*anat("1", "run-1_T1w", "run-2_T1w"), *made("1", "run-2_dseg", "run-1_desc-hand_dseg"))
    cases = bids(*names).read().cases
    assert [(c.name, c.label.name[6:11]) for c in cases] == [
        ("sub-1_run-1", "run-1"),
        ("sub-1_run-2", "run-2"),
    ]


def test_one_label_that_may_be_of_two_images_is_refused(bids):
    said = faults(bids(*anat("1", "acq-a_T1w", "acq-b_T1w"), *made("1", "dseg")))
    assert "may be of sub-1_acq-a, sub-1_acq-b" in said


def test_two_labels_of_one_image_are_refused_with_what_to_write(bids):
    names = (*anat("1", "T1w"), *made("1", "desc-ann_dseg", "desc-bob_dseg"))
    assert "say in `labels` or `derivatives` which is meant, such as desc-ann_dseg" in faults(bids(*names))
    assert bids(*names, labels="desc-bob_dseg").read().cases[0].label.name == "sub-1_desc-bob_dseg.nii.gz"


def test_of_several_pipelines_one_is_meant(bids):
    names = (*anat("1", "T1w"), *made("1", "dseg"), *made("1", "dseg", pipeline="auto"))
    assert "auto/sub-1" in faults(bids(*names))
    assert "manual" in str(bids(*names, derivatives="manual").read().cases[0].label)


def test_the_sidecar_says_which_image_a_mask_was_made_of(bids):
    names = (*anat("1", "T1w"), *made("1", "desc-a_dseg", "desc-b_dseg"))
    sidecar = {
        "derivatives/manual/sub-1/anat/sub-1_desc-b_dseg.json": json.dumps(
            {"Sources": ["bids:raw:sub-1/anat/sub-1_T1w.nii.gz"]}
        )
    }
    assert bids(*names, texts=sidecar).read().cases[0].label.name == "sub-1_desc-b_dseg.nii.gz"


@pytest.mark.parametrize("space", ["orig", "individual", "T1w"])
def test_labels_in_the_images_own_space_belong_to_it_and_others_do_not(bids, space):
    names = (*anat("1", "T1w"), *made("1", f"space-{space}_dseg", "space-MNI152_dseg"))
    assert bids(*names).read().cases[0].label.name == f"sub-1_space-{space}_dseg.nii.gz"


def test_images_of_a_template_are_found_among_the_derivatives(bids):
    end = "space-MNI152_desc-preproc_T1w"
    names = (*anat("1", "T1w"), *made("1", end, "space-MNI152_dseg", "space-orig_dseg"))
    case = bids(*names, images=end).read().cases[0]
    assert (case.images[0].name, case.label.name) == (f"sub-1_{end}.nii.gz", "sub-1_space-MNI152_dseg.nii.gz")


def test_labels_of_another_space_alone_are_told(bids):
    assert "is of no image that `data.images` means (T1w)" in faults(
        bids(*anat("1", "T1w"), *made("1", "space-MNI152_dseg"))
    )


@pytest.mark.parametrize(
    ("image", "label", "labels"),
    [
        ("sub-1/ct/sub-1_ct", "derivatives/labels/sub-1/ct/sub-1_ct_seg-manual", "seg-manual"),
        ("sub-1/anat/sub-1_T2w", "derivatives/labels/sub-1/anat/sub-1_T2w_label-SC_seg", "label-SC_seg"),
        ("sub-1/anat/sub-1_FLAIR", "sub-1/anat/sub-1_FLAIR_roi", "roi"),
        ("sub-1/ses-1/dwi/sub-1_ses-1_dwi", "derivatives/sub-1/ses-1/sub-1_ses-1_msk", "msk"),
        ("train/R1/sub-1/anat/sub-1_space-x_T1w", "train/R1/sub-1/anat/sub-1_space-x_label-L_mask", "mask"),
    ],
)
def test_names_that_are_nearly_bids_are_read(bids, image, label, labels):
    own = Name.of(image.rpartition("/")[2]).without("sub", "ses")
    plugin = bids(
        f"{image}.nii.gz", f"{label}.nii.gz", table="", images=str(own), labels=labels, classes={"x": 1}
    )
    (case,) = plugin.read().cases
    assert (str(case.images[0].relative_to(plugin.root)), str(case.label.relative_to(plugin.root))) == (
        f"{image}.nii.gz",
        f"{label}.nii.gz",
    )


def test_ct_is_known_by_suffix_or_sidecar(bids):
    names = ("sub-1/ct/sub-1_ct.nii.gz", *made("1", "dseg"))
    assert bids(*names, images="ct").read().channels == ("CT",)
    texts = {"sub-1/anat/sub-1_T1w.json": json.dumps({"Modality": "CT"})}
    assert bids(*anat("1", "T1w"), texts=texts).read().channels == ("CT",)


def test_the_table_of_participants_gives_folds_and_names_who_is_not_there(bids):
    names = [file for s in "12" for file in (*anat(s, "T1w"), *made(s, "dseg"))]
    table = "participant_id\tage\tfold\nsub-1\t33\t0\nsub-2\tn/a\t1\nsub-3\t9\tn/a\n"
    info = bids(*names, texts={"participants.tsv": table}).read()
    assert [split.validation for split in info.splits] == [("sub-1",), ("sub-2",)]
    assert any("1 participant (sub-3) listed without a case" in note for note in info.notes)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("name\tage\nx\t3\n", "participants.tsv:1: has no column participant_id"),
        ("participant_id\nsub-1\nsub-1\n", "participants.tsv:3: sub-1 is listed twice"),
        ("participant_id\tfold\nsub-1\tx\n", "participants.tsv:2: fold is 'x'"),
    ],
)
def test_a_faulty_table_of_participants_is_told_with_its_line(bids, table, said):
    names = (*anat("1", "T1w"), *made("1", "dseg"))
    assert said in faults(bids(*names, texts={"participants.tsv": table}))


@pytest.mark.parametrize("field", [{"images": "../x"}, {"labels": "*.nii.gz"}, {"images": ["T1w", "a b"]}])
def test_what_is_no_end_of_a_name_is_refused(bids, field):
    with pytest.raises(ValueError, match="is no end of a name in BIDS"):
        bids(*anat("1", "T1w"), **field)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"images": ["T1w", "T1w"]}, "one pattern twice"),
        ({"images": ["T1w", "T2w"], "channels": ["a"]}, "2 images and 1 channels"),
    ],
)
def test_channels_that_do_not_fit_are_refused(bids, fields, said):
    with pytest.raises(ValueError, match=said):
        bids(*anat("1", "T1w"), **fields)


def test_nothing_that_fits_says_what_there_is(bids):
    said = faults(bids(*anat("1", "T2w"), *made("1", "dseg")))
    assert "no volume sub-…_T1w below it; mend `data.images`; names there end in T2w" in said


def test_a_label_without_image_is_refused(bids):
    assert "has no image sub-…_T1w; add it, or remove" in faults(
        bids(*anat("1", "T1w"), *made("1", "dseg"), *made("2", "dseg"))
    )


def test_it_keeps_the_contract(bids):
    names = [file for s in "123" for file in (*anat(s, "T1w"), *made(s, "dseg"))]
    check_dataset(bids(*names))


def test_source_data_and_loops_of_links_are_not_walked(bids):
    plugin = bids(*anat("1", "T1w"), *made("1", "dseg"), *anat("1", "T1w", top="sourcedata/raw/"))
    (plugin.root / "derivatives" / "loop").symlink_to(plugin.root)
    assert len(plugin.read().cases) == 1
    shutil.rmtree(plugin.root / "sub-1")
    assert "no volume" in faults(plugin)


def test_of_several_the_one_that_says_no_more_than_the_pattern_is_meant(bids):
    names = (*anat("1", "T1w"), *made("1", "desc-aseg_dseg", "dseg", "desc-aparcaseg_dseg"))
    assert bids(*names).read().cases[0].label.name == "sub-1_dseg.nii.gz"
    assert bids(*names, labels="desc-aseg_dseg").read().cases[0].label.name == "sub-1_desc-aseg_dseg.nii.gz"
