"""Connected regions of a mask, without scipy."""

from __future__ import annotations

import numpy as np


def labelled_regions(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool -> (H, W) int64: 0 outside, and one number >= 1 for each 8-connected region.

    Runs of a row are joined with the runs of the row above that they touch (union-find), so the Python loop is over
    runs, not pixels.
    """
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)  # (R,) runs in reading order
    ends = np.nonzero(edges == -1)[1]  # one past the last pixel
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    firsts = np.searchsorted(rows, np.arange(mask.shape[0] + 1))  # runs of row y: firsts[y] to firsts[y + 1]
    for run, (row, start, end) in enumerate(zip(rows.tolist(), starts.tolist(), ends.tolist())):
        for other in range(firsts[row - 1], firsts[row]) if row else ():
            if starts[other] <= end and ends[other] >= start:  # also corner to corner
                parent[root(other)] = root(run)
    labels = np.zeros(mask.shape, dtype=np.int64)
    for run, (row, start, end) in enumerate(zip(rows, starts, ends)):
        labels[row, start:end] = root(run) + 1
    return labels
