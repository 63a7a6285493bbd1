#include "router/tenancy/api_keys.h"

#include "absl/strings/match.h"
#include "gtest/gtest.h"

namespace paceline::router {
namespace {

TEST(ApiKeysTest, WithoutKeysEverybodyIsTheAnonymousTenant) {
  const ApiKeys keys;
  EXPECT_FALSE(keys.required());
  EXPECT_EQ(keys.Authenticate(""), "default");
  EXPECT_EQ(keys.Authenticate("anything"), "default");
}

TEST(ApiKeysTest, WithKeysEverythingElseIsDenied) {
  const ApiKeys keys = *ApiKeys::Parse({"alice:s3cret-A,bob:s3cret-B"});
  EXPECT_TRUE(keys.required());
  EXPECT_EQ(keys.Authenticate("s3cret-A"), "alice");
  EXPECT_EQ(keys.Authenticate("s3cret-B"), "bob");
  for (const char* wrong : {"", "s3cret-", "s3cret-AA", "s3cret-a", "alice:s3cret-A", "alice"}) {
    EXPECT_EQ(keys.Authenticate(wrong), std::nullopt) << wrong;
  }
}

TEST(ApiKeysTest, SeveralKeysMayNameOneTenant) {
  const ApiKeys keys = *ApiKeys::Parse({"alice:old", "alice:new"});
  EXPECT_EQ(keys.Authenticate("old"), "alice");
  EXPECT_EQ(keys.Authenticate("new"), "alice");
}

TEST(ApiKeysTest, PlainKeysAreTenantsOfTheirOwn) {
  const ApiKeys keys = *ApiKeys::Parse({"first", "second"});
  const auto first = keys.Authenticate("first");
  const auto second = keys.Authenticate("second");
  ASSERT_TRUE(first.has_value() && second.has_value());
  EXPECT_NE(*first, *second);
  // SHA-256("first") begins a7937b64 (sha256sum).
  EXPECT_EQ(*keys.Authenticate("first"), "key-a7937b64");
}

TEST(ApiKeysTest, RefusesWhatIsNoKeyWithoutRepeatingIt) {
  for (const char* bad :
       {"Alice:secretkey", ":secretkey", "alice:", "secret key", "a:b:secretkey"}) {
    const auto keys = ApiKeys::Parse({bad});
    ASSERT_FALSE(keys.ok()) << bad;
    EXPECT_FALSE(absl::StrContains(keys.status().message(), "secret")) << keys.status();
  }
  EXPECT_FALSE(ApiKeys::Parse({"same,same"}).ok());
  EXPECT_FALSE(ApiKeys::Parse({std::string(513, 'k')}).ok());
}

TEST(ApiKeysTest, AnOptionThatIsSetButEmptyDoesNotOpenTheServer) {
  EXPECT_FALSE(ApiKeys::Parse({""}).ok());
  EXPECT_FALSE(ApiKeys::Parse({" , "}).ok());
  EXPECT_TRUE(ApiKeys::Parse({}).ok());
}

TEST(TenantCacheSaltTest, KeepsTenantsAndSaltsApart) {
  EXPECT_EQ(TenantCacheSalt("default", ""), "");
  EXPECT_EQ(TenantCacheSalt("", ""), "");
  EXPECT_EQ(TenantCacheSalt("alice", "").size(), 64U);
  EXPECT_NE(TenantCacheSalt("alice", ""), TenantCacheSalt("bob", ""));
  EXPECT_NE(TenantCacheSalt("alice", "x"), TenantCacheSalt("alice", "y"));
  EXPECT_NE(TenantCacheSalt("ab", "c"), TenantCacheSalt("a", "bc"));
  EXPECT_NE(TenantCacheSalt("default", "x"), "");
}

}  // namespace
}  // namespace paceline::router
