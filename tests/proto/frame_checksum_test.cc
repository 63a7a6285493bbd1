#include "proto/frame_checksum.h"

#include <string>

#include "gtest/gtest.h"
#include "proto/paceline/v1/worker.pb.h"

namespace paceline {
namespace {

// The published FNV-1a hashes of "a" and "foobar", as messages whose bytes those are.
struct Bytes {
  std::string bytes;
  const std::string& SerializeAsString() const { return bytes; }
};

TEST(FrameChecksumTest, IsFnv1a) {
  EXPECT_EQ(FrameChecksum(Bytes{""}), 0xcbf29ce484222325);
  EXPECT_EQ(FrameChecksum(Bytes{"a"}), 0xaf63dc4c8601ec8c);
  EXPECT_EQ(FrameChecksum(Bytes{"foobar"}), 0x85944171f73967e8);
}

v1::WorkerMessage Message() {
  v1::WorkerMessage message;
  v1::SequenceResult& result = *message.mutable_step()->add_results();
  result.set_request_id("request~1#0.1");
  for (int32_t token : {17, 300, 49'151, 0, 28}) result.add_token_ids(token);
  result.add_logprobs()->set_logprob(-0.25F);
  message.mutable_step()->mutable_load()->set_step(9);
  return message;
}

TEST(FrameChecksumTest, WhatWasSealedComesOutAsItWas) {
  v1::WorkerMessage message = Message();
  Seal(message);
  v1::WorkerMessage received;
  ASSERT_TRUE(received.ParseFromString(message.SerializeAsString()));
  EXPECT_TRUE(Unseal(received));
  EXPECT_EQ(received.SerializeAsString(), Message().SerializeAsString());
}

TEST(FrameChecksumTest, FieldsOfANewerPeerAreNoDamage) {
  v1::WorkerMessage message = Message();
  // Field 100, a varint, of the message and of one within.
  message.GetReflection()->MutableUnknownFields(&message)->AddVarint(100, 5);
  v1::StepResult& step = *message.mutable_step();
  step.GetReflection()->MutableUnknownFields(&step)->AddVarint(100, 5);
  Seal(message);
  v1::WorkerMessage received;
  ASSERT_TRUE(received.ParseFromString(message.SerializeAsString()));
  EXPECT_TRUE(Unseal(received));
}

TEST(FrameChecksumTest, EveryChangedBitIsNoticed) {
  v1::WorkerMessage message = Message();
  Seal(message);
  const std::string bytes = message.SerializeAsString();
  for (size_t i = 0; i < bytes.size() * 8; ++i) {
    std::string damaged = bytes;
    damaged[i / 8] = static_cast<char>(damaged[i / 8] ^ 1 << i % 8);
    v1::WorkerMessage received;
    if (!received.ParseFromString(damaged)) continue;
    EXPECT_FALSE(Unseal(received)) << "bit " << i;
  }
}

TEST(FrameChecksumTest, AFrameWithoutOneIsDamaged) {
  v1::WorkerMessage message = Message();
  EXPECT_FALSE(Unseal(message));
  v1::RouterMessage empty;
  EXPECT_FALSE(Unseal(empty));
}

}  // namespace
}  // namespace paceline
