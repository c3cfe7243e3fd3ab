"""Networks reduced to what their taps need: traced, cut down to the operations that matter, compiled anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Interpreter, Node, Proxy, Tracer
from torch.overrides import _get_current_function_mode, _pop_mode_temporarily
from torch.utils._pytree import tree_leaves

from medfuse.builtin.nets.taps import Observer, check_taps, layer
from medfuse.core.errors import ShapeError
from medfuse.core.features import ImageInfo
from medfuse.model.trial import trial

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
class _Tap:
    """The node whose value is tapped, and the last node that ran before its layer returned it."""

    value: Node
    at: Node


class _AllMade(Exception):
    """Every tap has been made: what the network does after that is of no interest."""


class _Tracer(Tracer):
    """Symbolic tracing up to the last tap, which notes what each layer returns and when."""

    def __init__(self, runs: Mapping[str, int] | None = None) -> None:
        """`runs` is how often each tapped layer runs; none where an unpickled graph is traced again."""
        super().__init__()
        self.left = dict(runs or {})
        self.ran: list[str] = []
        self.opaque: set[str] = set()
        self.returned: dict[str, tuple[Any, Node]] = {}

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
        self.returned[path] = made, _last(self.graph)
        if path in self.left:
            self.left[path] -= 1
            if not any(self.left.values()):
                raise _AllMade
        return made


def reduce(backbone: nn.Module, names: Sequence[str], image: ImageInfo) -> GraphModule:
    """x → {name: Tensor}, computing what the taps `names` need and holding those layers alone.

    Raises ShapeError where the network cannot be traced, or where its graph is not what it runs.
    """
    modules = {module: path for path, module in backbone.named_modules()}  # each by its first name
    paths = {name: modules[layer(backbone, name)] for name in names}
    layers = [path for path in modules.values() if path]
    training = backbone.training
    seen = Observer(backbone, layers, image)
    check_taps(seen, [*paths.values()])
    reduced = _reduced(backbone, paths, image, seen)
    try:
        other = Observer(backbone.train(not training), layers, image)
        same = all(other.ran.count(path) == seen.ran.count(path) for path in paths.values())
        same = same and _reduced(backbone, paths, image, other).code == reduced.code
    finally:
        backbone.train(training)
    if not same:
        raise ShapeError(
            "the network makes its taps otherwise in training than in inference, by code outside of its "
            f"layers, and a graph has one way only; {REMEDY}"
        )
    return reduced.train(training)


def _reduced(backbone: nn.Module, paths: Mapping[str, str], image: ImageInfo, seen: Observer) -> GraphModule:
    """The graph in the mode that the network is in, held against what was seen of a real pass."""
    whole = Whole(backbone)
    tracer = _Tracer({path: seen.ran.count(path) for path in paths.values()})
    graph = _traced(tracer, whole)
    taps = {name: _tap(tracer, path) for name, path in paths.items()}
    graph.output({name: tap.value for name, tap in taps.items()})
    full = GraphModule(whole, graph)
    try:
        pass_ = _Pass(full, image)
    except ShapeError as error:
        raise ShapeError(ANOTHER_WAY) from error
    _hold_against(seen, tracer, pass_, {paths[name]: tap.value for name, tap in taps.items()})
    _cut(graph, taps, pass_)
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


def _tap(tracer: _Tracer, path: str) -> _Tap:
    made, at = tracer.returned[path]
    if not isinstance(made, Proxy):
        raise ShapeError(f"layer {path!r} makes nothing that tracing can follow; {REMEDY}")
    return _Tap(made.node, at)


def _hold_against(seen: Observer, tracer: _Tracer, pass_: _Pass, taps: Mapping[str, Node]) -> None:
    """Tracing can take another branch than tensors do: compare the layers that ran, and the taps' shapes."""
    visible = [p for p in seen.ran if not any(p.startswith(f"{o}.") for o in tracer.opaque)]
    shapes = {path: pass_.values[node].shape for path, node in taps.items()}
    if visible[: len(tracer.ran)] != tracer.ran or any(
        shape != seen.made[path][0].shape for path, shape in shapes.items()
    ):
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


def _cut(graph: Graph, taps: Mapping[str, _Tap], pass_: _Pass) -> None:
    """Make the taps the graph's outputs, and erase every node that they do not need.

    A node that overwrites memory counts even where nobody uses its result. A tap that is overwritten after
    its layer has returned is copied there, as with hooks.
    """
    nodes = [node for node in graph.nodes if node.op != "output"]
    needed = _needed(nodes, list(taps.values()), pass_)
    outputs: dict[str, Node] = {}
    for name, tap in taps.items():
        later = nodes[nodes.index(tap.at) + 1 :]
        outputs[name] = tap.value
        if any(node in needed and pass_.writes[node] & pass_.makes[tap.value] for node in later):
            with graph.inserting_after(tap.at):
                outputs[name] = graph.call_method("clone", (tap.value,))
    graph.erase_node(_last(graph))
    graph.output(outputs)
    for node in reversed(nodes):
        if node not in needed:
            graph.erase_node(node)


def _needed(nodes: Sequence[Node], taps: Sequence[_Tap], pass_: _Pass) -> set[Node]:
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
