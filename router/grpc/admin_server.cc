#include "router/grpc/admin_server.h"

#include <utility>

#include "proto/support/status_macros.h"

namespace paceline::router {

AdminServer::AdminServer(ListenerOptions options, AdminService::Options service)
    : options_(std::move(options)),
      authenticate_(service.authenticate),
      service_(std::move(service)) {}

AdminServer::~AdminServer() { Stop(std::chrono::milliseconds(0)); }

absl::Status AdminServer::Start() {
  ASSIGN_OR_RETURN(listener_, Listener::Start(options_, {&service_}, authenticate_));
  return absl::OkStatus();
}

void AdminServer::Stop(std::chrono::milliseconds grace) {
  if (listener_ == nullptr) return;
  listener_->Shutdown(std::chrono::system_clock::now() + grace);
  listener_ = nullptr;
}

}  // namespace paceline::router
