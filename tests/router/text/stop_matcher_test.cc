#include "router/text/stop_matcher.h"

#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "gtest/gtest.h"

namespace paceline::router {
namespace {

StopMatcher::State Walk(const StopMatcher& matcher, std::string_view text) {
  StopMatcher::State state = StopMatcher::kStart;
  for (char c : text) state = matcher.Next(state, static_cast<uint8_t>(c));
  return state;
}

TEST(StopMatcherTest, FindsTheLongestTextThatEndsHere) {
  const StopMatcher matcher({"bc", "abc", "c"});
  EXPECT_EQ(matcher.Match(Walk(matcher, "xabc")), 1);
  EXPECT_EQ(matcher.Match(Walk(matcher, "xbc")), 0);
  EXPECT_EQ(matcher.Match(Walk(matcher, "xc")), 2);
  EXPECT_EQ(matcher.Match(Walk(matcher, "xab")), -1);
}

TEST(StopMatcherTest, EqualTextsCountAsTheFirst) {
  const StopMatcher matcher({"ab", "ab"});
  EXPECT_EQ(matcher.Match(Walk(matcher, "ab")), 0);
}

TEST(StopMatcherTest, AgreesWithSearchingEveryPlace) {
  std::mt19937 rng(1);
  for (int trial = 0; trial < 2000; ++trial) {
    const auto random_text = [&](int max_size) {
      std::string text(1 + rng() % max_size, 'a');
      for (char& c : text) c = static_cast<char>('a' + rng() % 2);
      return text;
    };
    std::vector<std::string> stops;
    for (int i = 1 + static_cast<int>(rng() % 5); i > 0; --i) stops.push_back(random_text(6));
    const StopMatcher matcher(stops);
    const std::string text = random_text(40);
    for (size_t end = 1; end <= text.size(); ++end) {
      const std::string_view seen(text.data(), end);
      const StopMatcher::State state = Walk(matcher, seen);
      size_t longest = 0;
      size_t pending = 0;
      for (const std::string& stop : stops) {
        if (seen.ends_with(stop)) longest = std::max(longest, stop.size());
        for (size_t n = 1; n < stop.size(); ++n) {
          if (seen.ends_with(stop.substr(0, n))) pending = std::max(pending, n);
        }
      }
      const int32_t match = matcher.Match(state);
      ASSERT_EQ(match < 0 ? 0 : stops[match].size(), longest);
      ASSERT_EQ(matcher.Pending(state), static_cast<int32_t>(pending));
    }
  }
}

}  // namespace
}  // namespace paceline::router
