#pragma once

// What crosses the line between deciding (session) and computing (engine): plain values.

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/options.h"

namespace mayfly {

using TokenId = int32_t;

// One tenancy of one row. A handle whose row has since been given to somebody else is refused.
struct RowHandle {
  int32_t row = -1;
  uint64_t generation = 0;

  bool operator==(const RowHandle&) const = default;
};

// Names one piece of work on a row; the session's own number, echoed in its events.
using WorkId = uint64_t;

struct RowBytes {
  uint64_t kv = 0;
  uint64_t adapter = 0;
  uint64_t optimizer = 0;

  uint64_t total() const { return kv + adapter + optimizer; }
};

// What the process holds at full load, bytes; `rows` is all rows together.
struct MemoryAccount {
  uint64_t process = 0;  // with the tokenizer, before the weights were loaded
  uint64_t weights = 0;
  uint64_t rows = 0;
  uint64_t base_row = 0;    // keys and values of the frozen base's comparisons
  uint64_t activation = 0;  // of a step and a training pass at once
  uint64_t logits = 0;
  uint64_t update = 0;  // gradients, and the state that a dropped update returns to

  uint64_t total() const {
    return process + weights + rows + base_row + activation + logits + update;
  }
};

struct ModelInfo {
  std::string name;
  std::string architecture;
  uint64_t parameters = 0;
  int32_t vocabulary = 0;
  int32_t layers = 0;
  // Positions the model was made for, RoPE scaling included.
  int32_t max_positions = 0;
  bool has_chat_template = false;
};

struct EngineInfo {
  ModelInfo model;
  std::string device;
  std::string dtype;
  int32_t rows = 0;
  int32_t window_tokens = 0;
  int32_t max_rank = 0;
  // What every row reserves, whatever its session asks for.
  RowBytes row_bytes;
  MemoryAccount memory;
  // Tokens that end a generation.
  std::vector<TokenId> eos_token_ids;
  // Tokens of one training pass, context included where gradients reach it; 0: no bound.
  int32_t max_update_tokens = 0;
  // A session's results depend on its commands alone, so nothing may run beside them.
  bool deterministic = false;
};

// ---- Work on a row -------------------------------------------------------------------------
//
// A row holds a window: the newest tokens of its stream, whose first is `window_start` in the
// stream. Stream positions count from 0 and never restart. A row runs one piece of work at a time,
// in the order of submission, with two exceptions:
//   - work that adds no tokens (RefreshWork and all below it) runs beside a generation that has
//     begun; the generation stands still while keys, values or base scores are computed;
//   - an UpdateWork with `parallel` runs beside all other work of its row. Work that would disturb
//     it (RefreshWork, CheckpointWork, RollBackWork, ResetWork, another UpdateWork) waits for it.
// Each piece of work sees one adapter version, but for a generation, which takes up a new version
// between two tokens.

struct RowOptions {
  AdapterSpec adapter;
  // At most EngineInfo::window_tokens.
  int32_t window_tokens = 0;
  // Who is served: work is shared out evenly among tenants, then among a tenant's rows.
  std::string tenant = {};
  // While this row's tokens come more slowly, learning waits (Engine::defers_learning); 0: never.
  double target_inter_token_seconds = 0;
};

// Appends tokens to the row. They must fit in its window.
struct PrefillWork {
  std::vector<TokenId> tokens;
  // Log-probabilities of these tokens under the row's adapter, each given all before it.
  bool score = false;
  // The same under the frozen base model, on the same window.
  bool score_base = false;
};

// Generates until `max_tokens`, a stop, or the row's horizon (see Engine::Advance).
struct GenerateWork {
  SamplingOptions sampling;
  int32_t max_tokens = 0;
  std::vector<std::string> stop;
  std::vector<TokenId> stop_token_ids;
  bool ignore_eos = false;
  // Alternatives to report beside each token.
  int32_t logprobs = 0;
  // The row may hold this many tokens of the stream; reaching it pauses the work with a
  // GenerationPaused event. The session moves it with Engine::Advance.
  uint64_t horizon = 0;
};

// Drops what lies before stream position `begin` and computes keys and values of the rest again
// under the row's adapter. The row's window then starts there.
struct RefreshWork {
  uint64_t begin = 0;
};

// Log-probabilities of the stream tokens [begin, end) under the frozen base model on the row's
// window.
struct ScoreBaseWork {
  uint64_t begin = 0;
  uint64_t end = 0;
};

// Learns from stream tokens [begin, begin + tokens.size()), which lie in the row's window: its
// newest ones, unless `parallel`.
struct UpdateWork {
  // The row goes on meanwhile; the new version takes effect between two of its steps.
  bool parallel = false;
  uint64_t chunk_index = 0;
  uint64_t begin = 0;
  std::vector<TokenId> tokens;
  // One loss weight a token of `tokens`; 0 is not a label.
  std::vector<float> weights;
  // The tokens just before `begin`, never labels; at most the session's context_tokens.
  std::vector<TokenId> context;
  GradientScope gradient_scope = GradientScope::kChunk;
  int32_t epochs = 1;
  // With the learning rate of this chunk, warm-up applied.
  AdamWOptions optimizer;
  double grad_clip = 0;
  double dropout = 0;
  // Run a last forward for the loss after the last step.
  bool measure_after = false;
  // Drop the update if its last measured loss lies above its first.
  bool gate = false;
};

// Keeps the row's present adapter and optimizer state as the version to roll back to.
struct CheckpointWork {};

// Returns the adapter and optimizer state to the last checkpoint (a fresh adapter where there is
// none).
struct RollBackWork {};

// A fresh adapter and fresh optimizer state; the version goes on counting.
struct ResetWork {};

using RowWork = std::variant<PrefillWork, GenerateWork, RefreshWork, ScoreBaseWork, UpdateWork,
                             CheckpointWork, RollBackWork, ResetWork>;

// Text to be turned into tokens.
struct ChatMessage {
  std::string role;
  std::string content;
};
struct ChatInput {
  std::vector<ChatMessage> messages;
  bool add_generation_prompt = true;
};
using TextInput = std::variant<std::string, ChatInput>;

// ---- Events --------------------------------------------------------------------------------

// The row is ready.
struct RowOpened {
  RowHandle row;
  RowBytes bytes;
};

// No row was free.
struct RowRefused {
  absl::Status status;
};

struct Tokenized {
  absl::StatusOr<std::vector<TokenId>> tokens;
};

// Part of a PrefillWork or ScoreBaseWork is done; the last part has `done` set.
struct Scored {
  bool done = false;
  // Tokens of the work finished so far, all parts together.
  int32_t tokens_done = 0;
  // The adapter version that computed `logprobs` and the tokens' keys and values.
  uint64_t adapter_version = 0;
  // Log-probabilities of the tokens of this part, in order, nats; NaN for the first token of a
  // stream. Empty unless asked for.
  std::vector<float> logprobs;
  std::vector<float> base_logprobs;
};

struct TokenAlternative {
  TokenId id = 0;
  float logprob = 0;
  std::string text;
};

struct GeneratedToken {
  TokenId id = 0;
  // Under the model's distribution, before penalties, temperature and truncation; nats.
  float logprob = 0;
  uint64_t adapter_version = 0;
  std::vector<TokenAlternative> top;
};

// New text of a generation. `text` is valid UTF-8 and may be empty while a character or a possible
// stop string is incomplete.
struct TextDelta {
  std::string text;
  std::vector<GeneratedToken> tokens;
};

// The generation reached its horizon and waits for Engine::Advance. All its deltas came before.
struct GenerationPaused {
  uint64_t position = 0;
};

enum class FinishReason { kStop, kLength, kEos, kCancelled };

struct GenerationDone {
  FinishReason reason = FinishReason::kLength;
  int32_t tokens = 0;
  // From submission to the first step, to the first token (0 without one), and to the end.
  double queue_seconds = 0;
  double first_token_seconds = 0;
  double total_seconds = 0;
};

struct RefreshDone {};

enum class UpdateOutcome { kApplied, kSkipped, kRolledBack, kFailed };

struct UpdateDone {
  UpdateOutcome outcome = UpdateOutcome::kApplied;
  std::string reason = {};
  uint64_t adapter_version = 0;
  int32_t label_tokens = 0;
  // Before each epoch, then after the last one if measured; nats per label token.
  std::vector<double> losses = {};
  // Before clipping, one an epoch.
  std::vector<double> gradient_norms = {};
  double queue_seconds = 0;
  double train_seconds = 0;
};

// Checkpoint, roll-back or reset is done.
struct AdapterChanged {
  uint64_t adapter_version = 0;
};

// A PrefillWork, RefreshWork or ScoreBaseWork ended early: cancelled (kCancelled) or failed. What
// it had already appended stays. A failed generation ends with this too.
struct WorkFailed {
  absl::Status status;
  // Tokens of the work that are in the row.
  int32_t tokens_done = 0;
};

// The row is zero and free; the last event of a row.
struct RowClosed {
  RowBytes freed;
  // From Engine::Close to the row being free.
  double release_seconds = 0;
};

// The device is gone; every row ends. The last event of a row.
struct EngineFailed {
  absl::Status status;
};

struct EngineEvent {
  WorkId work_id = 0;
  std::variant<RowOpened, RowRefused, Tokenized, Scored, TextDelta, GenerationPaused,
               GenerationDone, RefreshDone, UpdateDone, AdapterChanged, WorkFailed, RowClosed,
               EngineFailed>
      body;
};

}  // namespace mayfly
