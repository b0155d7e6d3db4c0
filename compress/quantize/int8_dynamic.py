"""int8 weights and int8 activations with scales computed at run time.

Weights: symmetric, one scale per output. Activations: either one scale per token, so that outputs depend
neither on padding nor on the rest of the batch; or one scale and zero point for all tokens of a call, which
is the faster kernel. ONNX Runtime's LSTM kernel supports only the latter; there is none for a GRU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from compress.quantize.integers.choose import Integers
from compress.quantize.integers.grid import Grid
from compress.quantize.stage import QuantizeLayers

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.model.layers.int8 import Int8Linear

__all__ = ["Int8Dynamic"]


class Int8Dynamic(QuantizeLayers):
    """Quantize linear layers and LSTMs to int8 times int8, and embeddings to int8.

    Attributes:
        activations: token: one scale per token. tensor: one for all tokens of a call; faster, but outputs
            then depend slightly on the rest of the batch and on padding. In an LSTM, either way, all inputs
            of a call share one scale and all states of a step share one, so its outputs depend slightly on
            both: name it under `skip` if they must not.
        reduce_range: keep weights of linear layers and LSTMs within [-64, 63]. AVX2 machines without VNNI add
            pairs of products in 16 bits, which larger weights can overflow; costs one bit of precision
            everywhere.
        fit_inputs: fit to calibration rows how a token's values are rounded, where activations is token. Each
            layer gets a zero point, which costs no time; an input narrower than what is computed from it also
            smoothquant's factor for each feature, by `strength`: one multiplication of the input. Features of
            large values, which every BERT-like encoder has, then don't take the steps of all others.
    """

    name: ClassVar[str] = "quantize/int8_dynamic"
    summary: ClassVar[str] = "int8 weights and per-token int8 activations: smaller and faster, no calibration"

    takes_recurrent: ClassVar[bool] = True

    activations: Literal["token", "tensor"] = "token"
    reduce_range: bool = False
    fit_inputs: bool = False

    @model_validator(mode="after")
    def _inputs_can_be_fitted(self) -> Self:
        if self.fit_inputs and self.activations != "token":
            raise ValueError(f"fit_inputs: true can't be combined with activations: {self.activations}")
        if self.fit_inputs and self.qat is not None:
            raise ValueError("fit_inputs: true can't be combined with qat; omit one of them")
        return self

    @property
    def looks_at_data(self) -> bool:
        """Also if the rounding of inputs is fitted."""
        return self.fit_inputs or super().looks_at_data

    @property
    def fits_inputs(self) -> bool:
        """By the recipe."""
        return self.fit_inputs

    def stand_in(self) -> QuantizeLayers:
        """Without fits, which need calibration rows."""
        return super().stand_in().model_copy(update={"fit_inputs": False})

    def grid(self) -> Grid:
        """One scale per output."""
        return Grid(8, None, reduce_range=self.reduce_range)

    def linear(
        self,
        layer: nn.Linear,
        integers: Integers,
        bias: Tensor | None,
        input_range: tuple[float, float] | None,
    ) -> Int8Linear:
        """Make the int8 layer from these integers."""
        from compress.model.layers.int8 import Int8FittedLinear, Int8Linear, Int8TensorLinear

        made: type[Int8Linear] = {"token": Int8Linear, "tensor": Int8TensorLinear}[self.activations]
        made = Int8FittedLinear if self.fit_inputs else made
        new = made(layer.in_features, layer.out_features, bias=bias is not None)
        return new.fill_(integers.values, integers.steps.scale[:, 0], bias)
