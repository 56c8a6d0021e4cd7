"""Two or three sentences on one image, made of measured numbers, for someone who knows no machine learning.

They say what the detector accepts, never why a part is as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from cfexplain.inspection.base import Inspection, Verdict
from cfexplain.inspection.changes import Change, EVERYWHERE, measured_change
from cfexplain.inspection.reference import SECOND_DETECTOR

SAME_SHAPE, OTHER_SHAPE = 0.7, 0.5  # overlaps of silhouettes: two different digits in one place have 0.3 to 0.5
FAINT = 0.005  # share of pixels that change visibly below which a change is hardly to be seen
OTHER_LIGHT = 0.1  # of the range from black to white
AFTER = {
    "png": "after it is saved as PNG", "jpeg": "after it is saved as JPEG", "shift": "after a shift by a pixel",
    "blur": "after a light blur", SECOND_DETECTOR: "for a second detector",
}  # fmt: skip


def sentences(inspection: Inspection, index: int) -> list[str]:
    """Where the image stands among normal ones; what would count as normal instead; what not to rely on."""
    num_concepts = inspection.explanations.num_concepts
    verdicts = [inspection.verdict(index, concept) for concept in range(num_concepts)]
    before = position_words(float(inspection.position_before[index]))
    if verdicts[0] is Verdict.already_normal:
        return [f"This image counts as normal: its score is {before}.", "There was nothing to explain."]
    accepted = [concept for concept, verdict in enumerate(verdicts) if verdict is Verdict.ok]
    doubts = [_doubt(inspection, index, concept) for concept in range(num_concepts) if concept not in accepted]
    start = [f"This image does not count as normal: its score is {before}.", _accepted(inspection, index, accepted)]
    if doubts:
        return [*start, f"{doubts[0][0].upper()}{'; '.join(doubts)[1:]}."]
    after = [f"{_position_after(inspection, index, concept)} (concept {concept})" for concept in accepted]
    return [*start, f"Its score is then {listed(after)}."]


def change_words(change: Change) -> str:
    """A noun phrase: "the colour changed from green to red and the shape kept (94 % overlap), 21 % of ..."."""
    if change.share < FAINT:
        return f"changes that are hardly visible ({percent(change.mean)} of the range from black to white on average)"
    changed, kept = [], []
    if change.colours is not None and change.colours[0] != change.colours[1]:
        changed.append(f"the colour changed from {change.colours[0]} to {change.colours[1]}")
    elif change.colours is not None:
        kept.append(f"the colour kept ({change.colours[0]}{_light_words(change.light)})")
    if change.outline_overlap is not None:
        overlap = f"{percent(change.outline_overlap)} overlap"
        if change.outline_overlap >= SAME_SHAPE:
            kept.append(f"the shape kept ({overlap})")
        elif change.outline_overlap >= OTHER_SHAPE:
            changed.append(f"a partly different shape ({overlap})")
        else:
            changed.append(f"another shape (only {overlap})")
    how_much = f"{percent(change.share)} of the image altered"
    if change.colours is None or not changed:  # neither colour nor outline tells what happened
        how_much = f"{percent(change.brighter)} of the image brighter and {percent(change.darker)} darker"
    place = change.place if change.place == EVERYWHERE else f"mostly {change.place}"
    return ", ".join([*filter(None, [listed(changed + kept)]), how_much, place])


def position_words(position: float) -> str:
    """Of a score among those of the normal images; position: share of them that have a lower one."""
    if position <= 0:
        return "not higher than any of the normal images"
    if position >= 1:
        return "higher than all of the normal images"
    return f"higher than {min(max(round(100 * position, 1), 0.1), 99.9):.1f} % of the normal images"


def percent(share: float) -> str:
    """Whole per cent, with one digit below 10 %; never 0 % of something, never 100 % of less than all."""
    if 0 < share < 0.001:
        return "less than 0.1 %"
    digits = 1 if 0 < share < 0.0995 else 0
    return f"{min(100 * share, 99.0) if share < 1 else 100:.{digits}f} %"


def listed(parts: Sequence[str], word: str = "and") -> str:
    """a; a and b; a, b and c."""
    return f" {word} ".join(filter(None, [", ".join(parts[:-1]), parts[-1]])) if parts else ""


def _accepted(inspection: Inspection, index: int, concepts: Sequence[int]) -> str:
    ways = [f"with {_change_words(inspection, index, concept)} (concept {concept})" for concept in concepts]
    if not ways:
        return "None of the changes tried is a reliable example of what would count as normal."
    either = "either " if len(ways) > 1 else ""
    return f"It would count as normal {either}{'; or '.join(ways)}."


def _doubt(inspection: Inspection, index: int, concept: int) -> str:
    """Why a concept is not to be relied on."""
    name, verdict = f"concept {concept}", inspection.verdict(index, concept)
    if verdict is Verdict.not_flipped:
        return f"{name} is not enough: its score stays {_position_after(inspection, index, concept)}"
    if verdict is Verdict.adversarial:
        failures = [AFTER[failure] for failure in inspection.failures(index, concept)]
        return f"do not rely on {name}: it no longer counts as normal {listed(failures, 'or')}"
    if verdict is Verdict.off_manifold:
        distance = float(inspection.manifold_distance[index, concept])
        words = _change_words(inspection, index, concept)
        return (f"{name}, with {words}, counts as normal but is not like the normal images "
                f"({distance:.2f} times the distance that 99 % of them keep)")
    return f"{name} makes the same change as concept {int(inspection.duplicate_of[index, concept])}"


def _change_words(inspection: Inspection, index: int, concept: int) -> str:
    explanations = inspection.explanations
    source, counterfactual = explanations.sources.images[index], explanations.counterfactuals[index, concept]
    return change_words(measured_change(source, counterfactual))


def _position_after(inspection: Inspection, index: int, concept: int) -> str:
    return position_words(float(inspection.position_after[index, concept]))


def _light_words(light: float) -> str:
    if abs(light) < OTHER_LIGHT:
        return ""
    return ", but brighter" if light > 0 else ", but darker"
