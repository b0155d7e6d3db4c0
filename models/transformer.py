"""A Transformer to compress: token classifier, patch classifier and causal language model.

Vaswani et al. 2017, "Attention Is All You Need", arXiv 1706.03762; rotary positions from Su et al. 2021,
"RoFormer", arXiv 2104.09864. Plain PyTorch in a single, long file: copy it, change it, and load it as a
whole.

Shapes: b = batch, s = sequence, h = heads, d = head_size, m = d_model, f = dim_feedforward, v = vocabulary,
c = classes, p = past tokens, whose keys and values a causal model caches.

Widths are derived from the projections' outputs, never from a stored number of heads, so that heads,
feed-forward units and whole layers can be cut without patching anything else. `structure()` says where.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "CausalLM",
    "FeedForward",
    "LearnedPositions",
    "MultiHeadAttention",
    "PatchClassifier",
    "RotaryPositions",
    "SinusoidalPositions",
    "TokenClassifier",
    "Transformer",
    "TransformerConfig",
    "TransformerLayer",
    "causal_lm",
    "patch_classifier",
    "rotate",
    "scaled_dot_product_attention",
    "token_classifier",
    "visible_positions",
]

Rotation = tuple[Tensor, Tensor]  # cos and sin, [s, d] each
Remember = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> Tensor:
    """softmax(Q K^T / sqrt(d_k)) V, eq. 1: what the fused call in MultiHeadAttention computes, written out.

    Args:
        query, key, value: [b, h, s, d].
        mask: boolean, broadcasts to [b, h, s, s]; True where a query (row) may see a key (column).

    Returns:
        [b, h, s, d].
    """
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # [b, h, s, s]
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1) @ value


def visible_positions(
    tokens: Tensor, attention_mask: Tensor | None, causal: bool, before: int = 0
) -> Tensor | None:
    """Mask of the positions that each position may attend to.

    Every position sees at least itself, even padding: a softmax over nothing is NaN, and 0 * NaN would spread
    from a padded position to its neighbours in the next layer. Outputs at unpadded positions are unaffected.

    Args:
        tokens: [b, s, m]; only its shape and device are used.
        attention_mask: [b, p + s]; 1 = keep, 0 = padding.
        causal: whether a position sees only itself and earlier ones.
        before: p, the number of past tokens, which are visible too.

    Returns:
        Boolean mask, [b, 1, s, p + s] (ONNX Attention takes no [b, 1, 1, s]), or None if all is visible.
    """
    if attention_mask is None and not causal:
        return None
    batch, length = tokens.shape[0], tokens.shape[1]
    # Computed, not stored: a [max_length, max_length] table would end up in the ONNX file.
    position = _position(tokens, before)  # [s]
    column = torch.arange(before + length, device=tokens.device)  # [p + s]
    earlier = position[:, None] >= column[None, :]  # [s, p + s]
    if attention_mask is None:
        return earlier.expand(batch, 1, length, before + length)
    keep = attention_mask.bool()[:, None, None, :]  # [b, 1, 1, p + s]
    if causal:
        keep = keep & earlier  # [b, 1, s, p + s]
    return keep | (position[:, None] == column[None, :])


class SinusoidalPositions(nn.Module):
    """Add a fixed table: sines in the even features, cosines in the odd ones, section 3.5."""

    table: Tensor

    def __init__(self, max_length: int, d_model: int) -> None:
        super().__init__()
        feature = torch.arange(0, d_model, 2, dtype=torch.float64)  # 2i in the paper
        angle = _angles(max_length, 10_000.0 ** (-feature / d_model))  # [max_length, ceil(m / 2)]
        table = torch.zeros(max_length, d_model, dtype=torch.float64)
        table[:, 0::2] = angle.sin()
        table[:, 1::2] = angle[:, : d_model // 2].cos()  # an odd m ends with a sine
        self.register_buffer("table", table.to(torch.get_default_dtype()), persistent=False)

    def forward(self, hidden: Tensor, before: int = 0) -> tuple[Tensor, Rotation | None]:
        """Add positions, starting at `before`, to hidden, [b, s, m] -> [b, s, m]; no rotation."""
        return hidden + self.table.index_select(0, _position(hidden, before)), None


class LearnedPositions(nn.Module):
    """Add one trained vector per position."""

    def __init__(self, max_length: int, d_model: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(max_length, d_model)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, hidden: Tensor, before: int = 0) -> tuple[Tensor, Rotation | None]:
        """Add positions, starting at `before`, to hidden, [b, s, m] -> [b, s, m]; no rotation."""
        return hidden + self.embedding(_position(hidden, before)), None


class RotaryPositions(nn.Module):
    """Add nothing; return the angles by which attention rotates queries and keys (RoFormer, 3.2.2)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, max_length: int, head_size: int) -> None:
        super().__init__()
        feature = torch.arange(0, head_size, 2, dtype=torch.float64)
        angle = _angles(max_length, 10_000.0 ** (-feature / head_size)).repeat(1, 2)  # [max_length, d]
        self.register_buffer("cos", angle.cos().to(torch.get_default_dtype()), persistent=False)
        self.register_buffer("sin", angle.sin().to(torch.get_default_dtype()), persistent=False)

    def forward(self, hidden: Tensor, before: int = 0) -> tuple[Tensor, Rotation | None]:
        """Return hidden unchanged, [b, s, m], and cos and sin, [s, d] each, of positions from `before` on."""
        position = _position(hidden, before)
        return hidden, (self.cos.index_select(0, position), self.sin.index_select(0, position))


def _angles(max_length: int, frequency: Tensor) -> Tensor:
    # In float64: float32 loses 3 digits of the angle by position 1000.
    return torch.arange(max_length, dtype=torch.float64)[:, None] * frequency  # [max_length, frequencies]


def _position(hidden: Tensor, before: int) -> Tensor:
    # Used to gather from tables instead of slicing: a slice would bound the sequence in torch.export.
    return before + torch.arange(hidden.shape[1], device=hidden.device)  # [s]


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the pairs (i, i + d/2) by their angles; the paper's (2i, 2i + 1) is a permutation of these.

    Args:
        x: [b, h, s, d].
        rotation: cos and sin, [s, d] each.
    """
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)  # [b, h, s, d / 2] each
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class MultiHeadAttention(nn.Module):
    """Concat(head_1, ..., head_h) W^O, section 3.2.2; h follows from the projections' width."""

    def __init__(self, d_model: int, nhead: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.head_size = d_model // nhead
        self.dropout = dropout
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None = None,
        rotation: Rotation | None = None,
        remember: Remember | None = None,
    ) -> Tensor:
        """Attend from hidden to itself, and to past tokens.

        Args:
            hidden: [b, s, m].
            mask: boolean, broadcasts to [b, h, s, p + s]; True = visible.
            rotation: cos and sin of the rotary positions, [s, d] each.
            remember: called with the keys and values of these tokens, [b, h, s, d] each; returns those of all
                tokens so far, [b, h, p + s, d].

        Returns:
            [b, s, m].
        """
        query = self._heads(self.q_proj(hidden))
        key = self._heads(self.k_proj(hidden))
        value = self._heads(self.v_proj(hidden))
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        if remember is not None:
            key, value = remember(key, value)
        dropout = self.dropout if self.training else 0.0
        # The default scale is 1 / sqrt(d) of the given tensors: cutting heads does not change it.
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(attended.transpose(1, 2).flatten(2))  # [b, s, h * d] -> [b, s, m]

    def _heads(self, projected: Tensor) -> Tensor:
        heads = projected.shape[-1] // self.head_size
        return projected.unflatten(-1, (heads, self.head_size)).transpose(1, 2)  # [b, h, s, d]


class FeedForward(nn.Module):
    """down(activation(up(x))), section 3.3."""

    def __init__(
        self, d_model: int, dim_feedforward: int, dropout: float = 0.0, activation: str = "gelu"
    ) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, dim_feedforward)
        self.activation = _ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Linear(dim_feedforward, d_model)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [b, s, m] to [b, s, f] and back to [b, s, m]."""
        return self.down(self.dropout(self.activation(self.up(hidden))))


class TransformerLayer(nn.Module):
    """Attention, then feed-forward, each with a residual and a LayerNorm before (norm_first) or after."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int,
        dropout: float = 0.0,
        norm_first: bool = True,
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention = MultiHeadAttention(d_model, nhead, dropout)
        self.feed_forward = FeedForward(d_model, dim_feedforward, dropout, activation)
        self.attention_norm = nn.LayerNorm(d_model)
        self.feed_forward_norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None = None,
        rotation: Rotation | None = None,
        remember: Remember | None = None,
    ) -> Tensor:
        """Map [b, s, m] to [b, s, m]; arguments as in `MultiHeadAttention.forward`."""
        if self.norm_first:
            attended = self.attention(self.attention_norm(hidden), mask, rotation, remember)
            hidden = hidden + self.dropout(attended)
            return hidden + self.dropout(self.feed_forward(self.feed_forward_norm(hidden)))
        hidden = self.attention_norm(hidden + self.dropout(self.attention(hidden, mask, rotation, remember)))
        return self.feed_forward_norm(hidden + self.dropout(self.feed_forward(hidden)))


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes and options of a model, as in the builders.

    Raises:
        ValueError: one is out of its range.
    """

    input_dim: int
    output_dim: int
    nhead: int = 4
    num_layers: int = 4
    d_model: int = 128
    dim_feedforward: int | None = None
    dropout: float = 0.1
    max_length: int = 512
    positions: str = "learned"
    norm_first: bool = True
    activation: str = "gelu"
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        _check_sizes(nhead=self.nhead, num_layers=self.num_layers, d_model=self.d_model)
        _check_sizes(max_length=self.max_length, dim_feedforward=self.neurons)
        _check_flags(norm_first=self.norm_first, tie_embeddings=self.tie_embeddings)
        _check_choices(self.nhead, self.d_model, self.dropout, self.positions, self.activation)
        _check_sizes(input_dim=self.input_dim, output_dim=self.output_dim)
        if self.tie_embeddings and self.output_dim != self.input_dim:
            raise ValueError(
                f"output_dim={self.output_dim} is not allowed with tie_embeddings=True: "
                f"one table serves both ends, so it must equal input_dim={self.input_dim}"
            )

    @property
    def head_size(self) -> int:
        """Features of an attention head."""
        return self.d_model // self.nhead

    @property
    def neurons(self) -> int:
        """Inner width of the feed-forward."""
        return 4 * self.d_model if self.dim_feedforward is None else self.dim_feedforward


class Transformer(nn.Module):
    """Feature vectors (patches, frames, readings) to class logits; subclasses replace inputs and outputs."""

    def __init__(
        self, input_dim: int, output_dim: int, nhead: int = 4, num_layers: int = 4, **options: Any
    ) -> None:
        """`options` are the other fields of `TransformerConfig`."""
        super().__init__()
        config = TransformerConfig(input_dim, output_dim, nhead, num_layers, **options)
        self.max_length = config.max_length
        self.head_size = config.head_size
        # Section 3.4; uses the trained width, even after features are cut.
        self.embedding_scale = math.sqrt(config.d_model)
        width = config.head_size if config.positions == "rope" else config.d_model
        self.positions = _POSITIONS[config.positions](config.max_length, width)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(_layer(config) for _ in range(config.num_layers))
        # With norm_first the last layer's sum is not normalized.
        self.norm = nn.LayerNorm(config.d_model) if config.norm_first else nn.Identity()
        self._add_ends(config)

    @classmethod
    def from_config(cls, config: TransformerConfig) -> Self:
        """Build the model that a configuration describes."""
        return cls(**vars(config))

    def _add_ends(self, config: TransformerConfig) -> None:
        """Add the input projection and the classifier."""
        self.projection = nn.Linear(config.input_dim, config.d_model)
        self.classifier = nn.Linear(config.d_model, config.output_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Classify each sequence: features, float32 [b, s, input_dim] -> logits, [b, c]."""
        hidden = self._encode(self.projection(features), attention_mask=None)
        return self.classifier(hidden.mean(dim=1))

    def _encode(
        self, hidden: Tensor, attention_mask: Tensor | None, causal: bool = False, past: Any = None
    ) -> Tensor:
        """Encode embedded inputs, [b, s, m] -> [b, s, m]; `past` as in `CausalLM.forward`."""
        before = 0 if past is None else past.get_seq_length()
        # Not during export: it would restrict the dynamic sequence. ONNX Runtime fails at the table instead.
        if not torch.compiler.is_exporting() and before + hidden.shape[1] > self.max_length:
            raise ValueError(
                f"sequence length {before + hidden.shape[1]} is over max_length {self.max_length}; "
                "truncate the input or build the model with a larger max_length"
            )
        mask = visible_positions(hidden, attention_mask, causal, before)
        hidden, rotation = self.positions(hidden, before)
        hidden = self.dropout(hidden)
        for index, layer in enumerate(self.layers):
            remember = None if past is None else partial(past.update, layer_idx=index)
            hidden = layer(hidden, mask, rotation, remember)
        return self.norm(hidden)

    def structure(self) -> dict[str, Any]:
        """Paths (for `get_submodule`) of what a pruner can cut and which layers a distiller can match."""
        names = [f"layers.{index}" for index in range(len(self.layers))]
        embeddings = [name for name, module in self.named_modules() if isinstance(module, nn.Embedding)]
        return {
            "attention": [
                {
                    "q": f"{name}.attention.q_proj",
                    "k": f"{name}.attention.k_proj",
                    "v": f"{name}.attention.v_proj",
                    "out": f"{name}.attention.out_proj",
                    "head_size": self.head_size,
                    # Without heads, the block adds one vector to every position.
                    "removed": [(f"{name}.attention", "bias", False)],
                }
                for name in names
            ],
            "feed_forward": [
                {
                    "up": f"{name}.feed_forward.up",
                    "down": f"{name}.feed_forward.down",
                    "removed": [(f"{name}.feed_forward", "bias", False)],
                }
                for name in names
            ],
            "layers": "layers",
            "token_embedding": "embedding" if hasattr(self, "embedding") else None,
            "hidden": self._hidden(names, embeddings),
        }

    def _hidden(self, names: list[str], embeddings: list[str]) -> dict[str, list[str]]:
        """Everything that has one row, column or entry for each of the m hidden features."""
        read = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "feed_forward.up")
        written = ("attention.out_proj", "feed_forward.down")
        norms = ("attention_norm", "feed_forward_norm")
        return {
            "embeddings": embeddings,
            "writers": ["projection"] * hasattr(self, "projection")
            + [f"{name}.{path}" for name in names for path in written],
            "readers": [f"{name}.{path}" for name in names for path in read] + ["classifier"],
            "norms": [f"{name}.{path}" for name in names for path in norms]
            + ["norm"] * isinstance(self.norm, nn.LayerNorm),
            "tables": ["positions.table"] * isinstance(self.positions, SinusoidalPositions),
        }


class TokenClassifier(Transformer):
    """Token ids to class logits."""

    def _add_ends(self, config: TransformerConfig) -> None:
        self.embedding = _token_embedding(config.input_dim, config.d_model)
        self.classifier = nn.Linear(config.d_model, config.output_dim)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Classify each sequence.

        Args:
            input_ids: int64, [b, s].
            attention_mask: int64, [b, s]; 1 = token, 0 = padding. None: all are tokens.

        Returns:
            Logits, [b, c].
        """
        hidden = self._encode(self.embedding(input_ids) * self.embedding_scale, attention_mask)
        if attention_mask is None:
            return self.classifier(hidden.mean(dim=1))
        keep = attention_mask.bool()[:, :, None].to(hidden.dtype)  # [b, s, 1]
        # At least 1: a sequence of only padding gives zeros, not NaN.
        return self.classifier((hidden * keep).sum(dim=1) / keep.sum(dim=1).clamp(min=1.0))


class CausalLM(Transformer):
    """Token ids to next-token logits."""

    def _add_ends(self, config: TransformerConfig) -> None:
        self.embedding = _token_embedding(config.input_dim, config.d_model)
        self.classifier = nn.Linear(config.d_model, config.output_dim, bias=False)
        if config.tie_embeddings:
            self.classifier.weight = self.embedding.weight

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, past_key_values: Any = None
    ) -> Tensor:
        """Predict each next token.

        Args:
            input_ids: int64, [b, s]; pad on the right, since positions are counted from the left.
            attention_mask: int64, [b, p + s]; 1 = token, 0 = padding. None: all are tokens.
            past_key_values: cache of past keys and values: an object with get_seq_length(), which returns p,
                and update(key, value, layer_idx), which returns all keys and values so far. The caches of
                transformers qualify.

        Returns:
            Logits, [b, s, v]; undefined at padded positions.
        """
        embedded = self.embedding(input_ids) * self.embedding_scale  # [b, s, m]
        return self.classifier(self._encode(embedded, attention_mask, causal=True, past=past_key_values))


def token_classifier(
    input_dim: int,
    output_dim: int,
    nhead: int = 4,
    num_layers: int = 4,
    d_model: int = 128,
    dim_feedforward: int | None = None,
    dropout: float = 0.1,
    max_length: int = 512,
    positions: str = "sinusoidal",
    norm_first: bool = True,
    activation: str = "gelu",
) -> TokenClassifier:
    """Build a bidirectional encoder that classifies token sequences by the mean over their tokens.

    Args:
        input_dim: vocabulary size.
        output_dim: number of classes.
        nhead: attention heads per layer; divides d_model.
        num_layers: Transformer layers.
        d_model: hidden width.
        dim_feedforward: inner width of the feed-forward; None: 4 * d_model.
        dropout: in [0, 1).
        max_length: longest sequence, in tokens.
        positions: sinusoidal, learned or rope.
        norm_first: LayerNorm before attention and feed-forward (easier to train), else after (the paper).
        activation: gelu or relu.

    Raises:
        ValueError: an argument is out of its range.
    """
    sizes = (nhead, num_layers, d_model, dim_feedforward, dropout, max_length)
    config = TransformerConfig(input_dim, output_dim, *sizes, positions, norm_first, activation)
    return TokenClassifier.from_config(config)


def patch_classifier(
    input_dim: int,
    output_dim: int,
    nhead: int = 4,
    num_layers: int = 4,
    d_model: int = 128,
    dim_feedforward: int | None = None,
    dropout: float = 0.1,
    max_length: int = 512,
    positions: str = "learned",
    norm_first: bool = True,
    activation: str = "gelu",
) -> Transformer:
    """Build a bidirectional encoder that classifies sequences of feature vectors by their mean.

    Args:
        input_dim: numbers in one feature vector, such as the pixels of a patch.
        output_dim: number of classes.
        max_length: longest sequence, in feature vectors.

    Other arguments and exceptions as in `token_classifier`.
    """
    sizes = (nhead, num_layers, d_model, dim_feedforward, dropout, max_length)
    config = TransformerConfig(input_dim, output_dim, *sizes, positions, norm_first, activation)
    return Transformer.from_config(config)


def causal_lm(
    input_dim: int,
    output_dim: int | None = None,
    nhead: int = 4,
    num_layers: int = 4,
    d_model: int = 128,
    dim_feedforward: int | None = None,
    dropout: float = 0.1,
    max_length: int = 512,
    positions: str = "rope",
    norm_first: bool = True,
    activation: str = "gelu",
    tie_embeddings: bool = False,
) -> CausalLM:
    """Build a decoder-only language model: each position predicts the next token from the tokens so far.

    Args:
        input_dim: vocabulary size.
        output_dim: logits per position; None: the vocabulary size.
        tie_embeddings: whether the classifier shares the embedding's weight.

    Other arguments and exceptions as in `token_classifier`.
    """
    output_dim = input_dim if output_dim is None else output_dim
    sizes = (nhead, num_layers, d_model, dim_feedforward, dropout, max_length)
    config = TransformerConfig(
        input_dim, output_dim, *sizes, positions, norm_first, activation, tie_embeddings
    )
    return CausalLM.from_config(config)


PatchClassifier = Transformer
"""The class's former name."""

_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}
_POSITIONS: dict[str, type[nn.Module]] = {
    "learned": LearnedPositions,
    "rope": RotaryPositions,
    "sinusoidal": SinusoidalPositions,
}


def _layer(config: TransformerConfig) -> TransformerLayer:
    return TransformerLayer(
        config.d_model, config.nhead, config.neurons, config.dropout, config.norm_first, config.activation
    )


def _token_embedding(input_dim: int, d_model: int) -> nn.Embedding:
    embedding = nn.Embedding(input_dim, d_model)
    # Scaled by `embedding_scale` = sqrt(m), tokens start at the positions' scale and tied logits at scale 1.
    nn.init.normal_(embedding.weight, std=d_model**-0.5)
    return embedding


def _check_sizes(**sizes: object) -> None:
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value!r} is not allowed: a whole number of at least 1")


def _check_flags(**flags: object) -> None:
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name}={value!r} is not allowed: true or false")


def _check_choices(nhead: int, d_model: int, dropout: float, positions: str, activation: str) -> None:
    if d_model % nhead:
        raise ValueError(f"nhead={nhead} is not allowed: it must divide d_model={d_model}")
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout={dropout!r} is not allowed: a number in [0, 1)")
    for name, value, table in (
        ("positions", positions, _POSITIONS),
        ("activation", activation, _ACTIVATIONS),
    ):
        allowed = sorted(table)
        if value not in allowed:
            raise ValueError(f"{name}={value!r} is not allowed: one of {', '.join(allowed)}")
    if positions == "rope" and (d_model // nhead) % 2:
        raise ValueError(
            f"positions='rope' is not allowed with a head size of {d_model // nhead} (d_model / nhead): "
            "it rotates pairs of features, so the head size must be even"
        )
