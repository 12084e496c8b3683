// A snapshot store that fails while sessions live: the export, resume or hand-over that needed it
// fails, and nothing else. The real server, engine and stores.

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "grpcpp/create_channel.h"
#include "gtest/gtest.h"
#include "tests/chaos/chaos_server.h"
#include "tests/support/eventually.h"
#include "tests/support/file_size_limit.h"
#include "tests/support/in_process_server.h"
#include "tests/support/redis_server.h"

namespace mayfly {
namespace {

using Event = v1::SessionResponse;

constexpr int kRows = 2;
constexpr char kExport[] = "request_id: 3 export { format: EXPORT_FORMAT_SNAPSHOT store: true }";

class StoreFaultTest : public ChaosServerTest {
 protected:
  StoreFaultTest() : ChaosServerTest(kRows) {}

  void StartWith(const std::string& store) {
    Start(Configured(store, {}));
    channel_ = grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials());
  }
  void StartOnRedis() {
    ASSERT_TRUE(redis_.Start());
    StartWith("redis+unix://" + redis_.address().socket_path);
  }

  // A session that has learned a chunk.
  std::unique_ptr<TestStream> Learn() {
    auto stream = std::make_unique<TestStream>(channel_);
    EXPECT_TRUE(stream->Open());
    stream->Send("request_id: 2 append { text: 'The quick brown fox jumps over the dog' }");
    EXPECT_TRUE(stream->Next(Event::kAppended).has_value());
    return stream;
  }
  // The token of what was stored, or the error's code.
  std::string Export(TestStream& stream) {
    stream.Send(kExport);
    while (const std::optional<Event> event = stream.Next()) {
      if (event->has_exported()) return event->exported().resume_token();
      if (event->has_error()) return absl::StrCat("code ", event->error().code());
    }
    return "the stream has ended";
  }
  static std::string Code(grpc::StatusCode code) { return absl::StrCat("code ", int{code}); }
  grpc::Status Resume(const std::string& token) {
    TestStream stream(channel_);
    stream.Send(absl::StrCat("request_id: 1 open { resume_token: '", token, "' }"));
    if (stream.Next(Event::kOpened)) stream.Send("request_id: 2 close {}");
    return stream.Finish();
  }
  // Whether the session lives, and generates.
  static void ExpectGoesOn(TestStream& stream) {
    stream.Send("request_id: 4 generate { max_tokens: 3 ignore_eos: true }");
    const std::optional<Event> generated = stream.Next(Event::kGenerated);
    ASSERT_TRUE(generated.has_value());
    EXPECT_EQ(generated->generated().finish_reason(), v1::FINISH_REASON_LENGTH);
  }
  void ExpectNothingLeft() const {
    EXPECT_TRUE(Eventually([&] { return server_->idle(); }));
    EXPECT_TRUE(engine_->IsZero());
  }

  // Hands the session over while its store fails: it ends without a token, and frees its row.
  void ExpectHandOverWithoutAToken(TestStream& stream) {
    server_->StartDrain(0);
    server_->HandOverSessions();
    std::optional<Event> closed;
    while (const std::optional<Event> event = stream.Next()) {
      EXPECT_EQ(event->draining().resume_token(), "");
      if (event->has_closed()) closed = event;
    }
    ASSERT_TRUE(closed.has_value());
    EXPECT_GT(closed->closed().freed_bytes(), 0u);
    EXPECT_EQ(stream.Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
    EXPECT_EQ(server_->session_metrics().hand_overs.failed.value(), 1u);
    ExpectNothingLeft();
  }

  RedisServer redis_;
  std::shared_ptr<grpc::Channel> channel_;
};

class KilledStoreTest : public StoreFaultTest {
 protected:
  void SetUp() override {
    if (!RedisServer::IsInstalled()) GTEST_SKIP() << "redis-server is not installed";
    StartOnRedis();
  }
};

TEST_F(KilledStoreTest, AnExportFailsAndItsSessionGoesOnAndExportsOnceTheStoreIsBack) {
  const auto stream = Learn();
  redis_.Kill();
  EXPECT_EQ(Export(*stream), Code(grpc::StatusCode::UNAVAILABLE));
  ExpectGoesOn(*stream);
  ASSERT_TRUE(redis_.Start());
  const std::string token = Export(*stream);
  EXPECT_TRUE(Resume(token).ok()) << token;
}

TEST_F(KilledStoreTest, AResumeIsUnavailableAndTakesNoRow) {
  const auto stream = Learn();
  const std::string token = Export(*stream);
  redis_.Kill();
  EXPECT_EQ(Resume(token).error_code(), grpc::StatusCode::UNAVAILABLE);
  stream->Send("request_id: 9 close {}");
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(server_->session_metrics().resumes.failed.value(), 1u);
  ExpectNothingLeft();
}

TEST_F(KilledStoreTest, AHandOverEndsTheSessionWithoutATokenAndFreesItsRow) {
  const auto stream = Learn();
  redis_.Kill();
  ExpectHandOverWithoutAToken(*stream);
}

class FullDiskTest : public StoreFaultTest {
 protected:
  // Less than the smallest snapshot.
  static constexpr rlim_t kFull = 100;

  void SetUp() override { StartWith(dir_ / "store"); }
  bool StoreIsEmpty() const { return std::filesystem::is_empty(dir_ / "store"); }
};

TEST_F(FullDiskTest, AnExportFailsLeavesNoFileAndItsSessionExportsOnceThereIsRoom) {
  const auto stream = Learn();
  {
    const FileSizeLimit full(kFull);
    EXPECT_EQ(Export(*stream), Code(grpc::StatusCode::RESOURCE_EXHAUSTED));
  }
  EXPECT_TRUE(StoreIsEmpty());
  ExpectGoesOn(*stream);
  const std::string token = Export(*stream);
  EXPECT_TRUE(Resume(token).ok()) << token;
}

TEST_F(FullDiskTest, AHandOverEndsTheSessionWithoutATokenAndFreesItsRow) {
  const auto stream = Learn();
  const FileSizeLimit full(kFull);
  ExpectHandOverWithoutAToken(*stream);
  EXPECT_TRUE(StoreIsEmpty());
}

}  // namespace
}  // namespace mayfly
