#include "tests/load/connection.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace mayfly::load {
namespace {

using ::testing::HasSubstr;

TEST(ConnectionTest, OnlyThisMachineIsLoopback) {
  for (const char* address :
       {"127.0.0.1:7400", "127.8.0.1:1", "localhost:7400", "[::1]:7400", "unix:/run/mayfly.sock"}) {
    EXPECT_TRUE(IsLoopback(address)) << address;
  }
  for (const char* address : {"10.0.0.1:7400", "example.com:7400", "127.example.com:7400",
                              "localhost.example.com:1", "[2001:db8::1]:7400", "0.0.0.0:7400"}) {
    EXPECT_FALSE(IsLoopback(address)) << address;
  }
}

TEST(ConnectionTest, AnotherMachineIsLoadedOnlyWhenAskedFor) {
  ConnectionFlags flags;
  flags.server = "example.com:7400";
  EXPECT_THAT(Connect(flags), StatusIs(absl::StatusCode::kInvalidArgument,
                                       HasSubstr("example.com:7400 is not on this machine")));
  flags.allow_remote = true;
  EXPECT_THAT(Connect(flags), IsOk());
}

TEST(ConnectionTest, ChannelsAreAsManyAsAskedForAndTheTokenIsTheFilesWord) {
  const TempDir folder;
  folder.Write("token", "  secret\n");
  ConnectionFlags flags;
  flags.token_file = folder / "token";
  flags.connections = 3;
  const auto connection = Connect(flags);
  ASSERT_THAT(connection, IsOk());
  EXPECT_EQ(connection->channels.size(), 3u);
  EXPECT_EQ(connection->token, "secret");
  flags.token_file = folder / "absent";
  EXPECT_FALSE(Connect(flags).ok());
  flags.token_file = "";
  flags.connections = 0;
  EXPECT_THAT(Connect(flags), HasCode(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace mayfly::load
