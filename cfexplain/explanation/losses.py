"""Losses of the counterfactual objective: pure functions, one value per sample unless the name says otherwise."""

from __future__ import annotations

from cfexplain.lazy import F, Tensor, torch


def discriminator_hinge_losses(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """max(0, 1 - D(real)) + max(0, 1 + D(fake)), (N,) each -> (N,)."""
    return F.relu(1 - real_logits) + F.relu(1 + fake_logits)


def score_losses(log_anomalous: Tensor, log_normal: Tensor, alphas: Tensor, stop: float | None = None) -> Tensor:
    """Cross-entropy of the reached score against the wanted one: -[alpha log phi + (1 - alpha) log(1 - phi)].

    log_anomalous, log_normal, alphas: (N,); alphas in [0, 1].
    stop: for alpha = 0, the normals' own level kappa; below it the loss is 0. Without it (None, the paper's form) the
          counterfactuals go on to become more normal than normal images.
    """
    losses = -(alphas * log_anomalous + (1 - alphas) * log_normal)
    return losses if stop is None else torch.where(alphas == 0, F.relu(losses - stop), losses)


def l1_distances(images: Tensor, others: Tensor) -> Tensor:
    """Mean absolute difference of each pair: (N, ...), (N, ...) -> (N,)."""
    return (images - others).abs().flatten(1).mean(dim=1)


def matching_loss(logits: Tensor, reference_logits: Tensor) -> Tensor:
    """1-D Wasserstein distance of two samples of equal size, in standard deviations of the reference: () .

    The distance of sorted values is the exact optimal transport cost on a line. It is 0 where the counterfactuals score
    like normal images, the harder ones included; so it aims at a counterfactual AuROC of 0.5 and not below.
    """
    assert logits.shape == reference_logits.shape, (logits.shape, reference_logits.shape)
    scale = reference_logits.std().clamp_min(1e-6)
    return (logits.sort().values - reference_logits.sort().values).abs().mean() / scale


def diversity_losses(counterfactuals: Tensor, margin: float, pool: int = 4) -> Tensor:
    """How much the counterfactuals of one source look alike, after average pooling so that fine marks do not count.

    counterfactuals: (N, K, C, H, W).  returns: (N,), max(0, margin - L1 distance) averaged over pairs of concepts.
    """
    n, num_concepts = counterfactuals.shape[:2]
    pooled = F.avg_pool2d(counterfactuals.flatten(0, 1), pool, ceil_mode=True).unflatten(0, (n, num_concepts))
    first, second = torch.triu_indices(num_concepts, num_concepts, offset=1, device=counterfactuals.device)
    distances = (pooled[:, first] - pooled[:, second]).abs().flatten(2).mean(dim=2)  # (N, pairs)
    return F.relu(margin - distances).mean(dim=1)


def overlap_losses(sources: Tensor, counterfactuals: Tensor, eps: float = 1e-2) -> Tensor:
    """Squared cosine between the edits of different concepts: edits should not undo or repeat one another.

    sources: (N, C, H, W); counterfactuals: (N, K, C, H, W).  returns: (N,) in [0, 1], mean over pairs of concepts.
    """
    edits = (counterfactuals - sources[:, None]).flatten(2)  # (N, K, C*H*W)
    edits = edits / (edits.norm(dim=2, keepdim=True) + eps)
    cosines = edits @ edits.transpose(1, 2)  # (N, K, K)
    first, second = torch.triu_indices(edits.shape[1], edits.shape[1], offset=1, device=edits.device)
    return cosines[:, first, second].square().mean(dim=1)
