#include "router/text/vocabulary_proto.h"

#include "gtest/gtest.h"
#include "proto/tokenizer_digest.h"
#include "tests/router/text/vocabularies.h"
#include "worker/service/tokenizer_bundle.h"

namespace paceline::router {
namespace {

model::Vocabulary FullVocabulary() {
  model::Vocabulary vocabulary;
  vocabulary.model = "llama";
  vocabulary.pre = "default";
  vocabulary.tokens = {"a", "<unk>", "<s>", "</s>", "<0x41>", "\xe2\x96\x81", "b"};
  vocabulary.scores = {-2, 0, 0, 0, 0, -1.5F, -3};
  vocabulary.token_types = {1, 2, 3, 3, 6, 1, 1};
  vocabulary.bos_id = 2;
  vocabulary.eos_id = 3;
  vocabulary.eot_id = 3;
  vocabulary.unk_id = 1;
  vocabulary.pad_id = 1;
  vocabulary.add_bos = true;
  vocabulary.add_eos = true;
  vocabulary.add_space_prefix = true;
  vocabulary.chat_template = "{{ messages[0].content }}";
  vocabulary.context_length = 77;
  return vocabulary;
}

TEST(VocabularyProtoTest, RoundTripsEveryField) {
  const model::Vocabulary in = FullVocabulary();
  const auto out = VocabularyFromProto(worker::ToProto(in));
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(out->model, in.model);
  EXPECT_EQ(out->pre, in.pre);
  EXPECT_EQ(out->tokens, in.tokens);
  EXPECT_EQ(out->scores, in.scores);
  EXPECT_EQ(out->token_types, in.token_types);
  EXPECT_EQ(out->merges, in.merges);
  EXPECT_EQ(out->bos_id, in.bos_id);
  EXPECT_EQ(out->eos_id, in.eos_id);
  EXPECT_EQ(out->eot_id, in.eot_id);
  EXPECT_EQ(out->unk_id, in.unk_id);
  EXPECT_EQ(out->pad_id, in.pad_id);
  EXPECT_EQ(out->add_bos, in.add_bos);
  EXPECT_EQ(out->add_eos, in.add_eos);
  EXPECT_EQ(out->add_space_prefix, in.add_space_prefix);
  EXPECT_EQ(out->chat_template, in.chat_template);
  EXPECT_EQ(out->context_length, in.context_length);

  model::Vocabulary merges = ByteVocabulary({"ab"});
  merges.merges = {"a b"};
  const auto with_merges = VocabularyFromProto(worker::ToProto(merges));
  ASSERT_TRUE(with_merges.ok()) << with_merges.status();
  EXPECT_EQ(with_merges->merges, merges.merges);
}

TEST(VocabularyProtoTest, EveryFieldIsPartOfTheDigest) {
  const v1::TokenizerBundle base = worker::ToProto(FullVocabulary());
  EXPECT_EQ(base.digest().size(), 32u);
  EXPECT_EQ(base.digest(), worker::ToProto(FullVocabulary()).digest());
  const google::protobuf::Descriptor* descriptor = base.GetDescriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const google::protobuf::FieldDescriptor* field = descriptor->field(i);
    if (field->name() == "digest") continue;
    v1::TokenizerBundle changed = base;
    if (field->name() == "merges") {
      changed.add_merges("x y");
    } else {
      changed.GetReflection()->ClearField(&changed, field);
    }
    EXPECT_NE(TokenizerDigest(changed), base.digest()) << field->name();
    EXPECT_EQ(VocabularyFromProto(changed).status().code(), absl::StatusCode::kDataLoss);
  }
}

TEST(VocabularyProtoTest, DigestSeesWhereTokensEnd) {
  v1::TokenizerBundle a;
  a.add_tokens("ab");
  a.add_tokens("c");
  v1::TokenizerBundle b;
  b.add_tokens("a");
  b.add_tokens("bc");
  EXPECT_NE(TokenizerDigest(a), TokenizerDigest(b));
  v1::TokenizerBundle c;
  c.add_tokens("ab");
  c.add_tokens(std::string("c\0", 2));
  EXPECT_NE(TokenizerDigest(a), TokenizerDigest(c));
}

// Routers and workers of different versions must agree on it. By a second implementation, in
// Python.
TEST(VocabularyProtoTest, DigestNeverChanges) {
  EXPECT_EQ(TokenizerDigest(v1::TokenizerBundle()), "332404021e07f8206c856416a91302b7");
  EXPECT_EQ(worker::ToProto(FullVocabulary()).digest(), "021ce24b77f3c88078cfa6393338d134");
}

TEST(VocabularyProtoTest, RefusesAVocabularyThatCannotBeServed) {
  v1::TokenizerBundle bundle = worker::ToProto(FullVocabulary());
  bundle.set_model("no such model");
  bundle.set_digest(TokenizerDigest(bundle));
  EXPECT_EQ(VocabularyFromProto(bundle).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace paceline::router
