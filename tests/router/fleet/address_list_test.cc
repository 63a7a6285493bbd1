#include "router/fleet/address_list.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace paceline::router {
namespace {

using testing::ElementsAre;

TEST(AddressListTest, TakesListsAndDnsNames) {
  EXPECT_THAT(ParseWorkerAddresses("a:1, b.c:65535,[::1]:7")->fixed,
              ElementsAre("a:1", "b.c:65535", "[::1]:7"));
  const WorkerAddresses dns = *ParseWorkerAddresses("dns:///workers.ns.svc:50061");
  EXPECT_EQ(dns.dns_name, "workers.ns.svc");
  EXPECT_EQ(dns.dns_port, "50061");
  EXPECT_TRUE(dns.fixed.empty());
}

TEST(AddressListTest, RefusesEverythingElse) {
  for (const char* bad : {"",
                          "a",
                          "a:",
                          ":1",
                          "a:0",
                          "a:65536",
                          "a:-1",
                          "a:1,",
                          "a:1,,b:2",
                          "a:1,a:1",
                          "::1:7",
                          "http://a:1",
                          "dns:///a",
                          "a b:1",
                          "a:1x"}) {
    EXPECT_FALSE(ParseWorkerAddresses(bad).ok()) << bad;
  }
}

TEST(AddressListTest, ResolvesLoopbackLiterals) {
  EXPECT_THAT(*ResolveAddresses("127.0.0.1", "50061"), ElementsAre("127.0.0.1:50061"));
}

}  // namespace
}  // namespace paceline::router
