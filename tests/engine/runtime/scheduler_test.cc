#include "engine/runtime/scheduler.h"

#include <algorithm>
#include <map>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mayfly {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;
using testing::UnorderedElementsAre;

RowDemand Feed(int32_t row, int64_t tokens, int32_t tenant = 0) {
  return {row, tenant, tokens, false};
}
RowDemand Decode(int32_t row, int32_t tenant = 0) { return {row, tenant, 1, true}; }
UpdateDemand Update(int32_t row, int64_t tokens, int32_t tenant = 0) {
  return {row, tenant, tokens, 2 * tokens, false};
}
StepDemand Rows(std::vector<RowDemand> rows) { return {.rows = std::move(rows)}; }

int64_t FedTokens(const StepPlan& plan) {
  int64_t tokens = 0;
  for (const StepSlice& slice : plan.slices) tokens += slice.decode ? 0 : slice.tokens;
  return tokens;
}

// ---- Steps -------------------------------------------------------------------------------------

TEST(SchedulerTest, WithoutDemandThereIsNothingToDo) {
  Scheduler scheduler({});
  EXPECT_THAT(scheduler.Next({}).slices, IsEmpty());
  EXPECT_THAT(scheduler.Next(Rows({Feed(0, 0)})).slices, IsEmpty());
}

TEST(SchedulerTest, EveryDecodingRowGetsOneTokenBesideWhatOthersFeed) {
  Scheduler scheduler({.step_tokens = 100});
  const StepPlan plan = scheduler.Next(Rows({Decode(0), Feed(1, 500), Decode(2)}));
  EXPECT_THAT(plan.slices, UnorderedElementsAre(StepSlice{0, 1, true}, StepSlice{2, 1, true},
                                                StepSlice{1, 98, false}));
}

TEST(SchedulerTest, FeedsBesideDecodesKeepToTheirLimit) {
  Scheduler scheduler({.step_tokens = 100});
  StepDemand demand = Rows({Decode(0), Feed(1, 500)});
  demand.feed_beside_decode = 16;
  EXPECT_EQ(FedTokens(scheduler.Next(demand)), 16);
  demand = Rows({Feed(1, 500)});
  demand.feed_beside_decode = 16;
  EXPECT_EQ(FedTokens(scheduler.Next(demand)), 100) << "nobody decodes";
}

TEST(SchedulerTest, MoreDecodesThanAStepHoldsTakeTurnsAndLeaveRoomToFeed) {
  Scheduler scheduler({.step_tokens = 8});
  std::vector<RowDemand> rows = {Feed(0, 1000)};
  for (int32_t row = 1; row <= 14; ++row) rows.push_back(Decode(row));
  std::map<int32_t, int> served;
  for (int step = 0; step < 20; ++step) {
    const StepPlan plan = scheduler.Next(Rows(rows));
    EXPECT_EQ(plan.tokens(), 8);
    EXPECT_GE(FedTokens(plan), 1);
    for (const StepSlice& slice : plan.slices) ++served[slice.row];
  }
  for (int32_t row = 1; row <= 14; ++row) EXPECT_EQ(served[row], 10) << row;
}

TEST(SchedulerTest, WholePiecesDependOnTheirOwnRowAlone) {
  Scheduler scheduler({.step_tokens = 100, .whole_pieces = true});
  StepDemand demand = Rows({Feed(0, 30), Feed(1, 250), Decode(2)});
  demand.feed_beside_decode = 16;
  std::map<int32_t, int64_t> pieces;
  for (int step = 0; step < 2; ++step) {
    for (const StepSlice& slice : scheduler.Next(demand).slices) {
      if (!slice.decode) pieces[slice.row] = slice.tokens;
    }
  }
  EXPECT_THAT(pieces, ElementsAre(std::pair(0, 30), std::pair(1, 100)));
}

// ---- Fairness ----------------------------------------------------------------------------------

TEST(SchedulerTest, TenantsThatFeedAreServedAlikeWhateverTheNumberOfTheirSessions) {
  Scheduler scheduler({.step_tokens = 64});
  std::vector<RowDemand> rows = {Feed(0, 1 << 20, 0)};
  for (int32_t row = 1; row < 8; ++row) rows.push_back(Feed(row, 1 << 20, 1));
  std::map<bool, int64_t> served;
  for (int step = 0; step < 100; ++step) {
    for (const StepSlice& slice : scheduler.Next(Rows(rows)).slices) {
      served[slice.row == 0] += slice.tokens;
    }
  }
  EXPECT_EQ(served[true], served[false]);
}

TEST(SchedulerTest, TrainingCountsAsService) {
  Scheduler scheduler({.step_tokens = 64, .update_tokens = 1024});
  StepDemand demand = Rows({Feed(0, 1 << 20, 0), Feed(1, 1 << 20, 1)});
  demand.updates = {Update(0, 640, 0)};
  demand.trainer_is_free = true;
  EXPECT_THAT(scheduler.Next(demand).updates, ElementsAre(0));
  demand.updates.clear();
  int64_t other = 0;
  for (int step = 0; step < 20; ++step) {
    for (const StepSlice& slice : scheduler.Next(demand).slices) {
      if (slice.row == 1) other += slice.tokens;
    }
  }
  EXPECT_EQ(other, 20 * 64) << "twenty steps of 64 tokens make up for 2 * 640";
}

TEST(SchedulerTest, IdlingSavesNothingUp) {
  Scheduler scheduler({.step_tokens = 10});
  for (int step = 0; step < 1000; ++step) scheduler.Next(Rows({Feed(0, 1 << 20, 0)}));
  // A tenant that was away, and one that is new, start level with the one that stayed.
  std::map<int32_t, int64_t> served;
  for (int step = 0; step < 30; ++step) {
    const StepPlan plan =
        scheduler.Next(Rows({Feed(0, 1 << 20, 0), Feed(1, 1 << 20, 1), Feed(2, 1 << 20, 2)}));
    for (const StepSlice& slice : plan.slices) served[slice.row] += slice.tokens;
  }
  EXPECT_THAT(served, ElementsAre(std::pair(0, 100), std::pair(1, 100), std::pair(2, 100)));
}

TEST(SchedulerTest, WithinATenantTheRowThatWaitedLongestIsNext) {
  Scheduler scheduler({.step_tokens = 10});
  std::vector<int32_t> order;
  for (int step = 0; step < 6; ++step) {
    const StepPlan plan = scheduler.Next(Rows({Feed(0, 100), Feed(1, 100), Feed(2, 100)}));
    ASSERT_THAT(plan.slices, SizeIs(1));
    order.push_back(plan.slices[0].row);
  }
  EXPECT_THAT(order, ElementsAre(0, 1, 2, 0, 1, 2));
}

// ---- Updates -----------------------------------------------------------------------------------

TEST(SchedulerTest, UpdatesThatAreDueTrainTogetherWhileTheyFit) {
  Scheduler scheduler({.update_tokens = 1000, .update_group = 3});
  StepDemand demand;
  demand.updates = {Update(4, 400), Update(5, 700), Update(6, 400), Update(7, 100), Update(8, 50)};
  EXPECT_THAT(scheduler.Next(demand).updates, IsEmpty()) << "somebody trains";
  demand.trainer_is_free = true;
  EXPECT_THAT(scheduler.Next(demand).updates, ElementsAre(4, 6, 7));
}

TEST(SchedulerTest, AChunkThatFitsNoGroupTrainsAlone) {
  Scheduler scheduler({.update_tokens = 1000});
  StepDemand demand;
  demand.trainer_is_free = true;
  demand.updates = {Update(0, 4096), Update(1, 10)};
  EXPECT_THAT(scheduler.Next(demand).updates, ElementsAre(0));
  demand.updates = {{1, 0, 10, 20, true}, Update(2, 10)};
  EXPECT_THAT(scheduler.Next(demand).updates, ElementsAre(1)) << "it may be undone";
  demand.updates = {Update(2, 10), {1, 0, 10, 20, true}};
  EXPECT_THAT(scheduler.Next(demand).updates, ElementsAre(2));
}

TEST(SchedulerTest, TheLeastServedTenantLearnsFirst) {
  Scheduler scheduler({.step_tokens = 64, .update_tokens = 64});
  scheduler.Next(Rows({Feed(0, 64, 0)}));
  StepDemand demand = Rows({Feed(1, 1, 1)});
  demand.trainer_is_free = true;
  demand.updates = {Update(0, 64, 0), Update(2, 64, 1)};
  scheduler.Next(demand);
  demand.rows = {};
  demand.updates = {Update(0, 64, 0), Update(3, 64, 1)};
  EXPECT_THAT(scheduler.Next(demand).updates, ElementsAre(0)) << "tenant 1 has just learned";
}

// ---- Thousands of random plans -----------------------------------------------------------------

struct Simulated {
  int32_t tenant = 0;
  int64_t to_feed = 0;
  bool decodes = false;
  int waited = 0;
};

TEST(SchedulerTest, InRandomPlansBudgetsHoldNobodyStarvesAndNothingIsServedUnasked) {
  constexpr int kRows = 12, kSteps = 4000;
  for (const bool whole : {false, true}) {
    std::mt19937 random(whole ? 1 : 2);
    const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
    Scheduler scheduler({.step_tokens = 16, .whole_pieces = whole});
    std::vector<Simulated> rows(kRows);
    for (Simulated& row : rows) row.tenant = below(4);
    for (int step = 0; step < kSteps; ++step) {
      StepDemand demand;
      for (int32_t i = 0; i < kRows; ++i) {
        Simulated& row = rows[static_cast<size_t>(i)];
        if (row.to_feed == 0 && !row.decodes && below(4) == 0) row.to_feed = 1 + below(80);
        if (row.to_feed == 0 && below(6) == 0) row.decodes = !row.decodes;
        if (row.to_feed > 0) demand.rows.push_back(Feed(i, row.to_feed, row.tenant));
        if (row.to_feed == 0 && row.decodes) demand.rows.push_back(Decode(i, row.tenant));
      }
      demand.feed_beside_decode = below(3) == 0 ? 1 + below(16) : 0;
      const StepPlan plan = scheduler.Next(demand);

      EXPECT_EQ(plan.slices.empty(), demand.rows.empty());
      EXPECT_LE(plan.tokens(), whole ? 16 + 15 : 16);
      std::map<int32_t, StepSlice> served;
      for (const StepSlice& slice : plan.slices) {
        EXPECT_TRUE(served.emplace(slice.row, slice).second) << "a row runs once a step";
      }
      for (const RowDemand& wish : demand.rows) {
        Simulated& row = rows[static_cast<size_t>(wish.row)];
        const auto slice = served.find(wish.row);
        if (slice == served.end()) {
          // At worst everybody else's longest feed comes first.
          EXPECT_LT(++row.waited, kRows * 80) << "row " << wish.row << " starves";
          continue;
        }
        row.waited = 0;
        EXPECT_EQ(slice->second.decode, wish.decode);
        EXPECT_LE(slice->second.tokens, wish.tokens);
        if (!wish.decode) row.to_feed -= slice->second.tokens;
        served.erase(slice);
      }
      EXPECT_THAT(served, IsEmpty());
    }
  }
}

TEST(SchedulerTest, TenantsThatAlwaysHaveWorkStayWithinAStepOfEachOther) {
  std::mt19937 random(3);
  for (int round = 0; round < 50; ++round) {
    const int64_t step_tokens = 8 + static_cast<int64_t>(random() % 100);
    Scheduler scheduler({.step_tokens = step_tokens});
    const int32_t tenants = 2 + static_cast<int32_t>(random() % 5);
    std::vector<RowDemand> rows;
    for (int32_t row = 0; row < 16; ++row) {
      const int32_t tenant = row < tenants ? row : static_cast<int32_t>(random()) % tenants;
      rows.push_back(Feed(row, 1 << 20, std::max(0, tenant)));
    }
    std::map<int32_t, int64_t> served;
    for (int step = 0; step < 200; ++step) {
      for (const StepSlice& slice : scheduler.Next(Rows(rows)).slices) {
        served[rows[static_cast<size_t>(slice.row)].tenant] += slice.tokens;
      }
      int64_t least = served[0], most = served[0];
      for (int32_t tenant = 0; tenant < tenants; ++tenant) {
        least = std::min(least, served[tenant]);
        most = std::max(most, served[tenant]);
      }
      EXPECT_LE(most - least, step_tokens);
    }
  }
}

}  // namespace
}  // namespace mayfly
