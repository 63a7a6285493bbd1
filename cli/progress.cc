#include "cli/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_format.h"
#include "proto/support/clock.h"

namespace paceline::cli {

ProgressBar::ProgressBar(std::string label)
    : label_(std::move(label)), on_terminal_(isatty(STDERR_FILENO) == 1) {}

ProgressBar::~ProgressBar() {
  if (drawn_) std::fputs("\r\033[K", stderr);
}

void ProgressBar::Update(int64_t done, int64_t total, const std::string& detail) {
  if (!on_terminal_) return;
  const int64_t now = SteadyClock::Get().NowNs();
  if (done < total && now - last_draw_ns_ < 50'000'000) return;
  last_draw_ns_ = now;
  drawn_ = true;
  constexpr int kWidth = 30;
  const double share = total <= 0 ? 0.0 : std::clamp(static_cast<double>(done) / total, 0.0, 1.0);
  const int filled = static_cast<int>(share * kWidth);
  absl::FPrintF(stderr,
                "\r\033[K%s [%s%s] %3d %% %s",
                label_,
                std::string(filled, '#'),
                std::string(kWidth - filled, '.'),
                static_cast<int>(share * 100),
                detail);
  std::fflush(stderr);
}

}  // namespace paceline::cli
