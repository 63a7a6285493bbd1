#include "router/dispatch/router_core.h"

#include <future>
#include <utility>

namespace paceline::router {

RouterCore::RouterCore(RouterCoreOptions options,
                       WorkerLinkFactory make_link,
                       const Clock* clock,
                       Fleet::ResolveFn resolve)
    : metrics_(options.vllm_metrics),
      loop_(clock),
      text_(std::make_unique<ThreadPool>(options.text_threads)) {
  dispatcher_ = std::make_unique<Dispatcher>(std::move(options.dispatch),
                                             &loop_,
                                             text_.get(),
                                             std::move(make_link),
                                             &metrics_,
                                             std::move(resolve));
  dispatcher_->Start();
  loop_.Start();
}

RouterCore::~RouterCore() { Stop(); }

void RouterCore::Stop() {
  if (is_stopped_) return;
  is_stopped_ = true;
  std::promise<void> failed;
  loop_.Post([this, &failed] {
    dispatcher_->FailAll();
    failed.set_value();
  });
  failed.get_future().wait();
  loop_.Stop();  // what text threads still post to it is dropped
}

}  // namespace paceline::router
