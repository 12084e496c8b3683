#pragma once

// What a client asks of its session, what the session answers, and the limits in between. Plain
// values; the server turns them into protobuf messages and back.

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "engine/options.h"
#include "engine/types.h"

namespace mayfly {

// A client's wishes: what is absent comes from the preset, then from the server's defaults.
struct AdaptationWishes {
  std::optional<Preset> preset;
  std::optional<int64_t> rank;
  std::optional<double> alpha;
  std::optional<TargetModules> target_modules;
  std::optional<int64_t> first_layer;
  std::optional<int64_t> chunk_tokens;
  std::optional<int64_t> context_tokens;
  std::optional<int64_t> epochs;
  std::optional<GradientScope> gradient_scope;
  std::optional<double> learning_rate;
  std::optional<int64_t> warmup_chunks;
  std::optional<double> weight_decay;
  std::optional<double> beta1;
  std::optional<double> beta2;
  std::optional<double> eps;
  std::optional<double> grad_clip;
  std::optional<double> dropout;
  std::optional<UpdateMode> mode;
  std::optional<int64_t> max_lag_chunks;
  std::optional<KvPolicy> kv_policy;
  std::optional<int64_t> refresh_every;
  std::optional<LearnFrom> learn_from;
  std::optional<double> output_weight;
  std::optional<bool> receipt;
  std::optional<bool> gate;
  std::optional<double> gate_threshold;
  std::optional<AdapterInit> init;
  std::optional<uint64_t> seed;
  std::optional<double> target_inter_token_ms;
};

struct SamplingWishes {
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<int64_t> top_k;
  std::optional<double> min_p;
  std::optional<double> repetition_penalty;
  std::optional<double> frequency_penalty;
  std::optional<double> presence_penalty;
  std::optional<uint64_t> seed;
};

struct ClientIdentity {
  std::string tenant;
  std::string peer;
};

// Bounds that the server sets for every session.
struct SessionLimits {
  int32_t max_append_tokens = 65536;
  int32_t max_generate_tokens = 16384;
  int32_t max_sessions_per_tenant = 0;  // 0: no bound
  double idle_timeout_seconds = 0;      // 0: none
  double max_session_age_seconds = 0;   // 0: none
  // Commands of one stream that may wait or run at once.
  int32_t max_outstanding_commands = 64;
  // Events that may wait for one client before its generation pauses.
  int32_t outbox_events = 256;
};

// ---- Commands ------------------------------------------------------------------------------

struct OpenCommand {
  AdaptationWishes adaptation;
  SamplingWishes sampling;
  std::optional<int64_t> window_tokens;
  std::optional<uint64_t> seed;
  std::string label;
};

struct AppendCommand {
  // Text or messages, or token ids (which may be any 32-bit number until checked).
  std::variant<std::monostate, TextInput, std::vector<uint32_t>> input;
  bool score = false;
  bool learn = true;
  bool token_logprobs = false;
  bool compare_base = false;
};

struct GenerateCommand {
  uint32_t max_tokens = 0;
  SamplingWishes sampling;
  std::vector<std::string> stop;
  std::vector<uint32_t> stop_token_ids;
  bool ignore_eos = false;
  uint32_t logprobs = 0;
};

struct CancelCommand {
  uint64_t target = 0;  // 0: all
};

enum class AdaptAction { kNone, kPause, kResume, kReset, kUpdateNow };

struct AdaptCommand {
  AdaptAction action = AdaptAction::kNone;
  AdaptationWishes options;
};

struct CloseCommand {};

// A request that could not be read as a command; answered with an error (or, as the first message,
// with the end of the stream).
struct InvalidCommand {
  absl::Status status;
};

using SessionCommand = std::variant<OpenCommand, AppendCommand, GenerateCommand, CancelCommand,
                                    AdaptCommand, CloseCommand, InvalidCommand>;

// ---- Events --------------------------------------------------------------------------------

struct Usage {
  uint64_t prompt_tokens = 0;
  uint64_t generated_tokens = 0;
  uint64_t trained_tokens = 0;  // every epoch counted
};

struct OpenedEvent {
  std::string session_id;
  std::string model;
  AdaptationOptions adaptation;
  SamplingOptions sampling;
  int32_t window_tokens = 0;
  uint64_t seed = 0;
  RowBytes reserved;
};

struct AppendedEvent {
  bool done = false;
  int32_t tokens = 0;
  int32_t window_position = 0;
  int32_t scored_tokens = 0;
  std::optional<double> nll;
  std::optional<double> base_nll;
  std::vector<float> token_logprobs;
  std::vector<float> base_token_logprobs;
};

struct DeltaEvent {
  TextDelta delta;
};

struct GeneratedEvent {
  FinishReason reason = FinishReason::kLength;
  Usage usage;  // of this command
  double queue_seconds = 0;
  double first_token_seconds = 0;
  double total_seconds = 0;
};

struct AdaptedEvent {
  uint64_t adapter_version = 0;
  bool paused = false;
  AdaptationOptions adaptation;
};

struct UpdateEvent {
  UpdateDone result;
  uint64_t chunk_index = 0;
  int32_t tokens = 0;
  // Chunks that it learned (or skipped) together; the first has `chunk_index`.
  int32_t merged_chunks = 1;
  // Complete chunks that were not yet learned when it began, its own included.
  int32_t lag_chunks = 1;
  double learning_rate = 0;
  std::optional<double> nll;       // mean, nats per token
  std::optional<double> base_nll;  // mean, nats per token
};

struct DrainingEvent {
  double deadline_unix_seconds = 0;
};

struct ErrorEvent {
  absl::Status status;
};

struct ClosedEvent {
  std::string reason;
  Usage usage;  // of the whole stream
  uint64_t updates = 0;
  uint64_t updates_applied = 0;
  uint64_t freed_bytes = 0;
};

struct SessionEvent {
  uint64_t request_id = 0;
  std::variant<OpenedEvent, AppendedEvent, DeltaEvent, GeneratedEvent, AdaptedEvent, UpdateEvent,
               DrainingEvent, ErrorEvent, ClosedEvent>
      body;
};

// Why a stream ended; the label of sessions_closed_total.
enum class CloseReason {
  kClosed,        // close command
  kHalfClosed,    // the client finished sending
  kCancelled,     // the client cancelled the call or vanished
  kDeadline,      // the call's deadline passed
  kInvalid,       // the first message was not a valid open
  kNoRow,         // no row was free
  kIdle,          // idle expiry
  kAge,           // max_session_age
  kDrained,       // the server is going away
  kEngineFailed,  // the device is gone
  kTerminated,    // an operator, or its tenant, through AdminService
};

const char* CloseReasonName(CloseReason reason);

// ---- For operators -------------------------------------------------------------------------

enum class SessionState { kNew, kOpening, kOpen, kClosing };

// What a session is at one moment; nothing of its text.
struct SessionInfo {
  std::string id;
  std::string label;
  ClientIdentity client;
  SessionState state = SessionState::kNew;
  uint64_t adapter_version = 0;
  int32_t window_tokens = 0;
  int32_t window_position = 0;
  uint64_t stream_position = 0;
  int32_t lag_chunks = 0;
  RowBytes reserved;  // zero while there is no row
  double age_seconds = 0;
  double idle_seconds = 0;
  Usage usage;
  uint64_t updates = 0;
  uint64_t updates_applied = 0;
  std::string running_command;  // empty: none
  uint64_t outstanding_commands = 0;
  uint64_t outbox_events = 0;
};

}  // namespace mayfly
