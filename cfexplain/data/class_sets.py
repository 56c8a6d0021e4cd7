"""Which classes are normal: by id, by name, or as a named set; or all but the anomalous ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cfexplain.errors import did_you_mean

NamedSets = Mapping[str, tuple[int, ...]]


def normal_classes(
    normal: Sequence[str], anomalous: Sequence[str] | None, class_names: Sequence[str], named_sets: NamedSets
) -> tuple[int, ...]:
    """Indices of the normal classes, ascending; `anomalous`, where given, takes the place of `normal`.

    ValueError, naming the field first, for what is unknown, doubled, empty, or leaves no normal or no anomalous class.
    """
    if anomalous is None:
        chosen = _indices("normal", normal, class_names, named_sets)
    else:
        left_out = _indices("anomalous", anomalous, class_names, named_sets)
        chosen = [index for index in range(len(class_names)) if index not in left_out]
    if len(chosen) == len(class_names):
        raise ValueError(f"normal holds all {len(class_names)} classes: no anomaly is left. Leave at least one out")
    if not chosen:
        raise ValueError(f"anomalous holds all {len(class_names)} classes: nothing normal is left")
    return tuple(sorted(chosen))


def class_set_slug(normal: Sequence[str], anomalous: Sequence[str] | None) -> str:
    """For folder names: '8_9', 'not_5', 'speed_limits'."""
    words = sorted(normal) if anomalous is None else ["not", *sorted(anomalous)]
    cleaned = "_".join(words).lower()
    return "".join(letter if letter.isascii() and letter.isalnum() or letter in "_-" else "_" for letter in cleaned)


def _indices(field: str, wanted: Sequence[str], class_names: Sequence[str], named_sets: NamedSets) -> list[int]:
    if not wanted:
        raise ValueError(f"{field} is empty: name at least one class, e.g. {field}=[{class_names[1]}]")
    found: list[int] = []
    for word in map(str, wanted):
        if word in named_sets:
            found += named_sets[word]
        elif word in class_names:
            found.append(list(class_names).index(word))
        elif word.isdecimal() and int(word) < len(class_names):
            found.append(int(word))
        else:
            known = [*named_sets, *class_names]
            shown = ", ".join(known[:12]) + (" ..." if len(known) > 12 else "")
            raise ValueError(
                f"{field}: no class {word!r}; ids are 0 to {len(class_names) - 1}, names {shown}."
                f"{did_you_mean(word, known)}"
            )
    if len(set(found)) < len(found):
        raise ValueError(f"{field} names a class twice: {list(wanted)}")
    return found
