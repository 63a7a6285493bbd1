"""The manual's values are ones that the chart takes, and its names are ones that exist."""

import glob
import os
import re

import pytest
import yaml

import chart

PAGES = sorted(glob.glob(os.path.join(chart.ROOT, "docs", "deploy", "*.md"))
               + glob.glob(os.path.join(chart.ROOT, "docs", "runbooks", "*.md")))


def text(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


@pytest.mark.parametrize("path", PAGES, ids=os.path.basename)
def test_values_shown_render(path):
    for block in re.findall(r"```yaml\n(.*?)```", text(path), re.S):
        chart.files(yaml.safe_load(block))


@pytest.mark.parametrize("path", PAGES, ids=os.path.basename)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)]+)\)", text(path)):
        if target.startswith("http"):
            continue
        page, _, anchor = target.partition("#")
        page = os.path.normpath(os.path.join(os.path.dirname(path), page)) if page else path
        assert os.path.exists(page), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", text(page), re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}, target


def test_values_named_are_there():
    with open(os.path.join(chart.CHART, "values.yaml"), encoding="utf-8") as f:
        values = yaml.safe_load(f)
    values["models"] = {**values["modelDefaults"], "name": "", "servedName": "", "replicas": 1,
                        "source": {"hf": "", "url": "", "path": "", "sha256": "", "tokenSecret": ""}}

    def there(tree, names):
        for name in names:
            if not isinstance(tree, dict) or name not in tree:
                return False
            tree = tree[name]
        return True

    roots = set(values) | set(values["modelDefaults"]) | {"source"}
    for path in PAGES:
        for name in re.findall(r"`([a-z][A-Za-z]*(?:\[\])?(?:\.[A-Za-z]+)+)(?::[^`]*)?`", text(path)):
            names = name.replace("[]", "").split(".")
            if names[0] in roots and not name.endswith(
                        (".yaml", ".json", ".py", ".sh", ".md", ".crt", ".key")):
                assert there(values, names) or there(values["models"], names), (path, name)
