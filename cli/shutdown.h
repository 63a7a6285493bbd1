// SIGINT and SIGTERM as something to wait for. Block them first thing in main, before any thread
// starts; then only the waiting thread sees them.
#ifndef PACELINE_CLI_SHUTDOWN_H_
#define PACELINE_CLI_SHUTDOWN_H_

#include <chrono>
#include <optional>

namespace paceline::cli {

// Blocks SIGINT, SIGTERM and SIGCHLD in this thread and those it starts; ignores SIGPIPE.
void BlockShutdownSignals();

// Blocks SIGHUP too, which then asks to read files again. Before any thread starts.
void BlockReloadSignal();

// The next of those signals, or nullopt when `timeout` passes without one.
std::optional<int> WaitForSignal(std::chrono::milliseconds timeout);

// Whether it is SIGINT or SIGTERM.
bool AsksToStop(std::optional<int> signal);

// From now on another SIGINT or SIGTERM ends the process at once, with status 130: whoever asks
// twice does not want to wait for streams to drain.
void ForceExitOnNextSignal();

// Ends this process with SIGKILL when its parent dies. For children of `serve`.
void DieWithParent();

}  // namespace paceline::cli

#endif  // PACELINE_CLI_SHUTDOWN_H_
