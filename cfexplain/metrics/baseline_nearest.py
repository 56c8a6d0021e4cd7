"""The nearest normal training image: what case-based reasoning would show in place of a counterfactual."""

from __future__ import annotations

from cfexplain.data.batches import to_float
from cfexplain.lazy import no_grad, Tensor, torch

CHUNK_VALUES = 1 << 25  # pixels and channels of the training images at a time


@no_grad
def nearest_indices(images: Tensor, normals: Tensor, device: torch.device | str) -> Tensor:
    """(N,) int64: of each of N images the normal image at the smallest L2 distance of the pixels.

    images: (N, C, H, W) uint8; normals: (T, C, H, W) uint8, may be mapped.
    """
    queries = to_float(images.to(device)).flatten(1)  # (N, D)
    best = torch.full((len(images),), torch.inf, device=device)
    indices = torch.zeros(len(images), dtype=torch.long, device=device)
    chunk_size = max(1, CHUNK_VALUES // queries.shape[1])
    for start in range(0, len(normals), chunk_size):
        chunk = to_float(normals[start : start + chunk_size].to(device)).flatten(1)  # (T', D)
        # |q - t|^2 without |q|^2, which is the same for every t
        distances = chunk.square().sum(dim=1) - 2 * queries @ chunk.T  # (N, T')
        values, places = distances.min(dim=1)
        is_nearer = values < best
        best, indices = torch.where(is_nearer, values, best), torch.where(is_nearer, places + start, indices)
    return indices.cpu()


def nearest_normals(images: Tensor, normals: Tensor, device: torch.device | str) -> Tensor:
    """(N, C, H, W) uint8: the nearest normal image of each."""
    return normals[nearest_indices(images, normals, device)]
