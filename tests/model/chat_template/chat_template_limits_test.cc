// Templates and data that try to use up the machine.
#include <pthread.h>

#include <functional>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "model/chat_template/chat_template.h"

namespace paceline::model {
namespace {

using Json = nlohmann::ordered_json;

// Runs `work` on a thread with a stack of 1 MiB.
void OnSmallStack(std::function<void()> work) {
  pthread_attr_t attributes;
  ASSERT_EQ(pthread_attr_init(&attributes), 0);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, size_t{1} << 20), 0);
  pthread_t thread{};
  const auto run = [](void* f) -> void* {
    (*static_cast<std::function<void()>*>(f))();
    return nullptr;
  };
  ASSERT_EQ(pthread_create(&thread, &attributes, run, &work), 0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
}

absl::Status Outcome(const std::string& source,
                     const Json& messages = Json::array(),
                     const ChatTemplate::Limits& limits = {}) {
  absl::Status status;
  OnSmallStack([&] {
    const auto chat_template = ChatTemplate::Parse(source);
    if (!chat_template.ok()) {
      status = chat_template.status();
      return;
    }
    ChatTemplate::Inputs inputs;
    inputs.messages = &messages;
    inputs.limits = limits;
    status = (*chat_template)->Render(inputs).status();
  });
  return status;
}

std::string Repeat(const std::string& text, size_t count) {
  std::string out;
  out.reserve(text.size() * count);
  for (size_t i = 0; i < count; ++i) out += text;
  return out;
}

constexpr auto kFault = absl::StatusCode::kInvalidArgument;
constexpr auto kOverLimit = absl::StatusCode::kResourceExhausted;

TEST(ChatTemplateLimitsTest, DeeplyNestedSourceIsASyntaxError) {
  constexpr size_t kDeep = 100'000;
  for (const char* open : {"(",
                           "[",
                           "{",
                           "{'a':",
                           "not ",
                           "-",
                           "a.b(",
                           "a[",
                           "a if b else ",
                           "x|f(",
                           "a is b(",
                           "[[",
                           "(a, ",
                           "1 if ("}) {
    EXPECT_EQ(Outcome("{{ " + Repeat(open, kDeep) + "1").code(), kFault) << open;
    EXPECT_EQ(Outcome("{% set x = " + Repeat(open, kDeep) + " %}").code(), kFault) << open;
  }
  for (const char* open : {"{% if 1 %}",
                           "{% for i in [1] %}",
                           "{% macro f() %}",
                           "{% set x %}",
                           "{% filter upper %}",
                           "{% call f() %}",
                           "{% with %}",
                           "{% generation %}",
                           "{% if 1 %}{% else %}"}) {
    EXPECT_EQ(Outcome(Repeat(open, kDeep)).code(), kFault) << open;
  }
  EXPECT_EQ(Outcome("{% set " + Repeat("(", kDeep) + "a %}").code(), kFault);
  EXPECT_EQ(Outcome("{% for " + Repeat("(", kDeep) + "a in b %}").code(), kFault);
}

TEST(ChatTemplateLimitsTest, LongChainsDoNotRecurse) {
  for (const char* link : {" + 1", " ~ 1", " and 1", " or 0", " < 2", " * 1"}) {
    EXPECT_TRUE(Outcome("{{ 1" + Repeat(link, 900) + " }}").ok()) << link;
  }
  for (const char* link : {" + 1", " and 1", ".a", "[0]", "|upper", "()", " if 1"}) {
    EXPECT_EQ(Outcome("{{ a" + Repeat(link, 100'000) + " }}").code(), kFault) << link;
  }
}

TEST(ChatTemplateLimitsTest, NestingThatTheParserAllowsRuns) {
#if defined(__SANITIZE_ADDRESS__)
  constexpr int kAllowed = 16;  // the sanitizer's frames are several times as large
#else
  constexpr int kAllowed = 80;
#endif
  EXPECT_TRUE(Outcome("{{ " + Repeat("(", kAllowed) + "1" + Repeat(")", kAllowed) + " }}").ok());
  EXPECT_TRUE(Outcome(Repeat("{% if 1 %}", kAllowed) + "x" + Repeat("{% endif %}", kAllowed)).ok());
}

TEST(ChatTemplateLimitsTest, RecursionEndsOnASmallStack) {
  for (const char* source :
       {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{% if n %}{% for i in [1] %}{{ [f(n) | upper] }}{% endfor %}{% endif %}"
        "{% endmacro %}{{ f(1) }}",
        "{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{{ f() }}",
        "{% macro f() %}{% filter upper %}{% set x %}{{ f() }}{% endset %}{{ x }}{% endfilter %}"
        "{% endmacro %}{{ f() }}",
        "{% macro f(a=f()) %}{% endmacro %}{{ f() }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% macro f(g) %}{{ g(g) }}{% endmacro %}{{ f(f) }}"}) {
    EXPECT_EQ(Outcome(source).code(), kOverLimit) << source;
  }
}

TEST(ChatTemplateLimitsTest, LongLoopsRunOutOfSteps) {
  ChatTemplate::Limits limits;
  limits.max_steps = 2'000'000;
  for (const char* source :
       {"{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% for a in range(100000) %}{% for b in range(100000) if false %}{% endfor %}{% endfor %}",
        "{% for a in range(100000) %}{{ range(100000) | sum }}{% endfor %}",
        "{% for a in range(100000) %}{{ range(100000) | map('string') | list | length }}{% endfor "
        "%}",
        "{% set x = range(100000) | list %}{% for a in x %}{{ x | sort | length }}{% endfor %}",
        "{% set x = range(100000) | list %}{% for a in x %}{{ x == x[:] }}{% endfor %}",
        "{% set x = range(100000) | list %}{% for a in x %}{{ -1 in x }}{% endfor %}",
        "{% set x = 'a' * 1000000 %}{% for a in range(100000) %}{{ 'b' in x }}{% endfor %}",
        "{% set x = 'a' * 1000000 %}{% for a in range(100000) %}{{ x | upper | length }}{% endfor "
        "%}",
        "{% set x = 'é' * 1000000 %}{% for a in range(100000) %}{{ x[999999] }}{% endfor %}",
        "{% set x = 'a b' * 1000000 %}{% for a in range(100000) %}{{ x.split() | length }}{% "
        "endfor %}",
        "{% set x = ' ' * 1000000 %}{% for a in range(100000) %}{{ x | trim }}{% endfor %}",
        "{% for a in range(100000) %}{{ strftime_now('%A' * 10000) | length }}{% endfor %}"}) {
    EXPECT_EQ(Outcome(source, Json::array(), limits).code(), kOverLimit) << source;
  }
}

TEST(ChatTemplateLimitsTest, HugeResultsAreRefused) {
  for (const char* source :
       {"{{ 'x' * 10**9 }}",
        "{{ 'x' * (10**18) }}",
        "{{ [1] * 10**9 }}",
        "{{ 10**9 * 'x' }}",
        "{% set x = 'x' * 1000000 %}{% for i in range(1000) %}{{ x }}{% endfor %}",
        "{% set x = 'x' * 1000000 %}{{ x | replace('x', x) | length }}",
        "{% set x = 'x' * 1000000 %}{{ x.join(x) | length }}",
        "{% set x = 'x' * 1000000 %}{{ (x | list | join(x)) | length }}",
        "{{ 'a' | center(10**10) }}",
        "{{ 'a'.ljust(10**10) }}",
        "{{ 'a'.zfill(10**10) }}",
        "{{ 'a' | indent(10**10) }}",
        "{{ '%2000000000d' % 1 }}",
        "{{ '{:2000000000}'.format(1) }}",
        "{{ '{:02000000000d}'.format(1) }}",
        "{{ '%02000000000d' % 1 }}",
        "{{ 'a\tb'.expandtabs(10**10) }}",
        "{{ [1] | batch(10**10, 0) | list }}",
        "{{ [1] | slice(10**10) | list }}",
        "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% "
        "endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% "
        "endfor %}",
        "{% set ns = namespace(x=[]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% "
        "endfor %}"
        "{{ ns.x }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% "
        "endfor %}"
        "{{ ns.x | tojson }}",
        "{% set ns = namespace(x=[], y=[]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}"
        "{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
        "{% set ns = namespace(x=(1,)) %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}{% "
        "endfor %}"
        "{{ {ns.x: 1} | length }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}"
        "{% set ns.x = ns.x + ['x' * 100000] %}{% endfor %}"}) {
    EXPECT_EQ(Outcome(source).code(), kOverLimit) << source;
  }
  EXPECT_EQ(Outcome("{{ range(10**9) }}").code(), kFault);
  EXPECT_EQ(Outcome("{{ 2 ** 10**9 }}").code(), kFault);
  EXPECT_EQ(Outcome("{{ '%.2000000000f' % 1 }}").code(), kFault);
}

TEST(ChatTemplateLimitsTest, SearchingIsLinearInTheText) {
  // A search that starts over at each place would take hours here.
  for (const char* search : {"x.find('a' * 5000000 ~ 'b')",
                             "('a' * 5000000 ~ 'b') in x",
                             "x.rfind('b' ~ 'a' * 5000000)",
                             "x.split('a' * 5000000 ~ 'b') | length",
                             "x.replace('a' * 5000000 ~ 'b', '') | length",
                             "x.count('a' * 5000000 ~ 'b')",
                             "x.strip('b' * 5000000 ~ 'a')"}) {
    EXPECT_TRUE(Outcome("{% set x = 'a' * 10000000 %}{{ " + std::string(search) + " }}").ok())
        << search;
  }
}

TEST(ChatTemplateLimitsTest, ValuesNestedInStepsEndOnASmallStack) {
  EXPECT_EQ(Outcome("{% set ns = namespace(x=[]) %}{% for i in range(100000) %}"
                    "{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}")
                .code(),
            kOverLimit);
  EXPECT_EQ(Outcome("{% set ns = namespace(x={}) %}{% for i in range(100000) %}"
                    "{% set ns.x = {'a': ns.x} %}{% endfor %}")
                .code(),
            kOverLimit);
  // A chain of namespaces is as long as it likes, but is freed without recursion.
  EXPECT_TRUE(Outcome("{% set root = namespace(x=0) %}{% for i in range(100000) %}"
                      "{% set root.x = namespace(x=root.x) %}{% endfor %}{% set root.x = 0 %}")
                  .ok());
  EXPECT_TRUE(Outcome("{% set root = namespace(x=0) %}{% for i in range(50000) %}"
                      "{% set a = [root.x] %}{% macro f() %}{{ a }}{% endmacro %}"
                      "{% set root.x = f %}{% endfor %}")
                  .ok());
}

TEST(ChatTemplateLimitsTest, ObjectsThatHoldThemselvesEndAndAreFreed) {
  EXPECT_TRUE(Outcome("{% set ns = namespace() %}{% set ns.x = [ns] %}{% set ns.y = ns %}").ok());
  EXPECT_EQ(Outcome("{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}").code(), kOverLimit);
  EXPECT_TRUE(Outcome("{% set ns = namespace() %}{% for i in [1, 2] %}{% set ns.l = loop %}"
                      "{{ loop.changed(loop) }}{% endfor %}{{ ns.l.changed(ns.l) }}")
                  .ok());
  EXPECT_TRUE(
      Outcome("{% macro f() %}{% set g = f %}{{ g is callable }}{% endmacro %}{{ f() }}").ok());
  EXPECT_TRUE(
      Outcome("{% set ns = namespace() %}{% for i in [1, 2] recursive %}{% set ns.l = loop %}"
              "{% endfor %}{{ ns.l.index }}")
          .ok());
}

TEST(ChatTemplateLimitsTest, DeepJsonIsRefused) {
  Json deep = 1;
  for (int i = 0; i < 5000; ++i) deep = Json::array({std::move(deep)});
  EXPECT_EQ(Outcome("{{ messages }}", deep).code(), kFault);
  EXPECT_TRUE(Outcome("nothing of it is used", deep).ok());
}

TEST(ChatTemplateLimitsTest, LongConversationsRender) {
  const std::string chatml =
      "{% set ns = namespace(all='') %}{% for m in messages %}"
      "{{ '<|im_start|>' + m.role + '\\n' + m.content | trim + '<|im_end|>\\n' }}"
      "{% set ns.all = ns.all ~ m.role %}{% if loop.last %}{{ loop.index }}{% endif %}{% endfor %}";
  Json messages = Json::array();
  for (int i = 0; i < 4096; ++i) {
    messages.push_back({{"role", "user"}, {"content", std::string(500, 'x') + " é "}});
  }
  EXPECT_TRUE(Outcome(chatml, messages).ok());
  messages = Json::array();
  for (int i = 0; i < 64; ++i) {
    messages.push_back({{"role", "user"}, {"content", Repeat("ab\xc3\xa9 \n", 10'000)}});
  }
  EXPECT_TRUE(Outcome(chatml, messages).ok());
  EXPECT_TRUE(Outcome("{{ messages | tojson(indent=2) }}", messages).ok());
}

TEST(ChatTemplateLimitsTest, LimitsCanBeLowered) {
  ChatTemplate::Limits limits;
  limits.max_steps = 100;
  EXPECT_EQ(Outcome("{% for i in range(1000) %}{% endfor %}", Json::array(), limits).code(),
            kOverLimit);
  limits = {};
  limits.max_output_bytes = 10;
  EXPECT_EQ(Outcome("12345678901", Json::array(), limits).code(), kOverLimit);
  EXPECT_TRUE(Outcome("1234567890", Json::array(), limits).ok());
  limits = {};
  limits.max_memory_bytes = 1000;
  EXPECT_EQ(Outcome("{{ [1, 2] * 100 }}", Json::array(), limits).code(), kOverLimit);
  limits = {};
  limits.max_depth = 3;
  EXPECT_EQ(Outcome("{{ [[[[[x]]]]] }}", Json::array(), limits).code(), kOverLimit);
}

}  // namespace
}  // namespace paceline::model
