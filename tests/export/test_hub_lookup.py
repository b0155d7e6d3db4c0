"""A bundle lies as the Hub's ONNX models do: optimum-onnx and transformers.js find its files where they look.

optimum-onnx 0.1.0 asks for transformers 4, so it can't be installed here; what it looks for is looked for here
in the same way. (By hand, on 2026-11-22: it loaded an int8 bundle with transformers 4.57.6 and answered as we do.)
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

import compress
from tests_conftest import write_hf_model
