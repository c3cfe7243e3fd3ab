"""The conformance suite for plugin authors: one call in a test runs every named check of a contract.

    def test_gated_keeps_the_contract():
        a, b = FeatureInfo("a", 8, (2, 2)), FeatureInfo("b", 4, (2, 2))
        check_fusion_block(Gated(inputs=("a", "b")), [a, b])

Every check that fails is reported, by name, in one AssertionError.
"""

from __future__ import annotations

import copy
import inspect
import math
import pickle
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from medfuse.api import AuxSchedule, Backbone, FeatureInfo, FusionBlock, ImageInfo, Loss, Plugin, TapStrategy

__all__ = ["check_aux_schedule", "check_backbone", "check_fusion_block", "check_loss", "check_tap_strategy"]

Check = Callable[[], None]


def check_backbone(plugin: Backbone, image: ImageInfo) -> None:
    """Declared features against real ones, at the patch's size and at odd ones, and the common checks."""

    def features(network: nn.Module, size: Sequence[int], batch: int) -> dict[str, Tensor]:
        torch.manual_seed(1)
        return _tapped(network, [f.name for f in declared], torch.randn(batch, image.channels, *size))

    def real_ones_are_as_declared(size: Sequence[int], batch: int) -> None:
        found = features(_seeded(build), size, batch)
        for feature in declared:
            _compare(feature, found[feature.name], size, batch)

    def finest_first() -> None:
        sizes = [math.prod(f.stride) for f in declared]
        assert sizes == sorted(sizes), f"strides {[f.stride for f in declared]} are not finest first"

    def gradients_are_alive() -> None:
        for name, tensor in features(_seeded(build), image.patch_size, 2).items():
            assert tensor.requires_grad, f"{name} is detached"

    def copies_agree(copied: Callable[[nn.Module], nn.Module]) -> None:
        network = _seeded(build).eval()
        _same(features(network, image.patch_size, 1), features(copied(network).eval(), image.patch_size, 1))

    declared = list(plugin.features(image))
    build = partial(plugin.build, image)
    odd = [n + 1 for n in image.patch_size]
    _run(
        plugin,
        {
            "has features, finest first": finest_first,
            "declared equals real": partial(real_ones_are_as_declared, image.patch_size, 2),
            "declared equals real at odd sizes": partial(real_ones_are_as_declared, odd, 3),
            "gradients are alive": gradients_are_alive,
            "a copy agrees": partial(copies_agree, copy.deepcopy),
            "an unpickled one agrees": partial(copies_agree, _pickled),
            "the same seed agrees": partial(copies_agree, lambda _: _seeded(build)),
            "two networks share nothing": partial(_two_share_nothing, build),
        },
    )


def check_fusion_block(plugin: FusionBlock, inputs: Sequence[FeatureInfo]) -> None:
    """The planned map against the real one, for any batch and odd sizes, and the common checks."""
    build = partial(plugin.build, inputs)
    even = [max(4, *strides) * 2 for strides in zip(*(x.stride for x in inputs))]
    odd = [n + 1 for n in even]

    def tensors(size: Sequence[int], batch: int = 2) -> list[Tensor]:
        torch.manual_seed(1)
        return [torch.randn(batch, x.channels, *x.size(tuple(size))) for x in inputs]

    def outputs(block: nn.Module, given: Sequence[Tensor]) -> list[Tensor]:
        made = block(*given)
        return list(made) if isinstance(made, list | tuple) else [made]

    def real_ones_are_as_planned(size: Sequence[int], batch: int) -> None:
        planned = [plugin.plan(inputs), *plugin.side_outputs(inputs)]
        made = outputs(_seeded(build), tensors(size, batch))
        assert len(made) == len(planned), f"plans {len(planned)} maps, makes {len(made)}"
        for feature, tensor in zip(planned, made):
            _compare(feature, tensor, size, batch)

    def gradients_reach_everything() -> None:
        block, given = _seeded(build), [x.requires_grad_() for x in tensors(even)]
        sum(x.square().mean() for x in outputs(block, given)).backward()  # type: ignore[union-attr]
        missed = [name for name, p in block.named_parameters() if p.grad is None]
        missed += [x.name for x, tensor in zip(inputs, given) if tensor.grad is None]
        assert not missed, f"no gradient reaches {', '.join(missed)}"

    def inputs_stay_as_they_are() -> None:
        given = tensors(even)
        kept = [x.clone() for x in given]
        outputs(_seeded(build), given)
        changed = [x.name for x, a, b in zip(inputs, given, kept) if not torch.equal(a, b)]
        assert not changed, f"{', '.join(changed)} is changed in place"

    def copies_agree(copied: Callable[[nn.Module], nn.Module]) -> None:
        block, given = _seeded(build).eval(), tensors(even)
        ours, theirs = outputs(block, given), outputs(copied(block).eval(), given)
        _same(dict(enumerate(ours)), dict(enumerate(theirs)))

    _run(
        plugin,
        {
            "planned equals real": partial(real_ones_are_as_planned, even, 2),
            "planned equals real at odd sizes": partial(real_ones_are_as_planned, odd, 3),
            "gradients reach every parameter and input": gradients_reach_everything,
            "inputs stay as they are": inputs_stay_as_they_are,
            "a copy agrees": partial(copies_agree, copy.deepcopy),
            "an unpickled one agrees": partial(copies_agree, _pickled),
            "the same seed agrees": partial(copies_agree, lambda _: _seeded(build)),
            "two blocks share nothing": partial(_two_share_nothing, build),
        },
    )


def check_tap_strategy(plugin: TapStrategy) -> None:
    """Taps of a small chain of layers against its real intermediate outputs."""
    image = ImageInfo(1, (8, 8), (1.0, 1.0))
    taps = [FeatureInfo("0", 4, (1, 1)), FeatureInfo("2", 6, (2, 2))]

    def network() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.Tanh(),
            nn.Conv2d(4, 6, 3, stride=2, padding=1),
            nn.ReLU(),  # not in place: what follows a tap may still need it
            nn.Conv2d(6, 2, 1),
        )

    def attached() -> nn.Module:
        return plugin.attach(_seeded(network), taps, image)

    def taps_of(tapped: nn.Module) -> dict[str, Tensor]:
        torch.manual_seed(1)  # after the weights were made
        made: dict[str, Tensor] = tapped(torch.randn(2, 1, 8, 8))
        return made

    def real() -> dict[str, Tensor]:
        made = _seeded(network)
        torch.manual_seed(1)
        return _tapped(made, [tap.name for tap in taps], torch.randn(2, 1, 8, 8))

    def has_the_names() -> None:
        found, wanted = sorted(taps_of(attached())), [tap.name for tap in taps]
        assert found == wanted, f"makes {found}, wanted were {wanted}"

    def gradients_are_alive() -> None:
        for name, tensor in taps_of(attached()).items():
            assert tensor.requires_grad, f"{name} is detached"

    def nothing_is_kept() -> None:
        tapped = attached()
        held = [weakref.ref(tensor) for tensor in taps_of(tapped).values()]
        assert not any(ref() is not None for ref in held), "outputs are still held after the forward pass"

    _run(
        plugin,
        {
            "makes what is asked for": has_the_names,
            "equals the real outputs": lambda: _same(real(), taps_of(attached())),
            "gradients are alive": gradients_are_alive,
            "nothing is kept": nothing_is_kept,
            "a copy agrees": lambda: _same(real(), taps_of(copy.deepcopy(attached()))),
            "an unpickled one agrees": lambda: _same(real(), taps_of(_pickled(attached()))),
        },
    )


def check_aux_schedule(plugin: AuxSchedule) -> None:
    """Weights are finite, not negative, one per head, and depend on nothing but the step."""

    def every_weight_is_good() -> None:
        for total in (1, 2, 100):
            for step in {0, total // 2, total - 1}:
                for heads in (1, 4):
                    made = list(plugin.weights(step, total, heads))
                    place = f"step {step} of {total}, {heads} heads: {made}"
                    assert len(made) == heads, f"not one weight per head at {place}"
                    assert all(math.isfinite(w) and w >= 0 for w in made), f"not finite and ≥ 0 at {place}"

    def is_pure() -> None:
        first = [list(plugin.weights(step, 10, 2)) for step in range(10)]
        again = [list(plugin.weights(step, 10, 2)) for step in reversed(range(10))][::-1]
        assert first == again, "asked in another order it gives other weights"

    _run(plugin, {"weights are finite and not negative": every_weight_is_good, "is a pure function": is_pure})


def check_loss(plugin: Loss) -> None:
    """A finite scalar with a gradient, in 2-D and 3-D, that prefers right logits to wrong ones."""
    classes = 3

    def value(logits: Tensor, target: Tensor) -> Tensor:
        made: Tensor = plugin.build(classes)(logits, target)
        assert made.ndim == 0, f"the loss has shape {tuple(made.shape)}, wanted is a scalar"
        assert bool(torch.isfinite(made)), f"the loss is {float(made)}"
        return made

    def case(dims: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(1)
        target = torch.randint(classes, (2, 1, *(6,) * dims))
        return nn.functional.one_hot(target[:, 0], classes).movedim(-1, 1).float(), target

    def has_a_gradient(dims: int) -> None:
        logits = torch.randn_like(case(dims)[0]).requires_grad_()
        value(logits, case(dims)[1]).backward()
        assert logits.grad is not None, "no gradient reaches the logits"
        assert bool(torch.isfinite(logits.grad).all()), "the gradient is not finite"

    def prefers_what_is_right() -> None:
        truth, target = case(3)
        right, wrong = value(10 * truth, target), value(-10 * truth, target)
        assert right < wrong, f"right logits cost {float(right)}, wrong ones {float(wrong)}"

    _run(
        plugin,
        {
            "a finite scalar with a gradient in 2-D": partial(has_a_gradient, 2),
            "a finite scalar with a gradient in 3-D": partial(has_a_gradient, 3),
            "prefers what is right": prefers_what_is_right,
        },
    )


def _run(plugin: Plugin, checks: dict[str, Check]) -> None:
    """Run every check, those common to all plugins first; report all that fail."""
    common: dict[str, Check] = {
        "every parameter is documented": partial(_parameters_are_documented, plugin),
        "the docstring has a line and an example": partial(_docstring_has_an_example, plugin),
        "its YAML reads back": partial(_reads_back, plugin),
    }
    failed: list[str] = []
    for name, check in {**common, **checks}.items():
        try:
            check()
        except Exception as error:
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            failed.append(f"{name}: {kind}{error}")
    if failed:
        raise AssertionError(f"{type(plugin).__name__} fails {len(failed)} checks:\n  " + "\n  ".join(failed))


def _parameters_are_documented(plugin: Plugin) -> None:
    bare = [name for name, field in type(plugin).model_fields.items() if not field.description]
    assert not bare, f"give {', '.join(bare)} a Field(description=...)"


def _docstring_has_an_example(plugin: Plugin) -> None:
    text = inspect.cleandoc(type(plugin).__dict__.get("__doc__") or "")
    assert text.partition("\n")[0].strip(), "write what it does in the docstring's first line"
    assert "use:" in text, "show a YAML example, such as `fused: {use: NAME, inputs: [...]}`"


def _reads_back(plugin: Plugin) -> None:
    again = type(plugin).model_validate(plugin.model_dump(mode="json"))
    assert again == plugin, f"{plugin!r} is read back as {again!r}"


def _compare(feature: FeatureInfo, tensor: Any, size: Sequence[int], batch: int) -> None:
    assert isinstance(tensor, Tensor), f"{feature.name} is a {type(tensor).__name__}, not a tensor"
    batch_real, channels, *real = tensor.shape
    assert batch_real == batch, f"{feature.name} has batch {batch_real} for a batch of {batch}"
    assert channels == feature.channels, (
        f"{feature.name} declares {feature.channels} channels, makes {channels}"
    )
    expected = feature.size(tuple(size))
    fits = len(real) == feature.dims and all(
        n // s <= m <= -(-n // s) for n, s, m in zip(size, feature.stride, real)
    )
    assert fits, f"{feature.name} declares {expected} for an image of {tuple(size)}, makes {tuple(real)}"


def _tapped(network: nn.Module, names: Sequence[str], x: Tensor) -> dict[str, Tensor]:
    """Real outputs of layers, by plain hooks: the truth that declarations are held against."""
    made: dict[str, Tensor] = {}
    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: made.__setitem__(name, output)
        )
        for name in names
    ]
    try:
        network(x)
    finally:
        for handle in handles:
            handle.remove()
    missing = [name for name in names if name not in made]
    assert not missing, f"{', '.join(missing)} did not run"
    return made


def _same(ours: dict[Any, Tensor], theirs: dict[Any, Tensor]) -> None:
    assert list(ours) == list(theirs), f"{list(theirs)} in place of {list(ours)}"
    differing = [str(name) for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not differing, f"output {', '.join(differing)} differs"


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build()


def _pickled(module: nn.Module) -> nn.Module:
    made: nn.Module = pickle.loads(pickle.dumps(module))
    return made


def _two_share_nothing(build: Callable[[], nn.Module]) -> None:
    first, second = build(), build()
    shared = {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
    assert not shared, f"{len(shared)} parameters belong to both"
