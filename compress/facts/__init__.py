"""Typed records of what stages, export and proofs find out; the report shows them. They import no torch."""

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
