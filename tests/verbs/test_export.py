"""`medfuse export`: what it writes is whole, says what inference needs, and gives the labels of the run."""

import inspect
import io
import json
import zipfile
from pathlib import Path

import nibabel
import pytest
import torch

from medfuse.core.errors import CheckpointError
from medfuse.trained.loading import EXPORTED, load_trained

NEEDS = {"onnx": ["onnx", "onnxscript", "onnxruntime"], "openvino": ["openvino"], "torch": ["torch"]}


SLOW = pytest.param("onnx", marks=pytest.mark.slow)  # torch takes half a minute to export a network


def made(kind, finished_run, tmp_path_factory):
    """The finished run in a format."""
    from medfuse.verbs.export import export_network

    for package in NEEDS[kind]:
        pytest.importorskip(package, reason=f"pip install 'medfuse[{kind}]' to export to it")
    folder = tmp_path_factory.mktemp("exported")
    export_network(finished_run.folder, folder, kind=kind)
    return folder / f"cubes{EXPORTED[kind]}"


@pytest.fixture(scope="module", params=["openvino", "torch", SLOW])
def exported(request, finished_run, tmp_path_factory):
    """In every format."""
    return made(request.param, finished_run, tmp_path_factory)


def infer(medfuse, model, image, output):
    said = medfuse("infer", model, "-i", image, "-o", output, "-q")
    assert said.code == 0, said.err
    return nibabel.load(output / image.name).get_fdata()


def test_it_gives_the_labels_of_the_run(exported, finished_run, medfuse, tmp_path):
    image = finished_run.data / "imagesTr" / "cube_03.nii.gz"
    ours = infer(medfuse, exported, image, tmp_path / "exported")
    theirs = infer(medfuse, finished_run.folder, image, tmp_path / "run")
    assert (ours == theirs).mean() > 0.99  # either may compute in bf16


def test_other_programs_find_image_and_logits_by_their_names(finished_run, tmp_path):
    from medfuse.verbs.export import export_network

    openvino = pytest.importorskip("openvino", reason="pip install 'medfuse[openvino]' to export to it")
    export_network(finished_run.folder, tmp_path / "cubes.xml", kind="openvino")
    made = openvino.Core().read_model(tmp_path / "cubes.xml")
    assert [part.get_names() for part in (*made.inputs, *made.outputs)] == [{"image"}, {"logits"}]


def test_it_carries_the_facts_of_the_weights(exported, finished_run):
    own, run = (load_trained([path]) for path in (exported, finished_run.folder / "weights_last.safetensors"))
    assert own.plan == run.plan
    assert own.settings == run.settings


def test_it_does_not_tell_where_it_was_made(exported):
    content = exported.read_bytes()
    if zipfile.is_zipfile(exported):
        with zipfile.ZipFile(exported) as archive:
            content = b"".join(map(archive.read, archive.namelist()))
    for source in (load_trained, torch):
        assert str(Path(inspect.getfile(source)).parent).encode() not in content


def test_it_takes_any_number_of_windows(exported, finished_run):
    run = load_trained([finished_run.folder / "weights_last.safetensors"], device="cpu").networks[0]
    own = load_trained([exported], device="cpu").networks[0]
    windows = torch.randn((3, 1, 16, 16, 16), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for number in (2, 1, 3):
            expected = run(windows[:number])
            assert (own(windows[:number]) - expected).norm() < 0.05 * expected.norm()


def test_features_of_what_was_exported_are_refused(exported, medfuse, tmp_path):
    said = medfuse("features", exported, "-l", "decoded", "-i", tmp_path, "-o", tmp_path / "out")
    assert said.code == 2
    assert "hands out logits only" in said.err


def test_a_truncated_file_is_refused_in_a_line(exported, tmp_path):
    broken = tmp_path / exported.name
    broken.write_bytes(exported.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=broken.name):
        load_trained([broken])


def test_nothing_is_left_of_an_export_that_differs(finished_run, monkeypatch, medfuse, tmp_path):
    from medfuse.core import device

    monkeypatch.setattr(device, "disagreement", lambda expected, given: "its results change")
    said = medfuse("export", finished_run.folder, "--format", "torch", "-o", tmp_path / "new")
    assert (said.code, [*(tmp_path / "new").iterdir()]) == (2, [])
    assert "its results change" in said.err


def test_an_ending_of_another_format_is_refused(finished_run, medfuse, tmp_path):
    said = medfuse("export", finished_run.folder, "--format", "torch", "-o", tmp_path / "a.onnx")
    assert said.code == 2
    assert "ends in .pt2" in said.err


@pytest.fixture(scope="module")
def program(finished_run, tmp_path_factory):
    from medfuse.verbs.export import export_network

    path = tmp_path_factory.mktemp("program") / "cubes.pt2"
    export_network(finished_run.folder, path, kind="torch")
    return path


def rewritten(source, target, change):
    """A copy of an archive, each file of which `change(name, bytes)` may replace."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


class Trap:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self):
        return (exec, ("import builtins; builtins.sprung = True",))


def trapped():
    buffer = io.BytesIO()
    torch.save((Trap(),), buffer)
    return buffer.getvalue()


ADDED = {
    "library": "data/aotinductor/x/x.wrapper.so",
    "library as a weight": "data/weights/weight_0.so",
    "pickle among constants": "data/constants/custom_obj_0",
    "opaque object": "data/constants/opaque_obj_0",
    "pickled weights": "data/weights/model.pt",
    "a second program": "models/other.json",
    "a nested archive": "data/weights/inner.zip",
    "a file outside": "../../outside",
    "an absolute name": "/etc/outside",
    "another slash": "data\\weights\\weight_0",
    "another extra file": "extra/other.json",
}


@pytest.mark.parametrize("name", ADDED.values(), ids=ADDED)
def test_a_program_with_any_other_member_is_refused(program, tmp_path, name):
    path = rewritten(program, tmp_path / "trap.pt2", lambda _, data: data)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"archive/{name}", b"anything")
    with pytest.raises(CheckpointError, match=r"trap\.pt2: .*is not loaded") as said:
        load_trained([path])
    assert len(said.value.lines) == 1


CONTEXTS = {
    "a module": {"__enum__": True, "fqn": "trap_module:X", "name": "x"},
    "a factory": {"default_factory_module": "trap_module", "default_factory_name": "x", "dict_context": []},
}


def naming(context):
    """A program whose inputs are of a type that torch finds by what `context` says."""

    def change(name, data):
        if not name.endswith("models/model.json"):
            return data
        program = json.loads(data)
        signature = program["graph_module"]["module_call_graph"][0]["signature"]
        version, spec = json.loads(signature["in_spec"])
        spec["context"] = json.dumps(context)
        signature["in_spec"] = json.dumps([version, spec])
        return json.dumps(program).encode()

    return change


CALLS = {
    "a function of torch": b"torch.hub.load",
    "files that are read": b"torch.ops.aten.from_file.default",
    "files that are written": b"torch.ops.aten.save.default",
    "another library's operation": b"torch.ops.mine.conv3d.default",
    "an operation that there is not": b"torch.ops.aten.conv3d.nothing",
    "an extension": b"#mine:conv3d",
}
CHANGES = {
    "pickle": lambda name, data: trapped() if "sample_inputs" in name else data,
    "pickled weights": lambda name, data: data.replace(b'"use_pickle": false', b'"use_pickle": true'),
    "expression": lambda name, data: data.replace(b'"expr_str": "Symbol(', b'"expr_str": "exec('),
    "endless power": lambda name, data: data.replace(
        b'"expr_str": "Symbol(', b'"expr_str": "Pow(Integer(9),Integer(99999999999)) (Symbol('
    ),
    "guards": lambda name, data: data.replace(b'"guards_code": []', b'"guards_code": ["exec(1)"]'),
    "type of inputs": lambda name, data: data.replace(b"builtins.tuple", b"collections.defaultdict"),
    **{f"inputs that name {what}": naming(context) for what, context in CONTEXTS.items()},
    **{
        what: lambda name, data, call=call: data.replace(b"torch.ops.aten.conv3d.default", call)
        for what, call in CALLS.items()
    },
    "tensors without bytes": lambda name, data: b"" if name.endswith("weight_0") else data,
    "a tensor elsewhere": lambda name, data: data.replace(b'"weight_0"', b'"../extra/medfuse.json"'),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_program_that_would_run_code_is_refused(program, tmp_path, monkeypatch, change):
    import builtins

    (tmp_path / "trap_module.py").write_text("import builtins; builtins.sprung = True")
    monkeypatch.syspath_prepend(tmp_path)
    path = rewritten(program, tmp_path / "trap.pt2", change)
    assert path.read_bytes() != program.read_bytes()
    with pytest.raises(CheckpointError, match="is not loaded"):
        load_trained([path])
    assert not hasattr(builtins, "sprung")


DAMAGE = {
    "empty": lambda data: b"",
    "no archive": lambda data: b"PK" + bytes(1000),
    "cut off": lambda data: data[: len(data) // 2],
    "a flipped bit": lambda data: data[:2000] + bytes([data[2000] ^ 1]) + data[2001:],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_program_is_one_line(program, tmp_path, damage):
    path = tmp_path / "damaged.pt2"
    path.write_bytes(damage(program.read_bytes()))
    with pytest.raises(CheckpointError, match=r"damaged\.pt2") as said:
        load_trained([path])
    assert len(said.value.lines) == 1


def test_a_program_holds_no_pickle_and_torch_reads_it(program):
    with zipfile.ZipFile(program) as archive:
        assert archive.read("archive/data/sample_inputs/model.pt") == b""
    assert torch.export.load(program).module() is not None


def test_a_compressed_program_is_refused(program, tmp_path):
    path = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match="compressed"):
        load_trained([path])


def test_a_program_of_others_is_refused(tmp_path):
    path = tmp_path / "other.pt2"
    torch.export.save(torch.export.export(torch.nn.Conv2d(1, 2, 3), (torch.zeros(1, 1, 8, 8),)), path)
    with pytest.raises(CheckpointError, match="use a file of `medfuse export`"):
        load_trained([path])


@pytest.fixture(scope="module")
def onnx_file(finished_run, tmp_path_factory):
    return made("onnx", finished_run, tmp_path_factory)


@pytest.fixture(scope="module")
def openvino_file(finished_run, tmp_path_factory):
    return made("openvino", finished_run, tmp_path_factory)


def flipped(content, place):
    place = int(place * len(content))
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


@pytest.mark.parametrize("damage", [*(0.1, 0.3, 0.5, 0.7, 0.9), "half", "nothing", "text"])
@pytest.mark.parametrize("kind", [".onnx", ".xml", ".bin"])
def test_a_damaged_export_is_one_line_and_never_another_network(
    onnx_file, openvino_file, tmp_path, kind, damage
):
    for path in (onnx_file, openvino_file, openvino_file.with_suffix(".bin")):
        content = path.read_bytes()
        if path.suffix == kind:
            known = {"half": content[: len(content) // 2], "nothing": b"", "text": b"no network"}
            content = known[damage] if isinstance(damage, str) else flipped(content, damage)
        (tmp_path / path.name).write_bytes(content)
    target = tmp_path / f"cubes{'.onnx' if kind == '.onnx' else '.xml'}"
    with pytest.raises(CheckpointError, match=target.name) as said:
        load_trained([target])
    assert len(said.value.lines) == 1


def test_an_xml_without_its_bin_is_one_line(openvino_file, tmp_path):
    path = tmp_path / "cubes.xml"
    path.write_bytes(openvino_file.read_bytes())
    with pytest.raises(CheckpointError, match=r"no cubes\.bin beside it"):
        load_trained([path])


def test_the_bin_of_another_network_is_refused(openvino_file, tmp_path):
    (tmp_path / "cubes.xml").write_bytes(openvino_file.read_bytes())
    content = openvino_file.with_suffix(".bin").read_bytes()
    (tmp_path / "cubes.bin").write_bytes(content[::-1])
    with pytest.raises(CheckpointError, match="that of another network"):
        load_trained([tmp_path / "cubes.xml"])


@pytest.mark.parametrize("place", ["beside.bin", "../outside.bin", "absolute"])
def test_an_onnx_file_reads_no_other_file(onnx_file, tmp_path, place):
    import onnx

    folder = tmp_path / "given"
    folder.mkdir()
    model = onnx.load(onnx_file)
    first = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    for outside in (folder / "beside.bin", tmp_path / "outside.bin"):
        outside.write_bytes(first.raw_data)
    where = str(folder / "beside.bin") if place == "absolute" else place
    onnx.external_data_helper.set_external_data(first, where)
    first.ClearField("raw_data")
    model.metadata_props.pop()  # the hash
    (folder / "given.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="cannot be read by ONNX Runtime") as said:
        load_trained([folder / "given.onnx"])
    assert len(said.value.lines) == 1


def test_an_operation_that_onnx_runtime_does_not_have_is_one_line(onnx_file, tmp_path):
    import onnx

    model = onnx.load(onnx_file)
    model.graph.node[0].domain = "com.somebody"
    model.metadata_props.pop()
    (tmp_path / "given.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="cannot be read by ONNX Runtime"):
        load_trained([tmp_path / "given.onnx"])


@pytest.mark.parametrize("facts", ["[]", "5", "{", "[" * 500, '{"data": 5}', '{"a": NaN}'])
def test_odd_facts_of_an_onnx_file_are_one_line(onnx_file, tmp_path, facts):
    import onnx

    model = onnx.load(onnx_file)
    model.metadata_props.pop()
    onnx.helper.set_model_props(model, {"medfuse": facts})
    (tmp_path / "given.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=r"given\.onnx") as said:
        load_trained([tmp_path / "given.onnx"])
    assert len(said.value.lines) == 1


def test_it_says_what_it_is_as_its_run_does(exported, finished_run):
    from medfuse.sharing.described import describe

    own, run = describe(exported), describe(finished_run.folder)
    assert own.model_copy(update={"kind": run.kind}) == run
    assert own.kind.startswith("a network exported to")


def test_a_licence_goes_with_it(finished_run, medfuse, tmp_path):
    said = medfuse(
        "export", finished_run.folder, "--format", "torch", "-o", tmp_path, "--license", "cc-by-4.0"
    )
    assert said.code == 0, said.err
    assert json.loads(medfuse("info", tmp_path / "cubes.pt2", "--json").out)["license"] == "CC-BY-4.0"


def test_a_licence_that_is_none_is_refused_before_any_work(finished_run, medfuse, tmp_path):
    said = medfuse("export", finished_run.folder, "--format", "torch", "-o", tmp_path, "--license", "free")
    assert said.code == 2
    assert "SPDX" in said.err
    assert not [*tmp_path.iterdir()]
