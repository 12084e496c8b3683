#include "server/snapshots/redis_address.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace mayfly {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(RedisAddressTest, AHostAloneIsEnough) {
  const auto address = ParseRedisUrl("redis://cache.example.org");
  ASSERT_THAT(address, IsOk());
  EXPECT_EQ(address->host, "cache.example.org");
  EXPECT_EQ(address->port, 6379);
  EXPECT_EQ(address->password, "");
  EXPECT_EQ(address->database, 0);
}

TEST(RedisAddressTest, EveryPartMayBeGiven) {
  const auto address = ParseRedisUrl("redis://me:p%40ss:%25@[::1]:7/3");
  ASSERT_THAT(address, IsOk());
  EXPECT_EQ(address->user, "me");
  EXPECT_EQ(address->password, "p@ss:%");
  EXPECT_EQ(address->host, "::1");
  EXPECT_EQ(address->port, 7);
  EXPECT_EQ(address->database, 3);
  EXPECT_EQ(ParseRedisUrl("redis://:secret@h:1")->user, "");
  EXPECT_EQ(ParseRedisUrl("redis://:secret@h:1")->password, "secret");
  EXPECT_EQ(ParseRedisUrl("redis://[::1]")->host, "::1");
}

TEST(RedisAddressTest, AUnixSocketMayStandForTheHost) {
  const auto address = ParseRedisUrl("redis+unix://:secret@/run/redis.sock?db=2");
  ASSERT_THAT(address, IsOk());
  EXPECT_EQ(address->socket_path, "/run/redis.sock");
  EXPECT_EQ(address->password, "secret");
  EXPECT_EQ(address->database, 2);
  EXPECT_EQ(ParseRedisUrl("redis+unix:///run/redis.sock")->socket_path, "/run/redis.sock");
}

TEST(RedisAddressTest, AnErrorNeverRepeatsThePassword) {
  for (const char* url :
       {"redis://:s3cret@", "redis://:s3cret@h:0", "redis://:s3cret@h:x", "redis://:s3cret@h/x",
        "redis://:s3cret@h/-1", "redis://s3cret@h", "redis://:s3cret%4@h", "rediss://:s3cret@h",
        "http://:s3cret@h", "redis+unix://:s3cret@h", "redis+unix://:s3cret@/a?x=1",
        "redis+unix://:s3cret@/a?db=x"}) {
    EXPECT_THAT(ParseRedisUrl(url),
                StatusIs(absl::StatusCode::kInvalidArgument, Not(HasSubstr("s3cret"))))
        << url;
  }
}

TEST(RedisAddressTest, ADirectoryIsNoUrl) {
  EXPECT_FALSE(IsRedisUrl("/var/lib/mayfly"));
  EXPECT_TRUE(IsRedisUrl("redis://h"));
}

}  // namespace
}  // namespace mayfly
