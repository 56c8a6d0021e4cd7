"""cfexplain evaluate sheet=true, a page on which people judge pictures without knowing how each came about; and
sheet_answers=[a.json,b.json], what they said.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cfexplain.commands.base import Command, Job
from cfexplain.commands.judging_config import EvaluateConfig
from cfexplain.commands.trained_run import TrainedRun
from cfexplain.detectors.base import logits_of
from cfexplain.engine.seeding import step_generator
from cfexplain.explanation.explain import explain_images, FittedModel
from cfexplain.files import write_json
from cfexplain.inspection.sheet import draw_alarms, draw_pairs, KEY, OWN, Pair, Question, sheet_key
from cfexplain.inspection.sheet_answers import answer_meanings, answer_metrics, Answers, read_answers, read_key
from cfexplain.lazy import Tensor, torch
from cfexplain.reporting.html import write_report
from cfexplain.reporting.sheet import FILE, write_sheet
from cfexplain.reporting.tables import print_metrics
from cfexplain.runs.lookup import find_run
from cfexplain.types import Explanations, Splits

MEANINGS = {
    "num_pairs": ("pairs on the sheet", ""),
    "num_real_pairs": ("of these, which of the two is real", ""),
    "num_explains_pairs": ("of these, which explains the alarm better", ""),
}
NO_ALPHA = "krippendorffs_alpha_{} left out: it takes two readers of one pair, and answers of both sides"


class MakeSheet(Command):
    """evaluate sheet=true."""

    config_type = EvaluateConfig
    headlines = tuple(MEANINGS)
    config: EvaluateConfig

    @property
    def slug(self) -> str:
        return f"sheet-{self.config.open().slug}"

    def run(self, job: Job) -> dict[str, float | str]:
        config, trained = self.config, self.config.open()
        seed = trained.config.seed if config.seed is None else config.seed
        device = job.start(config, seed, trained.parents)
        with job.timed("data"):
            splits = trained.load_splits()
        with job.timed("pairs"):
            pairs = _pairs(config, trained, splits, seed, device)
        key = sheet_key(pairs)
        write_json(job.folder.path / KEY, key)
        write_sheet(job.folder.path / FILE, pairs, key["sheet"])
        counts = {f"num_{question}_pairs": sum(pair.question is question for pair in pairs) for question in Question}
        metrics: dict[str, float | str] = {"num_pairs": len(pairs), **counts}
        job.folder.write_metrics(metrics)
        print_metrics(metrics, MEANINGS, job.reporter.stream)
        return metrics

    def plan(self, device: torch.device) -> Iterator[str]:
        trained = self.config.open()
        trained.load_model(device)
        trained.load_splits()
        yield f"run: {trained.folder}; a sheet of {self.config.num_sheet_pairs} pairs"

    def next_command(self, folder: Path, metrics: dict[str, float | str]) -> str:
        return (f"give {folder / FILE} to readers, without {KEY}; then cfexplain evaluate run={folder} "
                "sheet_answers=[a.json,b.json]")


class ReadSheet(Command):
    """evaluate sheet_answers=[a.json,b.json]; run is the sheet's folder."""

    config_type = EvaluateConfig
    headlines = (f"taken_for_real_{OWN}",)
    config: EvaluateConfig

    @property
    def slug(self) -> str:
        return "sheet-answers"

    def run(self, job: Job) -> dict[str, float | str]:
        job.folder.write_parents([self._folder])
        readers = self._readers()
        metrics = answer_metrics(read_key(self._folder), readers)
        for question in Question:
            if f"krippendorffs_alpha_{question}" not in metrics:
                job.note(NO_ALPHA.format(question))
        job.folder.write_metrics(metrics)
        meanings = answer_meanings(metrics)
        print_metrics(metrics, meanings, job.reporter.stream)
        facts = {"sheet": self._folder / FILE, "answers": ", ".join(self.config.sheet_answers or [])}
        write_report(job.folder.path / "report.html", "What readers said of a sheet", facts, [], metrics, meanings,
                     job.folder.record["warnings"])
        return metrics

    def plan(self, device: torch.device) -> Iterator[str]:
        yield f"sheet: {self._folder / FILE}; readers: {len(self._readers())}"

    @property
    def _folder(self) -> Path:
        assert self.config.run is not None
        return find_run(self.config.run, Path(self.config.output_root), ("evaluate",))

    def _readers(self) -> list[Answers]:
        files = [Path(text).expanduser() for text in self.config.sheet_answers or []]
        return read_answers(files, read_key(self._folder))


def _pairs(
    config: EvaluateConfig, trained: TrainedRun, splits: Splits, seed: int, device: torch.device
) -> list[Pair]:
    """Of our method one concept of each image, drawn: nothing is picked by what the detector says of it."""
    model, baselines = trained.load_model(device), config.baselines
    assert baselines is not None
    own = _alarms(config, trained, model, splits, seed, device)
    concepts = torch.randint(own.num_concepts, (len(own.sources),), generator=step_generator(seed, 0, "sheet"))
    counterfactuals: dict[str, Tensor] = {OWN: own.counterfactuals[torch.arange(len(own.sources)), concepts]}
    for way in config.sheet_against:
        counterfactuals[way] = baselines.counterfactuals(
            way, own.sources.images, own.threshold, model.detector, splits.train.images, device,
            Path(config.cache_dir),
        )
    return draw_pairs(own.sources, counterfactuals, splits.test_normals, seed)


def _alarms(
    config: EvaluateConfig, trained: TrainedRun, model: FittedModel, splits: Splits, seed: int, device: torch.device
) -> Explanations:
    """Of as many images as there are pairs, those of a train run explained now."""
    num_pairs = config.num_sheet_pairs
    if trained.explained is not None:
        saved = trained.saved_explanations(splits)
        return saved.select(draw_alarms(saved.source_logits, saved.threshold, num_pairs, seed))
    sources = splits.explained
    logits = logits_of(model.detector, sources.images, device)
    rows = draw_alarms(logits, model.detector.threshold.item(), num_pairs, seed)
    return explain_images(model, sources.select(rows), device)
