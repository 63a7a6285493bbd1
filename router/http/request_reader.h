// Bytes of a connection to requests: Boost.Beast's parser behind stricter rules on everything that
// proxies and servers have been known to read differently. The result does not depend on how the
// bytes are cut. Owned by a connection; not thread-safe.
#ifndef PACELINE_ROUTER_HTTP_REQUEST_READER_H_
#define PACELINE_ROUTER_HTTP_REQUEST_READER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "router/http/message.h"

namespace paceline::router {

struct ReaderLimits {
  size_t max_request_line_bytes = 8 << 10;
  size_t max_head_bytes = 16 << 10;  // request line included
  size_t max_fields = 100;
  uint64_t max_body_bytes = uint64_t{4} << 20;
  size_t max_chunk_extension_bytes = 256;
};

class RequestReader {
 public:
  enum class State {
    kHead,      // reading the head; nothing yet if empty()
    kHeadDone,  // head() is there; call ReadBody or, without a body, Take
    kBody,
    kDone,   // call Take
    kError,  // error_status() says why; the connection is of no use any more
  };

  explicit RequestReader(const ReaderLimits& limits);
  ~RequestReader();

  // Consumes bytes from the front of `data` and returns how many. Stops at kHeadDone, kDone and
  // kError. In kBody the rest, less than a chunk header, must be offered again with what follows.
  size_t Feed(std::string_view data);

  State state() const { return state_; }
  // No byte of the next request has come.
  bool empty() const { return state_ == State::kHead && head_.empty(); }
  int error_status() const { return error_status_; }

  HttpRequest& head() { return request_; }
  // Goes from kHeadDone to kBody or kDone.
  void ReadBody();
  // The request, body included; the reader then expects the next one. REQUIRES: kHeadDone without
  // body, or kDone.
  HttpRequest Take();

 private:
  struct Parser;

  size_t FeedHead(std::string_view data);
  size_t FeedBody(std::string_view data);
  bool AcceptHeadByte(char c);
  void ParseHead();
  int CheckFields();
  bool HasOneLongContentLength() const;
  bool IsChunkHeaderStart(std::string_view rest) const;
  void Fail(int status);

  const ReaderLimits limits_;
  State state_ = State::kHead;
  int error_status_ = 0;
  std::string head_;
  size_t line_start_ = 0;
  size_t num_lines_ = 0;
  bool skipped_empty_line_ = false;
  HttpRequest request_;
  std::unique_ptr<Parser> parser_;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_HTTP_REQUEST_READER_H_
