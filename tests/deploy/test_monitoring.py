"""Rules and dashboards without a server: every alert with promtool, the form of every dashboard."""

import os
import re
import subprocess

import pytest
import yaml

import chart
import rules

CASES = yaml.safe_load(chart.read("alert_cases.yaml"))


def promtool(*args):
    return subprocess.run(["promtool", *args], capture_output=True, text=True, timeout=600)


def test_promtool_takes_the_rules():
    done = promtool("check", "rules", rules.RULES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_its_cases():
    assert set(CASES) == set(rules.alerts())


@pytest.mark.parametrize("outcome", ["fires", "quiet"])
def test_alerts_fire_when_they_should_and_only_then(outcome, tmp_path):
    files = {}  # the evaluation interval is a file's
    for name, case in CASES.items():
        case = case[outcome]
        every = case.get("every", "1m")
        expected = [{"labels": f'{{alertname="{name}"}}', "value": 1}] if outcome == "fires" else []
        # Without the order promtool takes the groups in any, and an alert evaluated before the rule
        # that it reads sees only that rule's last value, which may be stale.
        file = files.setdefault(every, {"rule_files": [rules.RULES], "evaluation_interval": every,
                                        "group_eval_order": [g["name"] for g in rules.groups()],
                                        "tests": []})
        file["tests"].append({
            "name": name, "interval": every,
            "input_series": [{"series": s, "values": str(v)} for s, v in case["series"].items()],
            "promql_expr_test": [{
                "expr": f'group by (alertname) (ALERTS{{alertname="{name}",alertstate="firing"}})',
                "eval_time": case["at"], "exp_samples": expected}]})
    for every, file in files.items():
        path = tmp_path / f"{every}.yaml"
        path.write_text(yaml.safe_dump(file))
        done = promtool("test", "rules", str(path))
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", list(rules.alerts()))
def test_every_alert_says_how_bad_what_and_what_to_do(name):
    alert = rules.alerts()[name]
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["annotations"]["summary"] and alert["annotations"]["description"]
    page = os.path.join(chart.ROOT, alert["annotations"]["runbook"])
    with open(page, encoding="utf-8") as f:
        text = f.read()
    assert text.startswith(f"# {name}\n")
    for part in ("## What it means", "## Look at", "## Do"):
        assert part in text, (page, part)


def test_every_runbook_is_of_an_alert():
    pages = {f for f in os.listdir(os.path.join(chart.ROOT, "docs", "runbooks")) if f != "README.md"}
    assert pages == {os.path.basename(a["annotations"]["runbook"]) for a in rules.alerts().values()}


def test_the_rule_object_is_the_rules_file():
    rule = chart.kind("monitoring", "PrometheusRule")[0]
    assert rule["spec"]["groups"] == rules.groups()


def test_the_dashboards_are_made_by_their_script():
    make = rules.module(os.path.join(chart.ROOT, "deploy", "scripts", "make_dashboards.py"))
    for path in rules.DASHBOARDS:
        with open(path, encoding="utf-8") as f:
            name = os.path.basename(path)[:-len(".json")]
            assert f.read() == make.text(name), "run deploy/scripts/make_dashboards.py"
    assert len(rules.DASHBOARDS) == len(make.DASHBOARDS) == 3


@pytest.mark.parametrize("name", list(rules.dashboards()))
def test_dashboards_are_well_formed(name):
    board = rules.dashboards()[name]
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    assert board["schemaVersion"] >= 39
    cells = set()
    for panel in board["panels"]:
        assert panel["type"] in ("row", "timeseries", "stat", "heatmap", "table")  # none deprecated
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in cells, f"{panel['title']} covers another panel"
                cells.add((x, y))
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}"
    known = {v["name"] for v in board["templating"]["list"]}
    assert {"model", "replica", "interval", "datasource"} <= known
    used = set(re.findall(r"\$(\w+)", " ".join(e for _, e in rules.panels())))
    assert used <= known


@pytest.mark.parametrize("where, query", list(rules.panels()), ids=lambda value: value[:40])
def test_queries_are_right_about_rates_and_quantiles(where, query):
    if "_total" in query:
        assert re.search(r"(rate|increase)\(", query), "a counter needs a rate"
    if "_bucket" in query:
        assert "by (le" in query and re.search(r"(rate|increase)\(", query)
    # No mean of a histogram's whole life, and no vllm: name of router and worker at once.
    assert not ("_sum" in query and "_count" in query)
    for selector in re.findall(r"vllm:\w+\{[^}]*\}", query):
        assert "engine" in selector


def test_metric_names_are_found_in_queries():
    names = rules.metric_names(
        'sum by (le, a) (rate(a_bucket{b="c",d=~"e f"}[5m])) / on (x) group_left (y) (m:n > 0) or up == 1')
    assert names == {"a_bucket", "m:n", "up"}
