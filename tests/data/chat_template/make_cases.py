"""Writes the expectations that chat_template_replay_test replays, by running jinja2 itself.

    python3 -m venv venv && venv/bin/pip install jinja2==3.1.6
    venv/bin/python tests/data/chat_template/make_cases.py
"""

import json
import pathlib
import re

from families import FAMILIES
from hf_jinja import expectation, render
from statements import STATEMENTS

HERE = pathlib.Path(__file__).parent

DATA = {
    "name": "Ada",
    "list": [1, "two", None, 3.5, True],
    "nested": {"a": {"b": "deep"}, "z": [], "y": {}},
    "uni": "Zoë 日本 😀",
    "num": 41,
    "float": 2.5,
    "text": "  first line\nsecond <|im_end|> line \n",
    "empty": "",
    "null": None,
    "true": True,
    "html": "<b>\"quoted\" & 'single'</b>",
    "items": "shadowed",
}

# What Python prints for objects without a repr of their own holds an address.
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def write(name, cases):
    (HERE / name).write_text(
        "[\n" + ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases) + "\n]\n",
        encoding="utf-8",
    )
    errors = sum("error" in c for c in cases)
    print(f"{name}: {len(cases)} cases, {errors} of them errors")


def case(source, **inputs):
    result = render(source, **inputs)
    if isinstance(result, str) and ADDRESS.search(result):
        return None
    return {"source": source, **inputs, **expectation(result)}


def expressions():
    text = (HERE / "expressions.txt").read_text(encoding="utf-8")
    text = text.replace("\\\n", "\\\u0000")  # a line that continues
    for line in text.splitlines():
        line = line.replace("\u0000", "\n")
        if line and not line.startswith("#"):
            yield case("{{ " + line + " }}", extra={"d": DATA})


def families():
    for name, inputs_list in FAMILIES.items():
        source = (HERE / "templates" / f"{name}.jinja").read_text(encoding="utf-8")
        for inputs in inputs_list:
            yield {"template": f"templates/{name}.jinja", **inputs, **expectation(render(source, **inputs))}


def statements():
    for entry in STATEMENTS:
        source, inputs = entry if isinstance(entry, tuple) else (entry, {})
        yield case(source, **{"extra": {"d": DATA}, **inputs})


if __name__ == "__main__":
    write("expressions.json", [c for c in expressions() if c])
    write("statements.json", [c for c in statements() if c])
    write("families.json", list(families()))
