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

TEST(AddressListTest, TakesKubernetesServices) {
  const WorkerAddresses full = *ParseWorkerAddresses("kubernetes:///llm-workers.models:50061");
  EXPECT_EQ(full.service, "llm-workers");
  EXPECT_EQ(full.name_space, "models");
  EXPECT_EQ(full.service_port, "50061");
  EXPECT_TRUE(full.fixed.empty());
  EXPECT_TRUE(full.dns_name.empty());
  const WorkerAddresses brief = *ParseWorkerAddresses("kubernetes:///workers:plane");
  EXPECT_EQ(brief.name_space, "");
  EXPECT_EQ(brief.service_port, "plane");
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
                          "kubernetes:///a",
                          "kubernetes:///a:",
                          "kubernetes:///:1",
                          "kubernetes:///a:0",
                          "kubernetes:///a:65536",
                          "kubernetes:///a.b.c:1",
                          "kubernetes:///a/../b:1",
                          "kubernetes:///a:1,b:1",
                          "kubernetes:///A:1",
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
