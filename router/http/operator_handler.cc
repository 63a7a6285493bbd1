#include "router/http/operator_handler.h"

#include <cstdio>
#include <string_view>
#include <utility>

#include "router/http/api_handler.h"

namespace paceline::router {
namespace {

enum RouteId { kPage, kMetrics, kHealth, kReady };

std::string Escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out.append("&amp;");
        break;
      case '<':
        out.append("&lt;");
        break;
      case '>':
        out.append("&gt;");
        break;
      case '"':
        out.append("&quot;");
        break;
      default:
        out.push_back(c);
    }
  }
  return out;
}

std::string OneDecimal(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f", value);
  return text;
}

void AppendFigure(std::string_view label, std::string_view value, std::string* out) {
  out->append("<div><b>").append(value).append("</b>").append(label).append("</div>\n");
}

void AppendReplica(const v1::ReplicaInfo& replica, std::string* out) {
  const auto cell = [out](std::string_view text) {
    out->append("<td>").append(Escaped(text)).append("</td>");
  };
  out->append("<tr>");
  cell(replica.id());
  cell(replica.address());
  cell(replica.model());
  out->append("<td class=\"").append(Escaped(replica.state())).append("\">");
  out->append(Escaped(replica.state())).append("</td>");
  cell(std::to_string(replica.epoch()));
  cell(std::to_string(replica.lease_age_ms()) + " ms");
  cell(std::to_string(replica.running()));
  cell(std::to_string(replica.waiting()));
  cell(std::to_string(replica.outstanding_tokens()));
  cell(std::to_string(replica.free_blocks()) + " / " + std::to_string(replica.total_blocks()));
  out->append("</tr>\n");
}

constexpr std::string_view kHead = R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<title>Paceline</title><style>
body{font:15px/1.5 system-ui,sans-serif;margin:2rem;color:#222;background:#fafafa}
h1{font-size:1.3rem}small{color:#777;font-weight:normal}
.figures{display:flex;gap:2rem;flex-wrap:wrap;margin:1rem 0}.figures b{display:block;font-size:1.6rem}
table{border-collapse:collapse;background:#fff}td,th{padding:.3rem .8rem;border:1px solid #ddd;text-align:left}
.ready{color:#080}.connecting,.loading,.draining{color:#a60}.stalled,.lost{color:#b00}
</style></head><body>
)";

}  // namespace

std::string StatusPageHtml(const StatusSnapshot& status, const std::string& version) {
  std::string page(kHead);
  page.append("<h1>Paceline router <small>").append(Escaped(version)).append(", up ");
  page.append(std::to_string(status.uptime_seconds)).append(" s</small></h1>\n");
  page.append("<div class=\"figures\">\n");
  AppendFigure("requests queued", std::to_string(status.queued_requests), &page);
  AppendFigure("prompt tokens queued", std::to_string(status.queued_tokens), &page);
  AppendFigure("requests running", std::to_string(status.running_requests), &page);
  AppendFigure("prompt tokens/s", OneDecimal(status.prompt_tokens_per_second), &page);
  AppendFigure("generated tokens/s", OneDecimal(status.generation_tokens_per_second), &page);
  page.append("</div>\n<table><tr><th>replica</th><th>address</th><th>model</th><th>state</th>")
      .append("<th>epoch</th><th>last frame</th><th>running</th><th>waiting</th>")
      .append("<th>outstanding tokens</th><th>free blocks</th></tr>\n");
  for (const v1::ReplicaInfo& replica : status.replicas) AppendReplica(replica, &page);
  page.append("</table>\n<p><a href=\"/metrics\">metrics</a></p></body></html>\n");
  return page;
}

OperatorHandler::OperatorHandler(Options options) : options_(std::move(options)) {}

std::optional<HttpResponse> OperatorHandler::Admit(HttpRequest& request) {
  if (request.target == "/") {
    request.route = kPage;
    request.route_label = "/";
  } else if (request.target == "/metrics") {
    request.route = kMetrics;
    request.route_label = "/metrics";
  } else if (request.target == "/health") {
    request.route = kHealth;
    request.route_label = "/health";
  } else if (request.target == "/ready") {
    request.route = kReady;
    request.route_label = "/ready";
  }
  if (request.route < 0) return StatusResponse(404);
  if (request.method != "GET" && request.method != "HEAD") {
    HttpResponse response = StatusResponse(405);
    response.headers.emplace_back("Allow", "GET, HEAD");
    return response;
  }
  if (request.has_body) return StatusResponse(400);
  return std::nullopt;
}

void OperatorHandler::Handle(HttpRequest request, std::shared_ptr<Exchange> exchange) {
  HttpResponse response;
  if (request.route == kMetrics) {
    response.content_type = "text/plain; version=0.0.4; charset=utf-8";
    response.body = options_.metrics_text ? options_.metrics_text() : "";
  } else if (request.route == kPage) {
    response.content_type = "text/html; charset=utf-8";
    response.headers.emplace_back("Cache-Control", "no-store");
    response.headers.emplace_back("Content-Security-Policy",
                                  "default-src 'none'; style-src 'unsafe-inline'");
    response.body =
        StatusPageHtml(options_.status ? options_.status() : StatusSnapshot(), options_.version);
  } else if (request.route == kReady && options_.ready && !options_.ready()) {
    response.status = 503;
    response.body = R"({"status":"no replica is ready"})";
  } else {
    response.body = R"({"status":"ok"})";
  }
  exchange->Respond(std::move(response));
}

HttpResponse OperatorHandler::Refuse(int status) { return StatusResponse(status); }

}  // namespace paceline::router
