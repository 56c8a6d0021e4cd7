"""What an explain run comes to in all: metrics.json, summed over images."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from cfexplain.inspection.base import Inspection, Verdict, VERDICTS

MEANINGS = {
    "num_images": ("images explained", ""),
    "num_own_images": ("images explained, your own", ""),
    "validity": ("share of counterfactuals at or below the threshold", "1"),
    "l1_distance": ("mean change of a counterfactual, images in [-1, 1]", "0"),
    "repair_validity": ("share of minimal repairs at or below the threshold", "validity"),
    "repair_l1_distance": ("mean change of a minimal repair", "0"),
    "excess_change": ("share of the repaired images' change that the minimal repair saves", "0"),
    **{f"share_{verdict}": (f"share of counterfactuals with the verdict {verdict}", "1" if verdict == "ok" else "0")
       for verdict in VERDICTS},
}


@dataclass
class Totals:
    """Over all images and concepts; distances with the six digits of samples.csv, so that both agree."""

    num_images: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)

    def add(self, inspection: Inspection) -> None:
        explanations, sizes = inspection.explanations, inspection.change_sizes
        self.num_images += len(explanations.sources)
        is_valid = explanations.logits[:, 0] <= explanations.threshold  # (N, K)
        self.sums["validity"] += int(is_valid.sum())
        self.sums["repair_validity"] += int((inspection.repair_logits <= explanations.threshold).sum())
        verdicts = [VERDICTS[code] for code in inspection.verdict_codes.flatten().tolist()]
        self.verdicts.update(verdicts)
        columns = is_valid.flatten().tolist(), sizes.l1_distance.flat, sizes.repair_l1_distance.flat
        for verdict, valid, *distances in zip(verdicts, *columns, strict=True):
            change, repair = (float(f"{distance:.6g}") for distance in distances)
            self.sums["l1_distance"] += change
            self.sums["repair_l1_distance"] += repair
            if valid and verdict is not Verdict.already_normal:  # else there was nothing to repair
                self.sums["repaired_change"] += change
                self.sums["repaired_repair"] += repair

    @property
    def counts(self) -> dict[str, int]:
        """Of each verdict, in the order of VERDICTS, also of those that nobody got."""
        return {verdict.value: self.verdicts[verdict] for verdict in VERDICTS}

    def metrics(self, count_key: str) -> dict[str, float | str]:
        num_rows = sum(self.verdicts.values())
        means = {name: self.sums[name] / num_rows
                 for name in ("validity", "l1_distance", "repair_validity", "repair_l1_distance")}
        saved = {"excess_change": 1 - self.sums["repaired_repair"] / self.sums["repaired_change"]} \
            if self.sums["repaired_change"] > 0 else {}
        shares = {f"share_{name}": count / num_rows for name, count in self.counts.items()}
        return {count_key: self.num_images, **means, **saved, **shares}
