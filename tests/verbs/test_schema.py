"""The schema by which editors complete pipelines: it accepts what `medfuse check` accepts."""

import json
from pathlib import Path

import pytest
import strangers

from medfuse.core.document import Document
from medfuse.core.errors import MedfuseError
from medfuse.pipeline import parse_pipeline
from medfuse.verbs.schema import LINE, SCHEMA, schema_text, write_schema, write_schema_beside

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema comes with the dev extra")

ROOT = Path(__file__).parents[2]
PIPELINES = sorted((ROOT / "pipelines").glob("*.yaml"))


@pytest.fixture(scope="module")
def refusals():
    """What the schema has against values."""
    schema = json.loads(schema_text())
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    return lambda values: [
        f"{'.'.join(map(str, e.absolute_path))}: {e.message[:80]}" for e in kind(schema).iter_errors(values)
    ]


def encoder(**backbone) -> dict:
    return {"model": {"backbones": {"encoder": backbone}}}


def values(text: str) -> dict:
    return json.loads(json.dumps(Document.parse(text, source="p.yaml", base=Path()).data))


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
def test_it_accepts_every_pipeline_that_is_here(refusals, path):
    assert refusals(values(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
def test_every_pipeline_names_the_schema_beside_it(path):
    assert path.read_text(encoding="utf-8").splitlines().count(LINE) == 1
    assert (path.parent / SCHEMA).is_file()


def test_the_schema_beside_them_is_that_of_medfuses_own_plugins():
    kept = (ROOT / "pipelines" / SCHEMA).read_text(encoding="utf-8")
    assert kept == schema_text("medfuse"), "run `make docs`"


def with_changes(**sections) -> dict:
    made = values(strangers.PIPELINE)
    for name, section in sections.items():
        made[name] = {**made.get(name, {}), **section} if isinstance(section, dict) else section
    return made


GOOD = {
    "shorthand loss": {"loss": "dice_ce"},
    "shorthand inside a loss": {"loss": {"use": "sum", "terms": ["dice_ce", {"use": "focal"}]}},
    "auto": {"sample": {"patch_size": "auto", "batch_size": "auto", "workers": "auto"}},
    "two axes": {"sample": {"patch_size": [64, 64]}},
    "one pattern": {"data": {"images": "images"}},
    "several patterns": {"data": {"images": ["a", "b"], "channels": ["CT", "PT"]}},
    "regions": {"data": {"classes": {"all": [1, 2], "core": 2}, "regions_class_order": [1, 2]}},
    "labels with codes and colours": {
        "data": {"classes": {"a": {"value": 1, "code": "SCT 10200004", "color": "#dd8265"}, "b": 2}}
    },
    "a region with a colour": {
        "data": {
            "classes": {"a": {"value": [1, 2], "color": "#dd8265"}, "b": 2},
            "regions_class_order": [1, 2],
        }
    },
    "whole numbers for others": {"train": {"clip": 12, "learning_rate": 1}},
    "a number that ends in .0": {"train": {"steps": 10.0}},
    "null": {"train": {"epochs": None}},
    "a teacher by path": {"train": {"pseudo_labels": {"teacher": "../runs/a"}}},
    "frozen for good": {"train": {"parts": {"backbones.*": {"freeze": "always", "rate": 0}}}},
    "postprocessing": {"infer": {"postprocess": {"largest_component": ["a"], "minimum_ml": {"a": 1}}}},
    "a runtime's name": {"infer": {"runtime": "openvino"}},
    "a runtime with parameters": {"infer": {"runtime": {"use": "torch", "precision": "fp32"}}},
    "channels that stand for others": encoder(
        use="edited",
        of="unet_encoder",
        edits=[{"replace": "*.norm", "by": "torch.nn.GroupNorm", "arguments": {"num_channels": "$channels"}}],
    ),
    "a function": encoder(use="module", target="a.b:c", parameters={"x": [1, "import:torch.nn.SiLU"]}),
    "one stride for all axes": encoder(use="unet_encoder", strides=[1, [2, 2, 1]]),
    "tap strategies": {"model": {"taps": {"encoder": "forward_hook"}}},
}


@pytest.mark.parametrize("name", GOOD)
def test_it_accepts_every_form_that_is_read(refusals, name):
    changed = with_changes(**GOOD[name])
    assert parse_pipeline(Document(changed, {}, {}, "p.yaml"))
    assert refusals(changed) == []


BAD = {
    "a mistyped key": {"train": {"stepz": 3}},
    "a mistyped plugin": {"loss": "dice_cee"},
    "a text for a number": {"train": {"steps": "10"}},
    "a truth value for a number": {"train": {"clip": True}},
    "a number for a truth value": {"train": {"compile": 1}},
    "a word for a truth value": {"train": {"compile": "yes"}},
    "a share above 1": {"augment": {"noise": 2}},
    "a mistyped parameter": {"loss": {"use": "tversky", "alhpa": 1}},
    "a word for another": {"train": {"device": "gpu"}},
}


@pytest.mark.parametrize("name", BAD)
def test_it_refuses_slips_as_check_does(refusals, name):
    changed = with_changes(**BAD[name])
    with pytest.raises(MedfuseError):
        parse_pipeline(Document(changed, {}, {}, "p.yaml"))
    assert refusals(changed)


def test_it_is_written_where_it_is_asked_for(tmp_path, medfuse):
    assert medfuse("schema", "-o", tmp_path).code == 0
    assert json.loads((tmp_path / SCHEMA).read_text()) == json.loads(medfuse("schema").out)
    assert write_schema(tmp_path / SCHEMA)


def test_another_file_of_its_name_stays(tmp_path):
    (tmp_path / SCHEMA).write_text('{"title": "mine"}')
    write_schema_beside(tmp_path / "p.yaml")
    with pytest.raises(MedfuseError, match="no schema of medfuse"):
        write_schema(tmp_path)
    assert (tmp_path / SCHEMA).read_text() == '{"title": "mine"}'


def test_a_plugin_that_fails_on_import_is_known_by_its_name(monkeypatch):
    from medfuse import PluginError, registry

    get = registry.get

    def fails(group, name):
        if name == "focal":
            raise PluginError("fails on import")
        return get(group, name)

    monkeypatch.setattr(registry, "get", fails)
    assert '"const": "focal"' in schema_text()
