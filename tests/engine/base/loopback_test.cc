#include "engine/base/loopback.h"

#include "gtest/gtest.h"

namespace mayfly {
namespace {

TEST(LoopbackTest, OnlyThisMachineIsLoopback) {
  for (const char* address :
       {"127.0.0.1:7400", "127.8.0.1:1", "localhost:7400", "[::1]:7400", "unix:/run/mayfly.sock"}) {
    EXPECT_TRUE(IsLoopback(address)) << address;
  }
  for (const char* address : {"10.0.0.1:7400", "example.com:7400", "127.example.com:7400",
                              "localhost.example.com:1", "[2001:db8::1]:7400", "0.0.0.0:7400"}) {
    EXPECT_FALSE(IsLoopback(address)) << address;
  }
}

}  // namespace
}  // namespace mayfly
