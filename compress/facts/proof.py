"""Comparison of an ONNX file with its PyTorch model, and saturation of its int8 products elsewhere."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["Parity", "Record", "Saturation"]


class Record(BaseModel):
    """Data that is written to and read from JSON, including NaN and infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Parity(Record):
    """The ONNX file compared with its PyTorch model, on validation rows.

    Attributes:
        rows: rows compared.
        agreement: share of rows with the same predicted class; of positions, for a language model.
        metric_difference: ONNX metric minus PyTorch metric on these rows.
        max_abs_error: largest absolute difference of a logit.
        relative_error: RMS difference of a row's outputs over the standard deviation of the module's outputs
            across rows; the maximum over all rows except the share allowed to disagree. None: a report from
            before this was compared.
        min_agreement, max_metric_difference, max_relative_error: the limits applied.
    """

    rows: int
    agreement: float
    metric_difference: float
    max_abs_error: float
    min_agreement: float
    max_metric_difference: float
    relative_error: float | None = None
    max_relative_error: float | None = None

    @property
    def holds(self) -> bool:
        """Whether agreement, metric and outputs are within the limits."""
        near = (
            self.relative_error is None
            or self.max_relative_error is None
            or self.relative_error <= self.max_relative_error
        )
        return (
            near
            and self.agreement >= self.min_agreement
            and abs(self.metric_difference) <= self.max_metric_difference
        )


class Saturation(Record):
    """Saturation of int8 products, actual and possible, on x86 without VNNI.

    Attributes:
        layers: int8 linear layers.
        pairs: pairs of their weights whose products are added in 16 bits.
        pairs_at_risk: of these, pairs large enough to saturate for some activations.
        convolutions: int8 convolutions.
        convolutions_at_risk: of these, those where two weights of an output are large enough together; which
            weights are paired depends on the kernel, so the actual loss is not computed.
        lstms: int8 LSTMs.
        lstms_at_risk: of these, those with a large enough pair; the actual loss is not computed.
        outputs: outputs of the linear layers.
        outputs_at_risk: of these, outputs with a pair at risk.
        rows: rows evaluated, one at a time; 0 if no pair is at risk.
        sums: outputs of the linear layers, over all tokens of these rows.
        sums_cut: of these, those that saturate.
        answers_changed: rows whose predicted class changes because of saturation.
    """

    layers: int
    pairs: int
    pairs_at_risk: int
    outputs: int
    outputs_at_risk: int
    convolutions: int = 0
    convolutions_at_risk: int = 0
    lstms: int = 0
    lstms_at_risk: int = 0
    rows: int = 0
    sums: int = 0
    sums_cut: int = 0
    answers_changed: int = 0

    @property
    def is_possible(self) -> bool:
        """Whether anything can saturate."""
        return bool(self.pairs_at_risk or self.convolutions_at_risk or self.lstms_at_risk)
