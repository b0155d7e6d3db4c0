"""Operators outside the ONNX standard for onnxscript: ONNX Runtime's own domain, and one of ours."""

from __future__ import annotations

from onnx.defs import OpSchema
from onnxscript.values import Op, Opset

__all__ = ["OURS", "dynamic_quantize_lstm", "gather_block_quantized", "matmul_nbits", "widen"]

OURS = "modelpress"


def _contrib(
    name: str,
    inputs: tuple[str, ...],
    optional: tuple[str, ...] = (),
    domain: str = "com.microsoft",
    outputs: tuple[str, ...] = ("Y",),
    **attributes: OpSchema.AttrType,
) -> Op:
    """Define an operator with its required inputs, optional inputs, outputs and attributes."""
    single, omitted = OpSchema.FormalParameterOption.Single, OpSchema.FormalParameterOption.Optional
    kinds = ("float", "float16", "bfloat16", "uint8", "int8", "int32", "int64")
    types = [f"tensor({kind})" for kind in kinds]
    names = (*inputs, *optional)
    schema = OpSchema(
        name,
        domain,
        1,
        inputs=[
            OpSchema.FormalParameter(each, f"T_{each}", param_option=single if each in inputs else omitted)
            for each in names
        ],
        outputs=[OpSchema.FormalParameter(each, f"T_{each}") for each in outputs],
        type_constraints=[(f"T_{each}", types, "") for each in (*names, *outputs)],
        attributes=[OpSchema.Attribute(key, kind, required=True) for key, kind in attributes.items()],
    )
    return Op(Opset(domain, 1), name, schema)


_INT = OpSchema.AttrType.INT
matmul_nbits = _contrib(
    "MatMulNBits",
    ("A", "B", "scales"),
    ("zero_points", "g_idx", "bias"),
    K=_INT,
    N=_INT,
    bits=_INT,
    block_size=_INT,
    accuracy_level=_INT,
)
gather_block_quantized = _contrib(
    "GatherBlockQuantized",
    ("data", "indices", "scales"),
    ("zero_points",),
    bits=_INT,
    block_size=_INT,
    gather_axis=_INT,
    quantize_axis=_INT,
)

dynamic_quantize_lstm = _contrib(
    "DynamicQuantizeLSTM",
    ("X", "W", "R"),
    (
        *("B", "sequence_lens", "initial_h", "initial_c", "P"),
        *("W_scale", "W_zero_point", "R_scale", "R_zero_point"),
    ),
    outputs=("Y", "Y_h", "Y_c"),
    hidden_size=_INT,
    direction=OpSchema.AttrType.STRING,
)

widen = _contrib("Widen", ("X",), domain=OURS)
