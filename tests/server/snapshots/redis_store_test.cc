#include "server/snapshots/redis_store.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <optional>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/snapshots/redis_connection.h"
#include "tests/support/fake_wall_clock.h"
#include "tests/support/redis_server.h"
#include "tests/support/status_matchers.h"

namespace mayfly {
namespace {

using testing::HasSubstr;

constexpr uint64_t kAnySize = uint64_t{1} << 40;
constexpr double kTimeout = 20;

#define SKIP_WITHOUT_REDIS() \
  if (!RedisServer::IsInstalled()) GTEST_SKIP() << "redis-server is not installed"

class RedisStoreTest : public testing::Test {
 protected:
  RedisStore StoreAt(const RedisAddress& address) {
    return RedisStore({address, kTimeout, /*part_bytes=*/4}, &clock_);
  }
  int64_t In(int64_t seconds) const { return clock_.UnixSeconds() + seconds; }
  // What redis-cli would print, a number or a text.
  std::string Ask(const RedisServer& server, const std::vector<absl::string_view>& words) {
    auto connection = RedisConnection::Open(server.address(), kTimeout);
    if (!connection.ok()) return connection.status().ToString();
    const auto reply = connection->Call(words);
    return reply.ok() ? reply->value_or("nil") : reply.status().ToString();
  }

  FakeWallClock clock_;
};

TEST_F(RedisStoreTest, WhatIsPutIsThereUntilItIsRemoved) {
  SKIP_WITHOUT_REDIS();
  RedisServer server;
  ASSERT_TRUE(server.Start());
  RedisStore store = StoreAt(server.address());
  for (const std::string& bytes : {std::string(), std::string("a\0b", 3), std::string("1234"),
                                   std::string("12345"), std::string(100, 'x')}) {
    ASSERT_THAT(store.Put("ab", bytes, In(100)), IsOk());
    EXPECT_EQ(*store.Get("ab", kAnySize), bytes);
    EXPECT_THAT(store.Remove("ab"), IsOk());
    EXPECT_THAT(store.Remove("ab"), IsOk());
    EXPECT_THAT(store.Get("ab", kAnySize), HasCode(absl::StatusCode::kNotFound));
    EXPECT_EQ(Ask(server, {"DBSIZE"}), "0");
  }
}

TEST_F(RedisStoreTest, AServerIsAlsoReachedByHostAndPort) {
  SKIP_WITHOUT_REDIS();
  RedisServer server({}, RedisServer::Listen::kTcp);
  ASSERT_TRUE(server.Start());
  RedisStore store = StoreAt(server.address());
  ASSERT_THAT(store.Put("ab", "x", In(100)), IsOk());
  EXPECT_EQ(*store.Get("ab", kAnySize), "x");
}

TEST_F(RedisStoreTest, EveryPartExpires) {
  SKIP_WITHOUT_REDIS();
  RedisServer server;
  ASSERT_TRUE(server.Start());
  ASSERT_THAT(StoreAt(server.address()).Put("ab", "12345", In(1000)), IsOk());
  for (const char* name : {"mayfly:snapshot:ab", "mayfly:snapshot:ab:0", "mayfly:snapshot:ab:1"}) {
    const int seconds = std::stoi(Ask(server, {"TTL", name}));
    EXPECT_GT(seconds, 900) << name;
    EXPECT_LE(seconds, 1000) << name;
  }
}

TEST_F(RedisStoreTest, ALargeSnapshotIsStoredWhole) {
  SKIP_WITHOUT_REDIS();
  RedisServer server;
  ASSERT_TRUE(server.Start());
  RedisStore store({server.address(), kTimeout, /*part_bytes=*/1 << 20}, &clock_);
  std::string bytes(10 << 20, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * i / 1000);
  ASSERT_THAT(store.Put("ab", bytes, In(1000)), IsOk());
  EXPECT_TRUE(*store.Get("ab", kAnySize) == bytes);
}

TEST_F(RedisStoreTest, ASnapshotThatIsTooLargeIsNotRead) {
  SKIP_WITHOUT_REDIS();
  RedisServer server;
  ASSERT_TRUE(server.Start());
  RedisStore store = StoreAt(server.address());
  ASSERT_THAT(store.Put("ab", "12345", In(100)), IsOk());
  EXPECT_THAT(store.Get("ab", 5), IsOk());
  EXPECT_THAT(store.Get("ab", 4), StatusIs(absl::StatusCode::kResourceExhausted,
                                           HasSubstr("has 5 bytes, the limit is 4")));
}

TEST_F(RedisStoreTest, ASnapshotWithoutOneOfItsPartsIsGone) {
  SKIP_WITHOUT_REDIS();
  RedisServer server;
  ASSERT_TRUE(server.Start());
  RedisStore store = StoreAt(server.address());
  ASSERT_THAT(store.Put("ab", "12345", In(100)), IsOk());
  EXPECT_EQ(Ask(server, {"DEL", "mayfly:snapshot:ab:1"}), "1");
  EXPECT_THAT(store.Get("ab", kAnySize), HasCode(absl::StatusCode::kNotFound));
}

TEST_F(RedisStoreTest, WhatSomebodyElseWroteIsNotBelieved) {
  SKIP_WITHOUT_REDIS();
  RedisServer server;
  ASSERT_TRUE(server.Start());
  RedisStore store = StoreAt(server.address());
  for (const char* summary : {"", "x", "1", "1 2 3", "-1 5", "1 5", "1 999", "2 5"}) {
    Ask(server, {"SET", "mayfly:snapshot:ab", summary});
    Ask(server, {"SET", "mayfly:snapshot:ab:0", "longer than that"});
    EXPECT_THAT(store.Get("ab", kAnySize), HasCode(absl::StatusCode::kDataLoss)) << summary;
  }
}

TEST_F(RedisStoreTest, AServerWithoutMemoryIsFullAndKeepsNoPart) {
  SKIP_WITHOUT_REDIS();
  RedisServer server({"--maxmemory", "8mb", "--maxmemory-policy", "noeviction"});
  ASSERT_TRUE(server.Start());
  RedisStore store({server.address(), kTimeout, /*part_bytes=*/1 << 20}, &clock_);
  EXPECT_THAT(store.Put("ab", std::string(20 << 20, 'x'), In(100)),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("full")));
  EXPECT_EQ(Ask(server, {"DBSIZE"}), "0");
  EXPECT_THAT(store.Put("ab", "x", In(100)), IsOk());
}

TEST_F(RedisStoreTest, PasswordUserAndDatabaseCount) {
  SKIP_WITHOUT_REDIS();
  RedisServer server({"--requirepass", "s3cret"});
  ASSERT_TRUE(server.Start());
  RedisAddress address = server.address();
  EXPECT_THAT(StoreAt(address).Put("ab", "x", In(100)),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("NOAUTH")));
  address.password = "wrong";
  EXPECT_THAT(StoreAt(address).Put("ab", "x", In(100)),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("WRONGPASS")));
  address.password = "s3cret";
  EXPECT_THAT(StoreAt(address).Put("ab", "x", In(100)), IsOk());
  address.user = "default";
  address.database = 1;
  EXPECT_THAT(StoreAt(address).Get("ab", kAnySize), HasCode(absl::StatusCode::kNotFound));
  address.database = 0;
  EXPECT_EQ(*StoreAt(address).Get("ab", kAnySize), "x");
}

TEST_F(RedisStoreTest, AKilledServerIsUnavailableUntilItIsBack) {
  SKIP_WITHOUT_REDIS();
  RedisServer server;
  ASSERT_TRUE(server.Start());
  RedisStore store = StoreAt(server.address());
  ASSERT_THAT(store.Put("ab", "x", In(100)), IsOk());
  server.Kill();
  EXPECT_THAT(store.Put("ab", "x", In(100)), HasCode(absl::StatusCode::kUnavailable));
  EXPECT_THAT(store.Get("ab", kAnySize), HasCode(absl::StatusCode::kUnavailable));
  EXPECT_THAT(store.Remove("ab"), HasCode(absl::StatusCode::kUnavailable));
  ASSERT_TRUE(server.Start());
  EXPECT_THAT(store.Get("ab", kAnySize), HasCode(absl::StatusCode::kNotFound));
  EXPECT_THAT(store.Put("ab", "x", In(100)), IsOk());
}

// The system accepts the connection for a socket that listens; nobody ever reads from it.
TEST_F(RedisStoreTest, AServerThatSaysNothingIsGivenUp) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  ASSERT_EQ(listen(fd, 1), 0);
  RedisAddress silent;
  silent.host = "127.0.0.1";
  silent.port = ntohs(address.sin_port);
  RedisStore store({silent, /*timeout_seconds=*/0.05}, &clock_);
  EXPECT_THAT(store.Get("ab", kAnySize), HasCode(absl::StatusCode::kUnavailable));
  close(fd);
}

}  // namespace
}  // namespace mayfly
