"""What a change of objective or generator is worth, without a look at test images.

    python benchmarks/ablation.py NAME [key=value ...]

trains as `cfexplain train key=value ...` would and measures on 600 anomalies of the *training* split against held-out
normal images. It appends a line of JSON to outputs/ablation.jsonl and draws outputs/ablation-NAME-<seed>.png. Detectors
are fitted once for a dataset, detector and seed, and kept in the cache.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from cfexplain import compose, config
from cfexplain.command_line import parse
from cfexplain.commands.judging_config import EvaluateConfig
from cfexplain.commands.train_config import TrainConfig
from cfexplain.detectors.base import Detector, build_detector, logits_of
from cfexplain.detectors.fitting import fit_detector
from cfexplain.engine.loop import train
from cfexplain.engine.runtime import autocast_dtype
from cfexplain.explanation.explain import explain_images
from cfexplain.explanation.game import CounterfactualLearner
from cfexplain.inspection.base import VERDICTS
from cfexplain.inspection.inspect import check
from cfexplain.inspection.reference import build_reference
from cfexplain.metrics.base import MetricInputs
from cfexplain.metrics.classifiers import feature_space
from cfexplain.metrics.transfer import SEED_OFFSET
from cfexplain.reporting.grids import counterfactual_grid, spread
from cfexplain.types import ANOMALOUS, ImageSet, Splits

NUM_IMAGES, NUM_DRAWN = 600, 14
CPU = torch.device("cpu")
METRICS = "metric=[auroc,validity,fid,oracle,classes]"


def main(name: str, words: list[str]) -> None:
    torch.set_flush_denormal(True)
    warnings.simplefilter("ignore")
    settings = typed("train", words, TrainConfig)
    judged = typed("evaluate", ["run=none", METRICS, *(word for word in words if word.startswith("cache_dir="))],
                   EvaluateConfig)
    splits, seed, cache = settings.load_splits(), settings.seed, Path(settings.cache_dir)
    detector, second = (kept_detector(settings, splits, number) for number in (seed, seed + SEED_OFFSET))
    started = time.process_time()
    learner = CounterfactualLearner(settings.generator, settings.fit, detector, splits, seed, CPU)
    learner.autocast_dtype = autocast_dtype(settings.runtime, CPU)
    train(learner, settings.fit.steps, settings.fit.log_every_steps, lambda tick: None)
    model = learner.fitted()
    seconds = time.process_time() - started
    splits = without_test_images(splits, seed)
    features = feature_space(splits, judged.features, cache, CPU)
    reference = build_reference(detector, splits, features, second, judged.false_alarm_rate, CPU, judged.alterations)
    explanations = explain_images(model, splits.test_anomalies, CPU, threshold=reference.threshold)
    inputs = MetricInputs(
        splits=splits, model=model, explanations=explanations,
        explain=lambda images: explain_images(model, images, CPU),
        fit_detector=lambda other, number: second, device=CPU, seed=seed, cache_dir=cache,
        test_normal_logits=logits_of(detector, splits.test_normals.images, CPU), metrics=judged.metric,
    )
    found = {key: value for spec in judged.metric.values() for key, value in spec.compute(inputs).items()}
    codes = check(detector, explanations, reference, CPU).verdict_codes
    found |= {f"share_{verdict}": float((codes == code).float().mean()) for code, verdict in enumerate(VERDICTS)}
    out = Path("outputs")
    out.mkdir(exist_ok=True)
    row = {"name": name, "seed": seed, "words": words, "cpu_seconds": round(seconds, 1), **found}
    with (out / "ablation.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    picture = counterfactual_grid(explanations, spread(len(explanations.sources), NUM_DRAWN))
    picture.save(out / f"ablation-{name}-{seed}.png")
    print(json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()
                      if not key.endswith(("_low", "_high"))}))


def typed(command: str, words: list[str], cls: type) -> object:
    return config.build_root(next(iter(compose.compositions(parse(command, words)))), cls)


def kept_detector(settings: TrainConfig, splits: Splits, seed: int) -> Detector:
    recipe = repr((settings.dataset, settings.exposure, settings.detector, settings.encoder, seed))
    path = Path(settings.cache_dir) / f"ablation-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.pt"
    if path.exists():
        detector = build_detector(settings.detector, settings.encoder, splits.image_shape, seed)
        detector.load_state_dict(torch.load(path, weights_only=True))
        return detector.eval().requires_grad_(False)
    detector = fit_detector(settings.detector, settings.encoder, splits, seed, CPU, lambda tick: None,
                            autocast_dtype(settings.runtime, CPU))
    torch.save(detector.state_dict(), path)
    return detector


def without_test_images(splits: Splits, seed: int) -> Splits:
    """The splits with held-out normals and anomalies of the training split in the place of test images."""
    reference, normals = splits.reference, splits.held_out.first(NUM_IMAGES)
    anomalous = (~torch.isin(reference.classes, splits.train.classes.unique())).nonzero().flatten()
    drawn = torch.randperm(len(anomalous), generator=torch.Generator().manual_seed(seed))[:NUM_IMAGES]
    anomalies = reference.select(anomalous[drawn])
    return replace(splits, test=ImageSet(
        images=torch.cat([normals.images, anomalies.images]),
        labels=torch.cat([normals.labels, torch.full_like(anomalies.labels, ANOMALOUS)]),
        classes=torch.cat([normals.classes, anomalies.classes]),
        ids=normals.ids + anomalies.ids,
    ))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
