"""Faults that authors of runtimes make, each caught by the law that it breaks."""

import copy
import threading

import torch
from planting import each, failed, planted
from sound import Plain, run_by
from torch import nn

from medfuse.testing import check_runtime


def of_the_example(model, example):
    answer = run_by(model.eval())(example)
    return lambda windows: (
        answer[: len(windows)].clone() if windows.shape == example.shape else run_by(model)(windows)
    )


def scaled_by_the_example(model, example):
    plain, most = run_by(model.eval()), example.abs().max()
    return lambda windows: plain(windows.clamp(-most, most))


def a_little_larger(model, example):
    return run_by(model.eval(), lambda logits: logits * 1.01)


def a_little_shifted(model, example):
    return run_by(model.eval(), lambda logits: logits + 0.01)


def one_channel_wrong(model, example):
    def after(logits):
        logits = logits.clone()
        logits[:, 1] *= 1.03
        return logits

    return run_by(model.eval(), after)


def in_bf16_for_good(model, example):
    model.eval().bfloat16()
    return lambda windows: run_by(model)(windows.bfloat16())


def frozen_for_good(model, example):
    return run_by(model.eval().requires_grad_(False))


def folded_in_place(model, example):
    model.eval()
    with torch.no_grad():
        conv, norm = model[0], model[1]
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()
        conv.bias.copy_((conv.bias - norm.running_mean) * factor + norm.bias)
        conv.weight.mul_(factor.reshape(-1, *(1,) * (conv.weight.ndim - 1)))
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - norm.eps)
    return run_by(model)


def emptied(model, example):
    mine = copy.deepcopy(model).eval()
    model[0].forward = None
    return run_by(mine)


def of_one_thread(model, example):
    home, plain = threading.get_ident(), run_by(model.eval())

    def run(windows):
        if threading.get_ident() != home:
            raise RuntimeError("called from another thread")
        return plain(windows)

    return run


def without_gradients_here(model, example):
    model.eval()
    torch.set_grad_enabled(False)
    return lambda windows: model(windows)


def with_one_thread(model, example):
    torch.set_num_threads(1 if torch.get_num_threads() > 1 else 2)
    return run_by(model.eval())


def in_double(model, example):
    return run_by(model.eval(), lambda logits: logits.double())


def as_numpy(model, example):
    return run_by(model.eval(), lambda logits: logits.numpy())


def normalised_by_the_batch(model, example):
    plain = run_by(model.eval())
    return lambda windows: plain(windows) * (1 + 0.05 * windows.mean())


def of_contiguous_windows(model, example):
    plain = run_by(model.eval())

    def run(windows):
        raw = torch.as_strided(
            windows, windows.shape, torch.empty(windows.shape).stride(), windows.storage_offset()
        )
        return plain(raw)

    return run


def filled_up(model, example):
    plain = run_by(model.eval())

    def run(windows):
        short = len(example) - len(windows)
        if short > 0:
            return plain(torch.cat([windows, windows[:1].expand(short, *windows.shape[1:])]))
        return plain(windows)

    return run


def in_place_of_the_example(model, example):
    example.sub_(example.mean())
    return run_by(model.eval())


def with_dropout(model, example):
    model.eval()
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.train()
    return run_by(model)


def reseeded(model, example):
    torch.manual_seed(0)
    return run_by(model.eval())


def in_turns(model, example):
    plain, slots = run_by(model.eval()), []

    def run(windows):
        made = plain(windows)
        if len(slots) < 2:
            slots.append(made.clone())
            return slots[-1]
        if slots[0].shape != made.shape:
            return made
        slots.reverse()
        return slots[0].copy_(made)

    return run


def split_into_twos(model, example):
    plain = run_by(model.eval())
    return lambda windows: torch.cat(
        [plain(windows[i : i + 2]) for i in range(0, len(windows) - len(windows) % 2, 2)] or [plain(windows)]
    )


def in_training(model, example):
    return run_by(model.train())


def with_softmax(model, example):
    return run_by(model.eval(), lambda logits: logits.softmax(1))


def of_the_examples_shape(model, example):
    return run_by(model.eval(), before=lambda windows: windows.reshape(example.shape))


def with_a_graph(model, example):
    return model.eval()


def moving_its_windows(model, example):
    return run_by(model.eval(), before=lambda windows: windows.add_(1e-3))


def with_noise(model, example):
    return run_by(model.eval(), lambda logits: logits + 1e-3 * torch.rand_like(logits))


LAST: dict[str, nn.Module] = {}


def kept_by_all(model, example):
    LAST["model"] = model.eval()
    return lambda windows: run_by(LAST["model"])(windows)


FAULTS = {
    "runs in training": ("equals torch in 2-D", in_training),
    "gives probabilities": ("equals torch in 3-D", with_softmax),
    "takes the example's shape": ("any batch", of_the_examples_shape),
    "holds on to a graph": ("logits are floats without a graph", with_a_graph),
    "changes its windows": ("inputs stay as they are", moving_its_windows),
    "adds noise": ("is deterministic", with_noise),
    "runs the last network": ("two networks share nothing", kept_by_all),
    "answers the example": ("equals torch in 2-D", of_the_example),
    "clamps to the example's range": ("equals torch for windows of other values", scaled_by_the_example),
    "is 1 % too large": ("equals torch in 3-D", a_little_larger),
    "is shifted a little": ("equals torch in 3-D", a_little_shifted),
    "has one class 3 % too large": ("equals torch in 2-D", one_channel_wrong),
    "turns the network into bf16": ("the network stays as it is", in_bf16_for_good),
    "freezes the network": ("the network stays as it is", frozen_for_good),
    "folds norms in place": ("the network stays as it is", folded_in_place),
    "leaves the network without a layer": ("the network stays as it is", emptied),
    "works in one thread": ("any thread may call it", of_one_thread),
    "turns gradients off for a thread": ("any thread may call it", without_gradients_here),
    "leaves gradients off": ("the process's settings stay as they are", without_gradients_here),
    "sets the number of threads": ("the process's settings stay as they are", with_one_thread),
    "answers in float64": ("logits are floats without a graph", in_double),
    "answers with an array": ("equals torch in 2-D", as_numpy),
    "scales by the batch": ("no case depends on its company", normalised_by_the_batch),
    "reads memory as if it were contiguous": ("any layout in memory", of_contiguous_windows),
    "fills batches up and leaves it so": ("any batch", filled_up),
    "changes the example": ("inputs stay as they are", in_place_of_the_example),
    "drops out": ("is deterministic", with_dropout),
    "sets the seed": ("nobody else's chance is reseeded", reseeded),
    "has two buffers, in turns": ("logits outlive the next call", in_turns),
    "leaves the last window out": ("any batch", split_into_twos),
}


@each(FAULTS)
def test_a_faulty_runtime_is_caught(fault):
    check, prepare = fault
    faulty = planted(Plain, prepare=lambda self, model, example: prepare(model, example))
    assert check in failed(check_runtime, faulty())


def test_without_a_fault_it_passes():
    check_runtime(Plain())
