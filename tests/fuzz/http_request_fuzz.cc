// Bytes of a connection, in any pieces: the requests and the error that come out are those that
// come out of the same bytes one by one. The first two bytes choose the pieces.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>

#include "proto/support/log.h"
#include "router/http/request_reader.h"

namespace {

using paceline::router::HttpRequest;
using paceline::router::ReaderLimits;
using paceline::router::RequestReader;
using State = RequestReader::State;

constexpr size_t kBufferBytes = 16 << 10;

// What a connection would see. `next_size` gives the size of each piece.
template <class NextSize>
std::string Read(std::string_view bytes, const NextSize& next_size) {
  RequestReader reader{ReaderLimits{.max_body_bytes = 4096}};
  std::string seen;
  std::string buffer;
  while (!bytes.empty()) {
    const size_t size = std::min({bytes.size(), next_size(), kBufferBytes - buffer.size()});
    if (size == 0) return seen + "stuck";
    buffer.append(bytes.substr(0, size));
    bytes.remove_prefix(size);
    while (!buffer.empty()) {
      const size_t consumed = reader.Feed(buffer);
      PACELINE_CHECK(consumed <= buffer.size(), "consumed more than there was");
      buffer.erase(0, consumed);
      if (reader.state() == State::kError) {
        const int status = reader.error_status();
        PACELINE_CHECK(status >= 400 && status <= 505, "status of a bad request");
        return seen + std::to_string(status);
      }
      if (reader.state() == State::kHeadDone) {
        PACELINE_CHECK(reader.head().headers.size() <= ReaderLimits{}.max_fields, "fields");
        seen += reader.head().method + " " + reader.head().target + "\n";
        reader.ReadBody();
      }
      if (reader.state() == State::kDone) {
        const HttpRequest request = reader.Take();
        PACELINE_CHECK(request.body.size() <= 4096, "body");
        seen += std::to_string(request.headers.size()) + " " + request.body + "\n";
      } else if (consumed == 0) {
        break;
      }
    }
  }
  return seen;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  std::minstd_rand random(data[0] * 256 + data[1]);
  const std::string_view bytes(reinterpret_cast<const char*>(data + 2), size - 2);
  const std::string one_by_one = Read(bytes, [] { return size_t{1}; });
  PACELINE_CHECK(Read(bytes, [] { return kBufferBytes; }) == one_by_one, "whole differs");
  PACELINE_CHECK(Read(bytes, [&] { return size_t{1 + random() % 64}; }) == one_by_one,
                 "pieces differ");
  return 0;
}
