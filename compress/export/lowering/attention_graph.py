"""Fold nodes around the Attention operator (opset 23) into it: head splitting, head groups, and the past.

The exporter writes what PyTorch does. Per token of SmolLM2 (30 layers, 4- and 8-bit weights), ONNX Runtime
1.32 runs 1,349 nodes of that, mostly data movement and reshaping at 3 to 5 us each; with these rewrites and
joined products it runs 508. The operator itself splits [b, s, h d] into heads, shares one key/value head
among several queries, and appends new keys and values to the past. RotaryEmbedding accepts unsplit heads too.

Shapes: b = batch, s = new tokens, p = past tokens, t = p + s, h = query heads, k = key/value heads, d = head
size.
"""

from __future__ import annotations

import onnx_ir as ir

from compress.export.lowering.nodes import (
    note_scopes_,
    only_user,
    permutation,
    producer,
    scopes_of,
    sizes,
    take_place_,
    whole_number,
)

__all__ = ["group_heads_", "keep_past_", "whole_heads_"]

_HEADS_FIRST = [0, 2, 1, 3]


def group_heads_(attention: ir.Node) -> bool:
    """Pass each key/value head to Attention once instead of in copies for several queries.

    Skips Unsqueeze [b, k, 1, t, d], Expand [b, k, h / k, t, d] and Reshape [b, h, t, d].
    """
    if not _is_attention(attention):
        return False
    single = [_before_copies(value) for value in attention.inputs[1:3]]
    if None in single:
        return False
    for place, value in enumerate(single, 1):
        attention.replace_input_with(place, value)
    return True


def _before_copies(value: ir.Value | None) -> ir.Value | None:
    reshape = producer(value, "Reshape")
    expand = producer(reshape.inputs[0], "Expand") if reshape is not None else None
    unsqueeze = producer(expand.inputs[0], "Unsqueeze") if expand is not None else None
    if expand is None or unsqueeze is None:
        return None
    one, several = sizes(unsqueeze.outputs[0], 5), sizes(expand.outputs[0], 5)
    joined = sizes(value, 4)
    if one is None or several is None or joined is None or None in one:
        return None
    heads, copies = several[1], several[2]
    if not isinstance(heads, int) or not isinstance(copies, int):
        return None
    # Only the third dimension may be new and expanded, and then merged with the second.
    same = one == [*several[:2], 1, *several[3:]] and joined == [several[0], heads * copies, *several[3:]]
    return unsqueeze.inputs[0] if same else None


def keep_past_(attention: ir.Node) -> bool:
    """Move both Concat nodes that append keys and values to the past into the Attention."""
    if not _is_attention(attention) or len(attention.inputs) != 4:
        return False
    query, *joined, mask = attention.inputs
    concats = [found for value in joined if (found := producer(value, "Concat")) is not None]
    if len(concats) != 2 or not all(_behind_the_past(each) for each in concats):
        return False
    key, value = concats
    new = ir.node(
        "Attention",
        [query, key.inputs[1], value.inputs[1], mask, key.inputs[0], value.inputs[0]],
        dict(attention.attributes),
        num_outputs=3,
    )
    note_scopes_(new, scopes_of(attention))
    assert attention.graph is not None
    attention.graph.insert_after(attention, new)
    for before, after in zip((attention, key, value), new.outputs, strict=True):
        take_place_(before.outputs[0], after)
    return True


def _behind_the_past(concat: ir.Node) -> bool:
    """Whether a Concat appends keys or values [b, k, s, d] to a graph input [b, k, p, d].

    Its result must be read by exactly one node, apart from being a graph output.
    """
    past = concat.inputs[0]
    if past is None or not past.is_graph_input() or len(concat.inputs) != 2:
        return False
    return whole_number(concat, "axis", 0) in (2, -2) and len(concat.outputs[0].uses()) == 1


def whole_heads_(attention: ir.Node) -> bool:
    """Pass Attention unsplit queries, keys and values [b, s, h d], which it splits into heads itself.

    Removes Reshape [b, s, h, d] and Transpose before it (RotaryEmbedding may be in between), and Transpose
    and Reshape after it.
    """
    if not _is_attention(attention):
        return False
    split = [_split_into_heads(value) for value in attention.inputs[:3]]
    back = only_user(attention, "Transpose")
    joined = only_user(back, "Reshape") if back is not None and permutation(back) == _HEADS_FIRST else None
    if joined is None or any(each is None for each in split):
        return False
    (query, heads, size), (key, kv_heads, _), (value, _, value_size) = split  # type: ignore[misc]
    result = sizes(joined.outputs[0], 3)
    # The Reshape may merge heads with the sequence instead; the unsplit form only returns [b, s, h d].
    if result is None or result[-1] != heads * size or value_size != size:
        return False
    made: list[ir.Node] = []
    given = [
        _turned(each, whole, made) for each, whole in zip(attention.inputs, (query, key, value), strict=False)
    ]
    whole = ir.node(
        "Attention",
        [*given, *attention.inputs[3:]],
        {**attention.attributes, "q_num_heads": heads, "kv_num_heads": kv_heads},
        num_outputs=len(attention.outputs),
    )
    note_scopes_(whole, scopes_of(attention))
    assert attention.graph is not None
    attention.graph.insert_after(attention, [*made, whole])
    for before, after in zip(attention.outputs[1:], whole.outputs[1:], strict=True):
        take_place_(before, after)
    take_place_(joined.outputs[0], whole.outputs[0])
    return True


def _is_attention(node: ir.Node) -> bool:
    return bool(node.op_type == "Attention" and node.domain == "")


def _split_into_heads(value: ir.Value | None) -> tuple[ir.Value, int, int] | None:
    """Find [b, s, h d], h and d behind a value [b, h, s, d], possibly through a RotaryEmbedding."""
    rotary = _rotary(value)
    transpose = producer(value if rotary is None else rotary.inputs[0], "Transpose")
    if transpose is None or permutation(transpose) != _HEADS_FIRST:
        return None
    reshape = producer(transpose.inputs[0], "Reshape")
    whole = sizes(reshape.inputs[0], 3) if reshape is not None else None
    split = sizes(transpose.inputs[0], 4)
    if reshape is None or whole is None or split is None:
        return None
    _, _, heads, size = split
    if not isinstance(heads, int) or not isinstance(size, int) or whole[-1] != heads * size:
        return None
    assert reshape.inputs[0] is not None
    return reshape.inputs[0], heads, size


def _rotary(value: ir.Value | None) -> ir.Node | None:
    """The RotaryEmbedding that produces a value; None if it takes position ids itself."""
    found = producer(value, "RotaryEmbedding")
    return found if found is not None and len(found.inputs) == 3 else None


def _turned(value: ir.Value | None, whole: ir.Value, made: list[ir.Node]) -> ir.Value:
    rotary = _rotary(value)
    if rotary is None:
        return whole
    heads = sizes(rotary.inputs[0], 4)
    assert heads is not None
    attributes = {**rotary.attributes, "num_heads": heads[1]}
    new = ir.node("RotaryEmbedding", [whole, *rotary.inputs[1:]], attributes)
    note_scopes_(new, scopes_of(rotary))
    new.outputs[0].type, new.outputs[0].shape = whole.type, whole.shape
    made.append(new)
    return new.outputs[0]
