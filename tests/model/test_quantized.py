"""Networks in int8: layers by the names of their modules, and which of them do not bear it."""

import pytest
import torch
from torch import nn

pytest.importorskip("nncf", reason="pip install 'medfuse[int8]' to quantise")

from medfuse.model.openvino import compiled, convert, is_quantized
from medfuse.model.quantized import decided, errors_alone, layers_of, quantize, seconds_in_turns


def block(given: int, made: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(given, made, 3, padding=1), nn.InstanceNorm3d(made, affine=True), nn.ReLU()
    )


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(block(1, 4), block(4, 4), block(4, 4), nn.Conv3d(4, 2, 1)).eval()


def planted(place: int) -> nn.Sequential:
    """As `network` in fp32, but what layer `place` is given has one channel that dwarfs the others."""
    made = network()
    with torch.no_grad():
        for parameter in made[place - 1][1].parameters():
            parameter[0] *= 1e5
        made[place][0].weight[:, 0] /= 1e5
    return made


WINDOWS = [torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(n)) for n in range(3)]


def test_layers_are_named_by_their_modules_in_the_order_of_the_graph():
    assert [*layers_of(convert(network(), WINDOWS[0]))] == ["0.0", "1.0", "2.0", "3"]


def test_a_quantised_network_is_told_from_another_and_leaves_that_as_it_is():
    plain = convert(network(), WINDOWS[0])
    assert is_quantized(quantize(plain, WINDOWS))
    assert not is_quantized(plain)


def test_without_its_layers_nothing_is_quantised():
    plain = convert(network(), WINDOWS[0])
    assert not is_quantized(quantize(plain, WINDOWS, without=layers_of(plain)))


@pytest.mark.parametrize("place", [1, 2])
def test_the_layer_that_int8_ruins_is_the_worst_and_without_it_the_answers_are_right(place):
    model = planted(place)
    torch.testing.assert_close(model(WINDOWS[0]), network()(WINDOWS[0]), rtol=1e-3, atol=1e-3)
    plain = convert(model, WINDOWS[0])
    errors = errors_alone(plain, WINDOWS, WINDOWS[:2])
    worst, second = [*errors][:2]
    assert worst == f"{place}.0"
    assert errors[worst] > 10 * errors[second]
    exact = compiled(plain, WINDOWS[0], "fp32")(WINDOWS[0])

    def off(without: list[str]) -> float:
        made = compiled(quantize(plain, WINDOWS, without=without), WINDOWS[0], "int8")(WINDOWS[0])
        return float((made.float() - exact).norm() / exact.norm())

    assert off([]) > 5 * off([worst])


def test_a_network_of_two_axes_is_quantised_too():
    flat = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    windows = [torch.randn(1, 1, 16, 16) for _ in range(2)]
    made = quantize(convert(flat, windows[0]), windows)
    assert compiled(made, windows[0], "int8")(windows[0]).shape == (1, 2, 16, 16)


def test_regions_are_decided_each_by_itself_and_classes_against_each_other():
    logits = torch.tensor([[-1.0, 2.0], [1.0, 3.0]])[None]
    assert decided(logits, "softmax").tolist() == [[1, 1]]
    assert decided(logits, "regions").tolist() == [[[0, 1], [1, 1]]]


def test_what_takes_turns_is_timed_by_its_median():
    took = seconds_in_turns({"one": lambda x: x, "two": lambda x: x}, WINDOWS[0])
    assert {*took} == {"one", "two"}
    assert all(seconds >= 0 for seconds in took.values())


def test_a_transposed_convolution_is_quantised_under_its_name_and_can_be_left_out():
    torch.manual_seed(0)
    model = nn.Sequential(block(1, 4), nn.ConvTranspose3d(4, 4, 2, 2), block(4, 4), nn.Conv3d(4, 2, 1)).eval()
    plain = convert(model, WINDOWS[0])
    names = [*layers_of(plain)]
    assert names == ["0.0", "1", "2.0", "3"]
    assert {*errors_alone(plain, WINDOWS, WINDOWS[:1])} == {*names}
    quantized = quantize(plain, WINDOWS)
    assert [*layers_of(quantized)] == names
    assert is_quantized(quantize(plain, WINDOWS, without=["0.0", "2.0", "3"]))
    assert not is_quantized(quantize(plain, WINDOWS, without=names))
    exact, rough = model(WINDOWS[0]).detach(), compiled(quantized, WINDOWS[0], "int8")(WINDOWS[0]).float()
    assert float((rough - exact).square().mean() / exact.square().mean()) < 0.02
