// Progress of long work on stderr: a bar that redraws itself on a terminal, nothing elsewhere.
// Owned by the command; one thread.
#ifndef PACELINE_CLI_PROGRESS_H_
#define PACELINE_CLI_PROGRESS_H_

#include <cstdint>
#include <string>

namespace paceline::cli {

class ProgressBar {
 public:
  // `label` stands before the bar.
  explicit ProgressBar(std::string label);
  // Clears the bar.
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // Draws at most 20 times a second. `detail` stands behind the bar.
  void Update(int64_t done, int64_t total, const std::string& detail = "");

 private:
  const std::string label_;
  const bool on_terminal_;
  int64_t last_draw_ns_ = 0;
  bool drawn_ = false;
};

}  // namespace paceline::cli

#endif  // PACELINE_CLI_PROGRESS_H_
