"""Networks reduced to what their taps need: traced, cut down to the operations that matter, compiled anew."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Interpreter, Node, Proxy, Tracer
from torch.overrides import _get_current_function_mode, _pop_mode_temporarily
from torch.utils._pytree import tree_leaves

from medfuse.builtin.nets.observed import Observer, Tap, check_taps, find_taps
from medfuse.core.errors import ShapeError
from medfuse.core.features import FeatureInfo, ImageInfo
from medfuse.model.address import as_returned, element
from medfuse.model.trial import in_mode, trial

REMEDY = "tap it with forward_hook instead"
ANOTHER_WAY = f"the network is traced along another way than it runs, so its graph would be wrong; {REMEDY}"


class Whole(nn.Module):
    """A network given an image and nothing else, so that its optional arguments keep their defaults.

    Its weights are called `backbone.*`, as in every other tapped network.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Any:
        return self.backbone(x)


@dataclass(frozen=True)
class _Traced:
    """The node whose value is tapped, and the last node that ran before its layer returned it."""

    value: Node
    at: Node


class _AllMade(Exception):
    """Every tap has been made: what the network does after that is of no interest."""


class _Tracer(Tracer):
    """Symbolic tracing up to the last tap, which notes what each layer returns and when."""

    def __init__(self, runs: Mapping[str, int] | None = None) -> None:
        """`runs`: up to what call each tapped layer counts; none where an unpickled graph is traced again."""
        super().__init__()
        self.left = dict(runs or {})
        self.ran: list[str] = []
        self.opaque: set[str] = set()
        self.returned: dict[str, list[tuple[Any, Node]]] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        holds_tap = any(path.startswith(f"{_own(module_qualified_name)}.") for path in self.left)
        return super().is_leaf_module(m, module_qualified_name) and not holds_tap

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        made = super().call_module(m, forward, args, kwargs)
        whole_path = self.path_of_module(m)
        path = _own(whole_path)
        if self.is_leaf_module(m, whole_path):
            self.opaque.add(path)
        self.ran.append(path)
        self.returned.setdefault(path, []).append((as_returned(made), _last(self.graph)))
        if path in self.left:
            self.left[path] -= 1
            if not any(left > 0 for left in self.left.values()):
                raise _AllMade
        return made


def reduce(backbone: nn.Module, taps: Sequence[FeatureInfo], image: ImageInfo) -> GraphModule:
    """x → {name: Tensor}, computing what `taps` need and holding those layers alone.

    What lies behind the last tap need not run on such an image. Raises ShapeError where the network cannot be
    traced, or where its graph is not what it runs.
    """
    found = find_taps(backbone, taps)
    layers = [path for path, _ in backbone.named_modules() if path]
    training, inference = (
        Observer(backbone, layers, image, training=mode, enough=found) for mode in (True, False)
    )
    check_taps(found, training, inference)
    same = all(training.times(tap.path) == inference.times(tap.path) for tap in found)
    graphs = {}
    for mode, seen in ((True, training), (False, inference)):
        with in_mode(backbone, mode):
            graphs[mode] = _reduced(backbone, found, image, seen)
    if not same or graphs[True].code != graphs[False].code:
        raise ShapeError(
            "the network makes its taps otherwise in training than in inference, by code outside of its "
            f"layers, and a graph has one way only; {REMEDY}"
        )
    made, own = graphs[backbone.training], {*backbone.modules()}
    for module in made.modules():
        if module not in own:
            module.training = backbone.training
    return made


def _reduced(backbone: nn.Module, taps: Sequence[Tap], image: ImageInfo, seen: Observer) -> GraphModule:
    """The graph in the mode that the network is in, held against what was seen of a real pass."""
    whole = Whole(backbone)
    whole.training = backbone.training
    calls: dict[str, int] = {}
    for tap in taps:
        calls[tap.path] = max(calls.get(tap.path, 0), tap.call or seen.times(tap.path))
    tracer = _Tracer(calls)
    graph = _traced(tracer, whole)
    traced = {tap: _tap(tracer, tap) for tap in taps}
    graph.output({tap.name: made.value for tap, made in traced.items()})
    full = GraphModule(whole, graph)
    try:
        pass_ = _Pass(full, image)
    except ShapeError as error:
        raise ShapeError(ANOTHER_WAY) from error
    _hold_against(seen, tracer, pass_, traced)
    _cut(graph, traced, pass_)
    return GraphModule(full, graph, class_name="Reduced")  # takes only the layers that the graph names


def _traced(tracer: _Tracer, whole: Whole) -> Graph:
    """The operations up to the last tap; the graph has no output yet."""
    try:
        with _no_modes():
            tracer.trace(whole)
    except _AllMade:
        pass
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ShapeError(
            f"the network cannot be traced ({type(error).__name__}: {reason}): its code depends on the "
            f"values or shapes that it is given; {REMEDY}"
        ) from error
    else:
        raise ShapeError(ANOTHER_WAY)
    for node in tracer.graph.nodes:
        node.type = None  # an annotation is a string here, which pickling cannot import
    return tracer.graph


def _own(path: str) -> str:
    """A layer's path within the network."""
    return path.removeprefix("backbone").removeprefix(".")


def _last(graph: Graph) -> Node:
    return next(iter(reversed(graph.nodes)))


@contextmanager
def _no_modes() -> Iterator[None]:
    """What a trial answers in torch's place is about tensors, and tracing has none."""
    with ExitStack() as stack:
        while _get_current_function_mode() is not None:
            stack.enter_context(_pop_mode_temporarily())
        yield


def _tap(tracer: _Tracer, tap: Tap) -> _Traced:
    calls = tracer.returned.get(tap.path, [])
    number = tap.call or len(calls)
    if not 0 < number <= len(calls):
        raise ShapeError(ANOTHER_WAY)
    made, at = calls[number - 1]
    if tap.place and isinstance(made, Proxy):  # of a layer whose inside is not traced
        node = made.node
        for key in tap.place:
            with tracer.graph.inserting_after(at):
                at = node = tracer.graph.call_function(operator.getitem, (node, key))
        return _Traced(node, at)
    try:
        made = element(made, tap.place)
    except LookupError as error:
        raise ShapeError(ANOTHER_WAY) from error
    if not isinstance(made, Proxy):
        raise ShapeError(f"layer {tap.name!r} makes nothing that tracing can follow; {REMEDY}")
    return _Traced(made.node, at)


def _hold_against(seen: Observer, tracer: _Tracer, pass_: _Pass, taps: Mapping[Tap, _Traced]) -> None:
    """Tracing can take another branch than tensors do: compare the layers that ran, and the taps' shapes."""
    visible = [p for p in seen.ran if not any(p.startswith(f"{o}.") for o in tracer.opaque)]
    same = visible[: len(tracer.ran)] == tracer.ran
    for tap, made in taps.items():
        real, ours = seen.tensor(tap), pass_.values[made.value]
        same = same and real is not None and isinstance(ours, Tensor) and ours.shape == real.shape
    if not same:
        raise ShapeError(ANOTHER_WAY)


class _Pass(Interpreter):
    """A trial of a graph, node by node: which memory each node reads, makes and overwrites."""

    def __init__(self, module: GraphModule, image: ImageInfo) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.reads: dict[Node, set[int]] = {}
        self.writes: dict[Node, set[int]] = {}
        self.makes: dict[Node, set[int]] = {}
        trial(_Runner(module, self), image)
        self.values = self.env  # kept, as memory is told apart by what is alive

    def run_node(self, n: Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        given = [(x, x._version) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = super().run_node(n)
        self.reads[n] = {_memory(x) for x, _ in given}
        self.writes[n] = {_memory(x) for x, version in given if x._version != version}
        self.makes[n] = {_memory(x) for x in tree_leaves(made) if isinstance(x, Tensor)}
        return made


class _Runner(nn.Module):
    """A graph run by an interpreter, as a module that a trial can give other weights."""

    def __init__(self, module: GraphModule, interpreter: Interpreter) -> None:
        super().__init__()
        self.module = module
        self.interpret = interpreter.run

    def forward(self, x: Tensor) -> Any:
        return self.interpret(x)


def _memory(x: Tensor) -> int:
    """The same for all views of one tensor."""
    return x.untyped_storage()._cdata


def _cut(graph: Graph, taps: Mapping[Tap, _Traced], pass_: _Pass) -> None:
    """Make the taps the graph's outputs, and erase every node that they do not need.

    A node that overwrites memory counts even where nobody uses its result. A tap that is overwritten after
    its layer has returned is copied there, as with hooks.
    """
    nodes = [node for node in graph.nodes if node.op != "output"]
    needed = _needed(nodes, list(taps.values()), pass_)
    outputs: dict[str, Node] = {}
    for tap, made in taps.items():
        later = nodes[nodes.index(made.at) + 1 :]
        outputs[tap.name] = made.value
        if any(node in needed and pass_.writes[node] & pass_.makes[made.value] for node in later):
            with graph.inserting_after(made.at):
                outputs[tap.name] = graph.call_method("clone", (made.value,))
    graph.erase_node(_last(graph))
    graph.output(outputs)
    for node in reversed(nodes):
        if node not in needed:
            graph.erase_node(node)


def _needed(nodes: Sequence[Node], taps: Sequence[_Traced], pass_: _Pass) -> set[Node]:
    needed: set[Node] = set()
    wanted: set[Node] = set()
    read: set[int] = set()  # memory that is read later on
    for node in reversed(nodes):
        for tap in taps:
            if tap.at is node:
                wanted.add(tap.value)
                read |= pass_.makes[tap.value]
        if node.op == "placeholder" or node in wanted or pass_.writes[node] & read:
            needed.add(node)
            wanted.update(node.all_input_nodes)
            read |= pass_.reads[node]
    return needed
