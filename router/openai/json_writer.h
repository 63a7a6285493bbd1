// Writes JSON text by appending to a string; never throws and never writes invalid UTF-8: bytes
// that are not part of a character become U+FFFD. Cheap enough for every streamed token. Owned by
// the function that writes; not thread-safe.
#ifndef PACELINE_ROUTER_OPENAI_JSON_WRITER_H_
#define PACELINE_ROUTER_OPENAI_JSON_WRITER_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace paceline::router {

class JsonWriter {
 public:
  explicit JsonWriter(std::string* out) : out_(out) {}

  JsonWriter& BeginObject() { return Open('{'); }
  JsonWriter& EndObject() { return Close('}'); }
  JsonWriter& BeginArray() { return Open('['); }
  JsonWriter& EndArray() { return Close(']'); }
  // `name` may be any text; it is escaped like a value.
  JsonWriter& Key(std::string_view name);
  JsonWriter& String(std::string_view value);
  JsonWriter& Int(int64_t value);
  // Shortest text that reads back as the same float; null when not finite.
  JsonWriter& Float(float value);
  JsonWriter& Bool(bool value);
  JsonWriter& Null();

 private:
  JsonWriter& Open(char bracket);
  JsonWriter& Close(char bracket);
  JsonWriter& Raw(std::string_view text);
  void Separate();

  std::string* out_;
  bool needs_comma_ = false;
};

// Appends `text` between quotes, escaped.
void AppendJsonString(std::string_view text, std::string* out);

// The length of the valid UTF-8 character that `text` begins with, or 0.
size_t Utf8CharacterLength(std::string_view text);

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_OPENAI_JSON_WRITER_H_
