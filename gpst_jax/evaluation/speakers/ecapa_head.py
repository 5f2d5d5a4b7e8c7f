"""The ECAPA-TDNN head (arXiv 2005.07143) on the layers of a speech encoder, as UniSpeech has it.

Names of the parameters are those of its published files. Beside the paper: its input is the sum of
all layers of the encoder with learned weights, normalised over time, and the attention of the
pooling sees no means of the whole clip.
"""

import torch
from torch import nn
from torch.nn import functional

_SCALE = 8  # groups of channels in a Res2 convolution
_BOTTLENECK = 128  # of the squeeze, and of the attention
_DILATIONS = (2, 3, 4)


class _Convolution(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, padding=padding)
        self.bn = nn.BatchNorm1d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(functional.relu(self.conv(x)))


class _Res2(nn.Module):
    """Groups of channels, each convolved with the sum of itself and the result before it."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        width = channels // _SCALE
        self.convs = nn.ModuleList(
            nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
            for _ in range(_SCALE - 1)
        )
        self.bns = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(_SCALE - 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *groups, rest = x.chunk(_SCALE, dim=1)
        done: list[torch.Tensor] = []
        for group, conv, norm in zip(groups, self.convs, self.bns, strict=True):
            group = group + done[-1] if done else group
            done.append(norm(functional.relu(conv(group))))
        return torch.cat([*done, rest], dim=1)


class _Squeeze(nn.Module):
    """Scales channels by a function of their means over time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, _BOTTLENECK)
        self.linear2 = nn.Linear(_BOTTLENECK, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = functional.relu(self.linear1(x.mean(dim=2)))
        return x * torch.sigmoid(self.linear2(scale))[:, :, None]


class _Block(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.Conv1dReluBn1 = _Convolution(channels, channels)
        self.Res2Conv1dReluBn = _Res2(channels, dilation)
        self.Conv1dReluBn2 = _Convolution(channels, channels)
        self.SE_Connect = _Squeeze(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.Conv1dReluBn2(self.Res2Conv1dReluBn(self.Conv1dReluBn1(x)))
        return x + self.SE_Connect(inner)


class _Pooling(nn.Module):
    """Mean and standard deviation over time, weighted by attention for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear1 = nn.Conv1d(channels, _BOTTLENECK, 1)
        self.linear2 = nn.Conv1d(_BOTTLENECK, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(self.linear2(torch.tanh(self.linear1(x))), dim=2)
        mean = (weights * x).sum(dim=2)
        variance = (weights * x**2).sum(dim=2) - mean**2
        return torch.cat([mean, variance.clamp(min=1e-9).sqrt()], dim=1)


class Head(nn.Module):
    """Hidden states (layers, B, T, features) -> embeddings (B, size).

    Args:
        features: of the encoder's states.
        layers: number of states, the input of the first layer included.
        channels: of the convolutions.
        joined: channels before the pooling.
        size: of the embedding.
    """

    def __init__(self, features: int, layers: int, channels: int, joined: int, size: int) -> None:
        super().__init__()
        self.feature_weight = nn.Parameter(torch.zeros(layers))
        self.instance_norm = nn.InstanceNorm1d(features)
        self.layer1 = _Convolution(features, channels, 5, padding=2)
        self.layer2, self.layer3, self.layer4 = (_Block(channels, d) for d in _DILATIONS)
        self.conv = nn.Conv1d(3 * channels, joined, 1)
        self.pooling = _Pooling(joined)
        self.bn = nn.BatchNorm1d(2 * joined)
        self.linear = nn.Linear(2 * joined, size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """The embeddings."""
        weights = torch.softmax(self.feature_weight, dim=0)[:, None, None, None]
        x = (weights * states).sum(dim=0).transpose(1, 2) + 1e-6
        x = self.layer1(self.instance_norm(x))
        second = self.layer2(x)
        third = self.layer3(second)
        fourth = self.layer4(third)
        x = functional.relu(self.conv(torch.cat([second, third, fourth], dim=1)))
        return self.linear(self.bn(self.pooling(x)))
