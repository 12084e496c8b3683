#!/usr/bin/env python3
"""Writes mayfly.json, the Grafana dashboard.

    deploy/grafana/dashboard.py [--check]     --check: exit 1 where mayfly.json is not what this file says

Needs grafana-foundation-sdk (tests/deploy/requirements.txt). Each panel's description names its metrics.
"""

import itertools
import json
import pathlib
import sys

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model

OUTPUT = pathlib.Path(__file__).with_name("mayfly.json")

SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
# All means any value, absent ones too: outside of Kubernetes series have no namespace and no pod.
ANY = ".*"
IN_POD = 'namespace=~"$namespace", pod=~"$pod"'
IN_NAMESPACE = 'namespace=~"$namespace"'
PROCESS = f'job=~".*mayfly.*", {IN_POD}'
RATE = "$__rate_interval"

GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"


# ---- Queries ---------------------------------------------------------------------------------

def series(metric, *matchers):
    return f"{metric}{{{', '.join((*matchers, IN_POD))}}}"


def rate(metric, *matchers):
    return f"rate({series(metric, *matchers)}[{RATE}])"


def total(metric, *matchers, by=""):
    return f"sum{f' by ({by})' if by else ''} ({rate(metric, *matchers)})"


def quantile(q, metric, *matchers, by=""):
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) ({rate(metric + '_bucket', *matchers)}))"


def mean(metric):
    return f"{total(metric + '_sum')} / {total(metric + '_count')}"


def quantiles(metric, qs, by=""):
    """Queries of several quantiles, with their legends."""
    label = f"{{{{{by}}}}} " if by else ""
    return [(quantile(q, metric, by=by), f"{label}p{round(q * 100)}") for q in qs]


# ---- Panels ----------------------------------------------------------------------------------

def thresholds(*steps):
    """`steps`: a colour, then pairs of a bound and the colour from there on."""
    first, *rest = steps
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(
        [model.Threshold(value=None, color=first)] +
        [model.Threshold(value=float(bound), color=color) for bound, color in rest])


def targets(panel, queries):
    for index, (expression, legend) in enumerate(queries):
        panel.with_target(prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + index)))
    return panel


def tile(title, description, unit, query, *steps, decimals=None):
    panel = (stat.Panel().title(title).description(description).unit(unit).datasource(SOURCE).span(3).height(4)
             .thresholds(thresholds(*steps)).graph_mode(common_model.BigValueGraphMode.AREA)
             .color_mode(common_model.BigValueColorMode.VALUE)
             .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])))
    if decimals is not None:
        panel.decimals(decimals)
    return targets(panel, [(query, "")])


def graph(title, description, unit, *queries, width=8, stacked=False, bound=None, ratio=False):
    """`bound`: a line drawn across, above which is bad. `ratio`: the axis shows 0 to 1."""
    panel = (timeseries.Panel().title(title).description(description).unit(unit).datasource(SOURCE).span(width).height(8)
             .fill_opacity(30 if stacked else 8).line_width(1).show_points(common_model.VisibilityMode.NEVER)
             .legend(common.VizLegendOptions().display_mode(common_model.LegendDisplayMode.LIST)
                     .placement(common_model.LegendPlacement.BOTTOM).show_legend(True).calcs(["lastNotNull"]))
             .tooltip(common.VizTooltipOptions().mode(common_model.TooltipDisplayMode.MULTI)))
    if stacked:
        panel.stacking(common.StackingConfig().mode(common_model.StackingMode.NORMAL).group("A"))
    if bound is not None:
        panel.thresholds(thresholds(GREEN, (bound, RED)))
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(common_model.GraphTresholdsStyleMode.LINE))
    if ratio:
        panel.min(0).max(1)
    return targets(panel, queries)


# ---- The dashboard ---------------------------------------------------------------------------

HEALTH = [
    tile("Servers down", "Targets that do not answer scrapes (`up`).", "short",
         f"count(up{{{PROCESS}}} == 0) or vector(0)", GREEN, (1, RED)),
    tile("Alerts", "Firing alerts of deploy/prometheus (`ALERTS`).", "short",
         'count(ALERTS{alertname=~"Mayfly.*", alertstate="firing"}) or vector(0)', GREEN, (1, YELLOW), (3, RED)),
    tile("First token, p95", "From a generate command's arrival (`mayfly_time_to_first_token_seconds`).", "s",
         quantile(0.95, "mayfly_time_to_first_token_seconds"), GREEN, (1, YELLOW), (2, RED)),
    tile("Between tokens, p99", "Learning or not (`mayfly_inter_token_latency_seconds`).", "s",
         quantile(0.99, "mayfly_inter_token_latency_seconds"), GREEN, (0.1, YELLOW), (0.2, RED)),
    tile("Rows in use", "1 is full (`mayfly_slots`).", "percentunit",
         f'1 - sum({series("mayfly_slots", "state=" + chr(34) + "free" + chr(34))}) / sum({series("mayfly_slots")})',
         GREEN, (0.8, YELLOW), (1, RED)),
    tile("Sessions refused", "Of those that asked for a row, in five minutes (`mayfly_admission_rejected_total`).", "percentunit",
         f"max(job:mayfly_admission_refused:ratio_rate5m{{{IN_NAMESPACE}}})", GREEN, (0.01, YELLOW), (0.05, RED)),
    tile("Learning pays, median", "Nats per token that an adapter predicts a chunk better than the frozen base, before it is "
         "learned; known where sessions ask for receipts (`mayfly_adapter_nll_gain`).", "none",
         quantile(0.5, "mayfly_adapter_nll_gain"), RED, (0, GREEN), decimals=3),
    tile("Generated", "Tokens per second (`mayfly_tokens_total`).", "short",
         total("mayfly_tokens_total", 'kind="generated"'), BLUE, decimals=1),
]

LATENCY = [
    graph("First token", "From a generate command's arrival to its first token, queueing included "
          "(`mayfly_time_to_first_token_seconds`). The line is the objective.", "s",
          *quantiles("mayfly_time_to_first_token_seconds", (0.5, 0.95, 0.99)), bound=2),
    graph("Between tokens", "Gaps within a generation, by whether an update was in flight: the price of learning "
          "(`mayfly_inter_token_latency_seconds`). The line is the objective.", "s",
          *quantiles("mayfly_inter_token_latency_seconds", (0.5, 0.99), by="training"), bound=0.2),
    graph("Over the objective, one hour", "Part of first tokens and gaps that were too late; 1 % may be "
          "(`job:mayfly_*_over_slo:ratio_rate1h`).", "percentunit",
          (f"job:mayfly_time_to_first_token_over_slo:ratio_rate1h{{{IN_NAMESPACE}}}", "first token {{job}}"),
          (f"job:mayfly_inter_token_latency_over_slo:ratio_rate1h{{{IN_NAMESPACE}}}", "gap {{job}}"), bound=0.01),
    graph("Queue", "From a command's arrival to its first step (`mayfly_queue_duration_seconds`).", "s",
          *quantiles("mayfly_queue_duration_seconds", (0.5, 0.95, 0.99))),
    graph("Commands", "From a command's arrival to its last event, p95 (`mayfly_request_duration_seconds`).", "s",
          (quantile(0.95, "mayfly_request_duration_seconds", by="command"), "{{command}}")),
    graph("Sessions' length", "Median, from opening to end (`mayfly_session_duration_seconds`).", "s",
          *quantiles("mayfly_session_duration_seconds", (0.5, 0.9))),
]

THROUGHPUT = [
    graph("Tokens", "Appended, generated, and trained on with every epoch counted (`mayfly_tokens_total`).", "short",
          (total("mayfly_tokens_total", by="kind"), "{{kind}}")),
    graph("Generations ended", "By what ended them (`mayfly_request_finished_total`).", "ops",
          (total("mayfly_request_finished_total", by="reason"), "{{reason}}"), stacked=True),
    graph("Commands and events now", "Commands that run, commands that wait for those before them, and events that wait for their "
          "clients (`mayfly_requests_running`, `mayfly_requests_waiting`, `mayfly_outbox_events`).", "short",
          (f"sum({series('mayfly_requests_running')})", "running"), (f"sum({series('mayfly_requests_waiting')})", "waiting"),
          (f"sum({series('mayfly_outbox_events')})", "unread events")),
]

STEPS = [
    graph("Step", "One step of the engine, by what it did (`mayfly_step_duration_seconds`).", "s",
          *quantiles("mayfly_step_duration_seconds", (0.5, 0.99), by="phase")),
    graph("Steps", "Steps per second (`mayfly_step_duration_seconds`).", "ops",
          (total("mayfly_step_duration_seconds_count", by="phase"), "{{phase}}")),
    graph("Batch", "Rows and tokens of a step, mean (`mayfly_step_batch_size`, `mayfly_step_tokens`).", "short",
          (mean("mayfly_step_batch_size"), "rows"), (mean("mayfly_step_tokens"), "tokens")),
]

POOL = [
    graph("Rows", "By state; their sum is constant (`mayfly_slots`).", "short",
          (f"sum by (state) ({series('mayfly_slots')})", "{{state}}"), stacked=True),
    graph("Pool", "Device memory by what it holds, reserved by sessions and in all (`mayfly_pool_bytes`).", "bytes",
          (f"sum by (class, state) ({series('mayfly_pool_bytes')})", "{{class}} {{state}}")),
    graph("Release", "From a stream's end to its row being zero and free (`mayfly_slot_release_seconds`).", "s",
          *quantiles("mayfly_slot_release_seconds", (0.5, 0.99)), bound=1),
]

LEARNING = [
    graph("Updates", "By outcome (`mayfly_adapter_updates_total`).", "ops",
          (total("mayfly_adapter_updates_total", by="outcome"), "{{outcome}}"), stacked=True),
    graph("Update", "Training time, and from falling due to its start (`mayfly_adapter_update_duration_seconds`, "
          "`mayfly_adapter_update_queue_seconds`).", "s",
          (quantile(0.5, "mayfly_adapter_update_duration_seconds"), "training p50"),
          (quantile(0.95, "mayfly_adapter_update_duration_seconds"), "training p95"),
          (quantile(0.95, "mayfly_adapter_update_queue_seconds"), "queue p95")),
    graph("Lag", "Complete chunks that are not yet learned, for each open session, and updates that wait for the worker "
          "(`mayfly_adapter_update_lag_chunks`, `mayfly_updates_waiting`).", "short",
          (f"sum({series('mayfly_adapter_update_lag_chunks')}) / sum({series('mayfly_sessions_active')})", "chunks a session"),
          (f"sum({series('mayfly_updates_waiting')})", "updates waiting"), bound=2),
    graph("Gain", "Base minus adapter on a chunk before it is learned, nats per token; below zero is harm "
          "(`mayfly_adapter_nll_gain`).", "none", *quantiles("mayfly_adapter_nll_gain", (0.1, 0.5, 0.9))),
    graph("Roll-backs, deferred and skipped chunks", "Adapters returned to their last good version; chunks that waited, or were "
          "given up, as learning would have slowed tokens (`mayfly_adapter_rollbacks_total`, "
          "`mayfly_adapter_updates_deferred_total`, `mayfly_adapter_chunks_skipped_total`).", "ops",
          (total("mayfly_adapter_rollbacks_total"), "rolled back"),
          (total("mayfly_adapter_updates_deferred_total"), "deferred"),
          (total("mayfly_adapter_chunks_skipped_total"), "skipped")),
    graph("Update worker", "Part of the last minute in which it trained (`mayfly_update_busy_ratio`).", "percentunit",
          (series("mayfly_update_busy_ratio"), "{{pod}}{{instance}}"), ratio=True),
]

ADMISSION = [
    graph("Sessions open", "`mayfly_sessions_active`, and streams that wait for a row (`mayfly_admission_waiting`).", "short",
          (f"sum({series('mayfly_sessions_active')})", "open"), (f"sum({series('mayfly_admission_waiting')})", "waiting")),
    graph("Sessions opened and refused", "`mayfly_sessions_opened_total`, `mayfly_admission_rejected_total`.", "ops",
          (total("mayfly_sessions_opened_total"), "opened"),
          (total("mayfly_admission_rejected_total", by="reason"), "refused: {{reason}}")),
    graph("Sessions ended", "By what ended them (`mayfly_sessions_closed_total`).", "ops",
          (total("mayfly_sessions_closed_total", by="reason"), "{{reason}}"), stacked=True),
    graph("Waiting for a row", "Streams that found none free, whether they got one or not (`mayfly_admission_wait_seconds`).", "s",
          *quantiles("mayfly_admission_wait_seconds", (0.5, 0.95))),
    graph("Sessions that move", "Exports, resumed streams and hand-overs at the end of a drain, by outcome (`mayfly_exports_total`, "
          "`mayfly_resumes_total`, `mayfly_hand_overs_total`).", "ops",
          (total("mayfly_exports_total", by="outcome"), "exports {{outcome}}"),
          (total("mayfly_resumes_total", by="outcome"), "resumes {{outcome}}"),
          (total("mayfly_hand_overs_total", by="outcome"), "hand-overs {{outcome}}")),
    graph("Commands refused", "In open streams, whose tenants had used their tokens (`mayfly_requests_refused_total`).", "ops",
          (total("mayfly_requests_refused_total", by="reason"), "{{reason}}")),
]

PROCESS_ROW = [
    graph("gRPC", "Calls that ended, by method and code (`grpc_server_handled_total`).", "ops",
          (f"sum by (grpc_method, grpc_code) (rate(grpc_server_handled_total{{{PROCESS}}}[{RATE}]))",
           "{{grpc_method}} {{grpc_code}}"), stacked=True),
    graph("CPU", "Cores in use (`process_cpu_seconds_total`).", "short",
          (f"rate(process_cpu_seconds_total{{{PROCESS}}}[{RATE}])", "{{pod}}{{instance}}")),
    graph("Memory", "Resident (`process_resident_memory_bytes`).", "bytes",
          (f"process_resident_memory_bytes{{{PROCESS}}}", "{{pod}}{{instance}}")),
    graph("File descriptors", "Used part (`process_open_fds`, `process_max_fds`).", "percentunit",
          (f"process_open_fds{{{PROCESS}}} / process_max_fds{{{PROCESS}}}", "{{pod}}{{instance}}"), ratio=True),
    graph("Up for", "Since the process started (`process_start_time_seconds`).", "s",
          (f"time() - process_start_time_seconds{{{PROCESS}}}", "{{pod}}{{instance}}")),
    graph("Certificate", "Until the first of the chain expires (`mayfly_tls_certificate_expiry_timestamp_seconds`).", "s",
          (f"{series('mayfly_tls_certificate_expiry_timestamp_seconds')} - time()", "{{pod}}{{instance}}")),
    graph("Files that could not be used", "Changed TLS and token files, in an hour (`mayfly_tls_reload_failures_total`, "
          "`mayfly_auth_reload_failures_total`).", "short",
          (f"sum(increase({series('mayfly_tls_reload_failures_total')}[1h]))", "TLS"),
          (f"sum(increase({series('mayfly_auth_reload_failures_total')}[1h]))", "tokens")),
]

ROWS = [
    ("Is it healthy, is it full, does learning pay off", HEALTH),
    ("Latency", LATENCY),
    ("Throughput", THROUGHPUT),
    ("Batch and step", STEPS),
    ("Pool", POOL),
    ("Learning", LEARNING),
    ("Admission", ADMISSION),
    ("gRPC and the process", PROCESS_ROW),
]


def variable(name, label, query):
    return (dashboard.QueryVariable(name).label(label).datasource(SOURCE).query(query).multi(True).include_all(True)
            .all_value(ANY).refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .current(model.VariableOption(text="All", value="$__all", selected=True)))


def build():
    board = (dashboard.Dashboard("Mayfly").uid("mayfly").tags(["mayfly"]).refresh("30s").time("now-1h", "now")
             .tooltip(model.DashboardCursorSync.CROSSHAIR).editable().timezone("browser")
             .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
             .with_variable(variable("namespace", "Namespace", "label_values(mayfly_build_info, namespace)"))
             .with_variable(variable("pod", "Pod", 'label_values(mayfly_build_info{namespace=~"$namespace"}, pod)')))
    number = itertools.count(1)
    for title, panels in ROWS:
        board.with_row(dashboard.Row(title).id(next(number)))
        for panel in panels:
            board.with_panel(panel.id(next(number)))
    return JSONEncoder(sort_keys=True, indent=1).encode(board.build()) + "\n"


def main():
    text = build()
    if "--check" in sys.argv[1:]:
        sys.exit(0 if OUTPUT.read_text() == text else f"{OUTPUT.name} is not what {pathlib.Path(__file__).name} writes")
    OUTPUT.write_text(text)
    print(f"{OUTPUT.name}: {len(json.loads(text)['panels'])} panels and rows")


if __name__ == "__main__":
    main()
