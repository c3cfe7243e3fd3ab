"""Nothing of the machine and the disk leaves with a model."""

import pytest

from medfuse.sharing.clean import cleaned, cleaned_text

FACTS = {
    "name": "liver",
    "model": {
        "backbones": {"encoder": {"use": "unet_encoder", "norm": "instance", "channels": [8, 16]}},
        "transfer": {},
        "head": {"input": "decoded"},
    },
    "data": {"reasons": {"spacing_mm": "the median of all cases"}, "spacing_mm": [1.0, 1.0, 2.5]},
}


def test_facts_that_tell_of_no_place_stay_as_they_are():
    assert cleaned(FACTS) == FACTS


def test_weights_that_training_began_with_are_left_out():
    model = {**FACTS["model"], "transfer": {"encoder": {"weights": "/home/ann/net.pth"}}}
    assert cleaned({**FACTS, "model": model}) == FACTS


@pytest.mark.parametrize(
    "place",
    ["/home/ann/Doe John/net", "~/Doe John/net", "C:\\Users\\Doe John\\net", "\\\\server\\Doe John\\net"],
)
def test_of_a_file_its_name_alone_is_told(place):
    backbone = {"use": "hubbed", "folder": place}
    reasons = {"normalize.CT": f"as the weights of encoder, {place}, were trained; from 0 to 1"}
    made = cleaned({"model": {"backbones": {"encoder": backbone}}, "data": {"reasons": reasons}})
    assert made["model"]["backbones"]["encoder"]["folder"] == "net"
    assert "Doe" not in str(made)
    assert made["data"]["reasons"]["normalize.CT"].endswith("net, were trained; from 0 to 1")


@pytest.mark.parametrize(
    "text", ["facebook/dinov2-small", "https://example.org/a/b", "and/or", "1/2 of it", "encoder.*", "a: /b"]
)
def test_what_is_no_place_stays(text):
    assert cleaned({"model": {"use": text}})["model"]["use"] == text


def test_a_place_within_a_text_is_shortened():
    assert cleaned({"why": "read from /data/Doe/scan.nii.gz, as"})["why"] == "read from scan.nii.gz, as"


def test_a_pipeline_names_no_file_at_all():
    said = {
        "train": {"pseudo_labels": {"images": "/data/Hospital X/new"}},
        "name": "liver",
        "why": "of /data/Hospital X/new",
    }
    made = cleaned_text(said, instead="FILE")
    assert made == {"train": {"pseudo_labels": {"images": "FILE"}}, "name": "liver", "why": "of FILE"}
