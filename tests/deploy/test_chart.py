"""The chart renders, to manifests that Kubernetes takes, and refuses values that are wrong."""

import difflib
import functools
import importlib.util
import json
import os
import re

import helm_python as helm
import jsonschema
import kubernetes_validate
import pytest
import yaml

import chart

OLDEST = "1.30"  # Chart.yaml's kubeVersion
SETS = list(chart.value_sets())
GOLDEN = ["defaults", "multi_node", "everything"]


@functools.cache
def validate_as(version, manifest):
    """Slow, and the value sets have most of their manifests in common."""
    kubernetes_validate.validate(json.loads(manifest), version, strict=True)


def check_against_kubernetes(manifest):
    schemas = yaml.safe_load(chart.read("crd_schemas.yaml"))
    name = f"{manifest['apiVersion']}/{manifest['kind']}"
    if name not in schemas:
        validate_as(OLDEST, json.dumps(manifest, sort_keys=True))
        validate_as(kubernetes_validate.latest_version(), json.dumps(manifest, sort_keys=True))
        return
    jsonschema.validate(manifest["spec"], {"definitions": schemas["definitions"], **schemas[name]})
    assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
    for _, labels, spec in chart.pods([manifest]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": labels},
               "spec": spec}
        validate_as(OLDEST, json.dumps(pod, sort_keys=True))


def test_helm_finds_nothing_to_mend():
    assert helm.helm_sdk_version().startswith("v4.")
    for name, values in chart.value_sets().items():
        found = helm.lint(chart.CHART, values, strict=True, kube_version=f"v{OLDEST}.0")
        worse = [m for m in found["messages"] if m["severity"] > 1]
        assert not worse and not found["errors"], (name, found)


@pytest.mark.parametrize("name", SETS)
def test_every_manifest_is_one_that_kubernetes_takes(name):
    manifests = chart.objects(name)
    for manifest in manifests:
        try:
            check_against_kubernetes(manifest)
        except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
            path = "/".join(str(part) for part in error.absolute_path)
            pytest.fail(f"{manifest['kind']}/{manifest['metadata']['name']} {path}: {error.message}")
    ids = [(m["kind"], m["metadata"]["name"]) for m in manifests]
    assert len(ids) == len(set(ids)), "two objects of one kind and name"


@pytest.mark.parametrize("wrong", yaml.safe_load(chart.read("wrong_values.yaml")),
                         ids=lambda wrong: wrong["says"])
def test_wrong_values_are_refused_with_the_key(wrong):
    with pytest.raises(helm.HelmError) as refused:
        chart.files(wrong["values"])
    message = str(refused.value).replace("'", "")
    assert wrong["says"] in message.replace(".", "/") or wrong["says"] in message


def test_a_typo_in_any_key_is_refused():
    def maps(values, path=()):
        yield path
        for key, value in values.items():
            if isinstance(value, dict):
                yield from maps(value, (*path, key))

    free = {"labels", "annotations", "requests", "limits", "commonLabels", "commonAnnotations",
            "podLabels", "podAnnotations", "nodeSelector", "affinity"}
    with open(os.path.join(chart.CHART, "values.yaml"), encoding="utf-8") as f:
        values = yaml.safe_load(f)
    checked = 0
    for path in maps(values):
        if set(path) & free:
            continue
        wrong = {"tpyo": 1}
        for key in reversed(path):
            wrong = {key: wrong}
        with pytest.raises(helm.HelmError, match="tpyo"):
            chart.files(wrong)
        checked += 1
    assert checked > 25


@pytest.mark.parametrize("name", GOLDEN)
def test_manifests_are_those_that_were_reviewed(name, update_golden):
    # Random keys differ each time; dashboards and rules are files of their own.
    now = re.sub(r"(\n  (?:keys|token|tls.crt|tls.key|ca.crt): ).*", r"\1RANDOM", chart.text(name))
    now = re.sub(r"(?s)(# paceline/templates/monitoring.yaml\n).*?(?=\n# paceline/|\Z)", r"\1", now)
    path = os.path.join(chart.HERE, "golden", f"{name}.yaml")
    if update_golden:
        with open(path, "w", encoding="utf-8") as f:
            f.write(now)
    with open(path, encoding="utf-8") as f:
        then = f.read()
    difference = "\n".join(difflib.unified_diff(then.splitlines(), now.splitlines(), "then", "now",
                                                lineterm=""))
    assert not difference, difference + "\n(if this is as it should be: pytest --update-golden)"


# What Kubernetes refuses to change in an object that is there: an upgrade from any earlier version of
# the chart must not try.
IMMUTABLE = {
    "Deployment": lambda o: o["spec"]["selector"],
    "StatefulSet": lambda o: [o["spec"]["selector"], o["spec"]["serviceName"],
                              o["spec"].get("podManagementPolicy"),
                              o["spec"]["volumeClaimTemplates"]],
    "Service": lambda o: o["spec"].get("clusterIP"),
    "LeaderWorkerSet": lambda o: o["spec"]["leaderWorkerTemplate"].get("subGroupPolicy"),
}


def test_an_upgrade_changes_no_field_that_may_not_change(update_golden):
    now = {}
    for name in SETS:
        for o in chart.objects(name):
            if o["kind"] in IMMUTABLE:
                now[f"{name}: {o['kind']}/{o['metadata']['name']}"] = IMMUTABLE[o["kind"]](o)
    path = os.path.join(chart.HERE, "golden", "immutable_fields.yaml")
    if update_golden:
        with open(path, "w", encoding="utf-8") as f:
            f.write("# Of chart 0.1.0. Entries may be added, never changed or removed.\n")
            yaml.safe_dump(now, f)
    with open(path, encoding="utf-8") as f:
        then = yaml.safe_load(f)
    assert now == then
    assert {key.split(": ")[1].split("/")[0] for key in now} == set(IMMUTABLE)


def test_a_package_renders_what_the_folder_does(tmp_path):
    helm.package(chart.CHART, destination=str(tmp_path))
    (package,) = tmp_path.iterdir()
    values = {key: value for key, value in chart.value_sets()["everything"].items()
              if key not in ("auth", "admin", "tls", "workerPlane")}  # keys are random
    with helm.Chart.load(str(package)) as packed:
        rendered = packed.render(values, name=chart.RELEASE, namespace=chart.NAMESPACE)
    assert rendered == chart.files(values)


def test_versions_are_those_of_the_binary():
    with open(os.path.join(chart.ROOT, "cli", "version.h"), encoding="utf-8") as f:
        version = re.search(r'kVersion\[\] = "([^"]+)"', f.read())[1]
    with open(os.path.join(chart.CHART, "Chart.yaml"), encoding="utf-8") as f:
        assert yaml.safe_load(f)["appVersion"] == version


def test_the_readme_is_made_from_the_values():
    path = os.path.join(chart.ROOT, "deploy", "scripts", "chart_readme.py")
    spec = importlib.util.spec_from_file_location("chart_readme", path)
    chart_readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(chart_readme)
    with open(os.path.join(chart.CHART, "README.md"), encoding="utf-8") as f:
        assert f.read() == chart_readme.readme(), "run deploy/scripts/chart_readme.py"


def test_notes_name_the_commands_that_come_next():
    notes = chart.files({"auth": {"enabled": True}})["paceline/templates/NOTES.txt"]
    assert "rollout status deployment/test-paceline-router" in notes
    assert "helm -n llm test test --logs" in notes
    assert "curl -N http://127.0.0.1:8000/v1/chat/completions" in notes
    assert "get secret test-paceline-api-keys" in notes
