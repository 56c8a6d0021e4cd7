"""Detectors that are formulas, so that what an inspection must find is known."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from cfexplain.detectors.base import LogProbs
from cfexplain.detectors.base import logits_of
from cfexplain.explanation.explain import FittedModel
from cfexplain.metrics.survival import Alterations
from cfexplain.types import Explanations, ImageSet, Splits

CPU = torch.device("cpu")
USUAL = Alterations(jpeg_quality=75, shift_pixels=1, blur_sigma=0.5)


class FormulaDetector(nn.Module):
    """logit = formula of images in [-1, 1]."""

    def __init__(self, formula: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.formula = formula

    def log_probs(self, images: Tensor) -> LogProbs:
        logits = self.formula(images)
        return LogProbs(log_anomalous=-softplus(-logits), log_normal=-softplus(logits))


class PixelFeatures(nn.Module):
    """Features: the pixels themselves, 0 to 255."""

    def features(self, images: Tensor) -> Tensor:
        return (images.flatten(1) + 1) * 127.5


def image_set(images: Tensor, name: str = "image") -> ImageSet:
    labels = torch.zeros(len(images), dtype=torch.long)
    return ImageSet(images=images, labels=labels, classes=labels, ids=tuple(f"{name}/{i}" for i in range(len(images))))


def splits_of(train: Tensor, held_out: Tensor) -> Splits:
    return Splits(
        train=image_set(train, "train"), held_out=image_set(held_out, "held"), exposure=None,
        test=image_set(held_out, "test"), reference=image_set(train, "train"), class_names=("normal",), factors=None,
    )


def explanations_of(detector: nn.Module, sources: Tensor, images: Tensor) -> Explanations:
    """sources: (N, C, H, W); images: (N, A, K, C, H, W), or (N, K, C, H, W) for one straight way of two bins."""
    if images.dim() == 5:
        images = torch.stack([images, sources[:, None].expand_as(images)], dim=1)
    logits = logits_of(detector, images.flatten(0, 2)).reshape(images.shape[:3])
    return Explanations(
        sources=image_set(sources), images=images, logits=logits, source_logits=logits_of(detector, sources),
        threshold=-1e9,  # an inspection must not use it
    )


def model_of(detector: nn.Module, explanations: Explanations) -> FittedModel:
    return FittedModel(
        detector=detector, generator=nn.Identity(), concept_classifier=nn.Identity(),
        num_concepts=explanations.num_concepts, num_alpha_bins=explanations.images.shape[1],
    )
