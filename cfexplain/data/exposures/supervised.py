"""Known anomalies of some classes in place of outlier exposure: a plain supervised classifier, and its biases.

Trained on green anomalies alone, a detector may learn "green is anomalous" and nothing about the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from cfexplain.data.exposures.base import ExposureRequest, ExposureSpec
from cfexplain.data.reading.raw_images import RawImages
from cfexplain.errors import DataError, did_you_mean

NUM_NAMES_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class Supervised(ExposureSpec):
    """classes: patterns over the names of the anomalous classes, such as '7', 'green *' or '*'."""

    is_like_dataset = True

    classes: list[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.classes:
            raise ValueError("classes is empty: name at least one class or pattern, e.g. classes=['*']")

    def pictures(self, request: ExposureRequest) -> RawImages:
        """Training images of the wanted classes; they are anomalous by the dataset's own rule."""
        others = request.others
        if others is None:
            raise DataError("exposure=supervised: there are no anomalous training images for it; name another exposure")
        names = [request.class_names[index] for index in np.unique(others.classes)]
        wanted: set[str] = set()
        for pattern in self.classes:
            matching = [name for name in names if fnmatchcase(name, pattern)]
            if not matching:
                shown = ", ".join(names[:NUM_NAMES_SHOWN]) + (" ..." if len(names) > NUM_NAMES_SHOWN else "")
                hint = did_you_mean(pattern, names)
                raise DataError(f"exposure.classes: no anomalous class {pattern!r}; there are {shown}.{hint}")
            wanted.update(matching)
        is_wanted = np.isin(others.classes, [request.class_names.index(name) for name in wanted])
        return others.take(np.flatnonzero(is_wanted))
