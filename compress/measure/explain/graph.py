"""The graph that ONNX Runtime actually runs: its products, and the arithmetic of each.

The optimized file that a session writes gives the nodes; the profile of a call gives the shapes. Both are
needed: weights packed for a kernel have no shape in a profile, and activations have none in a file.

Multiply-adds (MACs) are counted as executed, including those on channels that ONNX Runtime pads to the width
of its vectors (convolutions in NCHWc).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.data.split import Batch
from compress.errors import MeasureError
from compress.measure.explain.events import Call, Key, NodeRun, calls_of
from compress.measure.explain.nodes import layer_names, read_nodes, short_layer
from compress.measure.explain.products import Macs, Node, Role, macs_of, may_make_products
from compress.measure.runtimes.session import create_session, feeds
from compress.system.disk import scratch_directory

__all__ = ["COUNTED_KINDS", "Graph", "Product", "graph_of", "read_graph"]

COUNTED_KINDS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast")
_QUANTIZING = {"QuantizeLinear", "DynamicQuantizeLinear", "DequantizeLinear"}
_GIVES_INT32 = {"MatMulInteger", "ConvInteger"}
_RESCALING = {"Cast", "Mul"}
_INT8_BLOCKS = 4  # accuracy_level of MatMulNBits


@dataclass(frozen=True)
class Product:
    """The products of one node in one arithmetic.

    Attributes:
        key: the node, as the profile names it.
        name: the source layer if the file records it, else the weight or the node.
        kind: the operator.
        macs: multiply-adds per call.
        bits: of a stored weight below 8 bits, else None.
        by_block: whether activations are rounded block by block too, so that the low-bit product is an
            integer one.
        made: whether its weight is dequantized from stored integers in each call.
    """

    key: Key
    name: str
    kind: str
    role: Role
    macs: int
    bits: int | None = None
    by_block: bool = False
    made: bool = False


@dataclass(frozen=True)
class Graph:
    """What runs in one call.

    Attributes:
        products: matrix products and convolutions, in order of execution.
        roles: the role of each node that ran.
        nodes: number of nodes that ran.
        counts: number of nodes of each of `COUNTED_KINDS`.
        uncounted: operator kinds with unknown multiply-adds, with their number of nodes.
    """

    products: tuple[Product, ...]
    roles: dict[Key, Role]
    nodes: int
    counts: dict[str, int]
    uncounted: dict[str, int]

    def macs(self, role: Role | None = None) -> int:
        """Sum multiply-adds of one role, or of all."""
        return sum(product.macs for product in self.products if role in (None, product.role))

    def share(self, role: Role) -> float:
        """Share of the multiply-adds; 0 if there are none."""
        return self.macs(role) / max(self.macs(), 1)


def graph_of(path: Path, batch: Batch, *, threads: int = 1) -> Graph:
    """Run one batch through an ONNX file and list its products; temporary files are removed.

    Raises:
        MeasureError: if ONNX Runtime refuses the file or the batch.
    """
    with scratch_directory("graph") as folder:
        optimized = folder / "optimized.onnx"
        session = create_session(
            path, threads=threads, profile_prefix=folder / "profile", optimized=optimized
        )
        try:
            session.run(None, feeds(batch, session))
        except MeasureError:
            raise
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            raise MeasureError(f"{path}: ONNX Runtime fails on this batch: {error}") from error
        finally:
            profile = Path(session.end_profiling())
        (call,) = calls_of(json.loads(profile.read_text(encoding="utf-8")))
        return read_graph(read_nodes(optimized), call, layer_names(path))


def read_graph(nodes: Sequence[Node], call: Call, layers: dict[str, str]) -> Graph:
    """Join the nodes of a file with the profile of a call.

    Args:
        nodes: from `read_nodes`, of the optimized file that the session wrote.
        call: any call of that session.
        layers: node or weight name in the original file -> layer, from `layer_names`.
    """
    known = _matched(nodes, call)
    quantizing = _quantizing(nodes)
    roles: dict[Key, Role] = {}
    products: dict[tuple[Key, Role], Product] = {}
    uncounted: Counter[str] = Counter()
    for run in call.nodes:
        node = known.get(run.key)
        found = macs_of(node, run) if node is not None else None
        unknown = not found if found is not None else node is None and may_make_products(run.kind)
        if unknown and run.key not in roles:
            uncounted[run.kind] += 1
        roles[run.key] = _role(node, found, quantizing)
        for role, macs in found or ():
            assert node is not None  # a missing node has no products
            one = products.get((run.key, role))
            before = 0 if one is None else one.macs  # a loop's body runs several times
            products[run.key, role] = _product(node, run, role, before + macs, layers)
    kinds = Counter({run.key: run.kind for run in call.nodes}.values())
    return Graph(
        products=tuple(products.values()),
        roles=roles,
        nodes=len(roles),
        counts={kind: kinds[kind] for kind in COUNTED_KINDS if kinds[kind]},
        uncounted=dict(uncounted),
    )


def _role(node: Node | None, macs: Macs | None, quantizing: set[int]) -> Role:
    """Role of a node; with products of two roles, that of the larger."""
    if macs:
        return max(macs, key=lambda each: each[1])[0]
    if node is None or macs is not None:
        return "other"
    return "unpacking" if node.unpacks else "quantizing" if id(node) in quantizing else "other"


def _product(node: Node, run: NodeRun, role: Role, macs: int, layers: dict[str, str]) -> Product:
    return Product(
        key=run.key,
        name=_layer(node, layers),
        kind=run.kind,
        role=role,
        macs=macs,
        bits=int(node.attributes.get("bits", 4)) if role == "low_bit" else None,
        by_block=role == "low_bit" and node.attributes.get("accuracy_level", 0) == _INT8_BLOCKS,
        made=role == "float_weight" and node.made,
    )


def _matched(nodes: Sequence[Node], call: Call) -> dict[Key, Node]:
    """Map each key to its node, graph by graph, because names repeat across graphs.

    Only one branch of an If runs; it is identified by the kinds of the nodes that ran.
    """
    graphs: dict[int, list[Node]] = defaultdict(list)
    for node in nodes:
        graphs[node.graph].append(node)
    ran: dict[str, dict[Key, NodeRun]] = defaultdict(dict)
    for run in (*call.nodes, *call.holders):
        ran[run.inside][run.key] = run
    found: dict[Key, Node] = {}
    waiting = [("", 0)]
    while waiting:
        inside, number = waiting.pop()
        matched = _matched_in(graphs[number], ran[inside])
        found |= matched
        for key, run in ran[inside].items():
            if run.within in ran and key in matched:
                waiting.append((run.within, _graph_that_ran(matched[key], graphs, ran[run.within])))
    return found


def _graph_that_ran(holder: Node, graphs: dict[int, list[Node]], ran: dict[Key, NodeRun]) -> int:
    """Number of the subgraph that best matches the executed nodes, by kinds first, then by names."""
    kinds = Counter(run.kind for run in ran.values())
    names = Counter(run.name for run in ran.values())

    def apart(number: int) -> tuple[int, int, int]:
        there = Counter(node.kind for node in graphs[number])
        called = Counter(node.name for node in graphs[number] if node.name)
        missing, unnamed = (names - called).total(), len(graphs[number]) - called.total()
        others = (called - names).total() + max(missing - unnamed, 0)
        return (there - kinds).total() + (kinds - there).total(), others, missing

    return min(holder.holds, key=apart, default=-1)


def _matched_in(nodes: Sequence[Node], keys: dict[Key, NodeRun]) -> dict[Key, Node]:
    """Match the nodes of one graph by name; unnamed ones by kind, in order of execution.

    A profile names an unnamed node by its kind and index. The file knows only the kind, but lists nodes in
    order of execution.
    """
    named: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        named[node.name].append(node)
    found: dict[Key, Node] = {}
    left: dict[str, list[Key]] = defaultdict(list)
    for key, run in keys.items():
        same = [node for node in named.get(run.name, ()) if node.kind == run.kind]
        if run.name and len(same) == 1:
            found[key] = same[0]
        else:
            left[run.kind].append(key)
    taken = {id(node) for node in found.values()}
    for kind, waiting in left.items():
        free = [node for node in nodes if node.kind == kind and id(node) not in taken]
        if len(free) == len(waiting):
            found.update(zip(waiting, free, strict=True))
    return found


def _layer(node: Node, layers: dict[str, str]) -> str:
    names = (
        node.name.split("/MatMul")[0],
        *(n for n, c in zip(node.inputs, node.constants, strict=True) if c),
    )
    known = next((layers[name] for name in names if name in layers), None)
    if known is not None:
        return known
    dotted = next((n for n in names[1:] if "." in n.strip(".")), None)
    return short_layer(dotted.rpartition(".")[0]) if dotted is not None else node.name or node.kind


def _quantizing(nodes: Sequence[Node]) -> set[int]:
    """Find the nodes that only serve integer products: rounding activations and rescaling results.

    Forward from each int32 product: consecutive Cast and Mul nodes. Backward from each scale and zero point:
    nodes that nothing else reads, up to the activation itself.
    """
    users: dict[str, list[Node]] = defaultdict(list)
    producer: dict[str, Node] = {}
    for node in nodes:
        for name in filter(None, node.inputs):
            users[name].append(node)
        for name in node.outputs:
            producer[name] = node
    found = {id(node) for node in nodes if node.kind in _QUANTIZING and not node.unpacks}
    chain: list[Node] = []
    for node in nodes:
        after = users[node.outputs[0]] if node.kind in _GIVES_INT32 else []
        while len(after) == 1 and after[0].kind in _RESCALING:
            chain.append(after[0])
            after = users[after[0].outputs[0]]
    found |= {id(node) for node in chain}
    activations = {node.inputs[0] for node in nodes if node.kind in _QUANTIZING}
    waiting = [name for node in chain for name in node.inputs]
    waiting += [name for node in nodes if node.kind == "QuantizeLinear" for name in node.inputs[1:]]
    while waiting:
        maker = producer.get(waiting.pop())
        if maker is None or id(maker) in found or activations & set(maker.outputs):
            continue
        if maker.kind in _GIVES_INT32 or not all(id(u) in found for o in maker.outputs for u in users[o]):
            continue
        found.add(id(maker))
        waiting += [name for name in maker.inputs if name]
    return found
