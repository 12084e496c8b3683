#include "tests/load/connection.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace mayfly::load {
namespace {

using ::testing::HasSubstr;

TEST(ConnectionTest, AnotherMachineIsLoadedOnlyWhenAskedFor) {
  ConnectionFlags flags;
  flags.server.address = "example.com:7400";
  EXPECT_THAT(Connect(flags), StatusIs(absl::StatusCode::kInvalidArgument,
                                       HasSubstr("example.com:7400 is not on this machine")));
  flags.allow_remote = true;
  EXPECT_THAT(Connect(flags), IsOk());
}

TEST(ConnectionTest, ChannelsAreAsManyAsAskedFor) {
  ConnectionFlags flags;
  flags.connections = 3;
  const auto channels = Connect(flags);
  ASSERT_THAT(channels, IsOk());
  EXPECT_EQ(channels->size(), 3u);
  flags.connections = 0;
  EXPECT_THAT(Connect(flags), HasCode(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace mayfly::load
