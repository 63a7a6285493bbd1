#include "router/openai/json.h"

#include <string>

#include "gtest/gtest.h"
#include "router/openai/json_writer.h"

namespace paceline::router {
namespace {

bool Accepts(std::string_view text) {
  return std::holds_alternative<nlohmann::json>(ParseJson(text));
}

std::string CodeOf(std::string_view text) {
  const auto parsed = ParseJson(text);
  const auto* error = std::get_if<ApiError>(&parsed);
  return error == nullptr ? "accepted" : error->code;
}

TEST(ParseJsonTest, AcceptsOneDocumentOfEveryType) {
  EXPECT_TRUE(Accepts(R"({"a":[1,-2,0.5,1e3,true,false,null,"x",{}]})"));
  EXPECT_TRUE(Accepts(" \n 5 \t"));
  EXPECT_TRUE(Accepts("-0"));
}

TEST(ParseJsonTest, KeepsWholeNumbersOf64BitsExact) {
  const auto json = std::get<nlohmann::json>(
      ParseJson("[9223372036854775807,-9223372036854775808,18446744073709551615]"));
  EXPECT_EQ(json[0].get<int64_t>(), INT64_MAX);
  EXPECT_EQ(json[1].get<int64_t>(), INT64_MIN);
  EXPECT_EQ(json[2].get<uint64_t>(), UINT64_MAX);
}

TEST(ParseJsonTest, RefusesNumbersThatCannotBeExpressed) {
  for (const char* text : {"NaN",
                           "Infinity",
                           "-Infinity",
                           "1e999",
                           "-1e999",
                           "18446744073709551616",
                           "123456789012345678901234567890",
                           "1e-400",
                           "0x10",
                           "01",
                           "1.",
                           ".5",
                           "+1",
                           "1e",
                           "--1"}) {
    EXPECT_FALSE(Accepts(text)) << text;
  }
  EXPECT_TRUE(Accepts("0.0e-400"));
  EXPECT_TRUE(Accepts("1e-320"));  // a denormal is still that number
}

TEST(ParseJsonTest, RefusesAnythingBesideOneDocument) {
  for (const std::string& text : {std::string(),
                                  std::string("{} {}"),
                                  std::string("{}x"),
                                  std::string("{}\0", 3),
                                  std::string("{}\0{}", 5),
                                  std::string("\xEF\xBB\xBF{}"),
                                  std::string("{}/**/"),
                                  std::string("{'a':1}"),
                                  std::string("{\"a\":1,}"),
                                  std::string("[1,]"),
                                  std::string("{a:1}")}) {
    EXPECT_EQ(CodeOf(text), "invalid_json") << text;
  }
}

TEST(ParseJsonTest, RefusesInvalidUnicode) {
  for (const std::string body : {"\x80",
                                 "\xC0\x80",
                                 "\xC1\xBF",
                                 "\xE0\x80\x80",
                                 "\xED\xA0\x80",
                                 "\xF4\x90\x80\x80",
                                 "\xF5\x80\x80\x80",
                                 "\xE2\x82",
                                 "\xFF",
                                 "\\ud800",
                                 "\\udc00",
                                 "\\ud800\\u0041",
                                 "\\u12",
                                 "\x01"}) {
    EXPECT_FALSE(Accepts("\"" + body + "\"")) << body;
  }
  EXPECT_FALSE(Accepts(std::string("\"\0\"", 3)));
  EXPECT_FALSE(Accepts(std::string("\xFF\xFE{\0}\0", 6)));  // UTF-16
  EXPECT_TRUE(Accepts("\"\\ud83d\\ude00 \\u0000 \xF0\x9F\x98\x80\""));
}

TEST(ParseJsonTest, NamesADuplicateKeyWithoutItsOddBytes) {
  const auto parsed = ParseJson(R"({"m<o>":1,"x":{},"m<o>":2})");
  ASSERT_TRUE(std::holds_alternative<ApiError>(parsed));
  EXPECT_EQ(std::get<ApiError>(parsed).param, "m?o?");
  EXPECT_EQ(std::get<ApiError>(parsed).code, "duplicate_key");
  EXPECT_EQ(CodeOf(R"([{"a":{"b":1,"b":1}}])"), "duplicate_key");
}

TEST(ParseJsonTest, AllowsDepth64AndNoMore) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_TRUE(Accepts(nested(64)));
  EXPECT_FALSE(Accepts(nested(65)));
  EXPECT_FALSE(Accepts(nested(100'000)));
  EXPECT_FALSE(Accepts(std::string(100'000, '[')));
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  EXPECT_FALSE(Accepts(objects));
}

TEST(ParseJsonTest, BoundsWhatADocumentCosts) {
  std::string strings = "[\"\"";
  for (int i = 0; i < 200'000; ++i) strings += ",\"\"";
  EXPECT_FALSE(Accepts(strings + "]"));
  std::string numbers = "[0";
  for (int i = 1; i < (1 << 20); ++i) numbers += ",0";
  EXPECT_TRUE(Accepts(numbers + "]"));
  EXPECT_FALSE(Accepts(numbers + ",0]"));
  const auto parsed = ParseJson(std::string((4 << 20) + 1, ' '));
  EXPECT_EQ(std::get<ApiError>(parsed).http_status, 413);
}

TEST(JsonWriterTest, WritesWhatAParserReadsBack) {
  std::string out;
  std::string text = "quote\" back\\ \n\r\t\x01\x7f \xC3\xA9 \xF0\x9F\x98\x80";
  text.push_back('\0');
  JsonWriter writer(&out);
  writer.BeginObject().Key("k\"").String(text).Key("i").Int(INT64_MIN);
  writer.Key("a").BeginArray().Float(-0.1F).Null().Bool(true).BeginObject().EndObject().EndArray();
  writer.EndObject();
  const auto json = nlohmann::json::parse(out);
  EXPECT_EQ(json["k\""], text);
  EXPECT_EQ(json["i"], INT64_MIN);
  EXPECT_EQ(json["a"][0].get<float>(), -0.1F);
  EXPECT_EQ(json["a"].dump(), "[-0.1,null,true,{}]");
}

TEST(JsonWriterTest, ReplacesBytesThatAreNotUtf8) {
  for (const std::string bad : {"\x80",
                                "\xC0\x80",
                                "\xE0\x80\x80",
                                "\xED\xA0\x80",
                                "\xF4\x90\x80\x80",
                                "\xE2\x82",
                                "\xFF",
                                "a\xF0\x9F\x98"}) {
    std::string out;
    JsonWriter(&out).String(bad);
    const auto json = nlohmann::json::parse(out, nullptr, /*allow_exceptions=*/false);
    ASSERT_FALSE(json.is_discarded()) << bad;
    EXPECT_NE(json.get<std::string>().find("\xEF\xBF\xBD"), std::string::npos);
  }
}

TEST(JsonWriterTest, NeverWritesALineBreak) {
  std::string all;
  for (int c = 0; c < 256; ++c) all.push_back(static_cast<char>(c));
  std::string out;
  JsonWriter(&out).String(all);
  EXPECT_EQ(out.find_first_of("\r\n"), std::string::npos);
}

}  // namespace
}  // namespace paceline::router
