// Replays what Python's jinja2, set up like Hugging Face, made of templates and expressions.
// tests/data/chat_template/make_cases.py wrote the expectations.
#include <fstream>
#include <sstream>
#include <string>

#include "gtest/gtest.h"
#include "model/chat_template/chat_template.h"
#include "nlohmann/json.hpp"

namespace paceline::model {
namespace {

using Json = nlohmann::ordered_json;

std::string ReadData(const std::string& name) {
  std::ifstream file(std::string(PACELINE_SOURCE_DIR) + "/tests/data/chat_template/" + name,
                     std::ios::binary);
  EXPECT_TRUE(file.good()) << name;
  std::ostringstream bytes;
  bytes << file.rdbuf();
  return bytes.str();
}

const Json* Member(const Json& object, const char* name) {
  const auto it = object.find(name);
  return it == object.end() ? nullptr : &*it;
}

absl::StatusOr<RenderedPrompt> RenderCase(const Json& test) {
  const std::string source = test.contains("source")
                                 ? test["source"].get<std::string>()
                                 : ReadData(test["template"].get<std::string>());
  const auto chat_template = ChatTemplate::Parse(source);
  if (!chat_template.ok()) return chat_template.status();
  ChatTemplate::Inputs inputs;
  inputs.messages = Member(test, "messages");
  inputs.tools = Member(test, "tools");
  inputs.documents = Member(test, "documents");
  inputs.extra = Member(test, "extra");
  inputs.add_generation_prompt = test.value("add_generation_prompt", false);
  inputs.bos_token = "<s>";
  inputs.eos_token = "</s>";
  inputs.now_unix_seconds = 1735689600 + 3600 * 5 + 6 * 60 + 7;  // 2025-01-01 05:06:07
  return (*chat_template)->Render(inputs);
}

void Replay(const std::string& file, size_t at_least) {
  const Json tests = Json::parse(ReadData(file));
  ASSERT_GE(tests.size(), at_least);
  for (const Json& test : tests) {
    const auto prompt = RenderCase(test);
    const std::string label = test.value("template", test.value("source", ""));
    if (test.contains("error")) {
      EXPECT_FALSE(prompt.ok()) << label << "\nwant error: " << test["error"]
                                << "\ngot: " << prompt->text;
      if (prompt.ok()) continue;
      EXPECT_EQ(IsTemplateRaised(prompt.status()), test.contains("message")) << label;
      if (test.contains("message")) {
        EXPECT_EQ(std::string(prompt.status().message()), test["message"].get<std::string>());
      }
      EXPECT_EQ(prompt.status().code(), absl::StatusCode::kInvalidArgument) << label;
      continue;
    }
    ASSERT_TRUE(test.contains("expected")) << label;
    if (!prompt.ok()) {
      ADD_FAILURE() << label << "\nwant: " << test["expected"] << "\nfailed: " << prompt.status();
      continue;
    }
    EXPECT_EQ(prompt->text, test["expected"].get<std::string>()) << label;
  }
}

TEST(ChatTemplateReplayTest, RendersModelFamiliesLikeJinja2) { Replay("families.json", 24); }
TEST(ChatTemplateReplayTest, EvaluatesExpressionsLikeJinja2) { Replay("expressions.json", 300); }
TEST(ChatTemplateReplayTest, RunsStatementsLikeJinja2) { Replay("statements.json", 100); }

}  // namespace
}  // namespace paceline::model
