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
import textwrap
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import annotated_types
import torch
import yaml
from pydantic import ValidationError
from torch import Tensor, nn

from medfuse.api import (
    ActivationLoss,
    AuxSchedule,
    Backbone,
    Case,
    Dataset,
    FeatureInfo,
    FusionBlock,
    ImageInfo,
    Loss,
    Plugin,
    Runtime,
    TapStrategy,
)
from medfuse.core.errors import DataError, MedfuseError

__all__ = [
    "check_activation_loss",
    "check_aux_schedule",
    "check_backbone",
    "check_dataset",
    "check_fusion_block",
    "check_loss",
    "check_runtime",
    "check_tap_strategy",
]

Check = Callable[[], None]
Maps = dict[str, Tensor]


def check_backbone(plugin: Backbone, image: ImageInfo) -> None:
    """Declared features against real ones, at the patch's size and at odd ones, and what any module keeps."""
    declared = list(plugin.features(image))
    odd = [n + 1 for n in image.patch_size]

    def images(size: Sequence[int], batch: int) -> list[Tensor]:
        return [_random(batch, image.channels, *size)]

    def features(network: nn.Module, given: Sequence[Tensor]) -> Maps:
        return _tapped(network, [f.name for f in declared], *given)[0]

    def real_ones_are_as_declared(size: Sequence[int]) -> None:
        found = features(_seeded(build), images(size, 2))
        for feature in declared:
            _compare(feature, found[feature.name], size, 2)

    def finest_first() -> None:
        assert declared, "features() is empty; declare what can be tapped"
        sizes = [math.prod(f.stride) for f in declared]
        assert sizes == sorted(sizes), f"strides {[f.stride for f in declared]} are not finest first"

    def names_are_unique() -> None:
        twice = [name for name, times in Counter(f.name for f in declared).items() if times > 1]
        assert not twice, f"{', '.join(twice)} is declared more than once"

    def gradients_are_alive() -> None:
        dead = [name for name, x in module.tried.outputs.items() if not x.requires_grad]
        assert not dead, f"{', '.join(dead)} is detached"

    def gradients_reach_what_runs() -> None:
        network = _seeded(build)
        ran: set[str] = set()
        for path, layer in network.named_modules():
            layer.register_forward_hook(lambda *_, path=path: ran.add(path))
        found, output = _tapped(network, [f.name for f in declared], *images(image.patch_size, 2))
        _backward([*found.values(), *_tensors(output).values()])
        missed = [n for n, p in network.named_parameters() if n.rpartition(".")[0] in ran and p.grad is None]
        assert not missed, f"no gradient reaches {', '.join(missed)}"

    build = partial(plugin.build, image)
    module = _Module(build, lambda batch: images(image.patch_size, batch), features, ["the image"])
    _run(
        plugin,
        {
            "has features, finest first": finest_first,
            "feature names are unique": names_are_unique,
            "declared equals real": partial(real_ones_are_as_declared, image.patch_size),
            "declared equals real at odd sizes": partial(real_ones_are_as_declared, odd),
            "any batch": module.takes_any_batch,
            "gradients are alive": gradients_are_alive,
            "gradients reach every parameter": gradients_reach_what_runs,
            **module.laws("networks"),
        },
    )


def check_fusion_block(plugin: FusionBlock, inputs: Sequence[FeatureInfo]) -> None:
    """The planned map against the real one, for any batch and odd sizes, and what any module keeps."""
    even = _even_size(inputs)
    odd = [n + 1 for n in even]

    def real_ones_are_as_planned(size: Sequence[int]) -> None:
        planned = [plugin.plan(inputs), *plugin.side_outputs(inputs)]
        given = _maps(inputs, size, 2)
        sizes = {x.stride: tuple(tensor.shape[2:]) for x, tensor in zip(inputs, given)}
        made = [*_outputs(_seeded(build), given).values()]
        assert len(made) == len(planned), f"plans {len(planned)} maps, makes {len(made)}"
        for feature, tensor in zip(planned, made):
            _compare(feature, tensor, size, 2)
            real, like = tuple(tensor.shape[2:]), sizes.get(feature.stride)
            assert like in (None, real), (
                f"{feature.name} is {real} beside inputs of its stride that are {like}"
            )

    build = partial(plugin.build, inputs)
    module = _Module(build, partial(_maps, inputs, even), _outputs, [x.name for x in inputs])
    _run(
        plugin,
        {
            "planned equals real": partial(real_ones_are_as_planned, even),
            "planned equals real at odd sizes": partial(real_ones_are_as_planned, odd),
            "any batch": module.takes_any_batch,
            "gradients reach every parameter and input": module.gradients_reach_everything,
            **module.laws("blocks"),
        },
    )


def check_tap_strategy(plugin: TapStrategy) -> None:
    """Taps of a small chain of layers against its real intermediate outputs."""
    convolution: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
    names = ["0", "2"]

    def network(dims: int) -> nn.Module:
        conv = convolution[dims]
        return nn.Sequential(
            conv(1, 4, 3, padding=1),
            nn.Tanh(),
            conv(4, 6, 3, stride=2, padding=1),
            nn.ReLU(),  # not in place: what follows a tap may still need it
            conv(6, 2, 1),
        )

    def attached(dims: int = 2) -> nn.Module:
        image = ImageInfo(1, (8,) * dims, (1.0,) * dims)
        taps = [FeatureInfo("0", 4, (1,) * dims), FeatureInfo("2", 6, (2,) * dims)]
        return plugin.attach(_seeded(partial(network, dims)), taps, image)

    def images(*size: int, batch: int = 2) -> list[Tensor]:
        return [_random(batch, 1, *size)]

    def has_the_names() -> None:
        found = sorted(module.tried.outputs)
        assert found == names, f"makes {found}, wanted were {names}"

    def equals_the_real_ones(*size: int) -> None:
        real, _ = _tapped(_seeded(partial(network, len(size))), names, *images(*size))
        _same(real, _by_name(attached(len(size)), images(*size)))

    def gradients_are_alive() -> None:
        dead = [name for name, x in module.tried.outputs.items() if not x.requires_grad]
        assert not dead, f"{', '.join(dead)} is detached"

    def nothing_is_kept() -> None:
        tapped = attached()
        held = [weakref.ref(tensor) for tensor in tapped(*images(8, 8)).values()]
        assert not any(ref() is not None for ref in held), "outputs are still held after the forward pass"

    module = _Module(attached, lambda batch: images(8, 8, batch=batch), _by_name, ["the image"])
    _run(
        plugin,
        {
            "makes what is asked for": has_the_names,
            "equals the real outputs": partial(equals_the_real_ones, 8, 8),
            "equals the real outputs at odd sizes": partial(equals_the_real_ones, 7, 9),
            "equals the real outputs in 3-D": partial(equals_the_real_ones, 8, 8, 8),
            "any batch": module.takes_any_batch,
            "gradients are alive": gradients_are_alive,
            "nothing is kept": nothing_is_kept,
            **module.laws("tapped networks"),
        },
    )


def check_aux_schedule(plugin: AuxSchedule) -> None:
    """Weights are finite, not negative, one per head, and depend on nothing but the step; so is a balance."""
    heads = 2

    def asked() -> Iterator[tuple[str, list[float], int]]:
        for total in (1, 2, 100):
            for step in sorted({0, total // 2, total - 1}):
                for count in (1, 4):
                    made = list(plugin.weights(step, total, count))
                    yield f"step {step} of {total}, {count} heads: {made}", made, count

    def one_per_head() -> None:
        for place, made, count in asked():
            assert len(made) == count, f"not one weight per head at {place}"

    def every_weight_is_good() -> None:
        for place, made, _ in asked():
            assert all(math.isfinite(w) and w >= 0 for w in made), f"not finite and ≥ 0 at {place}"

    def is_pure() -> None:
        first = [list(plugin.weights(step, 10, heads)) for step in range(10)]
        again = [list(plugin.weights(step, 10, heads)) for step in reversed(range(10))][::-1]
        assert first == again, "asked again, in another order, it gives other weights"

    def balances() -> None:
        module = _seeded(build)
        _finite_scalar(module(losses(1)[0]))
        now = list(module.weights())  # type: ignore[operator]  # a module of the plugin's
        assert len(now) == 1 + heads, f"weights() gives {len(now)} numbers for {1 + heads} losses"
        assert all(map(math.isfinite, now)), f"weights() gives {now}"

    def build() -> nn.Module:
        made = plugin.balance(heads)
        assert made is not None
        return made

    def losses(_: int) -> list[Tensor]:
        return [torch.linspace(0.5, 1.5, 1 + heads)]

    checks: dict[str, Check] = {
        "one weight per head": one_per_head,
        "weights are finite and not negative": every_weight_is_good,
        "is a pure function": is_pure,
    }
    if plugin.balance(heads) is not None:
        module = _Module(build, losses, _outputs, ["losses"])
        checks["balances losses to a finite scalar"] = balances
        checks["gradients reach every parameter and loss"] = module.gradients_reach_everything
        checks.update(module.laws("balances"))
    _run(plugin, checks)


def check_loss(plugin: Loss) -> None:
    """A finite scalar with a gradient, in 2-D and 3-D, that prefers right logits to wrong ones."""
    classes = 3

    def value(logits: Tensor, target: Tensor) -> Tensor:
        return _finite_scalar(_seeded(partial(plugin.build, logits.shape[1]))(logits, target))

    def case(dims: int, classes: int = classes) -> tuple[Tensor, Tensor]:
        """Logits that are certain of a random target, and the target."""
        target = torch.randint(classes, (2, 1, *(6, 5, 7)[:dims]), generator=_generator())
        return nn.functional.one_hot(target[:, 0], classes).movedim(-1, 1).float(), target

    def has_a_gradient(logits: Tensor, target: Tensor) -> None:
        logits = logits.clone().requires_grad_()
        made = value(logits, target)
        assert made.requires_grad, "no gradient reaches the logits"
        made.backward()
        assert logits.grad is not None, "no gradient reaches the logits"
        assert bool(torch.isfinite(logits.grad).all()), "the gradient is not finite"

    def for_dims(dims: int) -> None:
        truth, target = case(dims)
        has_a_gradient(_random(*truth.shape), target)

    def for_any_number_of_classes() -> None:
        for number in (2, 5):
            truth, target = case(3, number)
            has_a_gradient(_random(*truth.shape), target)

    def on_background_alone() -> None:
        truth, target = case(3)
        has_a_gradient(_random(*truth.shape), torch.zeros_like(target))

    def for_certain_logits() -> None:
        truth, target = case(3)
        for sign in (1, -1):
            has_a_gradient(sign * 1000 * truth, target)

    def prefers_what_is_right() -> None:
        truth, target = case(3)
        right, wrong = value(10 * truth, target), value(-10 * truth, target)
        assert right < wrong, f"right logits cost {float(right)}, wrong ones {float(wrong)}"

    def given(_: int) -> list[Tensor]:
        truth, target = case(3)
        return [_random(*truth.shape), target]

    module = _Module(partial(plugin.build, classes), given, _outputs, ["logits", "target"])
    _run(
        plugin,
        {
            "a finite scalar with a gradient in 2-D": partial(for_dims, 2),
            "a finite scalar with a gradient in 3-D": partial(for_dims, 3),
            "any number of classes": for_any_number_of_classes,
            "finite where background is alone": on_background_alone,
            "finite where logits are certain": for_certain_logits,
            "prefers what is right": prefers_what_is_right,
            **module.laws("losses"),
        },
    )


def check_activation_loss(plugin: ActivationLoss, maps: Sequence[FeatureInfo]) -> None:
    """A finite scalar with a gradient, of maps each on its own grid, and what any module keeps."""
    even = _even_size(maps)
    odd = [n + 1 for n in even]

    def is_finite(size: Sequence[int], batch: int) -> None:
        plugin.plan(maps)
        _finite_scalar(_seeded(build)(*_maps(maps, size, batch)))

    def reaches_a_map() -> None:
        reached = module.reached()
        missed = [name for name in reached.missed if name not in module.names]
        assert not missed, f"no gradient reaches {', '.join(missed)}"
        assert set(module.names) - set(reached.missed), f"no gradient reaches {', '.join(module.names)}"

    def bears_dead_maps() -> None:
        given = [torch.zeros_like(x).requires_grad_() for x in _maps(maps, even, 2)]
        _finite_scalar(_seeded(build)(*given)).backward()
        for x, tensor in zip(maps, given):
            finite = tensor.grad is None or bool(torch.isfinite(tensor.grad).all())
            assert finite, f"the gradient of {x.name} is not finite where all of it is 0"

    build = partial(plugin.build, maps)
    module = _Module(build, partial(_maps, maps, even), _outputs, [x.name for x in maps])
    _run(
        plugin,
        {
            "a finite scalar": partial(is_finite, even, 2),
            "a finite scalar at odd sizes": partial(is_finite, odd, 2),
            "any batch": partial(is_finite, even, 1),
            "gradients reach every parameter and a map": reaches_a_map,
            "finite on dead maps": bears_dead_maps,
            **module.laws("losses"),
        },
    )


def check_dataset(plugin: Dataset) -> None:
    """What is read from `plugin`'s folder, which has to hold a case or more; no image is opened."""

    def has_cases() -> None:
        assert plugin.read().cases, f"no case is found in {plugin.root}"

    def labels_have_values() -> None:
        info = plugin.read()
        labels, values = info.labels, list(info.labels.values())
        assert 0 in values, f"labels {dict(labels)} do not begin with background: 0"
        assert len(values) > 1, f"labels {dict(labels)} name nothing to segment"
        assert len(set(values)) == len(values), f"labels {dict(labels)} share values"
        regions = any(isinstance(value, tuple) for value in values)
        order = len(values) - 1 if regions else 0
        assert len(info.region_order) == order, (
            f"region_order has {len(info.region_order)} values, not {order}"
        )

    def cases_have_names() -> None:
        info = plugin.read()
        for cases in (info.cases, info.test_cases):
            twice = [name for name, times in Counter(case.name for case in cases).items() if times > 1]
            assert not twice, f"{', '.join(twice)} names more than one case"
        unfit = [c.name for c in info.cases if not c.name or set(c.name) & set("/\\\n") or c.name[0] == "."]
        assert not unfit, f"{unfit} cannot name a file"

    def files_are_there() -> None:
        info = plugin.read()
        missing = [p for case in (*info.cases, *info.test_cases) for p in _files(case) if not p.is_file()]
        assert not missing, f"{', '.join(map(str, missing))}: no such file"
        bare = [case.name for case in info.cases if case.label is None]
        assert not bare, f"{', '.join(bare)} has no label"

    def channels_have_files() -> None:
        info = plugin.read()
        for case in info.cases:
            counts = len(case.images), len(info.channels)
            assert counts[0] in (1, counts[1]), f"{case.name} has {counts[0]} images for {counts[1]} channels"

    def splits_part_the_cases() -> None:
        info = plugin.read()
        names = {case.name for case in info.cases}
        for number, split in enumerate(info.splits):
            unknown = {*split.train, *split.validation} - names
            assert not unknown, f"fold {number} names {', '.join(sorted(unknown))}, which is no case"
            both = set(split.train) & set(split.validation)
            assert not both, f"fold {number} trains and judges with {', '.join(sorted(both))}"
            assert all((split.train, split.validation)), f"fold {number} has an empty side"

    def reads_the_same_again() -> None:
        assert plugin.read() == plugin.read(), "read twice it differs; sort what the disk lists"

    def blames_a_missing_folder() -> None:
        nowhere = plugin.root / "no_such_folder"
        try:
            plugin.model_copy(update={"root": nowhere}).read()
        except DataError as error:
            said = str(error)
        else:
            raise AssertionError("a folder that is not there is read; raise DataError that names it")
        assert str(nowhere) in said, f"{said!r} does not name the folder"

    _run(
        plugin,
        {
            "has cases": has_cases,
            "labels have values of their own": labels_have_values,
            "cases have names of their own": cases_have_names,
            "every file is there": files_are_there,
            "channels have files": channels_have_files,
            "splits part the cases": splits_part_the_cases,
            "reads the same again": reads_the_same_again,
            "blames a missing folder": blames_a_missing_folder,
        },
    )


def check_runtime(plugin: Runtime) -> None:
    """Logits of small 2-D and 3-D networks against those that torch gives in evaluation and fp32."""
    layers: dict[int, tuple[Any, Any]] = {
        2: (nn.Conv2d, nn.BatchNorm2d),
        3: (nn.Conv3d, nn.BatchNorm3d),
    }

    def network(dims: int) -> nn.Module:
        conv, norm = layers[dims]
        return nn.Sequential(conv(1, 8, 3, padding=1), norm(8), nn.ReLU(), nn.Dropout(0.5), conv(8, 3, 1))

    def windows(dims: int, batch: int = 2) -> Tensor:
        return _random(batch, 1, *(8, 8, 6)[:dims])

    def prepared(dims: int) -> Callable[[Tensor], Tensor]:
        return plugin.prepare(_seeded(partial(network, dims)), windows(dims))

    def equals_torch(dims: int, batch: int = 2) -> None:
        made = prepared(dims)(windows(dims, batch))
        with torch.no_grad():
            expected = _seeded(partial(network, dims)).eval()(windows(dims, batch))
        assert isinstance(made, Tensor), f"makes a {type(made).__name__}, not a tensor"
        assert made.shape == expected.shape, f"makes {tuple(made.shape)}, wanted is {tuple(expected.shape)}"
        error = float((made.float() - expected).norm() / expected.norm())
        assert error < 0.05, f"logits differ from torch's by {error:.2g} of their size"

    def gives_floats() -> None:
        made = prepared(2)(windows(2))
        wanted = (torch.float32, torch.bfloat16, torch.float16)
        assert made.dtype in wanted, f"logits are {made.dtype}, wanted is one of {wanted}"
        assert not made.requires_grad, "logits hold on to a graph; run in torch.inference_mode()"

    def leaves_its_windows() -> None:
        given = windows(2)
        prepared(2)(given)
        assert torch.equal(given, windows(2)), "the windows are changed in place"

    def repeats_itself() -> None:
        run = prepared(2)
        _same({"logits": run(windows(2)).clone()}, {"logits": run(windows(2))})

    def keeps_networks_apart() -> None:
        first = prepared(2)
        before = first(windows(2)).clone()
        second = _seeded(partial(network, 2))
        with torch.no_grad():
            for parameter in second.parameters():
                parameter.add_(1)
        plugin.prepare(second, windows(2))(windows(2))
        assert torch.equal(before, first(windows(2))), "preparing another network changes the first"

    _run(
        plugin,
        {
            "equals torch in 2-D": partial(equals_torch, 2),
            "equals torch in 3-D": partial(equals_torch, 3),
            "any batch": partial(equals_torch, 2, 1),
            "logits are floats without a graph": gives_floats,
            "inputs stay as they are": leaves_its_windows,
            "is deterministic": repeats_itself,
            "two networks share nothing": keeps_networks_apart,
        },
    )


def _run(plugin: Plugin, checks: Mapping[str, Check]) -> None:
    """Run every check, those common to all plugins first; report all that fail."""
    common: dict[str, Check] = {
        "every parameter is documented": partial(_parameters_are_documented, plugin),
        "the docstring has a line and an example": partial(_docstring_has_an_example, plugin),
        "its example is valid": partial(_example_is_valid, plugin),
        "its YAML reads back": partial(_reads_back, plugin),
        "an unknown key is refused": partial(_unknown_keys_are_refused, plugin),
        "a value out of range is refused by name": partial(_ranges_are_kept, plugin),
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
    text = _docstring(plugin)
    assert text.partition("\n")[0].strip(), "write what it does in the docstring's first line"
    assert "use:" in text, "show a YAML example, such as `fused: {use: NAME, inputs: [...]}`"


def _example_is_valid(plugin: Plugin) -> None:
    for paragraph in _docstring(plugin).split("\n\n"):
        if "use:" in paragraph:
            for example in _plugins_in(yaml.safe_load(textwrap.dedent(paragraph))):
                try:
                    type(plugin).model_validate(example)
                except ValidationError as error:
                    raise AssertionError("; ".join(_said(error))) from error


def _plugins_in(value: Any) -> Iterator[dict[str, Any]]:
    """The parameters of every mapping with `use:`, the outermost alone."""
    if isinstance(value, dict) and "use" in value:
        yield {key: inner for key, inner in value.items() if key != "use"}
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _plugins_in(inner)


def _reads_back(plugin: Plugin) -> None:
    again = type(plugin).model_validate(plugin.model_dump(mode="json"))
    assert again == plugin, f"{plugin!r} is read back as {again!r}"


def _unknown_keys_are_refused(plugin: Plugin) -> None:
    assert not _accepts(plugin, "no_such_key", 1), "`no_such_key: 1` is accepted; keep extra='forbid'"


def _ranges_are_kept(plugin: Plugin) -> None:
    """A validator may come before a field's range and hide it, or raise without the field's name."""
    for name, field in type(plugin).model_fields.items():
        for value in _out_of_range(field.metadata):
            assert not _accepts(plugin, name, value), f"{name}: {value} is accepted, against its range"


def _out_of_range(metadata: Iterable[Any]) -> Iterator[Any]:
    for bound in metadata:
        match bound:
            case annotated_types.Ge(ge):
                yield ge - 1  # type: ignore[operator]  # bounds are numbers
            case annotated_types.Gt(gt):
                yield gt
            case annotated_types.Le(le):
                yield le + 1  # type: ignore[operator]  # bounds are numbers
            case annotated_types.Lt(lt):
                yield lt


def _accepts(plugin: Plugin, name: str, value: Any) -> bool:
    """Whether the plugin can be made with that value. A refusal has to name the parameter."""
    try:
        type(plugin).model_validate({**plugin.model_dump(mode="json"), name: value})
    except ValidationError as error:
        said = _said(error)
    except MedfuseError as error:
        said = [str(error)]
    else:
        return True
    assert any(name in text for text in said), f"{name}: {value} is refused without its name: {said}"
    return False


def _said(error: ValidationError) -> list[str]:
    return [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]


def _docstring(plugin: Plugin) -> str:
    return inspect.cleandoc(type(plugin).__dict__.get("__doc__") or "")


class _Module:
    """A module that a plugin builds: how one is made, given(batch), and its outputs by name."""

    def __init__(
        self,
        build: Callable[[], nn.Module],
        given: Callable[[int], list[Tensor]],
        run: Callable[[nn.Module, Sequence[Tensor]], Maps],
        names: Sequence[str],
    ) -> None:
        self.build, self.given, self.run, self.names = build, given, run, list(names)

    def laws(self, plural: str) -> dict[str, Check]:
        """What every module keeps, whatever it is for."""
        return {
            "every parameter is registered": self.registers_its_parameters,
            "inputs stay as they are": self.leaves_its_inputs,
            "evaluation is deterministic": lambda: self.agrees(self.tried.module),
            "a copy agrees": lambda: self.agrees(copy.deepcopy(self.tried.module)),
            "an unpickled one agrees": lambda: self.agrees(pickle.loads(pickle.dumps(self.tried.module))),
            "the same seed agrees": lambda: self.agrees(_seeded(self.build).eval()),
            f"two {plural} share nothing": self.shares_nothing,
        }

    @cached_property
    def tried(self) -> _Tried:
        return _Tried(self)

    def agrees(self, module: nn.Module) -> None:
        _same(self.tried.outputs, self.run(module, self.given(2)))

    def registers_its_parameters(self) -> None:
        known = {id(p) for p in self.tried.module.parameters()}
        strays = [tuple(x.shape) for x in _leaves(self.tried.outputs.values()) if id(x) not in known]
        assert not strays, (
            f"weights of shape {', '.join(map(str, strays))} are no parameters of the module; assign layers "
            "as attributes in __init__, and hold lists of them in nn.ModuleList"
        )

    def leaves_its_inputs(self) -> None:
        pairs = zip(self.names, self.given(2), self.tried.given)
        changed = [name for name, before, after in pairs if not torch.equal(before, after)]
        assert not changed, f"{', '.join(changed)} is changed in place"

    def takes_any_batch(self) -> None:
        """In evaluation, what is made of a case does not depend on its company."""
        alone = self.run(self.tried.module, [x[:1] for x in self.given(3)])
        beside = self.run(self.tried.module, self.given(3))
        for name in alone:
            counts = [made[name].shape[0] for made in (alone, beside)]
            assert counts == [1, 3], f"output {name} has batches {counts} for batches of 1 and 3"
            error = (beside[name][:1] - alone[name]).norm() / alone[name].norm().clamp_min(1e-12)
            assert error < 1e-3, f"output {name} of a case changes with the other cases of its batch"

    def reached(self) -> _Reached:
        return _Reached(self)

    def gradients_reach_everything(self) -> None:
        missed = self.reached().missed
        assert not missed, f"no gradient reaches {', '.join(missed)}"

    def shares_nothing(self) -> None:
        """Neither tensors nor, as weights that are no parameters show, anything behind the outputs."""
        first, second = _seeded(self.build), self.tried.module
        both = {id(x) for x in _state(first)} & {id(x) for x in _state(second)}
        assert not both, f"{len(both)} parameters or buffers belong to both"
        made = self.run(first.train(), self.given(2))
        with torch.no_grad():
            for weight in _leaves(made.values()):
                weight.add_(1)
        try:
            self.agrees(second)
        except AssertionError as error:
            raise AssertionError(f"training one changes the other: {error}") from error


class _Tried:
    """A module in evaluation after its first pass, with what it was given and what it made."""

    def __init__(self, tested: _Module) -> None:
        self.module = _seeded(tested.build).eval()
        self.given = tested.given(2)
        self.outputs = tested.run(self.module, self.given)


class _Reached:
    """A module after one step backwards: names of the parameters and inputs that no gradient reached."""

    def __init__(self, tested: _Module) -> None:
        module = _seeded(tested.build).train()
        given = [x.requires_grad_() if x.is_floating_point() else x for x in tested.given(2)]
        _backward(tested.run(module, given).values())
        sought = [*module.named_parameters(), *zip(tested.names, given)]
        self.missed = [name for name, x in sought if x.requires_grad and x.grad is None]
        bad = [name for name, x in sought if x.grad is not None and not bool(torch.isfinite(x.grad).all())]
        assert not bad, f"the gradient of {', '.join(bad)} is not finite"


def _backward(outputs: Iterable[Tensor]) -> None:
    alive = [x.float().square().mean() for x in outputs if x.requires_grad]
    assert alive, "no output has a gradient"
    torch.stack(alive).sum().backward()


def _leaves(outputs: Iterable[Tensor]) -> list[Tensor]:
    """Every tensor that training would change, found from the outputs backwards."""
    left = [x.grad_fn for x in outputs if x.grad_fn is not None]
    seen = set(left)
    found: list[Tensor] = []
    while left:
        node = left.pop()
        if hasattr(node, "variable"):
            found.append(node.variable)
        new = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= new
        left.extend(new)
    return found


def _state(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _outputs(module: nn.Module, given: Sequence[Tensor]) -> Maps:
    return _tensors(module(*given))


def _tensors(output: Any) -> Maps:
    """A tensor, or a list or mapping of tensors, by number or name. What is no tensor is left out."""
    pairs = (
        output.items()
        if isinstance(output, Mapping)
        else enumerate(output if isinstance(output, list | tuple) else [output])
    )
    return {str(name): x for name, x in pairs if isinstance(x, Tensor)}


def _by_name(tapped: nn.Module, given: Sequence[Tensor]) -> Maps:
    made: Maps = tapped(*given)
    return made


def _tapped(network: nn.Module, names: Sequence[str], x: Tensor) -> tuple[Maps, Any]:
    """Real outputs of layers, by plain hooks: the truth that declarations are held against."""
    made: Maps = {}
    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: made.__setitem__(name, output)
        )
        for name in names
    ]
    try:
        output = network(x)
    finally:
        for handle in handles:
            handle.remove()
    missing = [name for name in names if name not in made]
    assert not missing, f"{', '.join(missing)} did not run"
    return {name: made[name] for name in names}, output


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


def _same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    assert list(ours) == list(theirs), f"{list(theirs)} in place of {list(ours)}"
    differing = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not differing, f"output {', '.join(differing)} differs"


def _finite_scalar(made: Any) -> Tensor:
    assert isinstance(made, Tensor), f"makes a {type(made).__name__}, wanted is a tensor"
    assert made.ndim == 0, f"makes a tensor of shape {tuple(made.shape)}, wanted is a scalar"
    assert bool(torch.isfinite(made)), f"makes {float(made)}"
    return made


def _files(case: Case) -> list[Path]:
    return [*case.images, *([case.label] if case.label else [])]


def _even_size(maps: Sequence[FeatureInfo]) -> list[int]:
    """Voxels of an image that every stride divides, some voxels being left."""
    return [max(4, *strides) * 2 for strides in zip(*(x.stride for x in maps))]


def _maps(maps: Sequence[FeatureInfo], size: Sequence[int], batch: int) -> list[Tensor]:
    return [_random(batch, x.channels, *x.size(tuple(size)), seed=i) for i, x in enumerate(maps)]


def _random(*shape: int, seed: int = 1) -> Tensor:
    """The same numbers at every call. The global seed is left alone, so that hidden randomness shows."""
    return torch.randn(shape, generator=_generator(seed))


def _generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    made = build()
    assert isinstance(made, nn.Module), f"builds a {type(made).__name__}, wanted is a torch.nn.Module"
    return made
