"""The chart, rendered by Helm's own library, and what is in it."""

import functools
import os

import helm_python as helm
import yaml

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
CHART = os.path.join(ROOT, "deploy", "helm", "paceline")
RELEASE = "test"
NAMESPACE = "llm"


def read(name):
    with open(os.path.join(HERE, name), encoding="utf-8") as f:
        return f.read()


@functools.cache
def value_sets():
    return yaml.safe_load(read("value_sets.yaml"))


@functools.cache
def _chart():
    return helm.Chart.load(CHART)


def files(values):
    """Rendered text by template; raises helm.HelmError where the chart or its schema refuses."""
    chart = _chart()
    chart.validate_schema(values)
    return chart.render(values, name=RELEASE, namespace=NAMESPACE)


@functools.cache
def text(set_name):
    """All manifests of a value set, as one document."""
    rendered = files(value_sets()[set_name])
    return "".join(f"# {path}\n{body.strip()}\n" for path, body in sorted(rendered.items())
                   if body.strip() and not path.endswith("NOTES.txt"))


@functools.cache
def objects(set_name):
    rendered = files(value_sets()[set_name])
    documents = "\n---\n".join(body for path, body in sorted(rendered.items())
                               if not path.endswith("NOTES.txt"))
    return [o for o in yaml.load_all(documents, yaml.CSafeLoader) if o]


def kind(set_name, *kinds):
    return [o for o in objects(set_name) if o["kind"] in kinds]


def pods(manifests):
    """(name of the object, labels, pod spec) of every pod that the objects make."""
    for o in manifests:
        name = f"{o['kind']}/{o['metadata']['name']}"
        if o["kind"] in ("Deployment", "StatefulSet"):
            template = o["spec"]["template"]
            yield name, template["metadata"]["labels"], template["spec"]
        elif o["kind"] == "LeaderWorkerSet":
            for part in ("leaderTemplate", "workerTemplate"):
                template = o["spec"]["leaderWorkerTemplate"][part]
                yield f"{name}/{part}", template["metadata"]["labels"], template["spec"]
        elif o["kind"] == "Pod":
            yield name, o["metadata"]["labels"], o["spec"]


def containers(spec):
    return [*spec.get("initContainers", []), *spec["containers"]]
