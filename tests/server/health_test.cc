#include "server/health.h"

#include <memory>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mayfly {
namespace {

using ::grpc::health::v1::HealthCheckResponse;
using testing::ElementsAre;
using testing::Optional;

constexpr auto kServing = HealthCheckResponse::SERVING;
constexpr auto kNotServing = HealthCheckResponse::NOT_SERVING;

class Recorder final : public HealthBoard::Listener {
 public:
  void OnStatus(HealthBoard::Status status) override { statuses.push_back(status); }
  void OnBoardClosed() override { closed = true; }

  std::vector<HealthBoard::Status> statuses;
  bool closed = false;
};

TEST(HealthBoardTest, AServerStartsAliveButNotReady) {
  const HealthBoard board;
  EXPECT_TRUE(board.alive());
  EXPECT_FALSE(board.ready());
  EXPECT_THAT(board.Get("liveness"), Optional(kServing));
  EXPECT_THAT(board.Get(""), Optional(kNotServing));
}

TEST(HealthBoardTest, ReadinessCoversTheServerItsServiceAndTheProbe) {
  HealthBoard board;
  board.SetReady(true);
  for (const char* service : {"", "mayfly.v1.InferenceService", "readiness"}) {
    EXPECT_THAT(board.Get(service), Optional(kServing)) << service;
  }
  board.SetReady(false);
  EXPECT_THAT(board.Get("mayfly.v1.InferenceService"), Optional(kNotServing));
  EXPECT_THAT(board.Get("liveness"), Optional(kServing));
}

TEST(HealthBoardTest, AnUnknownServiceHasNoStatus) {
  EXPECT_EQ(HealthBoard().Get("no.such.Service"), std::nullopt);
}

TEST(HealthBoardTest, AListenerHearsThePresentAndEveryChange) {
  HealthBoard board;
  const auto recorder = std::make_shared<Recorder>();
  board.Subscribe("readiness", recorder);
  board.SetReady(true);
  board.SetReady(false);
  EXPECT_THAT(recorder->statuses, ElementsAre(kNotServing, kServing, kNotServing));
}

TEST(HealthBoardTest, AListenerOfAnUnknownServiceIsToldSo) {
  HealthBoard board;
  const auto recorder = std::make_shared<Recorder>();
  board.Subscribe("no.such.Service", recorder);
  EXPECT_THAT(recorder->statuses, ElementsAre(HealthCheckResponse::SERVICE_UNKNOWN));
}

TEST(HealthBoardTest, AListenerThatIsGoneIsForgotten) {
  HealthBoard board;
  board.Subscribe("", std::make_shared<Recorder>());
  board.SetReady(true);
}

TEST(HealthBoardTest, ClosingEndsListenersOfTodayAndTomorrow) {
  HealthBoard board;
  const auto early = std::make_shared<Recorder>();
  const auto late = std::make_shared<Recorder>();
  board.Subscribe("", early);
  board.Close();
  board.Subscribe("", late);
  EXPECT_TRUE(early->closed);
  EXPECT_TRUE(late->closed);
}

}  // namespace
}  // namespace mayfly
