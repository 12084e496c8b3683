#include "session/options_resolver.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace mayfly {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr int kWindow = 4096;

// Wishes with these fields set: With(&A::rank, 4, &A::epochs, 2).
using A = AdaptationWishes;
using S = SamplingWishes;
template <typename Wishes>
void Set(Wishes&) {}
template <typename Wishes, typename Field, typename Value, typename... Rest>
void Set(Wishes& wishes, Field field, Value value, Rest... rest) {
  wishes.*field = value;
  Set(wishes, rest...);
}
template <typename Wishes, typename T, typename... Rest>
Wishes With(T Wishes::*field, Rest... rest) {
  Wishes wishes;
  Set(wishes, field, rest...);
  return wishes;
}

EngineInfo Engine() {
  EngineInfo info;
  info.window_tokens = kWindow;
  info.max_rank = 64;
  info.model.layers = 30;
  return info;
}

absl::StatusOr<AdaptationOptions> Resolve(const AdaptationWishes& wishes,
                                          int32_t window = kWindow) {
  return ResolveAdaptation(wishes, {}, Engine(), window, 7);
}

TEST(OptionsResolverTest, PresetBalancedIsTheDefaultAndAsSpecified) {
  const auto options = Resolve({});
  ASSERT_THAT(options, IsOk());
  EXPECT_EQ(options->preset, Preset::kBalanced);
  EXPECT_EQ(options->adapter.rank, 16);
  EXPECT_EQ(options->adapter.alpha, 16);
  EXPECT_EQ(options->adapter.target_modules, TargetModules::kAll);
  EXPECT_EQ(options->adapter.seed, 7u);
  EXPECT_EQ(options->chunk_tokens, 1024);
  EXPECT_EQ(options->context_tokens, 1024);
  EXPECT_EQ(options->epochs, 1);
  EXPECT_EQ(options->gradient_scope, GradientScope::kChunk);
  EXPECT_EQ(options->kv_policy, KvPolicy::kRefresh);
  EXPECT_EQ(options->optimizer.learning_rate, 2e-3);
  EXPECT_EQ(options->warmup_chunks, 0);
  EXPECT_EQ(options->dropout, 0);
  EXPECT_EQ(options->grad_clip, 1.0);
}

TEST(OptionsResolverTest, PresetPaperIsTheAuthorsTrainer) {
  const auto options = Resolve(With(&A::preset, Preset::kPaper));
  ASSERT_THAT(options, IsOk());
  EXPECT_EQ(options->adapter.rank, 64);
  EXPECT_EQ(options->adapter.alpha, 64);
  EXPECT_EQ(options->adapter.scale(), 1);
  EXPECT_EQ(options->adapter.target_modules, TargetModules::kAll);
  EXPECT_EQ(options->chunk_tokens, 1024);
  EXPECT_EQ(options->context_tokens, 3072);
  EXPECT_EQ(options->epochs, 2);
  EXPECT_EQ(options->gradient_scope, GradientScope::kWindow);
  EXPECT_EQ(options->optimizer.learning_rate, 5e-5);
  EXPECT_EQ(options->optimizer.beta1, 0.9);
  EXPECT_EQ(options->optimizer.beta2, 0.999);
  EXPECT_EQ(options->optimizer.eps, 1e-7);
  EXPECT_EQ(options->optimizer.weight_decay, 0);
  EXPECT_EQ(options->warmup_chunks, 2);
  EXPECT_EQ(options->grad_clip, 1.0);
  EXPECT_EQ(options->dropout, 0.05);
}

TEST(OptionsResolverTest, PresetOffHasNoAdapterAndFitsAnyWindow) {
  for (const int32_t window : {2, 3, 100, kWindow}) {
    const auto options = Resolve(With(&A::preset, Preset::kOff), window);
    ASSERT_THAT(options, IsOk());
    EXPECT_FALSE(options->enabled());
    EXPECT_GE(options->context_tokens, 1);
    EXPECT_LT(options->context_tokens, window);
  }
}

TEST(OptionsResolverTest, PresetOffIgnoresTheServersRankButRefusesTheClients) {
  AdaptationWishes server;
  server.rank = 8;
  EXPECT_FALSE(
      ResolveAdaptation(With(&A::preset, Preset::kOff), server, Engine(), kWindow, 0)->enabled());
  EXPECT_THAT(Resolve(With(&A::preset, Preset::kOff, &A::rank, 8)),
              StatusIs(kInvalid, AllOf(HasSubstr("rank is 8"), HasSubstr("off"))));
}

TEST(OptionsResolverTest, TheClientsWishesComeBeforeTheServersDefaultsAndTheseBeforeThePreset) {
  AdaptationWishes server;
  server.rank = 8;
  server.epochs = 3;
  AdaptationWishes client;
  client.rank = 4;
  client.seed = 99;
  const auto options = ResolveAdaptation(client, server, Engine(), kWindow, 7);
  ASSERT_THAT(options, IsOk());
  EXPECT_EQ(options->adapter.rank, 4);
  EXPECT_EQ(options->epochs, 3);
  EXPECT_EQ(options->adapter.alpha, 16);
  EXPECT_EQ(options->adapter.seed, 99u);
}

TEST(OptionsResolverTest, ChunkAndContextMustFitTheWindowTogether) {
  EXPECT_THAT(Resolve(With(&A::chunk_tokens, 2048, &A::context_tokens, 2048)), IsOk());
  EXPECT_THAT(Resolve(With(&A::chunk_tokens, 2049, &A::context_tokens, 2048)),
              StatusIs(kInvalid, AllOf(HasSubstr("2049"), HasSubstr("2048"), HasSubstr("4096"))));
  EXPECT_THAT(Resolve({}, 1500),
              StatusIs(kInvalid, AllOf(HasSubstr("chunk_tokens 1024"),
                                       HasSubstr("context_tokens 1024"), HasSubstr("1500"))));
  EXPECT_THAT(Resolve(With(&A::preset, Preset::kPaper), 4095),
              StatusIs(kInvalid, AllOf(HasSubstr("3072"), HasSubstr("4095"))));
}

TEST(OptionsResolverTest, InParallelModeTheWindowHoldsWhatIsCollectedMeanwhileToo) {
  AdaptationWishes wishes = With(&A::mode, UpdateMode::kParallel, &A::max_lag_chunks, 2);
  EXPECT_THAT(Resolve(wishes), IsOk()) << "1024 and three times 1024 in 4096";
  wishes.max_lag_chunks = 3;
  EXPECT_THAT(
      Resolve(wishes),
      StatusIs(kInvalid, AllOf(HasSubstr("context_tokens 1024"), HasSubstr("chunk_tokens 1024"),
                               HasSubstr("max_lag_chunks 3"), HasSubstr("4096"))));
  wishes.max_lag_chunks = 1'000'000;
  EXPECT_THAT(Resolve(wishes), HasCode(kInvalid));
  wishes.mode = UpdateMode::kCascaded;
  EXPECT_THAT(Resolve(wishes), IsOk()) << "which it means nothing to";
  wishes = With(&A::mode, UpdateMode::kParallel, &A::preset, Preset::kPaper);
  EXPECT_THAT(Resolve(wishes), StatusIs(kInvalid, HasSubstr("max_lag_chunks 1")));
  wishes.max_lag_chunks = 0;
  EXPECT_THAT(Resolve(wishes), IsOk());
  wishes.context_tokens = 5000;
  EXPECT_THAT(Resolve(wishes), HasCode(kInvalid)) << "the context alone is too large";
}

TEST(OptionsResolverTest, AnUpdateMustFitOneTrainingPass) {
  EngineInfo engine = Engine();
  engine.max_update_tokens = 2000;
  const auto resolve = [&](const AdaptationWishes& wishes) {
    return ResolveAdaptation(wishes, {}, engine, kWindow, 0);
  };
  EXPECT_THAT(resolve({}), IsOk()) << "scope chunk trains on the chunk alone";
  EXPECT_THAT(resolve(With(&A::chunk_tokens, 2001)),
              StatusIs(kInvalid, AllOf(HasSubstr("2001"), HasSubstr("max_update_tokens is 2000"))));
  EXPECT_THAT(resolve(With(&A::gradient_scope, GradientScope::kWindow)),
              StatusIs(kInvalid, AllOf(HasSubstr("2048"), HasSubstr("context_tokens"),
                                       HasSubstr("max_update_tokens is 2000"))));
}

TEST(OptionsResolverTest, ADeterministicServerRefusesWhatDependsOnTheClock) {
  EngineInfo engine = Engine();
  engine.deterministic = true;
  const auto resolve = [&](const AdaptationWishes& wishes) {
    return ResolveAdaptation(wishes, {}, engine, kWindow, 0);
  };
  EXPECT_THAT(resolve({}), IsOk());
  EXPECT_THAT(resolve(With(&A::mode, UpdateMode::kParallel)),
              StatusIs(kInvalid, HasSubstr("mode parallel cannot be deterministic")));
  EXPECT_THAT(resolve(With(&A::target_inter_token_ms, 20)),
              StatusIs(kInvalid, HasSubstr("target_inter_token_ms is 20")));
  EXPECT_THAT(resolve(With(&A::target_inter_token_ms, 20, &A::preset, Preset::kOff)),
              StatusIs(kInvalid, HasSubstr("target_inter_token_ms is 20")));
}

TEST(OptionsResolverTest, ASessionWithoutAnAdapterMayStillWishForFastTokens) {
  const auto options = Resolve(With(&A::target_inter_token_ms, 20, &A::preset, Preset::kOff));
  ASSERT_THAT(options, IsOk());
  EXPECT_EQ(options->target_inter_token_ms, 20);
  AdaptationWishes server;
  server.target_inter_token_ms = 30;
  EXPECT_EQ(ResolveAdaptation(With(&A::preset, Preset::kOff), server, Engine(), kWindow, 0)
                ->target_inter_token_ms,
            30);
}

struct BadValue {
  const char* option;
  const char* value;
  std::function<void(AdaptationWishes&)> set;
};

TEST(OptionsResolverTest, ValuesOutsideTheirRangeAreRefusedByNameAndValue) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double inf = std::numeric_limits<double>::infinity();
  const std::vector<BadValue> bad = {
      {"rank", "0", [](A& w) { w.rank = 0; }},
      {"rank", "65", [](A& w) { w.rank = 65; }},
      {"rank", "4294967297", [](A& w) { w.rank = 4294967297; }},
      {"alpha", "0", [](A& w) { w.alpha = 0; }},
      {"alpha", "nan", [&](A& w) { w.alpha = nan; }},
      {"alpha", "inf", [&](A& w) { w.alpha = inf; }},
      {"first_layer", "30", [](A& w) { w.first_layer = 30; }},
      {"first_layer", "-1", [](A& w) { w.first_layer = -1; }},
      {"chunk_tokens", "0", [](A& w) { w.chunk_tokens = 0; }},
      {"chunk_tokens", "4294967295", [](A& w) { w.chunk_tokens = 4294967295; }},
      {"context_tokens", "0", [](A& w) { w.context_tokens = 0; }},
      {"epochs", "0", [](A& w) { w.epochs = 0; }},
      {"epochs", "65", [](A& w) { w.epochs = 65; }},
      {"learning_rate", "-0.1", [](A& w) { w.learning_rate = -0.1; }},
      {"learning_rate", "nan", [&](A& w) { w.learning_rate = nan; }},
      {"learning_rate", "inf", [&](A& w) { w.learning_rate = inf; }},
      {"warmup_chunks", "-1", [](A& w) { w.warmup_chunks = -1; }},
      {"weight_decay", "1.5", [](A& w) { w.weight_decay = 1.5; }},
      {"beta1", "1", [](A& w) { w.beta1 = 1; }},
      {"beta2", "nan", [&](A& w) { w.beta2 = nan; }},
      {"eps", "0", [](A& w) { w.eps = 0; }},
      {"grad_clip", "-1", [](A& w) { w.grad_clip = -1; }},
      {"grad_clip", "inf", [&](A& w) { w.grad_clip = inf; }},
      {"dropout", "1", [](A& w) { w.dropout = 1; }},
      {"max_lag_chunks", "-1", [](A& w) { w.max_lag_chunks = -1; }},
      {"refresh_every", "0", [](A& w) { w.refresh_every = 0; }},
      {"output_weight", "1.1", [](A& w) { w.output_weight = 1.1; }},
      {"gate_threshold", "-1", [](A& w) { w.gate_threshold = -1; }},
      {"gate_threshold", "nan", [&](A& w) { w.gate_threshold = nan; }},
      {"target_inter_token_ms", "-1", [](A& w) { w.target_inter_token_ms = -1; }},
      {"target_inter_token_ms", "nan", [&](A& w) { w.target_inter_token_ms = nan; }},
  };
  for (const BadValue& one : bad) {
    AdaptationWishes wishes;
    one.set(wishes);
    const std::string start = std::string(one.option) + " is ";
    EXPECT_THAT(Resolve(wishes), StatusIs(kInvalid, AllOf(HasSubstr(start), HasSubstr(one.value),
                                                          HasSubstr("it must be"))));
  }
}

TEST(OptionsResolverTest, TheWindowLiesWithinTheEngines) {
  EXPECT_EQ(*ResolveWindow({}, Engine()), kWindow);
  EXPECT_EQ(*ResolveWindow(100, Engine()), 100);
  EXPECT_THAT(ResolveWindow(4097, Engine()),
              StatusIs(kInvalid, AllOf(HasSubstr("4097"), HasSubstr("4096"))));
  EXPECT_THAT(ResolveWindow(1, Engine()), HasCode(kInvalid));
}

TEST(OptionsResolverTest, SamplingTakesTheNearestWish) {
  const auto options =
      ResolveSampling(With(&S::temperature, 0.5), With(&S::temperature, 0.6, &S::top_p, 0.9),
                      With(&S::top_p, 0.8, &S::top_k, 40), 11);
  ASSERT_THAT(options, IsOk());
  EXPECT_EQ(options->temperature, 0.5);
  EXPECT_EQ(options->top_p, 0.9);
  EXPECT_EQ(options->top_k, 40);
  EXPECT_EQ(options->min_p, 0);
  EXPECT_EQ(options->repetition_penalty, 1);
  EXPECT_EQ(options->seed, 11u);
}

TEST(OptionsResolverTest, SamplingValuesOutsideTheirRangeAreRefused) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<std::pair<const char*, SamplingWishes>> bad = {
      {"temperature", With(&S::temperature, -1)},
      {"temperature", With(&S::temperature, nan)},
      {"top_p", With(&S::top_p, 0)},
      {"top_p", With(&S::top_p, 1.1)},
      {"top_k", With(&S::top_k, -1)},
      {"min_p", With(&S::min_p, 1.5)},
      {"repetition_penalty", With(&S::repetition_penalty, 0)},
      {"frequency_penalty", With(&S::frequency_penalty, 2.5)},
      {"presence_penalty", With(&S::presence_penalty, -2.5)},
  };
  for (const auto& [name, wishes] : bad) {
    EXPECT_THAT(ResolveSampling(wishes, {}, {}, 0), StatusIs(kInvalid, HasSubstr(name)));
  }
}

TEST(OptionsResolverTest, ARunningSessionMayChangeHowItLearnsButNotWhatItIs) {
  const AdaptationOptions running = *Resolve({});
  AdaptationWishes change;
  change.learning_rate = 1e-4;
  change.gate = false;
  const auto changed = ChangeAdaptation(running, change);
  ASSERT_THAT(changed, IsOk());
  EXPECT_EQ(changed->optimizer.learning_rate, 1e-4);
  EXPECT_FALSE(changed->gate);
  EXPECT_EQ(changed->adapter.rank, running.adapter.rank);

  EXPECT_THAT(ChangeAdaptation(running, With(&A::rank, 4)),
              StatusIs(kInvalid, HasSubstr("rank cannot")));
  EXPECT_THAT(ChangeAdaptation(running, With(&A::preset, Preset::kPaper)), HasCode(kInvalid));
  EXPECT_THAT(ChangeAdaptation(running, With(&A::target_inter_token_ms, 1)), HasCode(kInvalid));
  EXPECT_THAT(ChangeAdaptation(running, With(&A::learning_rate, -1)),
              StatusIs(kInvalid, HasSubstr("learning_rate is -1")));
}

}  // namespace
}  // namespace mayfly
