#include "server/grpc_status.h"

#include <string>

#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"
#include "session/retry_after.h"

namespace mayfly {
namespace {

TEST(GrpcStatusTest, EveryCodeSurvivesTheWayThereAndBack) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "why");
    EXPECT_EQ(FromGrpcStatus(ToGrpcStatus(status)), status);
  }
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpcStatus(grpc::Status::OK).ok());
}

TEST(GrpcStatusTest, ErrorsThatPassSayWhenToRetry) {
  for (const absl::Status& status :
       {absl::ResourceExhaustedError("no row"), absl::UnavailableError("draining")}) {
    google::rpc::Status rich;
    ASSERT_TRUE(rich.ParseFromString(ToGrpcStatus(status).error_details()));
    EXPECT_EQ(rich.code(), static_cast<int>(status.code()));
    EXPECT_EQ(rich.message(), status.message());
    ASSERT_EQ(rich.details_size(), 1);
    google::rpc::RetryInfo retry;
    ASSERT_TRUE(rich.details(0).UnpackTo(&retry));
    EXPECT_GT(retry.retry_delay().seconds(), 0);
  }
}

TEST(GrpcStatusTest, AnErrorThatKnowsWhenToRetrySaysSo) {
  google::rpc::Status rich;
  const absl::Status status = WithRetryAfter(absl::ResourceExhaustedError("full"), 12.25);
  ASSERT_TRUE(rich.ParseFromString(ToGrpcStatus(status).error_details()));
  google::rpc::RetryInfo retry;
  ASSERT_TRUE(rich.details(0).UnpackTo(&retry));
  EXPECT_EQ(retry.retry_delay().seconds(), 12);
  EXPECT_EQ(retry.retry_delay().nanos(), 250'000'000);
}

TEST(GrpcStatusTest, ErrorsThatStayCarryNoDetails) {
  EXPECT_EQ(ToGrpcStatus(absl::InvalidArgumentError("no")).error_details(), "");
}

TEST(GrpcStatusTest, TheTrailerStaysSmall) {
  const grpc::Status status = ToGrpcStatus(absl::UnavailableError(std::string(100'000, 'x')));
  EXPECT_LE(status.error_message().size() + status.error_details().size(), 4096u);
}

TEST(GrpcStatusTest, CuttingSplitsNoCharacter) {
  EXPECT_EQ(CutUtf8("abc", 3), "abc");
  EXPECT_EQ(CutUtf8("abc", 2), "ab");
  EXPECT_EQ(CutUtf8("a\u00e9", 2), "a");
  EXPECT_EQ(CutUtf8("\U0001F99F", 3), "");
}

}  // namespace
}  // namespace mayfly
