"""Typed records of the results of stages, export and proofs, shown by the report. No torch import."""

from compress.facts.cut import Cut, CutSite, cut_of
from compress.facts.proof import Parity, Record, Saturation
from compress.facts.stage import Kept, Sensitivity, StageFacts, read_facts

__all__ = [
    "Cut",
    "CutSite",
    "Kept",
    "Parity",
    "Record",
    "Saturation",
    "Sensitivity",
    "StageFacts",
    "cut_of",
    "read_facts",
]
