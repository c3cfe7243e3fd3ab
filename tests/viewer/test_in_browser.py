"""Pages in headless Chromium, which is asked what it shows where."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

RANDOM = np.random.default_rng(11)


def rotation(*degrees: float):
    turned = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        a, b = [(1, 2), (2, 0), (0, 1)][axis]
        one = np.eye(3)
        one[[a, b], [a, b]] = np.cos(angle)
        one[a, b], one[b, a] = -np.sin(angle), np.sin(angle)
        turned = one @ turned
    return turned


def affine(axes, origin=(0, 0, 0)):
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = axes, origin
    return made


AFFINES = {
    "identity": np.eye(4),
    "lps": affine(np.diag([-0.8, -0.8, 2.5]), (40, 60, -30)),
    "upside_down": affine(np.diag([1, 2, -3]), (-7, 5, 300)),
    "sagittal": affine(np.array([[0, 0, 1.2], [-0.7, 0, 0], [0, 0.7, 0]]), (9, 8, 7)),
    "coronal": affine(np.array([[-1, 0, 0], [0, 0, -4], [0, 1, 0]]), (100, -50, 20)),
    "oblique": affine(rotation(20, -13, 35) @ np.diag([1, 1.5, 3]), (-11, 12, 13)),
    "oblique_flipped": affine(rotation(-30, 8, 170) @ np.diag([0.5, 0.5, -5]), (3, 2, 1)),
}


@pytest.fixture
def grids(files):
    """Scans and label maps on each grid: every voxel's value is its own."""
    for name, where in AFFINES.items():
        values = RANDOM.permutation(9 * 7 * 5).reshape(9, 7, 5).astype(np.int16) - 100
        labels = (values % 7 == 0).astype(np.uint8) * 3 + (values % 5 == 0)
        files.write(f"scans/{name}.nii.gz", values, where)
        files.write(f"labels/{name}.nii.gz", labels, where)
    return files


def test_labels_and_values_are_where_the_file_has_them(grids, shown):
    import nibabel

    tab = shown("scans", "labels", "--label", "a=1", "--label", "b=3", "--label", "both=4")
    names = {0: "", 1: "a", 3: "b", 4: "both"}
    for number, name in enumerate(
        tab.ask("JSON.parse(document.getElementById('page').textContent).cases.map(c => c.name)")
    ):
        tab.ask(f"medfuse.show({number})")
        scan, labels = (nibabel.load(f"{folder}/{name}.nii.gz") for folder in ("scans", "labels"))
        values, marked = np.asarray(scan.dataobj), np.asarray(labels.dataobj)
        shape = tab.ask("medfuse.state.about.shape")
        for _ in range(6):
            voxel = [int(RANDOM.integers(n)) for n in shape]
            said = tab.ask(f"medfuse.at({json.dumps(voxel)})")
            own = np.rint(np.linalg.inv(scan.affine) @ [*said["mm"], 1])[:3].astype(int)
            np.testing.assert_allclose(scan.affine[:3, :3] @ own + scan.affine[:3, 3], said["mm"], atol=1e-3)
            assert said["value"] == values[tuple(own)]
            assert said["labels"] == [names[int(marked[tuple(own)])]]
            drawn = tab.ask(
                f"""(() => {{ const nv = medfuse.nv, frac = nv.vox2frac({json.dumps(voxel)});
                const mm = nv.frac2mm(frac, 0, true), own = v => v.getValue(...v.mm2vox([...mm]));
                return {{mm: [...mm].slice(0, 3), values: nv.volumes.map(own)}} }})()"""
            )
            np.testing.assert_allclose(drawn["mm"], said["mm"], atol=1e-3)  # what NiiVue draws by
            assert drawn["values"][0] == values[tuple(own)]
            assert (drawn["values"][1] > 0) == (marked[tuple(own)] > 0)


def test_no_request_leaves_the_page(files, shown):
    tab = shown(files.scan(), files.labels(), files.labels("other.nii.gz"))
    own = Path("page.html").resolve().as_uri()
    assert {url for url in tab.requests if not url.startswith("data:")} == {own}
    with pytest.raises(RuntimeError, match="fetch"):  # whatever a library would like to do
        tab.ask("fetch('https://example.org/')")


@pytest.mark.parametrize(
    "evil", ["<script>window.hurt=1</script>", "a\"'><img src=x onerror=window.hurt=1>", "&lt;b&gt; {title}"]
)
def test_names_are_text(files, shown, evil):
    safe = evil.replace("/", "∕")
    scan = files.scan(f"in/{safe}.nii.gz")
    files.scan("in/b.nii.gz"), files.labels("out/b.nii.gz")
    files.labels(f"out/{safe}.nii.gz")
    tab = shown(scan.parent, files.folder / "out", "--label", f"{evil}=1")
    assert tab.ask("window.hurt === undefined")
    assert evil in tab.ask("[...document.querySelectorAll('.go')].map(b => b.textContent)")
    assert safe in tab.ask("document.getElementById('cases').textContent")
    tab.ask("medfuse.show(1)")
    assert tab.console == []


def test_what_is_hidden_is_not_seen(files, shown):
    scan = files.write("flat.nii.gz", np.zeros((20, 16, 12), np.int16))
    tab = shown(scan, files.labels(), "--label", "first=1", "--label", "second=4")

    def seen() -> list[str]:
        tab.frames()
        pixels = np.asarray(Image.open(io.BytesIO(tab.screenshot())).convert("RGB"), int)[80:, :600]
        colors = {c["name"]: [*bytes.fromhex(c["color"][1:])] for c in classes}
        return [name for name, color in colors.items() if (abs(pixels - color).max(axis=2) <= 3).any()]

    classes = tab.ask("medfuse.state.about.classes")
    tab.ask("(medfuse.state.opacity = 1, medfuse.look('axial'), 0)")
    tab.ask("(medfuse.nv.scene.crosshairPos = medfuse.nv.vox2frac([4, 4, 6]), medfuse.hide('first', false))")
    assert seen() == ["first", "second"]
    tab.ask("medfuse.hide('second', true)")
    assert seen() == ["first"]
    tab.press("h")
    assert seen() == []


def test_keys_change_what_is_shown(files, shown):
    other = files.write("other.nii.gz", np.zeros((20, 16, 12), np.uint8))
    tab = shown(files.scan(), files.labels(), other)
    layer = "medfuse.state.about.layers[medfuse.state.layer] ?? 'difference'"
    assert tab.ask(layer) == "prediction"
    tab.press("x")
    assert tab.ask(layer) == "reference"
    tab.press("d")
    assert tab.ask(layer) == "difference"
    counts = (
        "(() => { const n = [0, 0, 0, 0]; for (const v of medfuse.nv.volumes[1].img) n[v]++; return n })()"
    )
    missed = 6 * 6 * 5 + 5 * 4 * 4
    assert tab.ask(counts) == [20 * 16 * 12 - missed, missed, 0, 0]
    tab.press("x")
    assert tab.ask(layer) == "reference"
    tab.press("h")
    assert tab.ask("medfuse.state.labels") is False
    tab.press("3")
    assert tab.ask("medfuse.state.view") == "coronal"


def test_a_case_is_opened_by_its_name(grids, shown):
    tab = shown("scans", "labels", fragment="#oblique")
    assert tab.ask("medfuse.state.about.name") == "oblique"
    tab.press("n")
    tab.frames(5)
    assert tab.ask("document.getElementById('cases').selectedOptions[0].textContent") == "oblique_flipped"


@pytest.mark.parametrize(
    ("shape", "view"),
    [((9, 7, 1), "axial"), ((9, 1, 7), "coronal"), ((1, 9, 7), "sagittal"), ((9, 7, 5), "all")],
)
def test_a_single_slice_is_shown_in_its_plane(files, shown, shape, view):
    scan = files.scan(shape=shape, affine=np.eye(4))
    labels = files.write("l.nii", np.ones(shape, np.uint8), np.eye(4))
    assert shown(scan, labels).ask("medfuse.state.view") == view


def test_uncertainty_is_shown_beside_the_labels_and_compared_with_nothing(files, shown):
    values = np.zeros((20, 16, 12), np.float32)
    values[10:14, 3:6, 4:6] = 0.95
    files.scan("scans/a.nii.gz")
    files.labels("labels/a.nii.gz")
    files.write("labels/a_uncertainty.nii.gz", values)
    tab = shown("scans", "labels")
    layer = "medfuse.state.about.layers[medfuse.state.layer]"
    assert tab.ask(layer) == "labels"
    assert tab.ask("[...document.querySelectorAll('#layers button')].map(b => b.textContent)") == [
        "labels",
        "uncertainty",
    ]
    tab.press("d")
    assert tab.ask(layer) == "labels"
    tab.press("x")
    assert tab.ask(layer) == "uncertainty"
    assert tab.ask("medfuse.nv.volumes[1].img.filter(v => v > 0).length") == 24
    assert tab.ask("medfuse.at(medfuse.state.about.classes.at(-1).at).labels[1]") == "unsure 0.9 to 1"
