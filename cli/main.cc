// The `paceline` command: one binary for every process of a cluster.
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "cli/command_line.h"
#include "cli/commands.h"
#include "cli/config_file.h"
#include "cli/options.h"
#include "cli/shutdown.h"

namespace paceline::cli {

namespace {

// Not CLI::Range, which lets NaN through.
CLI::Validator UpTo(double most) {
  return {[most](std::string& text) {
            double value = 0;
            const bool is_good = absl::SimpleAtod(text, &value) && value >= 0 && value <= most;
            return is_good ? std::string() : absl::StrCat("not within 0 to ", most, ": ", text);
          },
          absl::StrCat("FLOAT in [0 - ", most, "]")};
}

void AddSampling(CLI::App& command, int32_t& max_tokens, double& temperature) {
  command.add_option("--max-tokens", max_tokens, "Tokens to generate at most")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command.add_option("--temperature", temperature, "0 is greedy")
      ->check(UpTo(100))
      ->capture_default_str();
}

// -tp and -pp, as other engines spell them: more than one letter behind one dash.
std::vector<std::string> Arguments(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  for (std::string& argument : arguments) {
    if (argument == "-tp") argument = "--tensor-parallel-size";
    if (argument == "-pp") argument = "--pipeline-parallel-size";
  }
  return arguments;
}

int Main(int argc, char** argv) {
  CLI::App app(
      "Paceline serves large language models: a router, its workers, and tools around them.",
      "paceline");
  app.require_subcommand(1);
  app.get_formatter()->column_width(36);
  app.set_version_flag("--version", &VersionText, "Print the version");
  LogOptions log;
  std::string config;

  ServeOptions serve;
  CLI::App* serve_command = app.add_subcommand("serve", "Router and workers on this machine");
  AddModelOption(*serve_command, serve.worker.engine.model, true);
  serve_command->add_option("--replicas", serve.replicas, "Worker processes")
      ->check(CLI::Range(1, 64))
      ->envname("PACELINE_REPLICAS")
      ->capture_default_str();
  AddWorkerOptions(*serve_command, serve.worker);
  AddRouterOptions(*serve_command, serve.router);
  AddLogOptions(*serve_command, log);
  AddConfigOption(*serve_command, config);

  RouterOptions router;
  CLI::App* router_command = AddRouterCommand(app, router, log, config);

  WorkerOptions worker;
  CLI::App* worker_command = AddWorkerCommand(app, worker, log, config);

  GenerateOptions generate;
  CLI::App* generate_command = app.add_subcommand("generate", "Completions without a server");
  AddModelOption(*generate_command, generate.engine.model, true);
  generate_command
      ->add_option("-p,--prompt", generate.prompts, "Prompt; may be given several times")
      ->take_all();
  generate_command->add_option("-f,--file", generate.input, "JSON lines of requests (-: stdin)");
  generate_command->add_option("-o,--output", generate.output, "Where the answers to -f go");
  generate_command->add_flag("--chat", generate.chat, "Each -p is a message to the assistant");
  generate_command->add_option("--seed", generate.seed, "Repeatable sampling")
      ->check(CLI::Range(int64_t{0}, INT64_MAX));
  AddSampling(*generate_command, generate.max_tokens, generate.temperature);
  AddEngineOptions(*generate_command, generate.engine);
  AddLogOptions(*generate_command, log);

  ChatOptions chat;
  CLI::App* chat_command = app.add_subcommand("chat", "Talk to a server in the terminal");
  chat_command->add_option("url", chat.url, "http[s]://host:port or grpc[s]://host:port")
      ->option_text("URL")
      ->capture_default_str();
  chat_command->add_option("--model", chat.model, "Model, when several are served");
  chat_command->add_option("--message,-m", chat.message, "Ask this, print the answer, leave");
  chat_command->add_option("--system", chat.system, "System message");
  chat_command->add_option("--api-key", chat.api_key, "Key")->envname("PACELINE_API_KEY");
  chat_command->add_option("--api-key-file", chat.api_key_file, "File whose first key is used");
  AddClientTlsOptions(*chat_command, chat.tls, chat.tls_server_name);
  AddSampling(*chat_command, chat.max_tokens, chat.temperature);
  chat_command
      ->add_option(
          "--min-p", chat.min_p, "Never tokens less likely than this share of the likeliest")
      ->check(UpTo(1))
      ->capture_default_str();

  HealthOptions health;
  CLI::App* health_command =
      app.add_subcommand("health", "Ask a running process whether it is well");
  health_command->add_option("url", health.url, "http[s]://host:port/path")
      ->option_text("URL")
      ->capture_default_str();
  health_command->add_option("--timeout", health.timeout_seconds, "Seconds to wait at most")
      ->check(CLI::Range(1, 60))
      ->capture_default_str();

  AddClientTlsOptions(*health_command, health.tls, health.tls_server_name);

  TokenizeOptions tokenize;
  CLI::App* tokenize_command = app.add_subcommand("tokenize", "Text or messages to token ids");
  AddModelOption(*tokenize_command, tokenize.model, true);
  tokenize_command->add_flag("--jsonl", tokenize.jsonl, "{\"text\"} lines in, ids out");
  tokenize_command->add_flag(
      "--chat", tokenize.chat, "{\"messages\"} lines in, prompt and ids out");
  tokenize_command->add_option(
      "--chat-template", tokenize.chat_template, "Jinja file instead of the model's template");

  BenchOptions bench;
  CLI::App* bench_command = app.add_subcommand("bench", "Measure the engine alone");
  AddModelOption(*bench_command, bench.engine.model, true);
  bench_command->add_option("--prompt-tokens", bench.prompt_tokens)
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  bench_command->add_option("--output-tokens", bench.output_tokens)
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  bench_command->add_option("--batch", bench.batches, "Sizes, such as 1,16")->delimiter(',');
  bench_command->add_option("--repetitions", bench.repetitions, "The best of so many")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  bench_command->add_flag("--json", bench.json, "One JSON object on stdout");
  AddEngineOptions(*bench_command, bench.engine);
  LogOptions quiet{.level = "warn"};
  AddLogOptions(*bench_command, quiet);

  CLI::App* version_command = app.add_subcommand("version", "Print the version");
  CLI::App* help_command = app.add_subcommand("help", "Print this help");

  // CLI11 would only say that a sub-command is required.
  const auto is_asked_for = [&](const CLI::App* command) { return command->check_name(argv[1]); };
  if (argc > 1 && argv[1][0] != '-' && app.get_subcommands(is_asked_for).empty()) {
    return Fail(absl::InvalidArgumentError(
        absl::StrCat("unknown command '", argv[1], "'; `paceline help` lists them")));
  }
  const std::vector<std::string> given = Arguments(argc, argv);
  absl::StatusOr<std::vector<std::string>> arguments = WithConfigFile(given);
  if (!arguments.ok()) return Fail(arguments.status());
  std::reverse(arguments->begin(), arguments->end());  // as CLI11 takes them
  try {
    app.parse(*arguments);
  } catch (const CLI::ExtrasError&) {
    return Fail(UnknownArguments(app));
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (!chat_command->parsed()) BlockShutdownSignals();
  if (serve_command->parsed()) return RunServe(serve, log);
  if (router_command->parsed()) return RunRouter(router, log, given);
  if (worker_command->parsed()) return RunWorker(worker, log, given);
  if (generate_command->parsed()) {
    if (generate_command->count("--log-level") == 0) log.level = "warn";
    return RunGenerate(generate, log);
  }
  if (chat_command->parsed()) return RunChat(chat);
  if (health_command->parsed()) return RunHealth(health);
  if (tokenize_command->parsed()) return RunTokenize(tokenize);
  if (bench_command->parsed()) return RunBench(bench, quiet);
  if (version_command->parsed()) return RunVersion();
  // App::help() would be about the sub-command that was called.
  if (help_command->parsed()) {
    const std::string help =
        app.get_formatter()->make_help(&app, app.get_name(), CLI::AppFormatMode::Normal);
    std::fputs(help.c_str(), stdout);
  }
  return 0;
}

}  // namespace
}  // namespace paceline::cli

int main(int argc, char** argv) { return paceline::cli::Main(argc, argv); }
