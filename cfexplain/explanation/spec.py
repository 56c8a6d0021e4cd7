"""The objective's values: how long, how many concepts and alpha bins, and a weight for each loss."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class ConceptView(Enum):
    pair = "pair"
    direction = "direction"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Training of generator, discriminator and concept classifier. A weight of 0 leaves a loss out.

    num_alpha_bins: n; bin a stands for the wanted score a / (n - 1).
    score_stop:     the score loss of alpha = 0 ends at the held-out normals' mean level.
    score_noise:    standard deviation of the noise on an edited image before the detector sees it, in [-1, 1] units.
    reconstruction: L1 distance to the source, where nothing is to change and after the way back, G(G(x, a, k), b, k).
    cycle:          share of the way back in it, 1 in the paper. 0: no way back, for defects: what is normal cannot tell
                    what they looked like.
    matching:       1-D Wasserstein distance of the logits of counterfactuals and held-out normals.
    pull:           L1 distance of counterfactual and source.
    diversity:      hinge on the pooled L1 distance between the concepts' counterfactuals, up to `diversity_margin`.
    overlap:        squared cosine between the concepts' edits.
    concept_classifier: `pair`, the paper's deep network on both images, or `direction`, linear on the coarse edit.
    concept_grid, concept_noise: of `direction`: cells a side that the edit is averaged over; noise on its direction.
    """

    steps: int
    batch_size: int
    num_concepts: int
    num_alpha_bins: int
    learning_rate: float
    discriminator_learning_rate: float
    beta_1: float
    beta_2: float
    ema_decay: float
    adversarial: float
    score: float
    score_stop: bool
    score_noise: float
    matching: float
    reconstruction: float
    cycle: float
    concept: float
    concept_classifier: ConceptView
    concept_grid: int
    concept_noise: float
    pull: float
    diversity: float
    diversity_margin: float
    overlap: float
    log_every_steps: int
    image_every_steps: int
    checkpoint_every_steps: int

    def __post_init__(self) -> None:
        for name in ("batch_size", "num_concepts", "num_alpha_bins"):
            if getattr(self, name) < (1 if name == "num_concepts" else 2):
                raise ValueError(f"{name} is too small: {getattr(self, name)}")
        for name in ("steps", "log_every_steps", "image_every_steps", "checkpoint_every_steps", "concept_grid"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name in ("learning_rate", "discriminator_learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        for name in ("beta_1", "beta_2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        weights = ("adversarial", "score", "score_noise", "matching", "reconstruction", "cycle", "concept",
                   "concept_noise", "pull", "diversity", "diversity_margin", "overlap")
        for name in weights:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
