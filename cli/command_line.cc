#include "cli/command_line.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/config_file.h"
#include "proto/support/status_macros.h"

namespace paceline::cli {
namespace {

Settings SettingsOf(const CLI::App& command) {
  Settings settings;
  for (const CLI::Option* option : command.get_options()) {
    if (option->count() > 0 && !option->get_lnames().empty()) {
      settings[option->get_lnames().front()] = option->results();
    }
  }
  return settings;
}

template <typename Options, typename AddCommand>
absl::StatusOr<CommandLine<Options>> Parse(std::vector<std::string> arguments, AddCommand add) {
  CommandLine<Options> line;
  CLI::App app;
  const CLI::App* command = add(app, line.options, line.log, line.config);
  ASSIGN_OR_RETURN(arguments, WithConfigFile(std::move(arguments)));
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 takes them
  try {
    app.parse(arguments);
  } catch (const CLI::ExtrasError&) {
    return UnknownArguments(app);
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(error.what());
  }
  line.settings = SettingsOf(*command);
  return line;
}

}  // namespace

CLI::App* AddRouterCommand(CLI::App& app,
                           RouterOptions& options,
                           LogOptions& log,
                           std::string& path) {
  CLI::App* command = app.add_subcommand("router", "Front ends over workers elsewhere");
  command
      ->add_option(
          "--workers",
          options.workers,
          "host:port,host:port or dns:///name:port or kubernetes:///service.namespace:port")
      ->delimiter(',')
      ->envname("PACELINE_WORKERS");
  AddWorkerPlaneOptions(*command, "workers", options.plane);
  command
      ->add_option("--worker-tls-server-name",
                   options.plane.server_name,
                   "Name in the workers' certificates; default: the host of their address")
      ->envname("PACELINE_WORKER_TLS_SERVER_NAME");
  AddRouterOptions(*command, options);
  command->add_flag("--vllm-metrics,!--no-vllm-metrics",
                    options.vllm_metrics,
                    "Export vllm: metric names as well");
  AddLogOptions(*command, log);
  AddConfigOption(*command, path);
  return command;
}

CLI::App* AddWorkerCommand(CLI::App& app,
                           WorkerOptions& options,
                           LogOptions& log,
                           std::string& path) {
  CLI::App* command = app.add_subcommand("worker", "One replica of a model");
  AddModelOption(*command, options.engine.model, /*positional=*/false);
  command->add_option("--host", options.host, "Address to listen on")
      ->envname("PACELINE_HOST")
      ->capture_default_str();
  command->add_option("--port", options.port, "Port of the worker plane (0: a free one)")
      ->check(CLI::Range(0, 65535))
      ->envname("PACELINE_PORT")
      ->capture_default_str();
  AddWorkerPlaneOptions(*command, "routers", options.plane);
  AddOperatorHost(*command, options.operator_host);
  command
      ->add_flag("--operator-tls,!--no-operator-tls",
                 options.operator_tls,
                 "TLS on the operator port, with the worker plane's certificate")
      ->envname("PACELINE_OPERATOR_TLS");
  AddDrainSeconds(*command, options.drain_seconds);
  AddTracesEndpoint(*command, options.otlp_traces_endpoint);
  command
      ->add_option("--operator-port",
                   options.operator_port,
                   "Port of /metrics, /health and /ready; default: none")
      ->check(CLI::Range(0, 65535))
      ->envname("PACELINE_OPERATOR_PORT");
  command
      ->add_option("--replicas-on-host",
                   options.engine.replicas_on_host,
                   "Workers that share this machine's memory and cores")
      ->check(CLI::Range(1, 64));
  command->add_option("--replica-on-host", options.engine.replica_on_host)->group("");
  AddNodeOptions(*command, options.nodes);
  command->add_flag("--die-with-parent", options.die_with_parent)->group("");
  command->add_option("--rank", options.rank)->group("");
  command->add_option("--rank-fds", options.rank_fds)->delimiter(',')->group("");
  command->add_option("--rank-restarts", options.rank_restarts)->group("");
  command->add_option("--worker-argument", options.worker_arguments)
      ->allow_extra_args(false)
      ->group("");
  AddWorkerOptions(*command, options);
  AddLogOptions(*command, log);
  AddConfigOption(*command, path);
  return command;
}

absl::Status UnknownArguments(const CLI::App& app) {
  const std::vector<std::string> remaining = app.remaining(/*recurse=*/true);
  std::vector<std::string> names;
  for (const std::string& argument : remaining) {
    if (absl::StartsWith(argument, "-")) names.push_back(argument.substr(0, argument.find('=')));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown: ", absl::StrJoin(names.empty() ? remaining : names, ", ")));
}

absl::StatusOr<CommandLine<RouterOptions>> ParseRouter(std::vector<std::string> arguments) {
  return Parse<RouterOptions>(std::move(arguments), AddRouterCommand);
}

absl::StatusOr<CommandLine<WorkerOptions>> ParseWorker(std::vector<std::string> arguments) {
  return Parse<WorkerOptions>(std::move(arguments), AddWorkerCommand);
}

std::vector<std::string> ChangedSettings(const Settings& before, const Settings& after) {
  std::vector<std::string> changed;
  for (const auto& [name, values] : after) {
    const auto found = before.find(name);
    if (found == before.end() || found->second != values) changed.push_back(name);
  }
  for (const auto& [name, values] : before) {
    if (!after.contains(name)) changed.push_back(name);
  }
  std::sort(changed.begin(), changed.end());
  return changed;
}

}  // namespace paceline::cli
