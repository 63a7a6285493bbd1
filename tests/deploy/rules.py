"""The rules file and the dashboards, as data."""

import glob
import importlib.util
import json
import os
import re

import yaml

import chart

RULES = os.path.join(chart.CHART, "files", "rules", "paceline.yaml")
DASHBOARDS = sorted(glob.glob(os.path.join(chart.CHART, "files", "dashboards", "*.json")))

# What dashboard variables stand for when a test evaluates a query.
VARIABLES = {"namespace": ".*", "model": ".*", "replica": ".*", "instance": ".*"}


def groups():
    with open(RULES, encoding="utf-8") as f:
        return yaml.safe_load(f)["groups"]


def alerts():
    return {rule["alert"]: rule for group in groups() for rule in group["rules"] if "alert" in rule}


def recorded():
    return {rule["record"]: rule for group in groups() for rule in group["rules"] if "record" in rule}


def dashboards():
    found = {}
    for path in DASHBOARDS:
        with open(path, encoding="utf-8") as f:
            found[os.path.basename(path)[:-len(".json")]] = json.load(f)
    return found


def panels():
    """(dashboard / title, query with its variables) of every query of every panel."""
    for name, board in dashboards().items():
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                yield f"{name} / {panel['title']} / {panel['type']} {target['refId']}", target["expr"]


def filled(query, interval="20s"):
    query = query.replace("$interval", interval)
    for name, value in VARIABLES.items():
        query = query.replace(f"${name}", value)
    assert "$" not in query, query
    return query


def metric_names(query):
    """Names of metrics in a query: identifiers that neither stand in {} nor are of PromQL."""
    text = re.sub(r'"(\\.|[^"\\])*"', '""', query)
    text = re.sub(r"\{[^}]*\}", "{}", text)
    text = re.sub(r"\[[^\]]*\]", "[]", text)
    text = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", text)
    names = set()
    for match in re.finditer(r"[A-Za-z_:][A-Za-z0-9_:]*", text):
        rest = text[match.end():].lstrip()
        if rest.startswith("(") or match[0] in ("and", "or", "unless", "bool", "offset", "inf", "nan"):
            continue
        if re.fullmatch(r"[smhdwy]", match[0]):
            continue
        names.add(match[0])
    return names


def module(path):
    spec = importlib.util.spec_from_file_location(os.path.basename(path)[:-3], path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded
