"""Stage 2: a small U-Net that segments the lesion in the centre of each RoI and scores it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from detseg3d.models.networks.blocks import Conv3d, ConvNormAct, ResidualBlock, enlarge
from detseg3d.planning.sections import Stage2Plan

__all__ = ["Segmenter", "SegmenterOutput"]


class SegmenterOutput(NamedTuple):
    """Logits of Stage 2: masks ``(N, K, z, y, x)``, one channel per class, and RoI scores ``(N, K)``."""

    mask: torch.Tensor
    score: torch.Tensor


class _ContextAttention(nn.Module):
    """Attention of the RoI's tokens to the coarsest Stage 1 map of the whole volume (Vaswani et al. 2017)."""

    def __init__(self, channels: int, context_channels: int, heads: int = 4) -> None:
        super().__init__()
        self.project = nn.Linear(context_channels, channels)
        self.query_norm = nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        nn.init.zeros_(self.attention.out_proj.weight)

    def forward(self, bottom: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        count, channels, *shape = bottom.shape
        tokens = bottom.flatten(2).transpose(1, 2)
        keys = self.project(context.flatten(2).transpose(1, 2).to(tokens.dtype))
        attended, _ = self.attention(self.query_norm(tokens), keys, keys, need_weights=False)
        return bottom + attended.transpose(1, 2).reshape(count, channels, *shape)


class Segmenter(nn.Module):
    """The Stage 2 network of a plan.

    Its input is the image crop and the indicator of the detected box. The crop of the Stage 1 features enters at the
    second scale, which has about the resolution of these features. Through these features, the segmentation loss also
    trains the backbone of Stage 1. In the backbone, the gradient of the segmentation loss is some hundredths of the
    gradient of the detection losses (docs/concepts).
    """

    def __init__(self, plan: Stage2Plan, num_channels: int, num_classes: int, context_channels: int) -> None:
        super().__init__()
        self.plan = plan
        channels, kernels = plan.channels, plan.kernels
        self.encoder = nn.ModuleList([ConvNormAct(num_channels + 1, channels[0], kernels[0])])
        for index in range(1, len(channels)):
            extra = plan.feature_channels if index == 1 else 0
            self.encoder.append(
                nn.Sequential(
                    ConvNormAct(channels[index - 1] + extra, channels[index], kernels[index]),
                    ResidualBlock(channels[index], kernels[index]),
                )
            )
        # The channels are reduced before the map is enlarged, which is cheaper.
        self.reduce = nn.ModuleList(
            Conv3d(channels[index + 1], channels[index], 1) for index in range(len(channels) - 1)
        )
        self.decoder = nn.ModuleList(
            ConvNormAct(channels[index], channels[index], kernels[index]) for index in range(len(channels) - 1)
        )
        self.attention = _ContextAttention(channels[-1], context_channels) if plan.context_attention else None
        self.mask = Conv3d(channels[0], num_classes, 1)
        width = channels[-1]
        self.score = nn.Sequential(
            nn.Linear(2 * width + channels[0], width), nn.LeakyReLU(0.01), nn.Linear(width, num_classes)
        )

    def forward(
        self, crops: torch.Tensor, features: torch.Tensor | None = None, context: torch.Tensor | None = None
    ) -> SegmenterOutput:
        """Segment RoIs.

        Parameters
        ----------
        crops : Tensor, shape ``(N, C + 1, z, y, x)``
            Image crops and box indicator.
        features : Tensor, shape ``(N, feature_channels, z, y, x)``, optional
            As many samples as :meth:`~detseg3d.planning.sections.Stage2Plan.feature_size` states.
        context : Tensor, shape ``(N, F, z', y', x')``, optional
            The coarse Stage 1 map of each RoI's volume, for context attention.

        Returns
        -------
        SegmenterOutput
        """
        image = crops.contiguous(memory_format=torch.channels_last_3d)
        skips = []
        for index, block in enumerate(self.encoder):
            if index > 0:
                stride = self.plan.strides[index - 1]
                image = functional.max_pool3d(image, stride, stride)
            if index == 1 and self.plan.feature_channels:
                assert features is not None, "the plan gives Stage 1 features to Stage 2"
                image = torch.cat([image, features.to(image.dtype)], dim=1)
            image = block(image)
            skips.append(image)
        if self.attention is not None:
            assert context is not None, "the plan asks for context attention"
            image = self.attention(image, context)
        bottom = image
        for index in range(len(skips) - 2, -1, -1):
            image = enlarge(self.reduce[index](image), skips[index].shape[2:])
            # Maps are added and not concatenated. This halves the work at the finest scale, which takes most time.
            image = self.decoder[index](skips[index] + image)
        mask = self.mask(image)
        return SegmenterOutput(mask, self._score(bottom, image, mask))

    def mask_weight(self, mask: torch.Tensor) -> torch.Tensor:
        """Return the weight of each sample in the score, shape ``(N, z·y·x)``: its share of the predicted mask.

        The mask is detached, so that the loss of the score does not change the mask.

        Parameters
        ----------
        mask : Tensor, shape ``(N, K, z, y, x)``
            Logits.
        """
        weight = mask.detach().float().sigmoid().amax(dim=1).flatten(1)
        return weight / (weight.sum(dim=1, keepdim=True) + 1)

    def _score(self, bottom: torch.Tensor, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Score the RoI from its coarsest features and from the finest features under the predicted mask.

        Pooling over the mask makes the score depend on the segmented object and not on its surroundings.
        """
        voxels = image.permute(0, 2, 3, 4, 1).flatten(1, 3)  # a view, for channels-last memory
        weight = self.mask_weight(mask)[:, None].to(voxels.dtype)
        covered = torch.bmm(weight, voxels)[:, 0].float()
        pooled = torch.cat([bottom.float().mean(dim=(2, 3, 4)), bottom.float().amax(dim=(2, 3, 4)), covered], dim=1)
        score: torch.Tensor = self.score(pooled)
        return score
