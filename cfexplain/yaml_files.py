"""The text of a YAML file, once it is known to be of a size that a config has.

YAML can multiply: an alias stands for all that its anchor holds, and a reference ${key} for another value. What a file
would become is added up from its tokens, before anything of it is made.
"""

from __future__ import annotations

from pathlib import Path

from cfexplain.errors import DataError
from cfexplain.files import regular

MAX_BYTES = 2**20  # of the file, and of what its aliases make of it; a run's config has 5,000
MAX_DEPTH = 50
MAX_REFERENCES = 12  # each level of them may multiply: 3 x 3 x 3 x 3 is the most that 12 give


def yaml_text(file: Path) -> str:
    """OSError where it cannot be read, DataError where it is damaged or too large."""
    import yaml  # not for --help

    with regular(file).open("rb") as opened:
        content = opened.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise DataError(f"{file} has {file.stat().st_size / 2**20:.0f} MB: a config has less than {MAX_BYTES >> 20} MB")
    try:
        text = content.decode("utf-8")
        size, references = _expanded(text)
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{file} is damaged: {reason}") from error
    if size > MAX_BYTES:
        raise DataError(f"{file} repeats itself by aliases (*name) up to more than {MAX_BYTES >> 20} MB")
    if references > MAX_REFERENCES:
        raise DataError(f"{file} holds {references} references (${{...}}): at most {MAX_REFERENCES} are read")
    return text


def _expanded(text: str) -> tuple[int, int]:
    """Letters and references, with every alias replaced by what it stands for."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    anchors: dict[str, tuple[int, int]] = {}
    open_nodes: list[tuple[str | None, int, int]] = [(None, 0, 0)]  # anchor, size, references
    for event in yaml.parse(text, loader):
        anchor, size, references = getattr(event, "anchor", None), 0, 0
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((anchor, 0, 0))
            if len(open_nodes) > MAX_DEPTH:
                raise yaml.YAMLError(f"more than {MAX_DEPTH} levels")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size, references = open_nodes.pop()
        elif isinstance(event, yaml.ScalarEvent):
            size, references = len(event.value), event.value.count("${")
        elif isinstance(event, yaml.AliasEvent):
            size, references = anchors.get(event.anchor, (0, 0))
        else:
            continue
        if anchor is not None and not isinstance(event, yaml.AliasEvent):
            anchors[anchor] = size + 1, references
        outer, outer_size, outer_references = open_nodes.pop()
        open_nodes.append((outer, outer_size + size + 1, outer_references + references))
    return open_nodes[0][1:]
