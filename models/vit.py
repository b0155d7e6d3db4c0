"""A Hugging Face Vision Transformer with random weights, to train on small images without any download.

Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", arXiv 2010.11929. The classes are transformers' own,
so results here carry over to a directory of yours (`model: {hf: DIR}`).

Shapes: b = batch, p = image channels, h, w = image height and width, c = classes.
"""

from __future__ import annotations

from transformers import ViTConfig, ViTForImageClassification

__all__ = ["image_classifier"]


def image_classifier(
    output_dim: int,
    image_size: int = 32,
    patch_size: int = 4,
    channels: int = 3,
    d_model: int = 128,
    nhead: int = 4,
    num_layers: int = 4,
    dim_feedforward: int = 512,
    dropout: float = 0.0,
) -> ViTForImageClassification:
    """Build a classifier that maps `pixel_values` [b, p, h, w] to logits [b, c].

    Args:
        output_dim: number of classes.
        image_size: height and width of an image; a multiple of patch_size.
        patch_size: height and width of a patch.
        channels: of an image: 3 for colour, 1 for greyscale.
        d_model: hidden width.
        nhead: attention heads per layer; divides d_model.
        dim_feedforward: inner width of the feed-forward.
    """
    if image_size % patch_size or d_model % nhead:
        raise ValueError("image_size must be a multiple of patch_size, and d_model one of nhead")
    config = ViTConfig(
        num_labels=output_dim,
        image_size=image_size,
        patch_size=patch_size,
        num_channels=channels,
        hidden_size=d_model,
        num_attention_heads=nhead,
        num_hidden_layers=num_layers,
        intermediate_size=dim_feedforward,
        hidden_dropout_prob=dropout,
    )
    return ViTForImageClassification(config)
