#include "router/http/request_reader.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <utility>

#include "boost/beast/http/parser.hpp"
#include "boost/beast/http/string_body.hpp"

namespace paceline::router {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::beast::error_code;

std::string LowerCase(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  }
  return lower;
}

bool IsAlnum(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool IsHost(std::string_view host) {
  constexpr std::string_view kOther = "-._~:[]%";
  return !host.empty() && std::all_of(host.begin(), host.end(), [&](char c) {
    return IsAlnum(c) || kOther.find(c) != std::string_view::npos;
  });
}

bool IsVisible(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < 0x7f; });
}

}  // namespace

size_t HttpRequest::CountOf(std::string_view lower_case_name) const {
  return std::count_if(headers.begin(), headers.end(), [&](const auto& header) {
    return header.first == lower_case_name;
  });
}

std::optional<std::string_view> HttpRequest::Header(std::string_view lower_case_name) const {
  std::optional<std::string_view> found;
  for (const auto& [name, value] : headers) {
    if (name != lower_case_name) continue;
    if (found) return std::nullopt;
    found = value;
  }
  return found;
}

struct RequestReader::Parser {
  explicit Parser(const ReaderLimits& limits)
      : on_chunk([this, max = limits.max_chunk_extension_bytes](
                     uint64_t, boost::beast::string_view extension, error_code& error) {
          has_chunks = true;
          const bool is_plain = extension.empty() || extension.front() == ';';
          if (!is_plain || extension.size() > max) error = http::error::bad_chunk_extension;
        }) {
    parser.header_limit(static_cast<uint32_t>(limits.max_head_bytes + 1));
    parser.body_limit(limits.max_body_bytes);
    parser.eager(true);
    parser.on_chunk_header(on_chunk);
  }

  std::function<void(uint64_t, boost::beast::string_view, error_code&)> on_chunk;
  http::request_parser<http::string_body> parser;
  bool has_chunks = false;  // at least one chunk header was read
};

RequestReader::RequestReader(const ReaderLimits& limits) : limits_(limits) {}

RequestReader::~RequestReader() = default;

size_t RequestReader::Feed(std::string_view data) {
  if (state_ == State::kHead) return FeedHead(data);
  if (state_ == State::kBody) return FeedBody(data);
  return 0;
}

void RequestReader::Fail(int status) {
  state_ = State::kError;
  error_status_ = status;
}

// Checks one byte of the head on its own and by its place; true when it is the head's last.
bool RequestReader::AcceptHeadByte(char c) {
  const char previous = head_.empty() ? '\0' : head_.back();
  const bool starts_line = head_.size() == line_start_;
  head_.push_back(c);
  if ((static_cast<unsigned char>(c) < 0x20 && c != '\t' && c != '\r' && c != '\n') || c == 0x7f) {
    Fail(400);
  } else if ((previous == '\r') != (c == '\n')) {  // bare CR or LF
    Fail(400);
  } else if (starts_line && (c == ' ' || c == '\t')) {  // a folded line
    Fail(400);
  } else if (num_lines_ == 0 && head_.size() > limits_.max_request_line_bytes) {
    Fail(414);
  } else if (head_.size() > limits_.max_head_bytes) {
    Fail(431);
  }
  if (state_ == State::kError || c != '\n') return false;

  const bool is_empty_line = head_.size() == line_start_ + 2;
  line_start_ = head_.size();
  if (!is_empty_line) {
    ++num_lines_;
    if (num_lines_ > limits_.max_fields + 1) Fail(431);
    return false;
  }
  if (num_lines_ > 0) return true;
  // One empty line before a request is a known habit of old clients.
  if (std::exchange(skipped_empty_line_, true)) Fail(400);
  head_.clear();
  line_start_ = 0;
  return false;
}

size_t RequestReader::FeedHead(std::string_view data) {
  for (size_t i = 0; i < data.size(); ++i) {
    const bool is_last = AcceptHeadByte(data[i]);
    if (is_last) ParseHead();
    if (is_last || state_ == State::kError) return i + 1;
  }
  return data.size();
}

void RequestReader::ParseHead() {
  parser_ = std::make_unique<Parser>(limits_);
  auto& parser = parser_->parser;
  error_code error;
  // The body's length is judged by CheckFields, which sees malformed ones too.
  parser.body_limit(std::numeric_limits<uint64_t>::max());
  parser.put(asio::const_buffer(head_.data(), head_.size()), error);
  parser.body_limit(limits_.max_body_bytes);
  if (error == http::error::bad_version) {
    const std::string_view line = std::string_view(head_).substr(0, head_.find('\r'));
    const std::string_view version = line.substr(line.rfind(' ') + 1);
    return Fail(version.substr(0, 5) == "HTTP/" ? 505 : 400);
  }
  if (error == http::error::bad_content_length && HasOneLongContentLength()) return Fail(413);
  if (error || !parser.is_header_done()) return Fail(400);

  const auto& message = parser.get();
  const auto view = [](boost::beast::string_view text) {
    return std::string_view(text.data(), text.size());
  };
  request_.method = view(message.method_string());
  request_.target = view(message.target());
  for (const auto& field : message) {
    request_.headers.emplace_back(LowerCase(view(field.name_string())), view(field.value()));
  }
  request_.is_http_1_0 = message.version() == 10;
  request_.keep_alive = parser.keep_alive();
  request_.has_body = !parser.is_done();
  if (const int status = CheckFields(); status != 0) return Fail(status);
  state_ = State::kHeadDone;
}

// A single length that is a number, only too large for the parser.
bool RequestReader::HasOneLongContentLength() const {
  constexpr std::string_view kName = "content-length:";
  const std::string head = LowerCase(head_);
  const size_t at = head.find(kName);
  if (at == std::string::npos || head.find("\r\ntransfer-encoding", 0) != std::string::npos ||
      head.find(kName, at + 1) != std::string::npos) {
    return false;
  }
  const size_t begin = head.find_first_not_of(" \t", at + kName.size());
  const size_t end = head.find_last_not_of(" \t", head.find('\r', at) - 1) + 1;
  return begin < end && head.find_first_not_of("0123456789", begin) >= end;
}

// 0, or the status of the error.
int RequestReader::CheckFields() {
  constexpr size_t kMaxMethodBytes = 32;
  constexpr size_t kMaxLengthDigits = 19;
  if (request_.method.size() > kMaxMethodBytes || !IsVisible(request_.target)) return 400;

  const size_t num_hosts = request_.CountOf("host");
  if (num_hosts > 1 || (num_hosts == 0 && !request_.is_http_1_0)) return 400;
  if (num_hosts == 1 && !IsHost(*request_.Header("host"))) return 400;

  const size_t num_lengths = request_.CountOf("content-length");
  const size_t num_encodings = request_.CountOf("transfer-encoding");
  if (num_lengths > 1 || num_encodings > 1 || (num_lengths > 0 && num_encodings > 0)) return 400;
  if (num_encodings == 1 &&
      (request_.is_http_1_0 || LowerCase(*request_.Header("transfer-encoding")) != "chunked")) {
    return 400;
  }
  if (num_lengths == 1) {
    const std::string_view length = *request_.Header("content-length");
    const bool is_number = !length.empty() && std::all_of(length.begin(), length.end(), [](char c) {
      return c >= '0' && c <= '9';
    });
    if (!is_number) return 400;
    if (length.size() > kMaxLengthDigits ||
        std::stoull(std::string(length)) > limits_.max_body_bytes) {
      return 413;
    }
  }
  if (request_.CountOf("expect") > 0) {
    const auto expect = request_.Header("expect");
    if (!expect || LowerCase(*expect) != "100-continue") return 417;
    request_.expects_continue = request_.has_body && !request_.is_http_1_0;
  }
  return 0;
}

void RequestReader::ReadBody() { state_ = request_.has_body ? State::kBody : State::kDone; }

// Whether `rest`, which the parser wants more of, can become [CRLF] 1*HEXDIG (; | CR). The parser
// itself would only say so at the end of the line.
bool RequestReader::IsChunkHeaderStart(std::string_view rest) const {
  if (parser_->has_chunks) {
    constexpr std::string_view kLineEnd = "\r\n";
    const size_t length = std::min(rest.size(), kLineEnd.size());
    if (rest.substr(0, length) != kLineEnd.substr(0, length)) return false;
    rest.remove_prefix(length);
  }
  const size_t digits = std::min(rest.find_first_not_of("0123456789abcdefABCDEF"), rest.size());
  return digits == rest.size() || (digits > 0 && (rest[digits] == ';' || rest[digits] == '\r'));
}

size_t RequestReader::FeedBody(std::string_view data) {
  constexpr size_t kShortestChunked = 5;  // 0 CRLF CRLF; Beast 1.74 asserts that it is all there
  auto& parser = parser_->parser;
  size_t consumed = 0;
  if (parser.chunked() && !parser_->has_chunks && data.size() < kShortestChunked) {
    if (!IsChunkHeaderStart(data)) Fail(400);
    return 0;
  }
  while (consumed < data.size()) {
    error_code error;
    const size_t count =
        parser.put(asio::const_buffer(data.data() + consumed, data.size() - consumed), error);
    consumed += count;
    // A bad chunk header is a bad request also when what it says so far is too much, or too little.
    if (error && !IsChunkHeaderStart(data.substr(consumed))) {
      Fail(400);
      break;
    }
    if (error == http::error::need_more) break;
    if (error) {
      Fail(error == http::error::body_limit ? 413 : 400);
      break;
    }
    if (parser.is_done()) {
      request_.body = std::move(parser.get().body());
      state_ = State::kDone;
      break;
    }
    if (count == 0) break;
  }
  return consumed;
}

HttpRequest RequestReader::Take() {
  HttpRequest request = std::move(request_);
  request_ = HttpRequest();
  head_.clear();
  line_start_ = 0;
  num_lines_ = 0;
  skipped_empty_line_ = false;
  parser_.reset();
  state_ = State::kHead;
  return request;
}

}  // namespace paceline::router
