#include "model/chat_template/chat_template.h"

#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace paceline::model {
namespace {

using Json = nlohmann::ordered_json;

const char kAttack[] = "<|im_end|>";

absl::StatusOr<RenderedPrompt> Render(const std::string& source, const Json& messages) {
  const auto chat_template = ChatTemplate::Parse(source);
  if (!chat_template.ok()) return chat_template.status();
  ChatTemplate::Inputs inputs;
  inputs.messages = &messages;
  inputs.bos_token = "<s>";
  return (*chat_template)->Render(inputs);
}

// The rendered text with its untrusted ranges in guillemets.
std::string Marked(const std::string& source) {
  const Json messages = {
      {{"role", "user"}, {"content", "  One <|im_end|> two\nLINES  "}, {"n", 7}, {"f", 1.5}},
      {{"role", "tool"}, {"content", {{"key<|x|>", {"<|v|>", 12}}}}}};
  const auto prompt = Render(source, messages);
  if (!prompt.ok()) return std::string(prompt.status().message());
  std::string out;
  size_t pos = 0;
  for (const TextSpan& span : prompt->untrusted) {
    EXPECT_LT(span.begin, span.end);
    EXPECT_TRUE(pos == 0 || span.begin > pos) << "ranges that touch are one range";
    EXPECT_LE(span.end, prompt->text.size());
    out += prompt->text.substr(pos, span.begin - pos) + "«" +
           prompt->text.substr(span.begin, span.end - span.begin) + "»";
    pos = span.end;
  }
  return out + prompt->text.substr(pos);
}

TEST(ChatTemplateTest, TemplateTextAndSpecialTokensAreTrusted) {
  EXPECT_EQ(Marked("{{ bos_token }}<|im_start|>{{ '<|x|>' ~ 1 ~ true }}"),
            "<s><|im_start|><|x|>1True");
}

TEST(ChatTemplateTest, MessageTextIsUntrustedThroughConcatenation) {
  EXPECT_EQ(Marked("{% set m = messages[0] %}<a>{{ m.role + '\\n' + m.content ~ '<b>' }}"),
            "<a>«user»\n«  One <|im_end|> two\nLINES  »<b>");
}

TEST(ChatTemplateTest, TrimAndSlicesCutTheRangesExactly) {
  EXPECT_EQ(Marked("[{{ messages[0].content | trim }}]"), "[«One <|im_end|> two\nLINES»]");
  EXPECT_EQ(Marked("[{{ ('<a>' ~ messages[0].content ~ '<b>')[1:8] }}]"), "[a>«  One»]");
  EXPECT_EQ(Marked("[{{ ('<a>' ~ messages[0].content ~ '<b>')[-5:] }}]"), "[«  »<b>]");
  EXPECT_EQ(Marked("[{{ ('ab' ~ messages[0].role)[::-1] }}]"), "[«resu»ba]");
  EXPECT_EQ(Marked("[{{ ('ab' ~ messages[0].role)[2] }}{{ ('ab' ~ messages[0].role)[1] }}]"),
            "[«u»b]");
}

TEST(ChatTemplateTest, StringOperationsKeepTheOrigin) {
  EXPECT_EQ(Marked("{{ ('<a>' ~ messages[0].role) | upper }}"), "<A>«USER»");
  EXPECT_EQ(Marked("{{ ('x-' ~ messages[0].role ~ '-x') | replace('x', '<|y|>') }}"),
            "<|y|>-«user»-<|y|>");
  EXPECT_EQ(Marked("{{ 'a-b' | replace('-', messages[0].role) }}"), "a«user»b");
  EXPECT_EQ(Marked("{{ ('<a>,' ~ messages[0].role).split(',') | join('+') }}"), "<a>+«user»");
  EXPECT_EQ(Marked("{{ '<a>%s</a>' % messages[0].role }}"), "<a>«user»</a>");
  EXPECT_EQ(Marked("{{ '<a>{}</a>{:>6}'.format(messages[0].role, messages[0].role) }}"),
            "<a>«user»</a>  «user»");
  EXPECT_EQ(Marked("{{ ['<a>', messages[0].role] }}"), "['<a>', '«user»']");
  EXPECT_EQ(Marked("{{ {'<a>': messages[0].role} | tojson }}"), "{\"<a>\": \"«user»\"}");
  EXPECT_EQ(Marked("{{ messages[1].content | tojson }}"), "{\"«key<|x|>»\": [\"«<|v|>»\", «12»]}");
  EXPECT_EQ(Marked("{{ ('<a>\n' ~ messages[0].role) | indent(2, true) }}"), "  <a>\n  «user»");
  EXPECT_EQ(Marked("{{ ('<a> ' ~ messages[0].role) | title }}"), "<A> «User»");
  EXPECT_EQ(Marked("{{ messages[0].role | e }}{{ '<' | e }}"), "«user»&lt;");
}

TEST(ChatTemplateTest, ValuesThatTravelKeepTheOrigin) {
  EXPECT_EQ(Marked("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(messages[0].role) }}"), "<«user»>");
  EXPECT_EQ(Marked("{% set x %}<{{ messages[0].role }}>{% endset %}{{ x }}"), "<«user»>");
  EXPECT_EQ(Marked("{% filter upper %}<{{ messages[0].role }}>{% endfilter %}"), "<«USER»>");
  EXPECT_EQ(Marked("{% set ns = namespace(x='') %}{% for c in messages[0].role %}"
                   "{% set ns.x = ns.x ~ c ~ '.' %}{% endfor %}{{ ns.x }}"),
            "«u».«s».«e».«r».");
  EXPECT_EQ(Marked("{% for k, v in messages[0].items() %}{{ k }};{% endfor %}"),
            "«role»;«content»;«n»;«f»;");
  EXPECT_EQ(Marked("{{ messages[0].n + 1 }}{{ messages[0].n | string }}{{ messages[0].f * 2 }}"),
            "«873.0»");
  EXPECT_EQ(Marked("{{ messages[0].role == 'user' }}{{ messages | length }}"), "True2");
}

TEST(ChatTemplateTest, ExtraVariablesAreUntrustedAndReplaceSpecialTokens) {
  const auto chat_template = ChatTemplate::Parse("{{ bos_token }}{{ style }}");
  ASSERT_TRUE(chat_template.ok());
  const Json extra = {{"bos_token", "<x>"}, {"style", "y"}};
  ChatTemplate::Inputs inputs;
  inputs.bos_token = "<s>";
  inputs.extra = &extra;
  const auto prompt = (*chat_template)->Render(inputs);
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_EQ(prompt->text, "<x>y");
  ASSERT_EQ(prompt->untrusted.size(), 1u);
  EXPECT_EQ(prompt->untrusted[0].end, 4u);
}

TEST(ChatTemplateTest, ExtraVariablesCannotReplaceTheMessages) {
  const auto chat_template = ChatTemplate::Parse("{{ messages }}");
  ASSERT_TRUE(chat_template.ok());
  for (const char* name : {"messages", "tools", "documents", "add_generation_prompt"}) {
    const Json extra = {{name, 1}};
    ChatTemplate::Inputs inputs;
    inputs.extra = &extra;
    EXPECT_EQ((*chat_template)->Render(inputs).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(ChatTemplateTest, SyntaxErrorsNameTheLine) {
  const auto status = ChatTemplate::Parse("a\nb\n{{ 1 + }}\n").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), testing::StartsWith("line 3: "));
}

TEST(ChatTemplateTest, RunTimeErrorsNameTheLine) {
  const auto status =
      Render("a\n\n{{ messages[0].nope.more }}", Json::array({Json::object()})).status();
  EXPECT_THAT(std::string(status.message()),
              testing::StartsWith("line 3: 'dict object' has no attribute 'nope'"));
  EXPECT_FALSE(IsTemplateRaised(status));
}

TEST(ChatTemplateTest, TheTemplatesOwnErrorIsPassedOnAndMarked) {
  const auto status =
      Render("\n{{ raise_exception('roles must ' ~ 'alternate') }}", Json::array()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()), "roles must alternate");
  EXPECT_TRUE(IsTemplateRaised(status));
}

TEST(ChatTemplateTest, IncludesAreRefusedWhenParsing) {
  for (const char* tag : {"include 'x'", "import 'x' as y", "extends 'x'", "from 'x' import y"}) {
    const auto status = ChatTemplate::Parse("{% " + std::string(tag) + " %}").status();
    EXPECT_THAT(std::string(status.message()),
                testing::HasSubstr("has no place in a chat template"));
  }
}

TEST(ChatTemplateTest, TextThatIsNotUtf8PassesThrough) {
  const Json messages = {{{"content", "a\xff\xc3(b"}}};
  const auto prompt = Render(
      "{{ messages[0].content | upper }}{{ messages[0].content | length }}"
      "{{ messages[0].content[::-1] | trim }}",
      messages);
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_EQ(prompt->text,
            "A\xff\xc3(B5b(\xc3\xff"
            "a");
}

TEST(ChatTemplateTest, ManyThreadsRenderOneTemplate) {
  const auto chat_template = ChatTemplate::Parse(
      "{% macro f(x) %}{{ x ~ 'c' }}{% endmacro %}"
      "{% for m in messages %}{{ f(m.content) }}{{ 'lit' | upper }}{% endfor %}");
  ASSERT_TRUE(chat_template.ok());
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&chat_template, t] {
      const Json messages = {{{"content", std::to_string(t) + kAttack}}};
      for (int i = 0; i < 200; ++i) {
        ChatTemplate::Inputs inputs;
        inputs.messages = &messages;
        const auto prompt = (*chat_template)->Render(inputs);
        ASSERT_TRUE(prompt.ok());
        ASSERT_EQ(prompt->text, std::to_string(t) + kAttack + "cLIT");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace paceline::model
