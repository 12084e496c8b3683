#include "session/admission_queue.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mayfly {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using Waiter = AdmissionQueue::Waiter;

constexpr TimePoint kNever = TimePoint::max();

TimePoint At(int seconds) { return TimePoint(std::chrono::seconds(seconds)); }

class AdmissionQueueTest : public testing::Test {
 protected:
  Waiter Nth(int i) const { return &places_[i]; }
  std::vector<int> TakeAll() {
    std::vector<int> order;
    while (const auto next = queue_.TakeNext()) {
      order.push_back(static_cast<int>(static_cast<const char*>(*next) - places_));
    }
    return order;
  }

  char places_[16] = {};
  AdmissionQueue queue_;
};

TEST_F(AdmissionQueueTest, WithinATenantTheFirstToComeIsTheFirstToGo) {
  for (int i = 0; i < 4; ++i) queue_.Add(Nth(i), "a", kNever);
  EXPECT_THAT(TakeAll(), ElementsAre(0, 1, 2, 3));
}

TEST_F(AdmissionQueueTest, TenantsTakeTurnsHoweverManyWaitForThem) {
  for (int i = 0; i < 4; ++i) queue_.Add(Nth(i), "a", kNever);
  queue_.Add(Nth(4), "b", kNever);
  queue_.Add(Nth(5), "c", kNever);
  queue_.Add(Nth(6), "b", kNever);
  EXPECT_THAT(TakeAll(), ElementsAre(0, 4, 5, 1, 6, 2, 3));
}

TEST_F(AdmissionQueueTest, ATenantThatComesAgainHasItsTurnAfterTheOthers) {
  queue_.Add(Nth(0), "a", kNever);
  queue_.Add(Nth(1), "b", kNever);
  EXPECT_EQ(queue_.TakeNext(), Nth(0));
  queue_.Add(Nth(2), "a", kNever);
  EXPECT_THAT(TakeAll(), ElementsAre(1, 2));
}

TEST_F(AdmissionQueueTest, WhoLeavesIsNotWaitedForAndKeepsNobodysPlace) {
  for (int i = 0; i < 3; ++i) queue_.Add(Nth(i), "a", kNever);
  queue_.Add(Nth(3), "b", kNever);
  EXPECT_TRUE(queue_.Remove(Nth(0)));
  EXPECT_FALSE(queue_.Remove(Nth(0)));
  EXPECT_TRUE(queue_.Remove(Nth(3)));
  EXPECT_EQ(queue_.size(), 2u);
  EXPECT_THAT(TakeAll(), ElementsAre(1, 2));
}

TEST_F(AdmissionQueueTest, ThoseWhoseTimeIsUpAreTakenOut) {
  queue_.Add(Nth(0), "a", At(3));
  queue_.Add(Nth(1), "b", At(1));
  queue_.Add(Nth(2), "a", At(2));
  EXPECT_EQ(queue_.next_deadline(), At(1));
  EXPECT_THAT(queue_.TakeExpired(At(0)), IsEmpty());
  EXPECT_THAT(queue_.TakeExpired(At(2)), testing::UnorderedElementsAre(Nth(1), Nth(2)));
  EXPECT_EQ(queue_.next_deadline(), At(3));
  EXPECT_THAT(TakeAll(), ElementsAre(0));
  EXPECT_EQ(queue_.next_deadline(), std::nullopt);
}

// ---- Whatever comes and goes ----------------------------------------------------------------

// Random comings and goings, beside a plain list of who waits.
class RandomQueue {
 public:
  explicit RandomQueue(uint32_t seed) : random_(seed) {}

  void Run() {
    for (int step = 0; step < kSteps && !testing::Test::HasFailure(); ++step) {
      const int kind = Between(0, 9);
      if (kind < 5) Come();
      if (kind >= 5 && kind < 8) Serve();
      if (kind == 8) Leave();
      if (kind == 9) Expire();
      ASSERT_EQ(queue_.size(), waiting_.size());
    }
    while (!waiting_.empty() && !testing::Test::HasFailure()) Serve();
    EXPECT_EQ(queue_.TakeNext(), std::nullopt);
  }

 private:
  static constexpr int kSteps = 60;
  struct Client {
    Waiter waiter;
    int tenant;
    TimePoint deadline;
    // How often another tenant was served since this tenant's turn last came or it began to wait.
    std::map<int, int> overtaken_by = {};
  };

  int Between(int least, int most) {
    return std::uniform_int_distribution<int>(least, most)(random_);
  }

  void Come() {
    const int tenant = Between(0, 4);
    const Client client{&places_[came_++], tenant, At(now_ + Between(0, 20))};
    queue_.Add(client.waiter, std::to_string(tenant), client.deadline);
    waiting_.push_back(client);
  }

  void Serve() {
    const auto next = queue_.TakeNext();
    ASSERT_EQ(next.has_value(), !waiting_.empty());
    if (!next) return;
    const auto served = std::find_if(waiting_.begin(), waiting_.end(),
                                     [&](const Client& client) { return client.waiter == *next; });
    ASSERT_NE(served, waiting_.end()) << "served twice, or after it had left";
    const int tenant = served->tenant;
    for (auto before = waiting_.begin(); before != served; ++before) {
      ASSERT_NE(before->tenant, tenant) << "overtaken by its own tenant";
    }
    waiting_.erase(served);
    for (Client& client : waiting_) {
      if (client.tenant == tenant) {
        client.overtaken_by.clear();
      } else {
        ASSERT_LE(++client.overtaken_by[tenant], 1)
            << "a tenant had two turns before another's one";
      }
    }
  }

  void Leave() {
    if (waiting_.empty()) return;
    const auto leaving = waiting_.begin() + Between(0, static_cast<int>(waiting_.size()) - 1);
    ASSERT_TRUE(queue_.Remove(leaving->waiter));
    ASSERT_FALSE(queue_.Remove(leaving->waiter));
    waiting_.erase(leaving);
  }

  void Expire() {
    now_ += Between(0, 5);
    const auto expired = queue_.TakeExpired(At(now_));
    std::set<Waiter> expected;
    for (const Client& client : waiting_) {
      if (client.deadline <= At(now_)) expected.insert(client.waiter);
    }
    ASSERT_EQ(std::set<Waiter>(expired.begin(), expired.end()), expected);
    std::erase_if(waiting_, [&](const Client& client) { return expected.contains(client.waiter); });
    const auto next = queue_.next_deadline();
    ASSERT_EQ(next.has_value(), !waiting_.empty());
    for (const Client& client : waiting_) ASSERT_LE(*next, client.deadline);
  }

  std::mt19937 random_;
  AdmissionQueue queue_;
  int now_ = 0;
  int came_ = 0;
  char places_[kSteps] = {};
  // In the order in which they came.
  std::vector<Client> waiting_;
};

TEST(AdmissionQueueRandomTest, NobodyIsOvertakenTwiceServedTwiceOrForgotten) {
  for (uint32_t seed = 0; seed < 5000; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    RandomQueue(seed).Run();
    if (testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace mayfly
