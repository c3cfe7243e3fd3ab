"""`medfuse compare` from files and finished runs to a verdict."""

import json

import pytest
from crews import HERE
from phantoms import write_pipeline

from medfuse import DataError, MedfuseError, PipelineError
from medfuse.core.reporter import Reporter
from medfuse.verbs.compare import compare_pipelines
from medfuse.verbs.crews import ALONE


def compare(*inputs, **options):
    return compare_pipelines(inputs, reporter=Reporter(quiet=True), **options)


def test_files_are_trained_with_every_seed_and_held_against_a_finished_run(finished_run, tmp_path):
    narrow = write_pipeline(tmp_path / "narrow.yaml", finished_run.data)
    narrow.write_text(narrow.read_text().replace("name: cubes", "name: narrow"))
    made = compare(finished_run.folder, narrow, seeds=2, overrides=["train.steps=2"], runs=tmp_path / "runs")
    found = json.loads((made.values["folder"] / "comparison.json").read_text())
    assert found["baseline"] == finished_run.folder.name
    assert [c["trainings"] for c in found["candidates"]] == [1, 2]
    assert [c["steps"] for c in found["candidates"]][1] == 2
    assert found["candidates"][0]["parameters"] == found["candidates"][1]["parameters"] > 0
    assert {d["label"] for d in found["differences"]} == {"mean foreground Dice", "cube"}
    assert "too few cases to tell: no difference could be significant" in made
    assert 'class="dot"' in (made.values["folder"] / "comparison.html").read_text()


def test_workers_train_and_compare_what_one_process_does(finished_run, tmp_path):
    narrow = write_pipeline(tmp_path / "narrow.yaml", finished_run.data)
    narrow.write_text(narrow.read_text().replace("name: cubes", "name: narrow"))
    found = []
    for workers in (ALONE, HERE):
        settings = ["train.steps=2", "infer.runtime={use: torch, precision: fp32}"]
        how = {"seeds": 2, "overrides": settings, "workers": workers}
        made = compare(finished_run.folder, narrow, runs=tmp_path / workers.__class__.__name__, **how)
        table = json.loads((made.values["folder"] / "comparison.json").read_text())
        for candidate in table["candidates"]:
            del candidate["seconds"], candidate["seconds_per_case"]
        del table["page_sha256"], table["sha256"]
        found.append(table)
        left = sorted(path.name for path in made.values["folder"].iterdir())
        assert left == ["comparison.html", "comparison.json"]
    assert found[0] == found[1]


def test_of_workers_each_training_that_fails_is_named(finished_run, tmp_path):
    taken = tmp_path / "runs" / "narrow-fold0-seed2"
    taken.mkdir(parents=True)
    (taken / "weights_last.safetensors").write_bytes(b"of somebody else")
    narrow = write_pipeline(tmp_path / "narrow.yaml", finished_run.data)
    narrow.write_text(narrow.read_text().replace("name: cubes", "name: narrow"))
    with pytest.raises(DataError) as caught:
        compare(finished_run.folder, narrow, seeds=2, runs=tmp_path / "runs", workers=HERE)
    assert caught.value.lines[0].endswith("(narrow-fold0-seed2)")
    assert caught.value.lines[1].startswith("1 of 2 trainings are done")
    assert not (tmp_path / "runs" / "comparisons" / "cubes-against-narrow").exists()


def test_a_file_may_be_called_anything(finished_run, tmp_path):
    odd = write_pipeline(tmp_path / "it's <b>ü & two words.yaml", finished_run.data)
    odd.write_text(odd.read_text().replace("name: cubes\n", ""))
    made = compare(finished_run.folder, odd, overrides=["train.steps=2"], runs=tmp_path / "runs")
    found = json.loads((made.values["folder"] / "comparison.json").read_text())
    assert found["candidates"][1]["name"] == "it_s_b_ü_two_words"


def test_one_model_alone_is_nothing_to_compare(finished_run):
    with pytest.raises(MedfuseError, match="name two or more"):
        compare(finished_run.folder)


def test_an_unfinished_run_is_told(finished_run, tmp_path):
    with pytest.raises(DataError, match="is no finished run"):
        compare(finished_run.folder, tmp_path)


def test_all_files_that_are_not_there_are_told_at_once(tmp_path):
    with pytest.raises(MedfuseError) as caught:
        compare(tmp_path / "a.yaml", tmp_path / "runs" / "b")
    assert [line.partition(":")[0] for line in caught.value.lines] == [
        str(tmp_path / "a.yaml"),
        str(tmp_path / "runs" / "b"),
    ]


def test_the_faults_of_every_file_are_told_before_any_training(tmp_path):
    files = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    for file in files:
        file.write_text("data: {use: decathlo}\n")
    with pytest.raises(PipelineError) as caught:
        compare(*files)
    assert {line.split(":")[0] for line in caught.value.lines} == {str(file) for file in files}


@pytest.mark.parametrize("text", ["{", "[1]", "{}", '{"labels": {"cube": 1}, "metric_per_case": [3]}'])
def test_a_damaged_summary_is_one_line(finished_run, tmp_path, text):
    other = tmp_path / "other"
    other.mkdir()
    (other / "summary.json").write_text(text)
    with pytest.raises(DataError, match=r"summary\.json[^\n]*write it anew with `medfuse run`"):
        compare_pipelines([finished_run.folder, other], reporter=Reporter(quiet=True))
