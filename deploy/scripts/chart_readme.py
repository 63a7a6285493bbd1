#!/usr/bin/env python3
"""Writes deploy/helm/paceline/README.md from the comments in values.yaml.

A line `# -- text` describes the key below it; comment lines that follow it go on with the text. The
default is the YAML of that key. Standard library only; values.yaml keeps to two spaces per level.
"""
import pathlib
import re

CHART = pathlib.Path(__file__).resolve().parent.parent / "helm" / "paceline"

HEAD = """# Chart paceline

Routers, and workers for any number of models. How to install and run it:
[docs/deploy](../../../docs/deploy/quickstart.md).

Every value with its default. A key that is not here is refused. Made from `values.yaml` by
`deploy/scripts/chart_readme.py`.

| value | default | what |
|---|---|---|
"""


def entries(lines):
    """(dotted name, default as text, description) of each described key."""
    path, text = [], None
    for number, line in enumerate(lines):
        stripped = line.strip()
        if stripped.startswith("# -- "):
            text = stripped[5:]
        elif stripped.startswith("#") and text is not None:
            text += " " + stripped[1:].strip()
        elif match := re.match(r"( *)([A-Za-z]+):(.*)", line):
            depth = len(match[1]) // 2
            path = [*path[:depth], match[2]]
            if text is not None:
                yield ".".join(path), default(lines, number, match), text
                text = None
        elif not stripped:
            text = None


def default(lines, number, match):
    value = match[3].strip()
    if value:
        return value
    below = []
    for line in lines[number + 1:]:
        if line.strip() and not line.startswith(match[1] + "  "):
            break
        if line.strip() and not line.strip().startswith("#"):
            below.append(line.strip())
    return " ".join(below) if len(below) < 3 else "see `values.yaml`"


def readme():
    lines = (CHART / "values.yaml").read_text(encoding="utf-8").splitlines()
    rows = []
    for name, value, text in entries(lines):
        shown = value if value.startswith("see ") else f"`{value}`"
        rows.append(f"| `{name}` | {shown} | {text.replace('|', chr(92) + '|')} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    (CHART / "README.md").write_text(readme(), encoding="utf-8")
