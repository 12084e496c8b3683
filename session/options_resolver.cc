#include "session/options_resolver.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace mayfly {
namespace {

using Wishes = AdaptationWishes;

// Bounds that only catch mistakes; what a session can use lies far below.
constexpr int64_t kMaxEpochs = 64;
constexpr int64_t kMaxCount = 1'000'000;
constexpr int64_t kMaxTokens = std::numeric_limits<int32_t>::max();
// One token of context and one that follows it.
constexpr int64_t kMinWindowTokens = 2;
constexpr double kMaxAlpha = 65536;
constexpr double kMaxLearningRate = 1;
constexpr double kMaxTemperature = 100;
constexpr double kMaxPenalty = 2;
constexpr double kMaxRepetitionPenalty = 100;

// Context of preset `off`, which only decides how much of a full window is kept.
constexpr int32_t kOffContextTokens = 1024;

// Every option of an adaptation but the preset, which decides what the others start from.
constexpr auto kAdaptationFields = std::make_tuple(
    &Wishes::rank, &Wishes::alpha, &Wishes::target_modules, &Wishes::first_layer,
    &Wishes::chunk_tokens, &Wishes::context_tokens, &Wishes::epochs, &Wishes::gradient_scope,
    &Wishes::learning_rate, &Wishes::warmup_chunks, &Wishes::weight_decay, &Wishes::beta1,
    &Wishes::beta2, &Wishes::eps, &Wishes::grad_clip, &Wishes::dropout, &Wishes::mode,
    &Wishes::max_lag_chunks, &Wishes::kv_policy, &Wishes::refresh_every, &Wishes::learn_from,
    &Wishes::output_weight, &Wishes::receipt, &Wishes::gate, &Wishes::gate_threshold, &Wishes::init,
    &Wishes::seed, &Wishes::target_inter_token_ms);

constexpr auto kSamplingFields = std::make_tuple(
    &SamplingWishes::temperature, &SamplingWishes::top_p, &SamplingWishes::top_k,
    &SamplingWishes::min_p, &SamplingWishes::repetition_penalty, &SamplingWishes::frequency_penalty,
    &SamplingWishes::presence_penalty, &SamplingWishes::seed);

// `first`, and where it wishes for nothing, `second`.
template <typename AnyWishes, typename Fields>
AnyWishes Merge(AnyWishes first, const AnyWishes& second, const Fields& fields) {
  const auto fill = [&](auto field) {
    if (!(first.*field)) first.*field = second.*field;
  };
  std::apply([&](auto... field) { (fill(field), ...); }, fields);
  return first;
}

// ---- Presets (algorithm.md, sections 2 and 3) -------------------------------------------------

// A fresh AdaptationOptions is preset `balanced`.

AdaptationOptions PaperOptions() {
  AdaptationOptions options;
  options.preset = Preset::kPaper;
  options.adapter.rank = 64;
  options.adapter.alpha = 64;
  options.context_tokens = 3072;
  options.epochs = 2;
  options.gradient_scope = GradientScope::kWindow;
  options.optimizer.learning_rate = 5e-5;
  options.warmup_chunks = 2;
  options.dropout = 0.05;
  return options;
}

AdaptationOptions OffOptions(int32_t window_tokens) {
  AdaptationOptions options;
  options.preset = Preset::kOff;
  options.adapter.rank = 0;
  options.context_tokens = std::min(window_tokens / 2, kOffContextTokens);
  return options;
}

// ---- Options from wishes with every field set -------------------------------------------------

// `wishes` has every field set, and in range.
AdaptationOptions ToOptions(const Wishes& wishes) {
  AdaptationOptions options;
  options.preset = *wishes.preset;
  options.adapter.rank = static_cast<int32_t>(*wishes.rank);
  options.adapter.alpha = *wishes.alpha;
  options.adapter.target_modules = *wishes.target_modules;
  options.adapter.first_layer = static_cast<int32_t>(*wishes.first_layer);
  options.adapter.seed = *wishes.seed;
  options.chunk_tokens = static_cast<int32_t>(*wishes.chunk_tokens);
  options.context_tokens = static_cast<int32_t>(*wishes.context_tokens);
  options.epochs = static_cast<int32_t>(*wishes.epochs);
  options.gradient_scope = *wishes.gradient_scope;
  options.optimizer.learning_rate = *wishes.learning_rate;
  options.optimizer.beta1 = *wishes.beta1;
  options.optimizer.beta2 = *wishes.beta2;
  options.optimizer.eps = *wishes.eps;
  options.optimizer.weight_decay = *wishes.weight_decay;
  options.warmup_chunks = static_cast<int32_t>(*wishes.warmup_chunks);
  options.grad_clip = *wishes.grad_clip;
  options.dropout = *wishes.dropout;
  options.mode = *wishes.mode;
  options.max_lag_chunks = static_cast<int32_t>(*wishes.max_lag_chunks);
  options.kv_policy = *wishes.kv_policy;
  options.refresh_every = static_cast<int32_t>(*wishes.refresh_every);
  options.learn_from = *wishes.learn_from;
  options.output_weight = *wishes.output_weight;
  options.receipt = *wishes.receipt;
  options.gate = *wishes.gate;
  options.gate_threshold = *wishes.gate_threshold;
  options.adapter.init = *wishes.init;
  options.target_inter_token_ms = *wishes.target_inter_token_ms;
  return options;
}

// ---- Ranges --------------------------------------------------------------------------------

// Remembers the first value that lies outside its range.
class RangeChecks {
 public:
  template <typename Number>
  RangeChecks& Within(const char* option, Number value, Number least, Number most) {
    if (value >= least && value <= most) return *this;
    return Fail(option, absl::StrCat(value), absl::StrCat("between ", least, " and ", most));
  }
  // Excludes `above`.
  RangeChecks& Above(const char* option, double value, double above, double most) {
    if (value > above && value <= most) return *this;
    return Fail(option, absl::StrCat(value), absl::StrCat("above ", above, ", at most ", most));
  }
  // Excludes `below`.
  RangeChecks& Below(const char* option, double value, double least, double below) {
    if (value >= least && value < below) return *this;
    return Fail(option, absl::StrCat(value), absl::StrCat("at least ", least, ", below ", below));
  }

  const absl::Status& status() const { return status_; }

 private:
  RangeChecks& Fail(const char* option, const std::string& value, const std::string& limit) {
    if (status_.ok()) {
      status_ =
          absl::InvalidArgumentError(absl::StrCat(option, " is ", value, ", it must be ", limit));
    }
    return *this;
  }

  absl::Status status_;
};

constexpr double kMaxDouble = std::numeric_limits<double>::max();

// What may change in a running session.
absl::Status CheckLearningRanges(const Wishes& wishes) {
  return RangeChecks()
      .Within<int64_t>("epochs", *wishes.epochs, 1, kMaxEpochs)
      .Within("learning_rate", *wishes.learning_rate, 0.0, kMaxLearningRate)
      .Within<int64_t>("warmup_chunks", *wishes.warmup_chunks, 0, kMaxCount)
      .Within("weight_decay", *wishes.weight_decay, 0.0, 1.0)
      .Below("beta1", *wishes.beta1, 0, 1)
      .Below("beta2", *wishes.beta2, 0, 1)
      .Above("eps", *wishes.eps, 0, 1)
      .Within("grad_clip", *wishes.grad_clip, 0.0, kMaxDouble)
      .Below("dropout", *wishes.dropout, 0, 1)
      .Within("output_weight", *wishes.output_weight, 0.0, 1.0)
      .Within("gate_threshold", *wishes.gate_threshold, 0.0, kMaxDouble)
      .status();
}

absl::Status CheckAdapterRanges(const Wishes& wishes, const EngineInfo& engine) {
  return RangeChecks()
      .Within<int64_t>("rank", *wishes.rank, 1, engine.max_rank)
      .Above("alpha", *wishes.alpha, 0, kMaxAlpha)
      .Within<int64_t>("first_layer", *wishes.first_layer, 0, engine.model.layers - 1)
      .Within<int64_t>("chunk_tokens", *wishes.chunk_tokens, 1, kMaxTokens)
      .Within<int64_t>("context_tokens", *wishes.context_tokens, 1, kMaxTokens)
      .Within<int64_t>("max_lag_chunks", *wishes.max_lag_chunks, 0, kMaxCount)
      .Within<int64_t>("refresh_every", *wishes.refresh_every, 1, kMaxCount)
      .Within("target_inter_token_ms", *wishes.target_inter_token_ms, 0.0, kMaxDouble)
      .status();
}

// In parallel mode the window also holds what is collected while a chunk is learned: it cannot be
// computed again before, so that a smaller one would fill up short of the lag that was wished for.
absl::Status CheckFitsWindowInParallel(const Wishes& wishes, int32_t window_tokens) {
  const int64_t chunks = 1 + *wishes.max_lag_chunks;
  const int64_t room = window_tokens - *wishes.context_tokens;
  if (chunks <= room / *wishes.chunk_tokens) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("mode parallel: context_tokens ", *wishes.context_tokens,
                   " and 1 + max_lag_chunks ", *wishes.max_lag_chunks, " chunks of chunk_tokens ",
                   *wishes.chunk_tokens, " do not fit together in window_tokens ", window_tokens));
}

// A chunk is learned with its context in the window.
absl::Status CheckFitsWindow(const Wishes& wishes, int32_t window_tokens) {
  if (*wishes.mode == UpdateMode::kParallel) {
    return CheckFitsWindowInParallel(wishes, window_tokens);
  }
  if (*wishes.chunk_tokens + *wishes.context_tokens <= window_tokens) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "chunk_tokens ", *wishes.chunk_tokens, " and context_tokens ", *wishes.context_tokens,
      " do not fit together in window_tokens ", window_tokens));
}

absl::Status CheckFitsOnePass(const Wishes& wishes, const EngineInfo& engine) {
  const bool window_scope = *wishes.gradient_scope == GradientScope::kWindow;
  const int64_t tokens = *wishes.chunk_tokens + (window_scope ? *wishes.context_tokens : 0);
  if (engine.max_update_tokens == 0 || tokens <= engine.max_update_tokens) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("an update trains on ", tokens, " tokens (chunk_tokens",
                   window_scope ? " and, as gradient_scope is window, context_tokens" : "",
                   "), the limit max_update_tokens is ", engine.max_update_tokens));
}

// What depends on the clock gives other results each time.
absl::Status CheckDeterministic(bool parallel, double target_inter_token_ms,
                                const EngineInfo& engine) {
  if (!engine.deterministic) return absl::OkStatus();
  if (parallel) {
    return absl::InvalidArgumentError("mode parallel cannot be deterministic, as this server is");
  }
  if (target_inter_token_ms > 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("target_inter_token_ms is ", target_inter_token_ms,
                     ", it must be 0 on a server that is deterministic"));
  }
  return absl::OkStatus();
}

// Without an adapter only the context counts: how much of a full window is kept.
// Its tokens may still be kept fast at the cost of others' learning.
absl::StatusOr<AdaptationOptions> ResolveOff(const Wishes& wishes, const Wishes& server_defaults,
                                             const EngineInfo& engine, int32_t window_tokens,
                                             uint64_t seed) {
  if (wishes.rank && *wishes.rank != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank is ", *wishes.rank, ", preset off has no adapter and takes none"));
  }
  AdaptationOptions options = OffOptions(window_tokens);
  options.adapter.seed = wishes.seed.value_or(server_defaults.seed.value_or(seed));
  const int64_t context_tokens = wishes.context_tokens.value_or(options.context_tokens);
  const double target =
      wishes.target_inter_token_ms.value_or(server_defaults.target_inter_token_ms.value_or(0));
  MAYFLY_RETURN_IF_ERROR(
      RangeChecks()
          .Within<int64_t>("context_tokens", context_tokens, 1, window_tokens - 1)
          .Within("target_inter_token_ms", target, 0.0, kMaxDouble)
          .status());
  MAYFLY_RETURN_IF_ERROR(CheckDeterministic(/*parallel=*/false, target, engine));
  options.context_tokens = static_cast<int32_t>(context_tokens);
  options.target_inter_token_ms = target;
  return options;
}

absl::Status CheckSampling(const SamplingWishes& wishes) {
  return RangeChecks()
      .Within("temperature", *wishes.temperature, 0.0, kMaxTemperature)
      .Above("top_p", *wishes.top_p, 0, 1)
      .Within<int64_t>("top_k", *wishes.top_k, 0, std::numeric_limits<int32_t>::max())
      .Within("min_p", *wishes.min_p, 0.0, 1.0)
      .Above("repetition_penalty", *wishes.repetition_penalty, 0, kMaxRepetitionPenalty)
      .Within("frequency_penalty", *wishes.frequency_penalty, -kMaxPenalty, kMaxPenalty)
      .Within("presence_penalty", *wishes.presence_penalty, -kMaxPenalty, kMaxPenalty)
      .status();
}

SamplingWishes BuiltInSampling(uint64_t seed) {
  SamplingOptions options;
  options.seed = seed;
  return ToWishes(options);
}

// ---- Changes of a running session --------------------------------------------------------------

// What a running session may not change, by the name under which the client asks for it.
const char* FixedOptionIn(const Wishes& wishes) {
  if (wishes.preset) return "preset";
  if (wishes.rank) return "rank";
  if (wishes.alpha) return "alpha";
  if (wishes.target_modules) return "target_modules";
  if (wishes.first_layer) return "first_layer";
  if (wishes.chunk_tokens) return "chunk_tokens";
  if (wishes.context_tokens) return "context_tokens";
  if (wishes.gradient_scope) return "gradient_scope";
  if (wishes.mode) return "mode";
  if (wishes.max_lag_chunks) return "max_lag_chunks";
  if (wishes.kv_policy) return "kv_policy";
  if (wishes.refresh_every) return "refresh_every";
  if (wishes.learn_from) return "learn_from";
  if (wishes.receipt) return "receipt";
  if (wishes.init) return "init";
  if (wishes.seed) return "seed";
  if (wishes.target_inter_token_ms) return "target_inter_token_ms";
  return nullptr;
}

}  // namespace

Wishes ToWishes(const AdaptationOptions& options) {
  Wishes wishes;
  wishes.preset = options.preset;
  wishes.rank = options.adapter.rank;
  wishes.alpha = options.adapter.alpha;
  wishes.target_modules = options.adapter.target_modules;
  wishes.first_layer = options.adapter.first_layer;
  wishes.chunk_tokens = options.chunk_tokens;
  wishes.context_tokens = options.context_tokens;
  wishes.epochs = options.epochs;
  wishes.gradient_scope = options.gradient_scope;
  wishes.learning_rate = options.optimizer.learning_rate;
  wishes.warmup_chunks = options.warmup_chunks;
  wishes.weight_decay = options.optimizer.weight_decay;
  wishes.beta1 = options.optimizer.beta1;
  wishes.beta2 = options.optimizer.beta2;
  wishes.eps = options.optimizer.eps;
  wishes.grad_clip = options.grad_clip;
  wishes.dropout = options.dropout;
  wishes.mode = options.mode;
  wishes.max_lag_chunks = options.max_lag_chunks;
  wishes.kv_policy = options.kv_policy;
  wishes.refresh_every = options.refresh_every;
  wishes.learn_from = options.learn_from;
  wishes.output_weight = options.output_weight;
  wishes.receipt = options.receipt;
  wishes.gate = options.gate;
  wishes.gate_threshold = options.gate_threshold;
  wishes.init = options.adapter.init;
  wishes.seed = options.adapter.seed;
  wishes.target_inter_token_ms = options.target_inter_token_ms;
  return wishes;
}

SamplingWishes ToWishes(const SamplingOptions& options) {
  return {.temperature = options.temperature,
          .top_p = options.top_p,
          .top_k = options.top_k,
          .min_p = options.min_p,
          .repetition_penalty = options.repetition_penalty,
          .frequency_penalty = options.frequency_penalty,
          .presence_penalty = options.presence_penalty,
          .seed = options.seed};
}

absl::StatusOr<AdaptationOptions> ResolveAdaptation(const AdaptationWishes& wishes,
                                                    const AdaptationWishes& server_defaults,
                                                    const EngineInfo& engine, int32_t window_tokens,
                                                    uint64_t seed) {
  const Preset preset = wishes.preset.value_or(server_defaults.preset.value_or(Preset::kBalanced));
  if (preset == Preset::kOff)
    return ResolveOff(wishes, server_defaults, engine, window_tokens, seed);

  AdaptationOptions start = preset == Preset::kPaper ? PaperOptions() : AdaptationOptions{};
  start.adapter.seed = seed;
  Wishes effective = Merge(wishes, server_defaults, kAdaptationFields);
  effective = Merge(effective, ToWishes(start), kAdaptationFields);
  effective.preset = preset;
  MAYFLY_RETURN_IF_ERROR(CheckLearningRanges(effective));
  MAYFLY_RETURN_IF_ERROR(CheckAdapterRanges(effective, engine));
  MAYFLY_RETURN_IF_ERROR(CheckFitsWindow(effective, window_tokens));
  MAYFLY_RETURN_IF_ERROR(CheckFitsOnePass(effective, engine));
  MAYFLY_RETURN_IF_ERROR(CheckDeterministic(*effective.mode == UpdateMode::kParallel,
                                            *effective.target_inter_token_ms, engine));
  return ToOptions(effective);
}

absl::StatusOr<int32_t> ResolveWindow(std::optional<int64_t> window_tokens,
                                      const EngineInfo& engine) {
  const int64_t effective = window_tokens.value_or(engine.window_tokens);
  MAYFLY_RETURN_IF_ERROR(
      RangeChecks()
          .Within<int64_t>("window_tokens", effective, kMinWindowTokens, engine.window_tokens)
          .status());
  return static_cast<int32_t>(effective);
}

absl::StatusOr<SamplingOptions> ResolveSampling(const SamplingWishes& wishes,
                                                const SamplingWishes& stream_defaults,
                                                const SamplingWishes& server_defaults,
                                                uint64_t seed) {
  SamplingWishes effective = Merge(wishes, stream_defaults, kSamplingFields);
  effective = Merge(effective, server_defaults, kSamplingFields);
  effective = Merge(effective, BuiltInSampling(seed), kSamplingFields);
  MAYFLY_RETURN_IF_ERROR(CheckSampling(effective));
  return SamplingOptions{.temperature = *effective.temperature,
                         .top_p = *effective.top_p,
                         .top_k = static_cast<int32_t>(*effective.top_k),
                         .min_p = *effective.min_p,
                         .repetition_penalty = *effective.repetition_penalty,
                         .frequency_penalty = *effective.frequency_penalty,
                         .presence_penalty = *effective.presence_penalty,
                         .seed = *effective.seed};
}

absl::StatusOr<AdaptationOptions> ChangeAdaptation(const AdaptationOptions& effective,
                                                   const AdaptationWishes& wishes) {
  if (const char* option = FixedOptionIn(wishes)) {
    return absl::InvalidArgumentError(absl::StrCat(option, " cannot change in a running session"));
  }
  Wishes changed = Merge(wishes, ToWishes(effective), kAdaptationFields);
  changed.preset = effective.preset;
  MAYFLY_RETURN_IF_ERROR(CheckLearningRanges(changed));
  return ToOptions(changed);
}

}  // namespace mayfly
