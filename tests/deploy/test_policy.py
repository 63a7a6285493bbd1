"""What every rendered manifest must keep to: the restricted profile, limits, probes, no secret in the
open, and only the network paths that are needed."""

import base64
import re
import subprocess

import pytest
import yaml

import chart

SETS = list(chart.value_sets())


@pytest.mark.parametrize("name", SETS)
def test_pods_keep_to_the_restricted_profile(name):
    seen = 0
    for where, _, spec in chart.pods(chart.objects(name)):
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True, where
        assert pod.get("runAsUser") != 0, where
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert not spec.get("hostNetwork") and not spec.get("hostPID") and not spec.get("hostIPC")
        asks_api = chart.value_sets()[name].get("discovery") and where.endswith("-router")
        assert spec["automountServiceAccountToken"] is bool(asks_api), where
        # A Service called "paceline" would otherwise set the variable of an option.
        assert spec["enableServiceLinks"] is False, where
        allowed = {"configMap", "emptyDir", "secret", "persistentVolumeClaim"}
        for volume in spec.get("volumes", []):
            assert set(volume) - {"name"} <= allowed, (where, volume)
        for container in chart.containers(spec):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, where
            assert context["readOnlyRootFilesystem"] is True, where
            assert context["capabilities"] == {"drop": ["ALL"]}, where
            assert "privileged" not in context, where
            seen += 1
    assert seen >= 3


@pytest.mark.parametrize("name", SETS)
def test_containers_have_limits_and_a_version(name):
    for where, _, spec in chart.pods(chart.objects(name)):
        for container in chart.containers(spec):
            resources = container["resources"]
            assert {"cpu", "memory"} <= set(resources["requests"]), (where, container["name"])
            assert "memory" in resources["limits"], (where, container["name"])
            assert re.search(r"(:[\w.-]+|@sha256:[0-9a-f]{64})$", container["image"]), where
            assert not container["image"].endswith(":latest"), where


@pytest.mark.parametrize("name", SETS)
def test_servers_have_three_different_probes(name):
    for where, labels, spec in chart.pods(chart.objects(name)):
        for container in spec["containers"]:
            if labels["app.kubernetes.io/component"] == "test":
                continue
            if labels.get("paceline.dev/leader") == "false":
                # A node other than the first opens no port to ask; its process ends when it cannot go on.
                assert "ports" not in container
                continue
            probes = []
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                assert probe in container, (where, probe)
                probes.append(str(container[probe].get("httpGet", container[probe].get("tcpSocket"))))
            assert len(set(probes)) == 3, where


@pytest.mark.parametrize("name", SETS)
def test_the_grace_period_covers_the_drain(name):
    for _, labels, spec in chart.pods(chart.objects(name)):
        container, pre_stop = spec["containers"][0], 0
        if labels["app.kubernetes.io/component"] == "test":
            continue
        if labels["app.kubernetes.io/component"] == "router":
            pre_stop = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            assert pre_stop > 0
        drain = int(argument(container, "--drain-seconds"))
        assert spec["terminationGracePeriodSeconds"] >= drain + pre_stop + 10


def argument(container, option):
    values = [a.split("=", 1)[1] for a in container["args"] if a.startswith(option + "=")]
    assert len(values) == 1, (option, container["args"])
    return values[0]


def selects(selector, labels):
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


@pytest.mark.parametrize("name", SETS)
def test_selectors_find_their_pods(name):
    manifests = chart.objects(name)
    pods = list(chart.pods(manifests))
    for o in manifests:
        where = f"{o['kind']}/{o['metadata']['name']}"
        if o["kind"] in ("Deployment", "StatefulSet"):
            assert selects(o["spec"]["selector"], o["spec"]["template"]["metadata"]["labels"]), where
        elif o["kind"] == "Service":
            found = [spec for _, labels, spec in pods
                     if selects({"matchLabels": o["spec"]["selector"]}, labels)]
            assert found, where
            for port in o["spec"]["ports"]:
                for spec in found:
                    names = [p["name"] for c in spec["containers"] for p in c.get("ports", [])]
                    assert port["targetPort"] in names, (where, port)
        elif o["kind"] in ("PodDisruptionBudget", "PodMonitor"):
            assert any(selects(o["spec"]["selector"], labels) for _, labels, _ in pods), where


def test_routers_look_for_rank_0_of_every_model():
    manifests = chart.objects("everything")
    service = next(o for o in manifests if o["kind"] == "Service"
                   and o["spec"].get("clusterIP") == "None")
    found = {where for where, labels, _ in chart.pods(manifests)
             if selects({"matchLabels": service["spec"]["selector"]}, labels)}
    assert found == {"Deployment/test-paceline-small", "StatefulSet/test-paceline-kept",
                     "Deployment/test-paceline-device",
                     "LeaderWorkerSet/test-paceline-big/leaderTemplate"}
    router = next(spec for _, labels, spec in chart.pods(manifests)
                  if labels["app.kubernetes.io/component"] == "router")
    assert argument(router["containers"][0], "--workers") == \
        f"dns:///{service['metadata']['name']}.llm.svc:50061"


@pytest.mark.parametrize("name", ["kubernetes_discovery", "kubernetes_discovery_own_account"])
def test_a_token_may_only_list_and_watch_endpoint_slices(name):
    manifests = chart.objects(name)
    by_kind = {kind: [o for o in manifests if o["kind"] == kind]
               for kind in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "ServiceAccount")}
    assert not by_kind["ClusterRole"] and not by_kind["ClusterRoleBinding"]
    (role,), (binding,) = by_kind["Role"], by_kind["RoleBinding"]
    assert role["rules"] == [{"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"],
                              "verbs": ["list", "watch"]}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    (subject,) = binding["subjects"]
    accounts = {where: spec["serviceAccountName"] for where, _, spec in chart.pods(manifests)}
    routers = {where for where in accounts if where.endswith("-router")}
    assert {accounts[where] for where in routers} == {subject["name"]}
    if name == "kubernetes_discovery":
        assert subject["name"] in {o["metadata"]["name"] for o in by_kind["ServiceAccount"]}
        assert subject["name"] not in {a for where, a in accounts.items() if where not in routers}
    router = next(spec for where, _, spec in chart.pods(manifests) if where in routers)
    service = next(o for o in manifests if o["kind"] == "Service" and o["spec"].get("clusterIP") == "None")
    assert argument(router["containers"][0], "--workers") == \
        f"kubernetes:///{service['metadata']['name']}.llm:50061"


# ---- network -------------------------------------------------------------------------------------

def can_reach(manifests, source, target, port, namespace="llm"):
    """Whether the policies let a connection of a pod with labels `source` reach port of `target`.
    `source` or `target` None: somewhere else, in `namespace`."""
    policies = [o["spec"] for o in manifests if o["kind"] == "NetworkPolicy"]

    def peer_matches(peer, labels):
        if "ipBlock" in peer:
            return labels is None and namespace == "internet"
        if "namespaceSelector" in peer:
            wanted = peer["namespaceSelector"].get("matchLabels", {})
            return labels is None and wanted.get("kubernetes.io/metadata.name", namespace) == namespace
        return labels is not None and selects(peer["podSelector"], labels)

    def allowed(direction, key, own, other):
        if own is None:
            return True
        chosen = [p for p in policies if selects(p["podSelector"], own)]
        if not chosen:
            return True
        for policy in chosen:
            assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
            for rule in policy.get(direction, []):
                ports = [p["port"] for p in rule.get("ports", [{"port": port}])]
                if port in ports and any(peer_matches(p, other) for p in rule[key]):
                    return True
        return False

    return (allowed("egress", "to", source, target) and allowed("ingress", "from", target, source))


@pytest.fixture(name="network")
def _network():
    manifests = chart.objects("everything")
    labels = {where.split("/", 1)[1]: labels for where, labels, _ in chart.pods(manifests)}
    return manifests, {
        "router": labels["test-paceline-router"], "small": labels["test-paceline-small"],
        "claim": labels["test-paceline-device"], "leader": labels["test-paceline-big/leaderTemplate"],
        "node": labels["test-paceline-big/workerTemplate"], "test": labels["test-paceline-test"],
        "client": {"app": "client"}, "operator": {"role": "operator"}}


@pytest.mark.parametrize("source, target, port, allowed", [
    ("client", "router", 8000, True),
    ("client", "router", 50051, True),
    ("test", "router", 8000, True),
    ("client", "router", 8002, False),
    ("client", "router", 50052, False),
    ("client", "small", 50061, False),
    ("client", "small", 8002, False),
    ("operator", "router", 50052, True),
    ("router", "small", 50061, True),
    ("router", "leader", 50061, True),
    ("router", "small", 8002, False),
    ("router", "router", 8002, False),
    ("small", "router", 8000, False),
    ("small", "leader", 50061, False),
    ("node", "leader", 29500, True),
    ("leader", "node", 40000, True),
    ("node", "small", 50061, False),
    ("small", "small", 40000, False),
    # What ranks tell each other is not encrypted: nobody else gets at their ports.
    ("router", "leader", 29500, False),
    ("client", "node", 40000, False),
    ("small", "leader", 29500, False),
    ("test", "router", 50051, False),
    ("test", "small", 50061, False),
    ("client", "test", 8000, False),
])
def test_who_may_reach_whom(network, source, target, port, allowed):
    manifests, pod = network
    assert can_reach(manifests, pod[source], pod[target], port) is allowed


@pytest.mark.parametrize("pod, namespace, port, inward, allowed", [
    ("router", "monitoring", 8002, True, True),
    ("small", "monitoring", 8002, True, True),
    ("router", "monitoring", 8000, True, False),
    ("small", "other", 50061, True, False),
    ("router", "kube-system", 53, False, True),
    ("router", "internet", 443, False, False),
    ("small", "internet", 443, False, True),   # downloads its model
    ("small", "internet", 80, False, False),
    ("claim", "internet", 443, False, False),  # has it in a claim
    ("claim", "kube-system", 53, False, False),
    ("node", "internet", 443, False, False),
    ("node", "monitoring", 29500, True, False),
    ("test", "kube-system", 53, False, True),
    ("test", "internet", 443, False, False),
])
def test_who_may_reach_what_is_outside(network, pod, namespace, port, inward, allowed):
    manifests, pods = network
    ends = (None, pods[pod]) if inward else (pods[pod], None)
    assert can_reach(manifests, *ends, port, namespace=namespace) is allowed


@pytest.mark.parametrize("name, namespace, port, allowed", [
    ("defaults", "internet", 443, False),
    ("kubernetes_discovery", "internet", 443, True),
    ("kubernetes_discovery", "internet", 6443, True),
    ("kubernetes_discovery", "internet", 80, False),
    ("tracing", "monitoring", 4318, True),
    ("tracing", "other", 4318, False),
    ("tracing", "monitoring", 9090, False),
    ("tracing_elsewhere", "internet", 443, True),
    ("tracing_elsewhere", "internet", 4318, False),
])
def test_what_routers_may_reach_when_they_are_asked_to(name, namespace, port, allowed):
    manifests = chart.objects(name)
    router = next(labels for where, labels, _ in chart.pods(manifests) if where.endswith("-router"))
    assert can_reach(manifests, router, None, port, namespace=namespace) is allowed


def test_traces_of_workers_reach_the_collector_too():
    manifests = chart.objects("tracing")
    for where, labels, spec in chart.pods(manifests):
        if labels["app.kubernetes.io/component"] == "test":
            continue
        assert can_reach(manifests, labels, None, 4318, namespace="monitoring"), where
        assert can_reach(manifests, labels, None, 53, namespace="kube-system"), where
        assert argument(spec["containers"][0], "--otlp-traces-endpoint") == \
            "http://collector.monitoring:4318/v1/traces"


# ---- secrets -------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", SETS)
def test_no_secret_lies_in_the_open(name):
    """Keys are in Secrets and reach processes as files: not in arguments, variables or ConfigMaps."""
    for where, _, spec in chart.pods(chart.objects(name)):
        for container in chart.containers(spec):
            for argument_ in container.get("args", []):
                assert not re.match(r"--(api|admin)-key=", argument_), where
            for variable in container.get("env", []):
                assert "secretKeyRef" not in str(variable), where
                assert not re.search(r"KEY|TOKEN$|SECRET|PASSWORD", variable["name"]), where
        for volume in spec.get("volumes", []):
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] == 0o440, where
    for o in chart.kind(name, "ConfigMap"):
        assert not {"keys", "token", "tls.key"} & set(o.get("data", {}))
        assert "PRIVATE KEY" not in str(o) and "-key:" not in str(o)


def test_a_generated_key_is_long_random_and_kept():
    def key():
        chart.objects.cache_clear()
        return {o["metadata"]["name"]: o for o in chart.kind("keys", "Secret")}
    one, two = key(), key()
    assert set(one) == {"test-paceline-api-keys", "test-paceline-admin-keys"}
    for name, secret in one.items():
        assert secret["data"]["keys"] != two[name]["data"]["keys"]
        assert len(secret["data"]["keys"]) > 60
        assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_a_given_secret_is_used_and_none_made():
    assert not chart.kind("keys_from_elsewhere", "Secret")
    used = {volume["secret"]["secretName"]
            for _, _, spec in chart.pods(chart.objects("keys_from_elsewhere"))
            for volume in spec.get("volumes", []) if "secret" in volume}
    assert used == {"clients", "operators"}
    for name in ("encrypted_from_elsewhere", "encrypted_by_cert_manager"):
        made = {o["metadata"]["name"] for o in chart.kind(name, "Secret")}
        assert made <= {"test-paceline-worker-token"}, "a certificate that somebody else makes"
    assert not chart.kind("encrypted_from_elsewhere", "Secret")


def test_a_generated_certificate_fits_its_key_and_its_names(tmp_path):
    """As openssl sees it: signed by the authority beside it, for the names that are dialled."""
    names = {"test-paceline-tls": "test-paceline.llm.svc",
             "test-paceline-worker-tls": "test-paceline-workers.llm.svc"}
    secrets = {o["metadata"]["name"]: o for o in chart.kind("encrypted", "Secret")}
    for secret, host in names.items():
        files = {}
        for key, value in secrets[secret]["data"].items():
            files[key] = tmp_path / f"{secret}-{key}"
            files[key].write_bytes(base64.b64decode(value))
        subprocess.run(["openssl", "verify", "-CAfile", files["ca.crt"], "-verify_hostname", host,
                        "-purpose", "sslserver", files["tls.crt"]], check=True, capture_output=True)
        public = [subprocess.run(["openssl", *command], check=True, capture_output=True).stdout
                  for command in (["x509", "-in", files["tls.crt"], "-noout", "-pubkey"],
                                  ["pkey", "-in", files["tls.key"], "-pubout"])]
        assert public[0] == public[1]
        assert secrets[secret]["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    workers = argument(next(spec["containers"][0] for name, _, spec in chart.pods(chart.objects("encrypted"))
                            if name == "Deployment/test-paceline-router"), "--worker-tls-server-name")
    assert workers == names["test-paceline-worker-tls"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_the_configuration_file_has_restarts_nothing(ranks):
    """Pods are the same whatever the values that take effect without a restart."""
    base = {"router": {"balance": "prefix"}, "modelDefaults": {"parallelism": {"tensor": ranks}}}
    other = {"router": {"balance": "session", "maxQueuedRequests": 7, "maxQueuedTokens": 8},
             "log": {"level": "debug"}, "modelDefaults": {"parallelism": {"tensor": ranks}}}

    def parts(values):
        rendered = yaml.load_all("\n---\n".join(
            body for path, body in chart.files(values).items() if not path.endswith("NOTES.txt")),
            yaml.CSafeLoader)
        found = [o for o in rendered if o]
        config = next(o for o in found if o["metadata"]["name"] == "test-paceline-config")
        return [o for o in found if o["kind"] == "Deployment"], config["data"]
    (pods, _), (same_pods, config) = parts(base), parts(other)
    assert pods == same_pods
    assert yaml.safe_load(config["router.yaml"]) == {
        "balance": "session", "max-queued-requests": 7, "max-queued-tokens": 8, "log-level": "debug"}
    assert yaml.safe_load(config["worker.yaml"]) == {"log-level": "debug"}


def test_probes_and_scrapes_speak_tls_where_the_ports_do():
    for name, worker_tls in (("encrypted", True), ("encrypted_from_elsewhere", True), ("keys", False)):
        for where, labels, spec in chart.pods(chart.objects(name)):
            container = spec["containers"][0]
            for probe in ("livenessProbe", "readinessProbe"):
                if probe in container:
                    assert (container[probe]["httpGet"].get("scheme") == "HTTPS") == worker_tls, where
    # A kubelet has no certificate to show.
    router = next(spec["containers"][0]
                  for name, _, spec in chart.pods(chart.objects("encrypted_from_elsewhere"))
                  if name == "Deployment/test-paceline-router")
    assert router["readinessProbe"]["httpGet"]["port"] == "operator"
    for monitor in chart.kind("encrypted", "PodMonitor"):
        endpoint = monitor["spec"]["podMetricsEndpoints"][0]
        assert endpoint["scheme"] == "https" and endpoint["tlsConfig"]["ca"]["secret"]["key"] == "ca.crt"


# ---- features ------------------------------------------------------------------------------------

def test_nothing_asks_for_rights_but_discovery():
    for name in SETS:
        if "discovery" in chart.value_sets()[name]:
            continue
        assert not chart.kind(name, "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")


def test_what_scales_has_no_fixed_number():
    for name in ("autoscaling", "autoscaling_groups", "autoscaling_claims"):
        scaled = {(o["spec"]["scaleTargetRef"]["kind"], o["spec"]["scaleTargetRef"]["name"])
                  for o in chart.kind(name, "ScaledObject", "HorizontalPodAutoscaler")}
        found = {(o["kind"], o["metadata"]["name"]): o.get("spec") for o in chart.objects(name)}
        assert scaled
        for target in scaled:
            assert "replicas" not in found[target]


def test_groups_restart_as_one_and_know_their_size():
    group = chart.kind("multi_node", "LeaderWorkerSet")[0]
    template = group["spec"]["leaderWorkerTemplate"]
    assert (template["size"], template["restartPolicy"]) == (4, "RecreateGroupOnPodRestart")
    assert template["subGroupPolicy"] == {"subGroupSize": 2}
    assert "leaderworkerset.sigs.k8s.io/exclusive-topology" in group["metadata"]["annotations"]
    for part in ("leaderTemplate", "workerTemplate"):
        container = template[part]["spec"]["containers"][0]
        assert argument(container, "--nnodes") == "4"
        assert argument(container, "--tensor-parallel-size") == "4"
        assert argument(container, "--pipeline-parallel-size") == "2"


@pytest.mark.parametrize("image, own, used", [
    ({}, {}, "paceline/paceline:0.1.0"),
    ({}, {"tag": "0.1.0-cuda"}, "paceline/paceline:0.1.0-cuda"),
    ({"tag": "2"}, {"repository": "mine/paceline"}, "mine/paceline:2"),
    ({"digest": f"sha256:{'a' * 64}"}, {"tag": "3"}, "paceline/paceline:3"),
    ({"tag": "2"}, {"tag": "3", "digest": f"sha256:{'b' * 64}"}, f"paceline/paceline@sha256:{'b' * 64}"),
    ({"digest": f"sha256:{'a' * 64}"}, {}, f"paceline/paceline@sha256:{'a' * 64}"),
])
def test_a_model_may_have_an_image_of_its_own(image, own, used):
    values = {"image": image, "modelDefaults": {"image": own}}
    rendered = chart.files(values)
    (worker,) = [o for o in yaml.safe_load_all(rendered["paceline/templates/models.yaml"])
                 if o and o["kind"] == "Deployment"]
    assert worker["spec"]["template"]["spec"]["containers"][0]["image"] == used


def test_gpus_are_asked_for_and_have_shared_memory():
    spec = chart.kind("gpu", "Deployment")[0]["spec"]["template"]["spec"]
    for kind in ("requests", "limits"):
        assert spec["containers"][0]["resources"][kind]["nvidia.com/gpu"] == 1
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}} in spec["volumes"]
