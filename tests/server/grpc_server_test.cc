#include "server/grpc_server.h"

#include <limits>

#include "gmock/gmock.h"
#include "grpc/impl/codegen/grpc_types.h"
#include "gtest/gtest.h"

namespace mayfly {
namespace {

using testing::Contains;
using testing::Pair;

TEST(GrpcServerTest, PingsAreAcceptedFromTenSecondsOn) {
  const auto arguments = GrpcServer::ChannelArguments({});
  EXPECT_THAT(arguments,
              Contains(Pair(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000)));
  EXPECT_THAT(arguments, Contains(Pair(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1)));
  EXPECT_THAT(arguments, Contains(Pair(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000)));
  EXPECT_THAT(arguments, Contains(Pair(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000)));
}

TEST(GrpcServerTest, ConnectionsMayBeOfAnyAgeUnlessSaidOtherwise) {
  constexpr int kUnbounded = std::numeric_limits<int>::max();
  const auto any = GrpcServer::ChannelArguments({});
  EXPECT_THAT(any, Contains(Pair(GRPC_ARG_MAX_CONNECTION_AGE_MS, kUnbounded)));
  EXPECT_THAT(any, Contains(Pair(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, kUnbounded)));
  GrpcServer::Options options;
  options.max_connection_age_seconds = 3600;
  options.max_connection_age_grace_seconds = 0.25;
  const auto bounded = GrpcServer::ChannelArguments(options);
  EXPECT_THAT(bounded, Contains(Pair(GRPC_ARG_MAX_CONNECTION_AGE_MS, 3'600'000)));
  EXPECT_THAT(bounded, Contains(Pair(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, 250)));
  options.max_connection_age_seconds = 365.0 * 86400;
  const auto a_year = GrpcServer::ChannelArguments(options);
  EXPECT_THAT(a_year, Contains(Pair(GRPC_ARG_MAX_CONNECTION_AGE_MS, kUnbounded)));
}

}  // namespace
}  // namespace mayfly
