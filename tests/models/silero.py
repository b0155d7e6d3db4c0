"""Silero VAD at 16 kHz: a window of audio to speech or none. To be compressed in a test, as a user's file is.

The weights are those of the ONNX file in the package silero-vad (6.2: `data/silero_vad_16k_sequence.onnx`);
its safetensors file has the same shapes and other weights, and answers otherwise than that.
Shapes: b = batch, t = frames, a frame = 64 samples of the one before it and 512 new ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CONTEXT, NEW, STEP, BINS = 64, 512, 128, 129


class SileroVad(nn.Module):
    """Spectrum by a convolution, four convolutions to one vector a frame, an LSTM over frames, one logit."""

    def __init__(self) -> None:
        super().__init__()
        self.stft = nn.Conv1d(1, 2 * BINS, 256, stride=STEP, bias=False)
        self.convs = nn.ModuleList(
            nn.Conv1d(size_in, size, 3, stride=stride, padding=1)
            for size_in, size, stride in ((BINS, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1))
        )
        self.lstm = nn.LSTM(128, 128, batch_first=True)
        self.output = nn.Linear(128, 1)

    def speech(self, features: Tensor) -> Tensor:
        """Frames [b, t, 576] -> the logit of speech after each, [b, t]."""
        x = F.pad(features.flatten(0, 1), (0, CONTEXT), mode="reflect").unsqueeze(1)  # [b * t, 1, 640]
        x = self.stft(x)  # [b * t, 258, 4]
        x = (x[:, :BINS].square() + x[:, BINS:].square()).sqrt()
        for conv in self.convs:
            x = conv(x).relu()  # [b * t, ., 4], then 2, 1, 1
        x, _ = self.lstm(x.reshape(features.shape[0], features.shape[1], -1))
        logits: Tensor = self.output(x.relu()).squeeze(-1)
        return logits

    def forward(self, features: Tensor) -> Tensor:
        """Frames [b, t, 576] -> logits of no speech (0) and speech after the last frame, [b, 2]."""
        last = self.speech(features)[:, -1:]
        return torch.cat([torch.zeros_like(last), last], dim=1)

    def structure(self) -> dict[str, Any]:
        """Filters and hidden units; the spectrum stays, whose rows are sines and cosines in pairs."""
        chain = [*(f"convs.{place}" for place in range(4)), "lstm", "output"]
        pairs = zip(chain, chain[1:], strict=False)
        return {"channels": {writer: {"writers": [writer], "readers": [reader]} for writer, reader in pairs}}


def silero(onnx_file: str) -> SileroVad:
    """Build it with the weights of the package's ONNX file."""
    import onnx

    graph = onnx.load(Path(onnx_file)).graph
    stored = {
        each.name: torch.from_numpy(onnx.numpy_helper.to_array(each).copy()) for each in graph.initializer
    }
    (lstm,) = (node for node in graph.node if node.op_type == "LSTM")
    model = SileroVad()
    state = {"stft.weight": stored["stft.forward_basis_buffer"]}
    for place in range(4):
        for name in ("weight", "bias"):
            state[f"convs.{place}.{name}"] = stored[f"encoder.{place}.{name}"]
    read, told, biases = (stored[name][0] for name in lstm.input[1:4])
    first, second = biases.chunk(2)
    for name, values in (("weight_ih", read), ("weight_hh", told), ("bias_ih", first), ("bias_hh", second)):
        i, o, f, c = values.chunk(4)  # ONNX's order of gates; torch's is i, f, c, o
        state[f"lstm.{name}_l0"] = torch.cat([i, f, c, o])
    state["output.weight"], state["output.bias"] = stored["output.weight"][:, :, 0], stored["output.bias"]
    model.load_state_dict(state)
    return model
