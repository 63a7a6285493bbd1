// Which models the fleet serves, as front ends and text threads see it. The loop thread publishes,
// any thread reads an immutable snapshot. Owned by Dispatcher.
#ifndef PACELINE_ROUTER_DISPATCH_CATALOG_H_
#define PACELINE_ROUTER_DISPATCH_CATALOG_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <variant>

#include "absl/container/btree_map.h"
#include "proto/paceline/v1/inference.pb.h"
#include "router/admission/validate.h"
#include "router/text/text_model.h"

namespace paceline::router {

struct Model {
  v1::ModelInfo info;  // info.id is the name that clients use
  ModelLimits limits;
  std::string tokenizer_digest;
  std::shared_ptr<const TextModel> text;  // never null
};

struct Models {
  absl::btree_map<std::string, std::shared_ptr<const Model>> by_id;
  bool is_ready = false;  // some replica is

  // The model that a request names; empty names the only one. 404 model_not_found, 400 for an empty
  // name when there are several, 503 no_ready_replica while no model is known at all.
  std::variant<std::shared_ptr<const Model>, ApiError> Find(const std::string& name) const;
};

class Catalog {
 public:
  std::shared_ptr<const Models> Get() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return models_;
  }
  void Publish(std::shared_ptr<const Models> models) {
    const std::lock_guard<std::mutex> lock(mutex_);
    models_ = std::move(models);
  }

 private:
  mutable std::mutex mutex_;  // guards models_
  std::shared_ptr<const Models> models_ = std::make_shared<const Models>();
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_DISPATCH_CATALOG_H_
