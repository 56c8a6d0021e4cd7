"""What a dataset of coloured digits is: its normal rule, of digit or colour, and its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cfexplain.data.datasets.base import DatasetSpec
from cfexplain.data.datasets.colours import factor_rule
from cfexplain.types import FactorRule


@dataclass(frozen=True, kw_only=True)
class ColouredDataset(DatasetSpec):
    """normal, normal_colours: a digit is normal when it is one of `normal` or its colour one of `normal_colours`.

    anomalous: where given, it takes the place of `normal`: all other digits are normal.
    """

    name: ClassVar[str]
    colours: ClassVar[tuple[str, ...]]

    normal: list[str]
    anomalous: list[str] | None
    normal_colours: list[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.rule

    @property
    def rule(self) -> FactorRule:
        return factor_rule(self.colours, self.normal, self.anomalous, self.normal_colours)

    @property
    def slug(self) -> str:
        rule = self.rule
        colours = "_".join(rule.colour_names[colour] for colour in rule.normal_colours)
        return f"{self.name}-{colours}-{'_'.join(rule.shape_names[shape] for shape in rule.normal_shapes)}"
