// A checksum in every frame between router and worker, so that bytes that change on the way (a
// broken host or middlebox; TCP's own sum misses many) become a broken link and never a wrong
// token. No protection from intent. Stateless; any thread.
#ifndef PACELINE_PROTO_FRAME_CHECKSUM_H_
#define PACELINE_PROTO_FRAME_CHECKSUM_H_

#include <cstdint>
#include <string>

namespace paceline {

// FNV-1a of 64 bits over the serialised message. REQUIRES: its checksum is not set.
template <class Message>
uint64_t FrameChecksum(const Message& message) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char byte : message.SerializeAsString()) {
    hash = (hash ^ static_cast<uint8_t>(byte)) * 0x100000001b3;
  }
  return hash;
}

// Sets `message.checksum`.
template <class Message>
void Seal(Message& message) {
  message.clear_checksum();
  message.set_checksum(FrameChecksum(message));
}

// Whether `message` is what was sealed; clears its checksum.
template <class Message>
bool Unseal(Message& message) {
  const uint64_t checksum = message.checksum();
  message.clear_checksum();
  return FrameChecksum(message) == checksum;
}

}  // namespace paceline

#endif  // PACELINE_PROTO_FRAME_CHECKSUM_H_
