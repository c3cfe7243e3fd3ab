"""What a runtime keeps: it answers any windows as torch does, and leaves the network to others."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from medfuse.api import Runtime
from medfuse.testing import chance
from medfuse.testing.report import for_each, report
from medfuse.testing.tensors import distance, random, seeded

ROUNDED = 0.02
"""What may be lost by computing in 16 bits, as a share of the logits; it falls to either side …"""
BIASED = 0.005
"""… so that logits as a whole are neither larger nor smaller, nor shifted, by more than this share."""
_LAYERS: dict[int, tuple[Any, Any]] = {2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}

Run = Callable[[Tensor], Tensor]


def check_runtime(plugin: Runtime) -> None:
    """Logits of small 2-D and 3-D networks against those that torch gives in evaluation and fp32.

    They are of other windows than the runtime was prepared with, and of more and fewer of them.
    """
    report(
        plugin,
        {
            "equals torch in 2-D": partial(_equals_torch, plugin, 2),
            "equals torch in 3-D": partial(_equals_torch, plugin, 3),
            "equals torch for the example": partial(_equals_torch, plugin, 2, seed=1),
            "equals torch for windows of other values": partial(_bears_other_values, plugin),
            "any batch": for_each(partial(_bears_batch, plugin), 1, 3, 7),
            "no case depends on its company": partial(_keeps_cases_apart, plugin),
            "any layout in memory": partial(_bears_any_layout, plugin),
            "logits are floats without a graph": partial(_gives_floats, plugin),
            "logits outlive the next call": partial(_gives_logits_of_their_own, plugin),
            "inputs stay as they are": partial(_leaves_its_windows, plugin),
            "the network stays as it is": partial(_leaves_the_network, plugin),
            "is deterministic": partial(_repeats_itself, plugin),
            "any thread may call it": partial(_bears_threads, plugin),
            "two networks share nothing": partial(_keeps_networks_apart, plugin),
            "nobody else's chance is reseeded": lambda: chance.assert_no_reseeding(
                lambda: _prepared(plugin, 2)(_windows(2)), "preparing or running"
            ),
        },
    )


def _network(dims: int) -> nn.Module:
    conv, norm = _LAYERS[dims]
    made = nn.Sequential(conv(dims - 1, 8, 3, padding=1), norm(8), nn.ReLU(), nn.Dropout(0.5), conv(8, 3, 1))
    for name, tensor in made.named_buffers():
        if "running" in name:  # as after training
            tensor.add_(0.3)
    return made


def _model(dims: int) -> nn.Module:
    """With the same weights each time; the seed outside stays as it is."""
    with torch.random.fork_rng(devices=[]):
        return seeded(partial(_network, dims))


def _windows(dims: int, batch: int = 2, seed: int = 1) -> Tensor:
    return random(batch, dims - 1, *(8, 8, 6)[:dims], seed=seed)


def _prepared(plugin: Runtime, dims: int) -> Run:
    return plugin.prepare(_model(dims), _windows(dims))


def _real(dims: int, windows: Tensor) -> Tensor:
    with torch.no_grad():
        made: Tensor = _model(dims).eval()(windows)
    return made


def _compare(made: Any, windows: Tensor, dims: int) -> None:
    expected = _real(dims, windows)
    what = f"of {len(windows)} windows of {tuple(windows.shape[1:])}, prepared with 2"
    assert isinstance(made, Tensor), f"makes a {type(made).__name__}, not a tensor, {what}"
    assert made.shape == expected.shape, (
        f"makes {tuple(made.shape)}, wanted is {tuple(expected.shape)}, {what}"
    )
    error = distance(expected, made)
    assert error < ROUNDED, f"logits differ from torch's by {error:.2g} of their size, {what}"
    ours, theirs = made.detach().double(), expected.double()
    scale = float((ours * theirs).sum() / theirs.square().sum())
    assert abs(scale - 1) < BIASED, (
        f"logits are {scale:.4f} times torch's, {what}; rounding would not do that"
    )
    for number, (one, other) in enumerate(zip(ours.unbind(1), theirs.unbind(1))):
        scale = float((one * other).sum() / other.square().sum())
        alike = abs(scale - 1) < 2 * BIASED
        assert alike, (
            f"logits of class {number} are {scale:.4f} times torch's, {what}; rounding would not do that"
        )
    shift = float((ours - theirs).mean() / theirs.square().mean().sqrt())
    assert abs(shift) < BIASED, f"logits are shifted by {shift:.2g} of their size, {what}"


def _equals_torch(plugin: Runtime, dims: int, batch: int = 2, seed: int = 5) -> None:
    windows = _windows(dims, batch, seed)
    _compare(_prepared(plugin, dims)(windows), windows, dims)


def _bears_batch(plugin: Runtime, batch: int) -> None:
    for dims in (2, 3):
        _equals_torch(plugin, dims, batch)


def _bears_other_values(plugin: Runtime) -> None:
    run = _prepared(plugin, 3)
    for windows in (10 * _windows(3, seed=6) + 3, torch.zeros_like(_windows(3)), 0.1 * _windows(3, seed=7)):
        _compare(run(windows), windows, 3)


def _keeps_cases_apart(plugin: Runtime) -> None:
    """Windows of very different brightness, together, the other way round, and one alone."""
    run, windows = _prepared(plugin, 2), _windows(2, 5, seed=6)
    windows += torch.arange(5.0).reshape(-1, 1, 1, 1)
    together, turned, alone = (run(x).clone() for x in (windows, windows.flip(0), windows[4:]))
    for error in (distance(together, turned.flip(0)), distance(together[4:], alone)):
        assert error < ROUNDED, f"the logits of a window change by {error:.2g} with the others of its batch"


def _bears_any_layout(plugin: Runtime) -> None:
    """Windows may be cut out of a volume, or have their channels innermost."""
    run = _prepared(plugin, 3)
    windows = _windows(3, 2, seed=6)
    cut = random(2, 2, 10, 8, 6, seed=6)
    for given in (windows.contiguous(memory_format=torch.channels_last_3d), cut[:, :, 1:9]):
        _compare(run(given), given.contiguous(), 3)


def _gives_floats(plugin: Runtime) -> None:
    made = _prepared(plugin, 2)(_windows(2))
    wanted = (torch.float32, torch.bfloat16, torch.float16)
    assert made.dtype in wanted, f"logits are {made.dtype}, wanted is one of {wanted}"
    assert not made.requires_grad, "logits hold on to a graph; run in torch.inference_mode()"
    assert made.device == _windows(2).device, f"logits lie on {made.device}, the windows on the CPU"


def _gives_logits_of_their_own(plugin: Runtime) -> None:
    run = _prepared(plugin, 2)
    made = [run(_windows(2, seed=seed)) for seed in (1, 2)]
    kept = [logits.clone() for logits in made]
    for seed in (3, 4, 5):
        run(_windows(2, seed=seed))
    assert all(map(torch.equal, made, kept)), (
        "logits change once the next windows are run: it hands out one buffer again and again; copy it"
    )


def _leaves_its_windows(plugin: Runtime) -> None:
    example, given = _windows(2), _windows(2, seed=6)
    plugin.prepare(_model(2), example)(given)
    assert torch.equal(given, _windows(2, seed=6)), "the windows are changed in place; work on a copy"
    assert torch.equal(example, _windows(2)), "the example is changed in place; work on a copy"


def _leaves_the_network(plugin: Runtime) -> None:
    """Evaluation mode and another layout in memory are fine; other values, types, frozen weights are not."""
    for dims in (2, 3):
        model, plain = (_model(dims) for _ in range(2))
        first = plugin.prepare(model, _windows(dims))(_windows(dims, seed=6)).clone()
        with torch.no_grad():
            for (name, ours), theirs in zip(_state(model), plain.state_dict().values(), strict=True):
                assert ours.dtype == theirs.dtype, (
                    f"{name} of the network is {ours.dtype} after it; copy the model"
                )
                assert torch.equal(ours, theirs), (
                    f"{name} of the network has other values after it; copy the model"
                )
        stopped = [n for n, p in model.named_parameters() if not p.requires_grad or p.is_inference()]
        assert not stopped, (
            f"{', '.join(stopped)} can no longer be trained; copy the model, or leave it as it is"
        )
        given = _windows(dims, seed=6)
        try:
            answer = model.eval()(given)
            model.train()(given).sum().backward()
        except Exception as error:
            raise AssertionError(f"the network no longer runs by itself: {error}; copy the model") from error
        gap = distance(_real(dims, given), answer)
        assert gap < 1e-4, "the network itself answers otherwise after it; copy the model"
        model = _model(dims)
        plugin.prepare(model, _windows(dims))
        again = plugin.prepare(model, _windows(dims))(given)
        assert distance(first, again) < ROUNDED, "prepared twice, one network gives other logits"


def _state(model: nn.Module) -> list[tuple[str, Tensor]]:
    return list(model.state_dict().items())


def _repeats_itself(plugin: Runtime) -> None:
    run = _prepared(plugin, 2)
    first, again = run(_windows(2, seed=6)).clone(), run(_windows(2, seed=6))
    assert torch.equal(first, again), f"the same windows give other logits, by {distance(first, again):.2g}"


def _bears_threads(plugin: Runtime) -> None:
    """Prepared by one, called by another, in turns; what is set for a thread is not set for the next."""
    run, windows = _prepared(plugin, 2), _windows(2, seed=6)
    here = run(windows).clone()
    with ThreadPoolExecutor(1) as pool:
        there = pool.submit(run, windows).result()
    assert not there.requires_grad, (
        "logits hold on to a graph in another thread than the one that prepared; use torch.inference_mode() "
        "inside the callable"
    )
    assert distance(here, there) < ROUNDED, "another thread than the one that prepared gets other logits"
    assert distance(here, run(windows)) < ROUNDED, "after a call of another thread there are other logits"


def _keeps_networks_apart(plugin: Runtime) -> None:
    first = _prepared(plugin, 2)
    before = first(_windows(2)).clone()
    second = _model(2)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(1)
    plugin.prepare(second, _windows(2))(_windows(2))
    assert torch.equal(before, first(_windows(2))), "preparing another network changes the first"
