"""Encoders of few-shot learners: networks from examples to features, with explicit BatchNorm.

The statistics that BatchNorm uses determine what a few-shot accuracy means (Bronskill et al. 2020,
arXiv:2003.03284), so that the config names them, and the report states them:

    transductive      each set is normalised by its own statistics. All query examples of a task
                      are thus seen together, before the first is labelled, as in MAML's and
                      Reptile's published figures
    support           support and query are normalised by the statistics of the support: each query
                      example is labelled independently (non-transductive)
    none              no normalisation
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from metarl.config import Config, Width, Widths
from metarl.errors import UserError

Normalization = Literal["transductive", "support", "none"]


class Conv4Config(Config):
    """Four blocks of convolution, BatchNorm, ReLU and max-pooling (Vinyals et al. 2016)."""

    kind: Literal["conv4"] = "conv4"
    filters: Width = 64
    """Filters of each block."""
    batch_norm: Normalization = "transductive"
    """BatchNorm by each set's own statistics (`transductive`), by those of the support (`support`,
    non-transductive), or `none`."""

    def build(self, input_shape: tuple[int, ...]) -> Encoder:
        """The encoder for images of this shape.

        Raises:
            UserError: examples of this shape are not images.
        """
        if len(input_shape) != 3:
            raise UserError(
                f"conv4 is for images; examples of shape {input_shape} need agent.encoder.kind mlp"
            )
        channels, height, width = input_shape
        for _ in range(4):
            if min(height, width) > 1:
                height, width = height // 2, width // 2
        sizes = [channels, *[self.filters] * 4]
        blocks = [ConvBlock(*pair, normalize=self.batch_norm != "none") for pair in pairwise(sizes)]
        return Encoder(blocks, size=self.filters * height * width, batch_norm=self.batch_norm)


class MLPConfig(Config):
    """Linear layers, each with BatchNorm and ReLU or tanh."""

    kind: Literal["mlp"] = "mlp"
    hidden_sizes: Widths = (40, 40)
    """Units of each layer; the default is MAML's for sinusoids."""
    activation: Literal["relu", "tanh"] = "relu"
    """Activation after each layer."""
    batch_norm: Normalization = "none"
    """BatchNorm by each set's own statistics (`transductive`), by those of the support (`support`,
    non-transductive), or `none`."""

    def build(self, input_shape: tuple[int, ...]) -> Encoder:
        """The encoder for examples of this shape, which it flattens."""
        sizes = [int(torch.Size(input_shape).numel()), *self.hidden_sizes]
        blocks = [
            LinearBlock(*pair, activation=self.activation, normalize=self.batch_norm != "none")
            for pair in pairwise(sizes)
        ]
        return Encoder(blocks, size=sizes[-1], batch_norm=self.batch_norm, flat=True)


EncoderConfig = Annotated[Conv4Config | MLPConfig, Field(discriminator="kind")]


class BatchNorm(nn.Module):
    """Normalisation of a batch by the statistics of its first examples; no running statistics."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Float[Tensor, "B C"], reference: int) -> Tensor:
        """Channels normalised by the first `reference` examples, then scaled and shifted.

        Raises:
            UserError: the batch has one number per channel.
        """
        if len(x) == 1:
            raise UserError(
                "BatchNorm cannot normalise the single value of each channel; give more shots, "
                "larger images or fewer layers, or agent.encoder.batch_norm none"
            )
        if reference == len(x):
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True)
        scale, shift = self.scale_and_shift(*torch.var_mean(x[:reference], 0, correction=0))
        return x * scale + shift

    def scale_and_shift(
        self, variance: Float[Tensor, " C"], mean: Float[Tensor, " C"]
    ) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
        """Factor and offset of each channel that normalise by these statistics."""
        scale = self.weight * (variance + 1e-5).rsqrt()
        return scale, self.bias - mean * scale


class ConvBlock(nn.Module):
    """3×3 convolution, BatchNorm, ReLU, 2×2 max-pooling.

    Little is computed on images of full size, because each pass over them costs memory traffic in
    the forward pass, the backward pass and the second derivatives: all operations after the
    convolution and its statistics run on the pooled images. Max-pooling selects the same pixels
    before normalisation as after it, if channels with a negative scale are negated first.
    """

    def __init__(self, before: int, after: int, *, normalize: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(before, after, 3, padding=1)
        self.norm = BatchNorm(after) if normalize else None

    def forward(self, x: Float[Tensor, "B C Y X"], reference: int) -> Float[Tensor, "B D Z U"]:
        """Features at half the height and width; a size of 1 stays."""
        weight, bias = self.convolution.weight, self.convolution.bias
        if self.norm is None or bias is None:
            return pooled(self.convolution(x)).relu()
        sign = torch.where(self.norm.weight < 0, -1.0, 1.0).to(weight.dtype)
        out, variance, mean = convolve(x, weight * sign.view(-1, 1, 1, 1), reference)
        # The bias shifts the mean as much as the values.
        scale, shift = self.norm.scale_and_shift(variance, sign * mean + bias)
        scale, shift = scale * sign, shift + bias * scale
        return (pooled(out) * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)).relu()


def pooled(x: Float[Tensor, "B C Y X"]) -> Float[Tensor, "B C Z U"]:
    """The maximum of each 2×2 pixels; images of a single row or column stay as they are."""
    return F.max_pool2d(x, 2) if min(x.shape[-2:]) > 1 else x


def convolve(
    x: Float[Tensor, "B C Y X"], weight: Float[Tensor, "D C 3 3"], reference: int
) -> tuple[Float[Tensor, "B D Y X"], Float[Tensor, " D"], Float[Tensor, " D"]]:
    """A 3×3 convolution, and the variance and mean of its output channels over the first
    `reference` examples.

    With few input channels it is a matrix product, and the statistics follow from those of the
    small patches: this saves a pass over the large output and its derivatives.
    """
    size, channels = weight.shape[:2]
    if 9 * channels > size:
        out = F.conv2d(x, weight, padding=1)
        return out, *torch.var_mean(out[:reference], (0, 2, 3), correction=0)
    height, width = x.shape[-2:]
    padded = F.pad(x.transpose(0, 1), (1, 1, 1, 1))
    shifted = [padded[..., i : i + height, j : j + width] for i in range(3) for j in range(3)]
    patches = torch.stack(shifted, 1).flatten(0, 1)  # C·9 B Y X
    matrix = weight.flatten(1)
    seen = patches[:, :reference].flatten(1)
    centre = seen.mean(1)
    seen = seen - centre[:, None]
    covariance = seen @ seen.T / seen.shape[1]
    out = (matrix @ patches.flatten(1)).view(size, *patches.shape[1:]).transpose(0, 1)
    return out, ((matrix @ covariance) * matrix).sum(1), matrix @ centre


class LinearBlock(nn.Module):
    """Linear layer, BatchNorm, and ReLU or tanh."""

    def __init__(self, before: int, after: int, *, activation: str, normalize: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(before, after)
        self.norm = BatchNorm(after) if normalize else None
        self.activation = {"relu": torch.relu, "tanh": torch.tanh}[activation]

    def forward(self, x: Float[Tensor, "B F"], reference: int) -> Float[Tensor, "B D"]:
        """Features of each example."""
        x = self.linear(x)
        if self.norm is not None:
            x = self.norm(x, reference)
        return self.activation(x)


class Encoder(nn.Module):
    """A sequence of blocks, applied to the examples of one task."""

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        *,
        size: int,
        batch_norm: Normalization,
        flat: bool = False,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.size = size
        """Number of features of an example (D)."""
        self.batch_norm: Normalization = batch_norm
        self.flat = flat

    def forward(
        self, x: Float[Tensor, " B *F"], support: Float[Tensor, " S *F"] | None = None
    ) -> Float[Tensor, "B D"]:
        """Features of each example.

        Args:
            x: examples of one task.
            support: the support examples of the task; None where `x` is the support itself.
        """
        reference, skipped = len(x), 0
        if support is not None and self.batch_norm == "support":
            reference = skipped = len(support)
            x = torch.cat([support, x])
        if self.flat:
            x = x.flatten(1)
        for block in self.blocks:
            x = block(x, reference)
        return x.flatten(1)[skipped:]


class EncoderWithHead(nn.Module):
    """An encoder and a linear layer on its features."""

    def __init__(self, encoder: Encoder, num_outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.size, num_outputs)

    def forward(
        self, x: Float[Tensor, " B *F"], support: Float[Tensor, " S *F"] | None = None
    ) -> Float[Tensor, "B W"]:
        """Logits or regressed values of each example."""
        return self.head(self.encoder(x, support))
