#!/usr/bin/env python3
"""Writes the Grafana dashboards of deploy/helm/paceline/files/dashboards from the lists below.

A panel is (title, kind, unit, [(query, legend)], description). Standard library only.
Rates and quantiles: sum by (le) (rate()), never of lifetime totals. vllm: names exist on routers and
on workers; engine="0" is a worker's, so that nothing is counted twice.
"""
import json
import pathlib

OUT = pathlib.Path(__file__).resolve().parent.parent / "helm" / "paceline" / "files" / "dashboards"

NAMESPACE = 'namespace=~"$namespace"'
ROUTER = f'{NAMESPACE},engine!="0",model_name=~"$model"'     # vllm: names as routers see them
WORKER = f'{NAMESPACE},engine="0",model_name=~"$model",instance=~"$instance"'
REPLICA = f'{NAMESPACE},model_name=~"$model",replica=~"$replica"'


def quantiles(metric, labels):
    return [(f"histogram_quantile({q}, sum by (le) (rate({metric}_bucket{{{labels}}}[$interval])))", name)
            for q, name in ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"))]


def heatmap(metric, labels):
    return [(f"sum by (le) (increase({metric}_bucket{{{labels}}}[$interval]))", "{{le}}")]


def rate(metric, labels, by=""):
    group = f"sum by ({by}) " if by else "sum "
    legend = " ".join("{{%s}}" % name.strip() for name in by.split(",")) if by else ""
    return (f"{group}(rate({metric}{{{labels}}}[$interval]))", legend)


TTFT, ITL = "vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds"
E2E, QUEUE = "vllm:e2e_request_latency_seconds", "vllm:request_queue_time_seconds"
STATE = "paceline_router_replica_state"
REQUESTS = "paceline_router_requests_total"

CLUSTER = [
    ("Now", [
        ("Replicas ready", "stat", "short",
         [(f'sum(max by (namespace, replica) ({STATE}{{{REPLICA},state="ready"}})) or vector(0)', "")],
         "As any router sees them."),
        ("Requests per second", "stat", "reqps", [rate(REQUESTS, NAMESPACE)], ""),
        ("Failed", "stat", "percentunit",
         [(f'(sum(rate({REQUESTS}{{{NAMESPACE},code=~"internal|unavailable|unknown"}}[$interval])) or vector(0))'
           f" / sum(rate({REQUESTS}{{{NAMESPACE}}}[$interval]))", "")],
         "Share that failed through no fault of the client."),
        ("First token, p90", "stat", "s", [quantiles(TTFT, ROUTER)[1]], ""),
        ("Requests in the queue", "stat", "short",
         [(f"sum(paceline_router_queue_requests{{{NAMESPACE}}})", "")], ""),
        ("Oldest in the queue", "stat", "s",
         [(f"max(paceline_router_queue_oldest_age_seconds{{{NAMESPACE}}})", "")], ""),
    ]),
    ("Traffic", [
        ("Requests by route", "timeseries", "reqps", [rate(REQUESTS, NAMESPACE, "route")], ""),
        ("Answers that are not ok", "timeseries", "reqps",
         [rate(REQUESTS, f'{NAMESPACE},code!="ok"', "code")], "By status; streams count with how they ended."),
        ("Tokens per second", "timeseries", "short",
         [(rate("vllm:prompt_tokens_total", ROUTER)[0], "prompt"),
          (rate("vllm:generation_tokens_total", ROUTER)[0], "generated")], "As routers count them."),
        ("Finished by reason", "timeseries", "reqps",
         [rate("vllm:request_success_total", ROUTER, "finished_reason")], ""),
        ("Prompt length", "heatmap", "short", heatmap("vllm:request_prompt_tokens", ROUTER), "Tokens."),
        ("Answer length", "heatmap", "short", heatmap("vllm:request_generation_tokens", ROUTER), "Tokens."),
    ]),
    ("Latency", [
        ("Time to first token", "timeseries", "s", quantiles(TTFT, ROUTER), "From arrival at the router."),
        ("Time to first token", "heatmap", "s", heatmap(TTFT, ROUTER), ""),
        ("Time between tokens", "timeseries", "s", quantiles(ITL, ROUTER), ""),
        ("Time between tokens", "heatmap", "s", heatmap(ITL, ROUTER), ""),
        ("Whole request", "timeseries", "s", quantiles(E2E, ROUTER), ""),
        ("Whole request", "heatmap", "s", heatmap(E2E, ROUTER), ""),
        ("Time in the queue", "timeseries", "s", quantiles(QUEUE, ROUTER), ""),
        ("Added by the router", "timeseries", "s",
         quantiles("paceline_router_added_latency_seconds", NAMESPACE),
         "Arrival to the first replica, less the time in the queue."),
        ("Template and tokenising", "timeseries", "s",
         quantiles("paceline_router_text_seconds", NAMESPACE), ""),
    ]),
    ("Queue and admission", [
        ("Running and waiting", "timeseries", "short",
         [(f'max by (model_name) (vllm:num_requests_running{{{NAMESPACE},engine="router",model_name=~"$model"}})',
           "{{model_name}} running"),
          (f'max by (model_name) (vllm:num_requests_waiting{{{NAMESPACE},engine="router",model_name=~"$model"}})',
           "{{model_name}} waiting")],
         "Each router counts all that its replicas report, and its own queue: the largest of them."),
        ("Queue", "timeseries", "short",
         [(f"sum(paceline_router_queue_requests{{{NAMESPACE}}})", "requests"),
          (f"sum(paceline_router_queue_prompt_tokens{{{NAMESPACE}}})", "prompt tokens")], ""),
        ("Age of the oldest", "timeseries", "s",
         [(f"max by (instance) (paceline_router_queue_oldest_age_seconds{{{NAMESPACE}}})", "{{instance}}")], ""),
        ("Refused by reason", "timeseries", "reqps",
         [rate("paceline_router_admission_rejects_total", NAMESPACE, "reason")],
         "Ended before they were sent to a replica."),
        ("Balancing decisions", "timeseries", "ops",
         [rate("paceline_router_picks_total", NAMESPACE, "policy, outcome")], ""),
    ]),
    ("Replicas", [
        ("By state", "timeseries", "short",
         [(f"sum by (state) (max by (namespace, replica, state) ({STATE}{{{REPLICA}}}))", "{{state}}")],
         "draining: an operator drained it. lost: routers try to attach again."),
        ("Tokens outstanding", "timeseries", "short",
         [(f"sum by (replica) (paceline_router_replica_outstanding_tokens{{{REPLICA}}})", "{{replica}}")], ""),
        ("Sequences", "timeseries", "short",
         [(f"sum by (replica) (paceline_router_replica_sequences{{{REPLICA}}})", "{{replica}}")], ""),
        ("Lease age", "timeseries", "s",
         [(f"max by (replica) (paceline_router_replica_lease_age_seconds{{{REPLICA}}})", "{{replica}}")],
         "Since its last frame; beyond the lease it is lost."),
        ("Failovers and retries", "timeseries", "ops",
         [(rate("paceline_router_failovers_total", NAMESPACE)[0], "failovers"),
          rate("paceline_router_retries_total", NAMESPACE, "reason")], "Failovers: after tokens had been emitted."),
        ("Tokens resumed", "timeseries", "short",
         [(rate("paceline_router_resumed_tokens_total", NAMESPACE)[0], "per second")], "Replayed at another replica."),
        ("Sequences on draining replicas", "timeseries", "short",
         [(f"sum by (replica) (paceline_router_replica_sequences{{{REPLICA}}}"
           f' and on (namespace, instance, replica) {STATE}{{{REPLICA},state="draining"}} == 1)', "{{replica}}")], ""),
        ("Slow readers", "timeseries", "ops",
         [(rate("paceline_router_stream_pauses_total", NAMESPACE)[0], "paused"),
          (rate("paceline_router_slow_reader_cancels_total", NAMESPACE)[0], "given up"),
          (rate("paceline_router_late_results_total", NAMESPACE)[0], "late results")], ""),
    ]),
    ("Traces", [
        ("Spans", "timeseries", "ops",
         [rate("paceline_router_trace_spans_total", NAMESPACE, "outcome"),
          rate("paceline_worker_trace_spans_total", NAMESPACE, "outcome")],
         "Only where traces are exported. dropped: the queue was full; failed: the collector did not take them."),
    ]),
    ("Cache", [
        ("KV cache in use", "timeseries", "percentunit",
         [(f'max by (instance) (vllm:kv_cache_usage_perc{{{NAMESPACE},engine="0",model_name=~"$model"}})',
           "{{instance}}")], "By workers."),
        ("Prefix cache hits", "timeseries", "percentunit",
         [(f'sum(rate(vllm:prefix_cache_hits_total{{{NAMESPACE},engine="0",model_name=~"$model"}}[$interval]))'
           f' / sum(rate(vllm:prefix_cache_queries_total{{{NAMESPACE},engine="0",model_name=~"$model"}}[$interval]))',
           "share of prompt tokens")], ""),
        ("Prefix tokens that the picked replica had", "timeseries", "short",
         [rate("paceline_router_matched_prefix_tokens_total", f'{NAMESPACE},model_name=~"$model"', "model_name")],
         "Per second."),
        ("Preemptions", "timeseries", "ops",
         [rate("vllm:num_preemptions_total", f'{NAMESPACE},engine="0",model_name=~"$model"', "instance")], ""),
    ]),
]

MODEL = f'{NAMESPACE},model=~"$model",instance=~"$instance"'  # paceline_worker_ names

REPLICAS = [
    ("Steps", [
        ("Step time, decode", "timeseries", "s",
         quantiles("paceline_worker_step_seconds", f'{MODEL},phase="decode"'), "Steps of decodes only."),
        ("Step time, prefill", "timeseries", "s",
         quantiles("paceline_worker_step_seconds", f'{MODEL},phase="prefill"'), "The other steps."),
        ("Planning and committing a step", "timeseries", "s",
         quantiles("paceline_worker_schedule_seconds", MODEL), ""),
        ("Steps", "timeseries", "ops", [rate("paceline_worker_steps_total", MODEL, "instance")], ""),
        ("Tokens computed by phase", "timeseries", "short",
         [rate("paceline_worker_computed_tokens_total", MODEL, "instance, phase")],
         "Per second; recomputed ones count again."),
        ("Tokens per step", "heatmap", "short", heatmap("vllm:iteration_tokens_total", WORKER), ""),
        ("Time in steps", "timeseries", "percentunit",
         [(f"sum by (instance, phase) (rate(paceline_worker_step_seconds_sum{{{MODEL}}}[$interval]))",
           "{{instance}} {{phase}}")], "1: the engine never rests."),
    ]),
    ("Ranks", [
        ("Ranks at work", "timeseries", "percentunit",
         [(f"sum by (instance, rank) (rate(paceline_worker_rank_compute_seconds_total{{{MODEL}}}[$interval]))",
           "{{instance}} rank {{rank}}")], "Share of the time; ranks of other hosts are not seen here."),
        ("Ranks waiting for each other", "timeseries", "percentunit",
         [(f"sum by (instance, rank) (rate(paceline_worker_rank_wait_seconds_total{{{MODEL}}}[$interval]))",
           "{{instance}} rank {{rank}}")],
         "Collectives, and what stages send each other. One that waits little holds up those that wait much."),
        ("GPUs exchanging", "timeseries", "percentunit",
         [(f"sum by (instance, rank) (rate(paceline_worker_rank_gpu_exchange_seconds_total{{{MODEL}}}[$interval]))"
           f" / sum by (instance, rank) (rate(paceline_worker_rank_gpu_timed_seconds_total{{{MODEL}}}[$interval]))",
           "{{instance}} rank {{rank}}")],
         "Share of the time of a GPU's layers, waiting for other ranks included; one step of 128 is timed."),
        ("Step time of ranks", "timeseries", "s",
         [(f"sum by (instance, rank) (rate(paceline_worker_rank_compute_seconds_total{{{MODEL}}}[$interval]))"
           f" / sum by (instance, rank) (rate(paceline_worker_rank_steps_total{{{MODEL}}}[$interval]))",
           "{{instance}} rank {{rank}}")], "At work, mean of a step."),
        ("Ranks up", "timeseries", "short",
         [(f"sum by (instance) (paceline_worker_rank_up{{{MODEL}}})", "{{instance}}")],
         "That show that they live."),
        ("Ranks started anew", "timeseries", "short",
         [(f"sum by (instance) (increase(paceline_worker_rank_restarts_total{{{MODEL}}}[$interval]))",
           "{{instance}}")], "All ranks of a worker at once."),
    ]),
    ("Batch", [
        ("Sequences by state", "timeseries", "short",
         [(f"sum by (instance, state) (paceline_worker_sequences{{{MODEL}}})", "{{instance}} {{state}}")],
         "paused: their client does not read."),
        ("Prompt tokens still to compute", "timeseries", "short",
         [(f"sum by (instance) (paceline_worker_waiting_tokens{{{MODEL}}})", "{{instance}}")], ""),
        ("Attached routers", "timeseries", "short",
         [(f"max by (instance) (paceline_worker_sessions{{{MODEL}}})", "{{instance}}")], ""),
        ("Waiting in the engine", "timeseries", "s", quantiles(QUEUE, WORKER), ""),
        ("Prefill", "timeseries", "s", quantiles("vllm:request_prefill_time_seconds", WORKER),
         "First scheduling to first token."),
        ("Decode", "timeseries", "s", quantiles("vllm:request_decode_time_seconds", WORKER),
         "First to last token."),
        ("Gap between tokens", "timeseries", "s", quantiles(ITL, WORKER), "As the engine sees it."),
        ("Finished by reason", "timeseries", "ops",
         [rate("vllm:request_success_total", WORKER, "finished_reason")], ""),
    ]),
    ("Memory", [
        ("KV blocks by state", "timeseries", "short",
         [(f"sum by (instance, state) (paceline_worker_kv_blocks{{{MODEL}}})", "{{instance}} {{state}}")],
         "cached: free, but remembered."),
        ("KV cache in use", "timeseries", "percentunit",
         [(f"max by (instance) (vllm:kv_cache_usage_perc{{{WORKER}}})", "{{instance}}")], ""),
        ("Cached blocks given up", "timeseries", "ops",
         [rate("paceline_worker_prefix_evictions_total", MODEL, "instance")], ""),
        ("Preemptions", "timeseries", "ops", [rate("vllm:num_preemptions_total", WORKER, "instance")], ""),
        ("Memory", "timeseries", "bytes",
         [(f"sum by (instance) (paceline_worker_weight_bytes{{{MODEL}}})", "{{instance}} weights"),
          (f"sum by (instance) (paceline_worker_kv_cache_bytes{{{MODEL}}})", "{{instance}} KV cache")], ""),
        ("GPU memory", "timeseries", "bytes",
         [(f"sum by (instance, state) (paceline_worker_gpu_memory_bytes{{{MODEL}}})", "{{instance}} {{state}}")],
         "Of all processes on it; of several ranks the first one's GPU."),
        ("GPU at work", "timeseries", "percentunit",
         [(f"max by (instance) (paceline_worker_gpu_utilization{{{MODEL}}})", "{{instance}}")], ""),
        ("KV cache's configuration", "table", "short",
         [(f"vllm:cache_config_info{{{WORKER}}}", "")], ""),
    ]),
]

TENANTS = [
    ("Share", [
        ("Requests by class of tenant", "timeseries", "reqps", [rate(REQUESTS, NAMESPACE, "tenant_class")],
         "keyed: with an API key; default: no keys are set; none: no key was accepted."),
        ("Refused or failed, by class", "timeseries", "reqps",
         [rate(REQUESTS, f'{NAMESPACE},code!="ok"', "tenant_class, code")], ""),
        ("Share that is not ok, by class", "timeseries", "percentunit",
         [(f'(sum by (tenant_class) (rate({REQUESTS}{{{NAMESPACE},code!="ok"}}[$interval]))'
           f" or 0 * sum by (tenant_class) (rate({REQUESTS}{{{NAMESPACE}}}[$interval])))"
           f" / sum by (tenant_class) (rate({REQUESTS}{{{NAMESPACE}}}[$interval]))", "{{tenant_class}}")], ""),
    ]),
    ("By tenant", [
        ("Tokens per second", "timeseries", "short",
         [rate("paceline_router_tenant_tokens_total", NAMESPACE, "tenant, kind")],
         "Tenants that the keys name, the first 32; unnamed: keys without a tenant; other: the rest."),
        ("Share of tokens", "timeseries", "percentunit",
         [(f"sum by (tenant) (rate(paceline_router_tenant_tokens_total{{{NAMESPACE}}}[$interval]))"
           f" / ignoring (tenant) group_left () sum(rate(paceline_router_tenant_tokens_total{{{NAMESPACE}}}[$interval]))",
           "{{tenant}}")], "The queue is fair over tenants, by tokens."),
        ("Requests", "timeseries", "reqps",
         [rate("paceline_router_tenant_requests_total", NAMESPACE, "tenant")], "That ran."),
        ("Mean time in the queue", "timeseries", "s",
         [(f"sum by (tenant) (rate(paceline_router_tenant_queue_seconds_total{{{NAMESPACE}}}[$interval]))"
           f" / sum by (tenant) (rate(paceline_router_tenant_requests_total{{{NAMESPACE}}}[$interval]))",
           "{{tenant}}")], "Of requests that ran."),
    ]),
    ("Waiting", [
        ("Time in the queue", "timeseries", "s", quantiles(QUEUE, ROUTER), "Of all tenants."),
        ("Time in the queue", "heatmap", "s", heatmap(QUEUE, ROUTER),
         "A second band far up: some tenants ask for more than their share."),
        ("Queue", "timeseries", "short",
         [(f"sum(paceline_router_queue_requests{{{NAMESPACE}}})", "requests")], ""),
        ("Refused by reason", "timeseries", "reqps",
         [rate("paceline_router_admission_rejects_total", NAMESPACE, "reason")], ""),
    ]),
]

DASHBOARDS = {
    "cluster": ("Paceline / Cluster", CLUSTER),
    "replicas": ("Paceline / Replica and ranks", REPLICAS),
    "tenants": ("Paceline / Tenants", TENANTS),
}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def variable(name, label, query):
    return {"name": name, "label": label, "type": "query", "datasource": DATASOURCE,
            "query": {"query": query, "refId": name}, "definition": query,
            "refresh": 2, "sort": 1, "multi": True, "includeAll": True, "allValue": ".*",
            "current": {"text": "All", "value": "$__all"}}


def variables():
    return [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus",
         "current": {}},
        variable("namespace", "Namespace", "label_values(paceline_router_queue_requests, namespace)"),
        variable("model", "Model", 'label_values(vllm:num_requests_running{engine="router"}, model_name)'),
        variable("replica", "Replica", f"label_values({STATE}, replica)"),
        variable("instance", "Worker", "label_values(paceline_worker_steps_total, instance)"),
        {"name": "interval", "label": "Interval", "type": "interval", "auto": True, "auto_min": "1m",
         "auto_count": 60, "query": "1m,5m,15m,1h", "refresh": 2,
         "current": {"text": "auto", "value": "$__auto_interval_interval"}},
    ]


def panel(number, title, kind, unit, queries, description, place):
    targets = []
    for letter, (expr, legend) in zip("ABCDE", queries):
        target = {"refId": letter, "datasource": DATASOURCE, "expr": expr,
                  "legendFormat": legend or "__auto", "editorMode": "code", "range": True}
        if kind == "heatmap":
            target["format"] = "heatmap"
        if kind in ("stat", "table"):
            target.update(range=False, instant=True, format="table" if kind == "table" else "time_series")
        targets.append(target)
    options = {
        "timeseries": {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                       "tooltip": {"mode": "multi", "sort": "desc"}},
        "stat": {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                 "colorMode": "value", "graphMode": "none"},
        "heatmap": {"calculate": False, "yAxis": {"unit": unit}, "cellGap": 0,
                    "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
                    "tooltip": {"mode": "single", "yHistogram": False}},
        "table": {"showHeader": True},
    }[kind]
    defaults = {"unit": unit}
    if kind == "timeseries":
        defaults.update(min=0, custom={"fillOpacity": 8, "lineWidth": 1, "showPoints": "never"})
    return {"id": number, "type": kind, "title": title, "description": description, "gridPos": place,
            "datasource": DATASOURCE, "targets": targets, "options": options,
            "fieldConfig": {"defaults": defaults, "overrides": []}}


def dashboard(uid, title, rows):
    panels, y, number = [], 0, 1
    for row, contents in rows:
        panels.append({"id": number, "type": "row", "title": row, "collapsed": False, "panels": [],
                       "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}})
        y, number = y + 1, number + 1
        is_stat = contents[0][1] == "stat"
        width, height = (4, 4) if is_stat else (8, 8)
        per_line = 24 // width
        for i, entry in enumerate(contents):
            place = {"h": height, "w": width, "x": i % per_line * width, "y": y + i // per_line * height}
            panels.append(panel(number, *entry, place))
            number += 1
        y += -(-len(contents) // per_line) * height
    return {"uid": f"paceline-{uid}", "title": title, "tags": ["paceline"], "schemaVersion": 41,
            "editable": True, "refresh": "30s", "time": {"from": "now-1h", "to": "now"},
            "timezone": "browser", "graphTooltip": 1, "templating": {"list": variables()},
            "annotations": {"list": []}, "panels": panels,
            "links": [{"type": "dashboards", "title": "Paceline", "tags": ["paceline"], "asDropdown": False,
                       "includeVars": True, "keepTime": True}]}


def text(name):
    title, rows = DASHBOARDS[name]
    return json.dumps(dashboard(name, title, rows), indent=1) + "\n"


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    for name in DASHBOARDS:
        (OUT / f"{name}.json").write_text(text(name), encoding="utf-8")
