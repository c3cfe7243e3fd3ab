"""Maps on disk come back as they were, bit by bit, or not at all."""

import pytest
import torch

from medfuse.core.files import claimed
from medfuse.data.kept import KeptMaps, is_dense


def keep(tmp_path, made, *, half=False, number=7, label=None, **given):
    kept = KeptMaps(tmp_path / "maps", {"a.b": "k"}, half=half, image=False, **given)
    label = torch.zeros(2, 1, 4, 4, dtype=torch.int64) if label is None else label
    with kept.in_use({"patches": 2}):
        kept.write(number, {"label": label, "case": ["x", "y"]}, {"a.b": made}, 1.5)
    return kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_each_bit_comes_back(tmp_path, dtype):
    made = torch.randn(2, 5, 4, 3).to(dtype)
    found = keep(tmp_path, made).read(7)
    assert found["maps"]["a.b"].dtype == dtype
    assert torch.equal(found["maps"]["a.b"], made)
    assert (found["case"], found["seconds"], found["image"]) == (["x", "y"], 1.5, None)


@pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last, "transposed", "part of another", "expanded"]
)
def test_memory_is_ordered_as_it_was(tmp_path, layout):
    made = torch.randn(2, 5, 4, 3)
    if isinstance(layout, torch.memory_format):
        made = made.contiguous(memory_format=layout)
    elif layout == "transposed":
        made = made.transpose(1, 3)
    else:
        made = made[:, 1:4] if layout == "part of another" else made[:, :1].expand(2, 5, 4, 3)
    found = keep(tmp_path, made).read(7)["maps"]["a.b"]
    assert torch.equal(found, made)
    if is_dense(made):
        assert found.stride() == made.stride()


def test_in_half_a_map_is_what_rounding_makes_of_it(tmp_path):
    made = torch.randn(2, 5, 4, 3)
    kept = keep(tmp_path, made, half=True)
    found = kept.read(7)["maps"]["a.b"]
    assert found.dtype == torch.float32
    assert torch.equal(found, kept.rounded(made))
    assert torch.allclose(found, made, rtol=1e-3)


def test_half_takes_about_half(tmp_path):
    made = torch.randn(2, 50, 16, 16)
    batch = {"label": torch.zeros(2, 1, 4, 4, dtype=torch.int64), "case": []}
    sizes = [
        KeptMaps(tmp_path, {"m": "k"}, half=half, image=False).bytes_of(batch, {"m": made})["m"]
        for half in (True, False)
    ]
    assert 0.4 < sizes[0] / sizes[1] < 0.6


@pytest.mark.parametrize("most", [1, 255, 300, 70_000])
def test_labels_come_back_whatever_their_numbers(tmp_path, most):
    label = torch.arange(most + 1)[-16:].view(1, 1, -1, 1) if most > 16 else torch.ones(1, 1, 4, 4).long()
    assert torch.equal(keep(tmp_path, torch.ones(1, 1, 2, 2), label=label).read(7)["label"], label)


def test_any_byte_that_changed_is_noticed(tmp_path):
    kept = keep(tmp_path, torch.randn(1, 2, 3, 3))
    (path,) = kept.folder.glob("k/*.b2")
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert kept.read(7) is None
    for length in (0, 3, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert kept.read(7) is None
    path.write_bytes(whole)
    assert kept.read(7) is not None


def test_a_file_of_another_batch_is_not_taken_for_it(tmp_path):
    kept = keep(tmp_path, torch.randn(1, 2, 3, 3))
    (path,) = kept.folder.glob("k/*.b2")
    path.rename(path.with_name("000008.b2"))
    keep(tmp_path, torch.randn(1, 2, 3, 3), number=9)
    assert kept.read(8) is None
    assert kept.numbers() == {9}


def test_processes_that_share_batches_keep_their_own_parts(tmp_path):
    keep(tmp_path, torch.ones(1, 2, 3, 3), share="-0of2")
    second = keep(tmp_path, torch.zeros(1, 2, 3, 3), share="-1of2")
    assert second.numbers() == {7}
    assert not second.read(7)["maps"]["a.b"].any()
    assert KeptMaps(second.folder, {"a.b": "k"}, half=False, image=False).numbers() == set()


def test_what_a_killed_process_left_goes_with_the_next_that_is_alone(tmp_path):
    kept = keep(tmp_path, torch.ones(1, 2, 3, 3))
    (kept.folder / "k" / ".part-dead").write_bytes(b"half")
    with kept.in_use({}):
        assert not [*kept.folder.rglob(".part-*")]


def test_nobody_clears_what_is_in_use(tmp_path):
    kept = keep(tmp_path, torch.ones(1, 2, 3, 3))
    with kept.in_use({}), claimed(kept.folder) as free:
        assert not free
    with claimed(kept.folder) as free:
        assert free
