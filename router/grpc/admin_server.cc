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
  ASSIGN_OR_RETURN(server_, Listen(options_, {&service_}, authenticate_, &port_));
  return absl::OkStatus();
}

void AdminServer::Stop(std::chrono::milliseconds grace) {
  if (server_ == nullptr) return;
  server_->Shutdown(std::chrono::system_clock::now() + grace);
  server_ = nullptr;
}

}  // namespace paceline::router
