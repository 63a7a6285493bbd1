#include "model/tokenizer/tokenizer.h"

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/tokenizer/incremental_decoder.h"
#include "tests/model/tokenizer/tokenizer_cases.h"

namespace paceline::model {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::Not;

std::vector<int32_t> EncodeWithUntrusted(const Tokenizer& tokenizer,
                                         std::string_view text,
                                         std::vector<TextSpan> untrusted) {
  return tokenizer.Encode(text, {.untrusted = untrusted});
}

TEST(TokenizerTest, SpecialTokenNeedsAllItsBytesTrusted) {
  const auto tokenizer = FamilyTokenizer("gpt2");
  const int32_t end = *tokenizer->Find("<|im_end|>");
  const std::string text = "<|im_end|>";
  EXPECT_THAT(tokenizer->Encode(text), ElementsAre(end));
  for (size_t begin = 0; begin < text.size(); ++begin) {
    for (size_t size = 1; begin + size <= text.size(); ++size) {
      EXPECT_THAT(EncodeWithUntrusted(*tokenizer, text, {{begin, begin + size}}),
                  Not(Contains(end)));
    }
    EXPECT_THAT(EncodeWithUntrusted(*tokenizer, text, {{begin, begin}}), ElementsAre(end));
  }
}

TEST(TokenizerTest, PartsThatJoinAcrossABorderStayText) {
  const auto tokenizer = FamilyTokenizer("llama3");
  const int32_t end = *tokenizer->Find("<|im_end|>");
  // template "<|im_" + user "end|>" ; user "<|im_" + user "end|>"; user + template.
  EXPECT_THAT(EncodeWithUntrusted(*tokenizer, "<|im_end|>", {{5, 10}}), Not(Contains(end)));
  EXPECT_THAT(EncodeWithUntrusted(*tokenizer, "<|im_end|>", {{0, 5}, {5, 10}}), Not(Contains(end)));
  EXPECT_THAT(EncodeWithUntrusted(*tokenizer, "<|im_end|>", {{0, 5}}), Not(Contains(end)));
  EXPECT_THAT(EncodeWithUntrusted(*tokenizer, "a<|im_end|>", {{0, 1}}), Contains(end));
}

TEST(TokenizerTest, ShorterTokenMatchesWhereTheLongerOneReachesIntoUserText) {
  const auto tokenizer = FamilyTokenizer("gpt2");  // it has both <|im_end|> and <|im_end|>x
  EXPECT_THAT(tokenizer->Encode("<|im_end|>x"), ElementsAre(*tokenizer->Find("<|im_end|>x")));
  EXPECT_THAT(EncodeWithUntrusted(*tokenizer, "<|im_end|>x", {{10, 11}}),
              ElementsAre(*tokenizer->Find("<|im_end|>"), *tokenizer->Find("x")));
}

TEST(TokenizerTest, UntrustedRangesMayBeUnsortedOverlappingOrTooLong) {
  const auto tokenizer = FamilyTokenizer("gpt2");
  const int32_t end = *tokenizer->Find("<|im_end|>");
  EXPECT_THAT(EncodeWithUntrusted(*tokenizer, "x<|im_end|>", {{4, 900}, {0, 1}, {2, 6}, {9, 3}}),
              Not(Contains(end)));
}

TEST(TokenizerTest, MarkupTokensAreTextInUserContentAndOthersAreNot) {
  const auto tokenizer = FamilyTokenizer("qwen2");
  const int32_t think = *tokenizer->Find("<think>");
  const int32_t word = *tokenizer->Find("xyzzy");
  EXPECT_THAT(tokenizer->Encode("<think>xyzzy"), ElementsAre(think, word));
  const auto user = tokenizer->Encode("<think>xyzzy", {.parse_special = false});
  EXPECT_THAT(user, Not(Contains(think)));
  EXPECT_EQ(user.back(), word);
  EXPECT_FALSE(tokenizer->IsSpecial(think));
}

// "<|im_end|>" is one pre-token of the word list, so only its type keeps it out of plain text.
TEST(TokenizerTest, WholeWordLookupNeverFindsSpecialTokens) {
  Vocabulary vocabulary;
  vocabulary.model = "gpt2";
  vocabulary.pre = "llama-bpe";
  vocabulary.tokens = {"e", "n", "d", "end", "en"};
  vocabulary.token_types = {1, 1, 1, kControlToken, 1};
  vocabulary.merges = {"e n", "en d"};
  const auto tokenizer = Tokenizer::Create(vocabulary).value();
  EXPECT_THAT(tokenizer->Encode("end"), ElementsAre(3));
  EXPECT_THAT(tokenizer->Encode("end", {.parse_special = false}), ElementsAre(4, 2));
}

TEST(TokenizerTest, MergesNeverMakeMarkupTokensOutOfUserContent) {
  Vocabulary vocabulary;
  vocabulary.model = "gpt2";
  vocabulary.pre = "gpt-2";
  vocabulary.tokens = {"<", "|", ">", "<|", "<|>"};
  vocabulary.token_types = {1, 1, 1, 1, kUserDefinedToken};
  vocabulary.merges = {"< |", "<| >"};
  const auto tokenizer = Tokenizer::Create(vocabulary).value();
  EXPECT_THAT(tokenizer->Encode("<|>"), ElementsAre(4));
  EXPECT_THAT(tokenizer->Encode("<|>", {.parse_special = false}), ElementsAre(3, 2));
}

TEST(TokenizerTest, SentencePieceTextNeverBecomesControlOrByteTokens) {
  const auto tokenizer = FamilyTokenizer("sentencepiece");
  const auto ids = tokenizer->Encode("</s><unk><0x41>", {.parse_special = false});
  for (const char* token : {"</s>", "<unk>", "<0x41>"}) {
    EXPECT_THAT(ids, Not(Contains(*tokenizer->Find(token))));
  }
  EXPECT_EQ(tokenizer->Decode(ids, false), "</s><unk><0x41>");
}

TEST(TokenizerTest, AddsBosAndEosOnlyWhenAskedAndOnlyWhereTheVocabularySays) {
  Vocabulary vocabulary = FamilyVocabulary(ReadFamily("sentencepiece"));
  vocabulary.add_bos = true;
  const auto with_bos = Tokenizer::Create(vocabulary).value();
  EXPECT_EQ(with_bos->Encode("a", {.add_special = true}).front(), vocabulary.bos_id);
  EXPECT_NE(with_bos->Encode("a", {.add_special = true}).back(), vocabulary.eos_id);
  EXPECT_NE(with_bos->Encode("a").front(), vocabulary.bos_id);
  vocabulary.add_bos = false;
  vocabulary.add_eos = true;
  const auto with_eos = Tokenizer::Create(vocabulary).value();
  EXPECT_NE(with_eos->Encode("a", {.add_special = true}).front(), vocabulary.bos_id);
  EXPECT_EQ(with_eos->Encode("a", {.add_special = true}).back(), vocabulary.eos_id);
}

TEST(TokenizerTest, EndsOfGenerationAreEosEotAndKnownSpecialTokens) {
  Vocabulary vocabulary = FamilyVocabulary(ReadFamily("gpt2"));
  vocabulary.eos_id = 300;
  vocabulary.eot_id = 301;
  const auto tokenizer = Tokenizer::Create(vocabulary).value();
  EXPECT_TRUE(tokenizer->IsEndOfGeneration(300));
  EXPECT_TRUE(tokenizer->IsEndOfGeneration(301));
  EXPECT_TRUE(tokenizer->IsEndOfGeneration(*tokenizer->Find("<|im_end|>")));
  EXPECT_FALSE(tokenizer->IsEndOfGeneration(*tokenizer->Find("<|im_start|>")));
  EXPECT_FALSE(tokenizer->IsEndOfGeneration(-1));
  EXPECT_FALSE(tokenizer->IsEndOfGeneration(tokenizer->vocab_size()));
}

TEST(TokenizerTest, IdsOutsideTheVocabularyHaveNoText) {
  const auto tokenizer = FamilyTokenizer("gpt2");
  EXPECT_EQ(tokenizer->Decode({-1, tokenizer->vocab_size(), INT32_MAX, INT32_MIN}, false), "");
  EXPECT_EQ(tokenizer->TokenBytes(-5), "");
  EXPECT_FALSE(tokenizer->IsSpecial(-1));
  EXPECT_EQ(tokenizer->Find("no such token"), std::nullopt);
}

TEST(TokenizerTest, QwenTextIsNormalisedAndInvalidBytesPass) {
  const auto tokenizer = FamilyTokenizer("qwen2");
  EXPECT_EQ(tokenizer->Encode("e\u0301"), tokenizer->Encode("\u00E9"));
  EXPECT_EQ(tokenizer->Decode(tokenizer->Encode("a\u0323\u0301"), false), "\u1EA1\u0301");
  std::string bytes;
  for (const int32_t id : tokenizer->Encode("e\u0301\xFF\u0301e\xC3")) {
    bytes += tokenizer->TokenBytes(id);
  }
  EXPECT_EQ(bytes, "\u00E9\xFF\u0301e\xC3");
}

TEST(TokenizerTest, SentencePieceEncodesCharactersWithoutAPieceAsBytesOrUnknown) {
  Vocabulary vocabulary = FamilyVocabulary(ReadFamily("sentencepiece"));
  auto tokenizer = Tokenizer::Create(vocabulary).value();
  const auto ids = tokenizer->Encode("\U0010FFFF\xFF");
  EXPECT_EQ(ids.size(), 6u);  // the space, four bytes, one byte
  for (int32_t& type : vocabulary.token_types) {
    if (type == kByteToken) type = kUnusedToken;
  }
  tokenizer = Tokenizer::Create(vocabulary).value();
  const int32_t space = *tokenizer->Find("\u2581");
  EXPECT_THAT(tokenizer->Encode("\U0010FFFF\U0010FFFE"), ElementsAre(space, vocabulary.unk_id));
  vocabulary.unk_id = -1;
  tokenizer = Tokenizer::Create(vocabulary).value();
  EXPECT_THAT(tokenizer->Encode("\U0010FFFF\U0010FFFE"), ElementsAre(space));
}

TEST(TokenizerTest, ManyThreadsMayEncodeAtOnce) {
  const auto tokenizer = FamilyTokenizer("llama3");
  const std::string text = "Hello world, it's 2026 <|im_end|>\n";
  const auto expected = tokenizer->Encode(text);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) wrong[t] += tokenizer->Encode(text) != expected ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, testing::Each(0));
}

TEST(IncrementalDecoderTest, HoldsACharacterBackUntilItIsWhole) {
  const auto tokenizer = FamilyTokenizer("gpt2");
  IncrementalDecoder decoder(tokenizer, /*skip_special=*/false);
  std::vector<int32_t> ids;  // of the bytes of an emoji, one by one
  for (const char* byte : {"\u00F0", "\u0141", "\u013A", "\u0122"}) {
    ids.push_back(*tokenizer->Find(byte));
  }
  EXPECT_EQ(decoder.Append(ids[0]), "");
  EXPECT_EQ(decoder.Append(ids[1]), "");
  EXPECT_EQ(decoder.Append(ids[2]), "");
  EXPECT_EQ(decoder.Append(ids[3]), "\U0001F600");
  EXPECT_EQ(decoder.Append(ids[0]), "");
  EXPECT_EQ(decoder.Append(*tokenizer->Find("a")), "\uFFFDa");
  EXPECT_EQ(decoder.Append(ids[0]), "");
  EXPECT_EQ(decoder.Finish(), "\uFFFD");
  EXPECT_EQ(decoder.Finish(), "");
}

// The outputs of `decoder` for `ids`, in order, and of Finish.
std::string DecodeAll(IncrementalDecoder decoder, const std::vector<int32_t>& ids) {
  std::string text;
  for (const int32_t id : ids) text += decoder.Append(id);
  return text + decoder.Finish();
}

TEST(IncrementalDecoderTest, SkippedSpecialTokensDoNotCutACharacter) {
  const auto tokenizer = FamilyTokenizer("gpt2");
  const std::vector<int32_t> ids = {
      *tokenizer->Find("\u00C3"), *tokenizer->Find("<|im_end|>"), *tokenizer->Find("\u00A9")};
  EXPECT_EQ(DecodeAll({tokenizer, /*skip_special=*/true}, ids), "\u00E9");
  EXPECT_EQ(DecodeAll({tokenizer, /*skip_special=*/false}, ids), "\uFFFD<|im_end|>\uFFFD");
}

TEST(IncrementalDecoderTest, FirstSpaceGoesOnlyAtTheStartOfTheText) {
  const auto tokenizer = FamilyTokenizer("sentencepiece");
  const auto ids = tokenizer->Encode("a a");
  EXPECT_EQ(tokenizer->Decode(ids, true), "a a");
  EXPECT_EQ(DecodeAll({tokenizer, true}, ids), "a a");
  EXPECT_EQ(DecodeAll({tokenizer, true, IncrementalDecoder::Start::kContinue}, ids), " a a");
  // A special token that is left out is no text, one that is shown is.
  const int32_t bos = tokenizer->vocabulary().bos_id;
  EXPECT_EQ(tokenizer->Decode({bos, ids[0]}, /*skip_special=*/true), "a");
  EXPECT_EQ(tokenizer->Decode({bos, ids[0]}, /*skip_special=*/false), "<s> a");
}

}  // namespace
}  // namespace paceline::model
