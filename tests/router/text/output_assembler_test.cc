#include "router/text/output_assembler.h"

#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/tokenizer/utf8.h"
#include "tests/router/text/vocabularies.h"

namespace paceline::router {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr char kReplacement[] = "\xEF\xBF\xBD";

std::shared_ptr<const model::Tokenizer> MakeTokenizer(const std::vector<std::string>& extra) {
  auto tokenizer = model::Tokenizer::Create(ByteVocabulary(extra));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *tokenizer;
}

std::shared_ptr<const StopMatcher> Stops(std::vector<std::string> stops) {
  return std::make_shared<StopMatcher>(std::move(stops));
}

// What a client has at the end, and how it got there.
struct Output {
  std::string text;
  std::vector<std::string> pieces;
  std::string stop;
  int32_t num_tokens = 0;
};

Output Assemble(const std::shared_ptr<const model::Tokenizer>& tokenizer,
                const OutputOptions& options,
                const std::vector<int32_t>& ids) {
  OutputAssembler assembler(tokenizer, options);
  Output output;
  const auto take = [&](const v1::GenerateChunk& chunk) {
    output.text += chunk.text();
    output.pieces.push_back(chunk.text());
    EXPECT_TRUE(model::IsValidUtf8(chunk.text()));
  };
  for (int32_t id : ids) {
    v1::GenerateChunk chunk;
    const bool stopped = assembler.Append(id, nullptr, chunk);
    EXPECT_EQ(stopped, assembler.stopped());
    take(chunk);
  }
  v1::GenerateChunk last;
  assembler.Finish(last);
  take(last);
  output.num_tokens = assembler.num_tokens();
  if (assembler.stopped()) output.stop = assembler.stop_text();
  return output;
}

std::vector<int32_t> Bytes(std::string_view text) {
  std::vector<int32_t> ids;
  for (char c : text) ids.push_back(static_cast<uint8_t>(c));
  return ids;
}

TEST(OutputAssemblerTest, WithoutStopsEveryTokensTextComesAtOnce) {
  const auto tokenizer = MakeTokenizer({"Hel", "lo"});
  EXPECT_THAT(Assemble(tokenizer, {}, {256, 257, '!'}).pieces, ElementsAre("Hel", "lo", "!", ""));
}

TEST(OutputAssemblerTest, StopAcrossTokensIsHeldBackAndCut) {
  const auto tokenizer = MakeTokenizer({"one\n", "\n two", "xx"});
  const Output output = Assemble(tokenizer, {.stops = Stops({"\n\n"})}, {256, 257, 258});
  EXPECT_THAT(output.pieces, ElementsAre("one", "", "", ""));
  EXPECT_EQ(output.stop, "\n\n");
  EXPECT_EQ(output.num_tokens, 2);
}

TEST(OutputAssemblerTest, StopTextStaysWhenAskedForAndNothingIsHeldBack) {
  const auto tokenizer = MakeTokenizer({"one\n", "\n two", "xx"});
  const Output output =
      Assemble(tokenizer, {.stops = Stops({"\n\n"}), .include_stop_text = true}, {256, 257, 258});
  EXPECT_THAT(output.pieces, ElementsAre("one\n", "\n", "", ""));
}

TEST(OutputAssemblerTest, HeldTextIsReleasedWhenItIsNoStopOrAtTheEnd) {
  const auto tokenizer = MakeTokenizer({});
  const OutputOptions options = {.stops = Stops({"abcd"})};
  EXPECT_THAT(Assemble(tokenizer, options, Bytes("abcx")).pieces,
              ElementsAre("", "", "", "abcx", ""));
  EXPECT_THAT(Assemble(tokenizer, options, Bytes("zabc")).pieces,
              ElementsAre("z", "", "", "", "abc"));
  EXPECT_THAT(Assemble(tokenizer, options, Bytes("ababcd")).text, "ab");
}

TEST(OutputAssemblerTest, TheStopThatEndsFirstWinsThenTheLongest) {
  const auto tokenizer = MakeTokenizer({"xabcdy"});
  EXPECT_EQ(Assemble(tokenizer, {.stops = Stops({"abcd", "bc"})}, {256}).text, "xa");
  EXPECT_EQ(Assemble(tokenizer, {.stops = Stops({"c", "abc"})}, {256}).stop, "abc");
}

TEST(OutputAssemblerTest, StopsWithinTheFirstMinTokensDoNotCount) {
  const auto tokenizer = MakeTokenizer({});
  const OutputOptions options = {.stops = Stops({"ab"}), .min_tokens = 3};
  EXPECT_EQ(Assemble(tokenizer, options, Bytes("ab-ab-")).text, "ab-");
  // Ends in the fourth token, begins in the third.
  EXPECT_EQ(Assemble(tokenizer, options, Bytes("--ab")).text, "--");
  EXPECT_EQ(Assemble(tokenizer, options, Bytes("-ab-")).text, "-ab-");
}

TEST(OutputAssemblerTest, CharactersComeWholeAndACutOneIsReplacedAtTheEnd) {
  const auto tokenizer = MakeTokenizer({});
  EXPECT_THAT(Assemble(tokenizer, {}, Bytes("\xC3\xA9\xE2\x82")).pieces,
              ElementsAre("", "\xC3\xA9", "", "", kReplacement));
}

TEST(OutputAssemblerTest, SpecialTokensAreShownOnlyWhenAskedFor) {
  const auto tokenizer = MakeTokenizer({});
  const std::vector<int32_t> ids = {'a', 256, 'b'};  // 256 is <|im_start|>
  EXPECT_EQ(Assemble(tokenizer, {}, ids).text, "ab");
  EXPECT_EQ(Assemble(tokenizer, {.skip_special_tokens = false}, ids).text, "a<|im_start|>b");
}

TEST(OutputAssemblerTest, StopTokenIsCountedAndNotShown) {
  const auto tokenizer = MakeTokenizer({"end"});
  OutputAssembler assembler(
      tokenizer, {.stops = Stops({"ab"}), .skip_special_tokens = false, .return_token_ids = true});
  v1::GenerateChunk chunk;
  assembler.Append('a', nullptr, chunk);
  v1::Logprobs logprobs;
  logprobs.set_logprob(-0.5F);
  assembler.AppendStopToken(256, &logprobs, chunk);
  assembler.Finish(chunk);
  EXPECT_EQ(chunk.text(), "a");
  EXPECT_THAT(chunk.token_ids(), ElementsAre('a', 256));
  EXPECT_EQ(chunk.logprobs_size(), 1);
  EXPECT_EQ(assembler.num_tokens(), 2);
}

TEST(OutputAssemblerTest, TokensBehindTheStopAreDropped) {
  const auto tokenizer = MakeTokenizer({});
  OutputAssembler assembler(tokenizer, {.stops = Stops({"b"}), .return_token_ids = true});
  v1::GenerateChunk chunk;
  v1::Logprobs logprobs;
  for (int32_t id : Bytes("abcd")) assembler.Append(id, &logprobs, chunk);
  assembler.AppendStopToken('e', &logprobs, chunk);
  EXPECT_EQ(chunk.text(), "a");
  EXPECT_THAT(chunk.token_ids(), ElementsAre('a', 'b'));
  EXPECT_EQ(chunk.logprobs_size(), 2);
}

TEST(OutputAssemblerTest, LogprobsHaveBytesAndOffsetsInCharacters) {
  const auto tokenizer = MakeTokenizer({"\xC3\xA9\xC3\xA9"});
  OutputAssembler assembler(tokenizer, {.text_offset = 10});
  v1::Logprobs logprobs;
  logprobs.set_logprob(-1.25F);
  logprobs.set_rank(2);
  logprobs.add_top_ids(256);
  logprobs.add_top_logprobs(-0.5F);
  logprobs.add_top_ids(0xC3);
  logprobs.add_top_logprobs(-1.25F);
  v1::GenerateChunk chunk;
  for (int32_t id : {256, 0xC3, 0xA9, int{'z'}}) assembler.Append(id, &logprobs, chunk);
  ASSERT_EQ(chunk.logprobs_size(), 4);
  EXPECT_EQ(chunk.logprobs(0).text_offset(), 10);
  EXPECT_EQ(chunk.logprobs(1).text_offset(), 12);
  EXPECT_EQ(chunk.logprobs(2).text_offset(), 12);
  EXPECT_EQ(chunk.logprobs(3).text_offset(), 13);
  EXPECT_EQ(chunk.logprobs(1).token(), "\xC3");
  EXPECT_EQ(chunk.logprobs(1).rank(), 2);
  EXPECT_EQ(chunk.logprobs(1).logprob(), -1.25F);
  ASSERT_EQ(chunk.logprobs(1).top_size(), 2);
  EXPECT_EQ(chunk.logprobs(1).top(0).token(), "\xC3\xA9\xC3\xA9");
  EXPECT_EQ(chunk.logprobs(1).top(0).logprob(), -0.5F);
  EXPECT_THAT(chunk.token_ids(), IsEmpty());
}

// The definition, on the whole text: where each token's text ends, and every place of every stop.
struct Expected {
  std::string text;
  std::string stop;
  int32_t num_tokens = 0;
};

Expected ByDefinition(const std::shared_ptr<const model::Tokenizer>& tokenizer,
                      const std::vector<std::string>& stops,
                      const OutputOptions& options,
                      const std::vector<int32_t>& ids) {
  model::IncrementalDecoder decoder(
      tokenizer, options.skip_special_tokens, model::IncrementalDecoder::Start::kContinue);
  std::string text;
  std::vector<size_t> ends;
  for (int32_t id : ids) {
    text += decoder.Append(id);
    ends.push_back(text.size());
  }
  const size_t searched = text.size();
  const size_t exempt =
      options.min_tokens == 0 ? 0 : ends[std::min<size_t>(options.min_tokens, ends.size()) - 1];
  for (size_t end = exempt + 1; end <= searched; ++end) {
    const std::string* longest = nullptr;
    for (const std::string& stop : stops) {
      if (!std::string_view(text.data(), end).ends_with(stop)) continue;
      if (longest == nullptr || stop.size() > longest->size()) longest = &stop;
    }
    if (longest == nullptr) continue;
    Expected expected;
    expected.text = text.substr(0, options.include_stop_text ? end : end - longest->size());
    expected.stop = *longest;
    while (ends[expected.num_tokens] < end) ++expected.num_tokens;
    ++expected.num_tokens;
    return expected;
  }
  return {text + decoder.Finish(), "", static_cast<int32_t>(ids.size())};
}

TEST(OutputAssemblerPropertyTest, EveryOutputEqualsTheDefinitionOnTheWholeText) {
  const std::vector<std::string> words = {"ab",
                                          "ba",
                                          "aab",
                                          "\xC3\xA9",
                                          "a\xC3",
                                          "\xA9"
                                          "b",
                                          "\xF0\x9F\x98\x80",
                                          "\xF0\x9F",
                                          "\x98\x80"};
  const auto tokenizer = MakeTokenizer(words);
  std::mt19937 rng(7);
  const auto pick = [&](size_t n) { return static_cast<size_t>(rng() % n); };
  const std::vector<std::string> letters = {"a", "b", "\xC3\xA9", "\xF0\x9F\x98\x80"};
  int stopped = 0;
  for (int trial = 0; trial < 20000; ++trial) {
    std::vector<std::string> stops;
    for (size_t i = 0, n = 1 + pick(4); i < n; ++i) {
      std::string stop;
      for (size_t j = 0, m = 1 + pick(5); j < m; ++j) stop += letters[pick(letters.size())];
      stops.push_back(stop);
    }
    const OutputOptions options = {.stops = Stops(stops),
                                   .include_stop_text = pick(2) == 0,
                                   .min_tokens = static_cast<int32_t>(pick(3) * pick(5)),
                                   .skip_special_tokens = pick(2) == 0};
    std::vector<int32_t> ids;
    for (size_t i = 0, n = 1 + pick(20); i < n; ++i) {
      switch (pick(8)) {
        case 0:
          ids.push_back(static_cast<int32_t>(pick(256)));
          break;
        case 1:
        case 2:
          ids.push_back('a' + static_cast<int32_t>(pick(2)));
          break;
        default:
          ids.push_back(256 + static_cast<int32_t>(pick(words.size() + 2)));
      }
    }
    const Expected expected = ByDefinition(tokenizer, stops, options, ids);
    const Output output = Assemble(tokenizer, options, ids);
    ASSERT_EQ(output.text, expected.text) << trial;
    ASSERT_EQ(output.stop, expected.stop) << trial;
    ASSERT_EQ(output.num_tokens, expected.num_tokens) << trial;
    stopped += output.stop.empty() ? 0 : 1;
  }
  EXPECT_GT(stopped, 5000);
  EXPECT_LT(stopped, 19000);
}

TEST(OutputAssemblerPropertyTest, TextDoesNotDependOnHowItIsCutIntoTokens) {
  // Every piece of up to 4 bytes of the text is a token.
  const std::string text =
      "ab\xC3\xA9"
      "abab\xF0\x9F\x98\x80\xC3\xA9"
      "bab\xC3\xA9z";
  std::vector<std::string> words;
  for (size_t begin = 0; begin < text.size(); ++begin) {
    for (size_t size = 2; size <= 4 && begin + size <= text.size(); ++size) {
      const std::string word = text.substr(begin, size);
      if (std::find(words.begin(), words.end(), word) == words.end()) words.push_back(word);
    }
  }
  const auto tokenizer = MakeTokenizer(words);
  std::mt19937 rng(8);
  for (const std::vector<std::string>& stops :
       std::vector<std::vector<std::string>>{{"\xC3\xA9"
                                              "b"},
                                             {"bab", "abab"},
                                             {"\xF0\x9F\x98\x80\xC3\xA9"
                                              "z",
                                              "z"},
                                             {"b\xC3\xA9z"},
                                             {"nothing"}}) {
    const OutputOptions options = {.stops = Stops(stops)};
    const std::string expected = Assemble(tokenizer, options, Bytes(text)).text;
    for (int trial = 0; trial < 500; ++trial) {
      std::vector<int32_t> ids;
      for (size_t at = 0; at < text.size();) {
        const size_t size = std::min<size_t>(1 + rng() % 4, text.size() - at);
        const std::string word = text.substr(at, size);
        const auto it = std::find(words.begin(), words.end(), word);
        ids.push_back(size == 1 ? static_cast<uint8_t>(word[0])
                                : 256 + static_cast<int32_t>(it - words.begin()));
        at += size;
      }
      ASSERT_EQ(Assemble(tokenizer, options, ids).text, expected);
    }
  }
}

}  // namespace
}  // namespace paceline::router
