#include "server/convert.h"

#include <zlib.h>

#include <cstddef>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/base/status_macros.h"
#include "server/grpc_status.h"
#include "session/retry_after.h"

namespace mayfly {
namespace {

// ---- Enums: one table each, read in both directions ----------------------------------------

template <typename Theirs, typename Ours>
struct EnumPair {
  Theirs theirs;
  Ours ours;
};

constexpr EnumPair<v1::Preset, Preset> kPresets[] = {{v1::PRESET_PAPER, Preset::kPaper},
                                                     {v1::PRESET_BALANCED, Preset::kBalanced},
                                                     {v1::PRESET_OFF, Preset::kOff}};
constexpr EnumPair<v1::TargetModules, TargetModules> kTargetModules[] = {
    {v1::TARGET_MODULES_ATTENTION, TargetModules::kAttention},
    {v1::TARGET_MODULES_MLP, TargetModules::kMlp},
    {v1::TARGET_MODULES_ALL, TargetModules::kAll}};
constexpr EnumPair<v1::GradientScope, GradientScope> kGradientScopes[] = {
    {v1::GRADIENT_SCOPE_WINDOW, GradientScope::kWindow},
    {v1::GRADIENT_SCOPE_CHUNK, GradientScope::kChunk}};
constexpr EnumPair<v1::Mode, UpdateMode> kModes[] = {{v1::MODE_CASCADED, UpdateMode::kCascaded},
                                                     {v1::MODE_PARALLEL, UpdateMode::kParallel}};
constexpr EnumPair<v1::KvPolicy, KvPolicy> kKvPolicies[] = {
    {v1::KV_POLICY_KEEP, KvPolicy::kKeep},
    {v1::KV_POLICY_REFRESH, KvPolicy::kRefresh},
    {v1::KV_POLICY_REFRESH_EVERY, KvPolicy::kRefreshEvery}};
constexpr EnumPair<v1::LearnFrom, LearnFrom> kLearnFroms[] = {
    {v1::LEARN_FROM_INPUT, LearnFrom::kInput},
    {v1::LEARN_FROM_OUTPUT, LearnFrom::kOutput},
    {v1::LEARN_FROM_BOTH, LearnFrom::kBoth}};
constexpr EnumPair<v1::Init, AdapterInit> kInits[] = {
    {v1::INIT_DEFAULT, AdapterInit::kDefault}, {v1::INIT_ACTIVATION, AdapterInit::kActivation}};
constexpr EnumPair<v1::AdaptAction, AdaptAction> kAdaptActions[] = {
    {v1::ADAPT_ACTION_PAUSE, AdaptAction::kPause},
    {v1::ADAPT_ACTION_RESUME, AdaptAction::kResume},
    {v1::ADAPT_ACTION_RESET, AdaptAction::kReset},
    {v1::ADAPT_ACTION_UPDATE_NOW, AdaptAction::kUpdateNow}};
constexpr EnumPair<v1::FinishReason, FinishReason> kFinishReasons[] = {
    {v1::FINISH_REASON_STOP, FinishReason::kStop},
    {v1::FINISH_REASON_LENGTH, FinishReason::kLength},
    {v1::FINISH_REASON_EOS, FinishReason::kEos},
    {v1::FINISH_REASON_CANCELLED, FinishReason::kCancelled}};
constexpr EnumPair<v1::UpdateOutcome, UpdateOutcome> kUpdateOutcomes[] = {
    {v1::UPDATE_OUTCOME_APPLIED, UpdateOutcome::kApplied},
    {v1::UPDATE_OUTCOME_SKIPPED, UpdateOutcome::kSkipped},
    {v1::UPDATE_OUTCOME_ROLLED_BACK, UpdateOutcome::kRolledBack},
    {v1::UPDATE_OUTCOME_FAILED, UpdateOutcome::kFailed}};
constexpr EnumPair<v1::ExportFormat, ExportFormat> kExportFormats[] = {
    {v1::EXPORT_FORMAT_PEFT, ExportFormat::kPeft},
    {v1::EXPORT_FORMAT_SNAPSHOT, ExportFormat::kSnapshot}};

constexpr EnumPair<v1::SessionState, SessionState> kSessionStates[] = {
    {v1::SESSION_STATE_NEW, SessionState::kNew},
    {v1::SESSION_STATE_OPENING, SessionState::kOpening},
    {v1::SESSION_STATE_OPEN, SessionState::kOpen},
    {v1::SESSION_STATE_CLOSING, SessionState::kClosing}};

// Leaves `target` alone when the field is UNSPECIFIED. Enums are open: a client may send any
// number.
template <typename Theirs, typename Ours, size_t n, typename Target>
absl::Status ReadEnum(absl::string_view field, Theirs value,
                      const EnumPair<Theirs, Ours> (&pairs)[n], Target* target) {
  if (static_cast<int>(value) == 0) return absl::OkStatus();
  for (const auto& pair : pairs) {
    if (pair.theirs != value) continue;
    *target = pair.ours;
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", static_cast<int>(value), ", a value this server does not know"));
}

template <typename Theirs, typename Ours, size_t n>
Theirs WriteEnum(Ours value, const EnumPair<Theirs, Ours> (&pairs)[n]) {
  for (const auto& pair : pairs) {
    if (pair.ours == value) return pair.theirs;
  }
  return Theirs{};
}

// ---- Commands ------------------------------------------------------------------------------

#define COPY_IF_SET(field) \
  if (from.has_##field()) to.field = from.field()

absl::StatusOr<AdaptationWishes> ReadAdaptation(const v1::AdaptationOptions& from) {
  AdaptationWishes to;
  MAYFLY_RETURN_IF_ERROR(ReadEnum("preset", from.preset(), kPresets, &to.preset));
  COPY_IF_SET(rank);
  COPY_IF_SET(alpha);
  MAYFLY_RETURN_IF_ERROR(
      ReadEnum("target_modules", from.target_modules(), kTargetModules, &to.target_modules));
  COPY_IF_SET(first_layer);
  COPY_IF_SET(chunk_tokens);
  COPY_IF_SET(context_tokens);
  COPY_IF_SET(epochs);
  MAYFLY_RETURN_IF_ERROR(
      ReadEnum("gradient_scope", from.gradient_scope(), kGradientScopes, &to.gradient_scope));
  COPY_IF_SET(learning_rate);
  COPY_IF_SET(warmup_chunks);
  COPY_IF_SET(weight_decay);
  COPY_IF_SET(beta1);
  COPY_IF_SET(beta2);
  COPY_IF_SET(eps);
  COPY_IF_SET(grad_clip);
  COPY_IF_SET(dropout);
  MAYFLY_RETURN_IF_ERROR(ReadEnum("mode", from.mode(), kModes, &to.mode));
  COPY_IF_SET(max_lag_chunks);
  MAYFLY_RETURN_IF_ERROR(ReadEnum("kv_policy", from.kv_policy(), kKvPolicies, &to.kv_policy));
  COPY_IF_SET(refresh_every);
  MAYFLY_RETURN_IF_ERROR(ReadEnum("learn_from", from.learn_from(), kLearnFroms, &to.learn_from));
  COPY_IF_SET(output_weight);
  COPY_IF_SET(receipt);
  COPY_IF_SET(gate);
  COPY_IF_SET(gate_threshold);
  MAYFLY_RETURN_IF_ERROR(ReadEnum("init", from.init(), kInits, &to.init));
  COPY_IF_SET(seed);
  COPY_IF_SET(target_inter_token_ms);
  return to;
}

SamplingWishes ReadSampling(const v1::SamplingOptions& from) {
  SamplingWishes to;
  COPY_IF_SET(temperature);
  COPY_IF_SET(top_p);
  COPY_IF_SET(top_k);
  COPY_IF_SET(min_p);
  COPY_IF_SET(repetition_penalty);
  COPY_IF_SET(frequency_penalty);
  COPY_IF_SET(presence_penalty);
  COPY_IF_SET(seed);
  return to;
}

absl::StatusOr<SessionCommand> Read(const v1::Open& from) {
  OpenCommand to;
  to.resume_token = from.resume_token();
  to.snapshot_bytes = from.snapshot_bytes();
  const bool resumes = !to.resume_token.empty() || to.snapshot_bytes > 0;
  // Messages without a field wish for nothing.
  const bool has_options = from.adaptation().ByteSizeLong() > 0 ||
                           from.sampling().ByteSizeLong() > 0 || from.has_window_tokens() ||
                           from.has_seed();
  if (resumes && has_options) {
    return absl::InvalidArgumentError(
        "open goes on from a snapshot: its options come from there, none may be set but label");
  }
  MAYFLY_ASSIGN_OR_RETURN(to.adaptation, ReadAdaptation(from.adaptation()));
  to.sampling = ReadSampling(from.sampling());
  COPY_IF_SET(window_tokens);
  COPY_IF_SET(seed);
  to.label = from.label();
  return to;
}

#undef COPY_IF_SET

ChatInput ReadMessages(const v1::Messages& from) {
  ChatInput to;
  for (const v1::Message& message : from.messages()) {
    to.messages.push_back({message.role(), message.content()});
  }
  if (from.has_add_generation_prompt()) to.add_generation_prompt = from.add_generation_prompt();
  return to;
}

absl::StatusOr<SessionCommand> Read(const v1::Append& from) {
  AppendCommand to;
  switch (from.input_case()) {
    case v1::Append::kText: to.input = TextInput(from.text()); break;
    case v1::Append::kMessages: to.input = TextInput(ReadMessages(from.messages())); break;
    case v1::Append::kTokenIds:
      to.input =
          std::vector<uint32_t>(from.token_ids().ids().begin(), from.token_ids().ids().end());
      break;
    case v1::Append::INPUT_NOT_SET: break;
  }
  to.score = from.score() || from.token_logprobs() || from.compare_base();
  if (from.has_learn()) to.learn = from.learn();
  to.token_logprobs = from.token_logprobs();
  to.compare_base = from.compare_base();
  to.skip_tokens = from.skip_tokens();
  return to;
}

absl::StatusOr<SessionCommand> Read(const v1::Generate& from) {
  GenerateCommand to;
  to.max_tokens = from.max_tokens();
  to.sampling = ReadSampling(from.sampling());
  to.stop.assign(from.stop().begin(), from.stop().end());
  to.stop_token_ids.assign(from.stop_token_ids().begin(), from.stop_token_ids().end());
  to.ignore_eos = from.ignore_eos();
  to.logprobs = from.logprobs();
  to.continued_tokens = from.continued_tokens();
  return to;
}

absl::StatusOr<SessionCommand> Read(const v1::Adapt& from) {
  AdaptCommand to;
  MAYFLY_RETURN_IF_ERROR(ReadEnum("action", from.action(), kAdaptActions, &to.action));
  MAYFLY_ASSIGN_OR_RETURN(to.options, ReadAdaptation(from.options()));
  if (to.action == AdaptAction::kNone && !from.has_options()) {
    return absl::InvalidArgumentError("adapt asks for nothing: set action or options");
  }
  return to;
}

absl::StatusOr<SessionCommand> Read(const v1::Export& from) {
  ExportCommand to{.format = ExportFormat::kPeft, .store = from.store()};
  std::optional<ExportFormat> format;
  MAYFLY_RETURN_IF_ERROR(ReadEnum("format", from.format(), kExportFormats, &format));
  if (!format) return absl::InvalidArgumentError("export has no format: PEFT or SNAPSHOT");
  if (to.store && *format == ExportFormat::kPeft) {
    return absl::InvalidArgumentError("store is for snapshots; PEFT's files go to the client");
  }
  to.format = *format;
  return to;
}

absl::StatusOr<SessionCommand> ReadCommand(const v1::SessionRequest& request) {
  switch (request.command_case()) {
    case v1::SessionRequest::kOpen: return Read(request.open());
    case v1::SessionRequest::kAppend: return Read(request.append());
    case v1::SessionRequest::kGenerate: return Read(request.generate());
    case v1::SessionRequest::kCancel: return CancelCommand{request.cancel().request_id()};
    case v1::SessionRequest::kAdapt: return Read(request.adapt());
    case v1::SessionRequest::kExport: return Read(request.export_());
    case v1::SessionRequest::kRestore: return RestoreCommand{request.restore().data()};
    case v1::SessionRequest::kClose: return CloseCommand{};
    case v1::SessionRequest::COMMAND_NOT_SET: break;
  }
  return absl::InvalidArgumentError("the request holds no command that this server knows");
}

// ---- Events --------------------------------------------------------------------------------

v1::Usage ToProto(const Usage& from) {
  v1::Usage to;
  to.set_prompt_tokens(from.prompt_tokens);
  to.set_generated_tokens(from.generated_tokens);
  to.set_trained_tokens(from.trained_tokens);
  return to;
}

void Write(const OpenedEvent& from, v1::SessionResponse* response) {
  v1::Opened& to = *response->mutable_opened();
  to.set_session_id(from.session_id);
  to.set_model(from.model);
  *to.mutable_adaptation() = ToProto(from.adaptation);
  *to.mutable_sampling() = ToProto(from.sampling);
  to.set_window_tokens(from.window_tokens);
  to.set_seed(from.seed);
  *to.mutable_reserved_bytes() = ToProto(from.reserved);
  to.set_resumed(from.resumed);
  to.set_stream_position(from.stream_position);
  to.set_adapter_version(from.adapter_version);
}

void Write(const AppendedEvent& from, v1::SessionResponse* response) {
  v1::Appended& to = *response->mutable_appended();
  to.set_done(from.done);
  to.set_tokens(from.tokens);
  to.set_window_position(from.window_position);
  to.set_scored_tokens(from.scored_tokens);
  if (from.nll) to.set_nll(*from.nll);
  if (from.base_nll) to.set_base_nll(*from.base_nll);
  to.mutable_token_logprobs()->Add(from.token_logprobs.begin(), from.token_logprobs.end());
  to.mutable_base_token_logprobs()->Add(from.base_token_logprobs.begin(),
                                        from.base_token_logprobs.end());
}

void WriteToken(const GeneratedToken& from, v1::Token* to) {
  to->set_id(from.id);
  to->set_logprob(from.logprob);
  to->set_adapter_version(from.adapter_version);
  for (const TokenAlternative& alternative : from.top) {
    v1::Alternative& top = *to->add_top();
    top.set_id(alternative.id);
    top.set_logprob(alternative.logprob);
    top.set_text(alternative.text);
  }
}

void Write(const DeltaEvent& from, v1::SessionResponse* response) {
  v1::Delta& to = *response->mutable_delta();
  to.set_text(from.delta.text);
  for (const GeneratedToken& token : from.delta.tokens) WriteToken(token, to.add_tokens());
}

void Write(const GeneratedEvent& from, v1::SessionResponse* response) {
  v1::Generated& to = *response->mutable_generated();
  to.set_finish_reason(WriteEnum(from.reason, kFinishReasons));
  *to.mutable_usage() = ToProto(from.usage);
  to.mutable_timings()->set_queue_seconds(from.queue_seconds);
  to.mutable_timings()->set_time_to_first_token_seconds(from.first_token_seconds);
  to.mutable_timings()->set_total_seconds(from.total_seconds);
}

void Write(const AdaptedEvent& from, v1::SessionResponse* response) {
  v1::Adapted& to = *response->mutable_adapted();
  to.set_adapter_version(from.adapter_version);
  to.set_paused(from.paused);
  *to.mutable_adaptation() = ToProto(from.adaptation);
}

void Write(const UpdateEvent& from, v1::SessionResponse* response) {
  const UpdateDone& result = from.result;
  v1::Update& to = *response->mutable_update();
  to.set_outcome(WriteEnum(result.outcome, kUpdateOutcomes));
  to.set_reason(result.reason);
  to.set_chunk_index(from.chunk_index);
  to.set_tokens(from.tokens);
  to.set_label_tokens(result.label_tokens);
  to.set_adapter_version(result.adapter_version);
  to.set_learning_rate(from.learning_rate);
  to.mutable_losses()->Add(result.losses.begin(), result.losses.end());
  to.mutable_gradient_norms()->Add(result.gradient_norms.begin(), result.gradient_norms.end());
  if (from.nll) to.set_nll(*from.nll);
  if (from.base_nll) to.set_base_nll(*from.base_nll);
  to.set_queue_seconds(result.queue_seconds);
  to.set_train_seconds(result.train_seconds);
  to.set_merged_chunks(from.merged_chunks);
  to.set_lag_chunks(from.lag_chunks);
}

void Write(const ExportedEvent& from, v1::SessionResponse* response) {
  v1::Exported& to = *response->mutable_exported();
  to.set_file(from.file);
  to.set_offset(from.offset);
  to.set_file_bytes(from.file_bytes);
  to.set_data(from.data);
  to.set_crc32(static_cast<uint32_t>(
      crc32_z(0, reinterpret_cast<const Bytef*>(from.data.data()), from.data.size())));
  to.set_resume_token(from.resume_token);
  to.set_done(from.done);
}

void Write(const DrainingEvent& from, v1::SessionResponse* response) {
  response->mutable_draining()->set_deadline(from.deadline_unix_seconds);
  response->mutable_draining()->set_resume_token(from.resume_token);
}

void Write(const ErrorEvent& from, v1::SessionResponse* response) {
  v1::Error& to = *response->mutable_error();
  to.set_code(static_cast<uint32_t>(from.status.code()));
  to.set_message(std::string(CutUtf8(from.status.message(), kMaxStatusMessageBytes)));
  const std::optional<double> retry = RetryAfterSeconds(from.status);
  if (retry) to.set_retry_after_seconds(*retry);
}

void Write(const ClosedEvent& from, v1::SessionResponse* response) {
  v1::Closed& to = *response->mutable_closed();
  to.set_reason(from.reason);
  *to.mutable_usage() = ToProto(from.usage);
  to.set_updates(from.updates);
  to.set_updates_applied(from.updates_applied);
  to.set_freed_bytes(from.freed_bytes);
}

}  // namespace

SessionCommand ToCommand(const v1::SessionRequest& request) {
  absl::StatusOr<SessionCommand> command = ReadCommand(request);
  if (!command.ok()) return InvalidCommand{std::move(command).status()};
  return *std::move(command);
}

v1::SessionResponse ToResponse(const SessionEvent& event) {
  v1::SessionResponse response;
  response.set_request_id(event.request_id);
  std::visit([&](const auto& body) { Write(body, &response); }, event.body);
  return response;
}

v1::AdaptationOptions ToProto(const AdaptationOptions& from) {
  v1::AdaptationOptions to;
  to.set_preset(WriteEnum(from.preset, kPresets));
  to.set_rank(from.adapter.rank);
  to.set_alpha(from.adapter.alpha);
  to.set_target_modules(WriteEnum(from.adapter.target_modules, kTargetModules));
  to.set_first_layer(from.adapter.first_layer);
  to.set_chunk_tokens(from.chunk_tokens);
  to.set_context_tokens(from.context_tokens);
  to.set_epochs(from.epochs);
  to.set_gradient_scope(WriteEnum(from.gradient_scope, kGradientScopes));
  to.set_learning_rate(from.optimizer.learning_rate);
  to.set_warmup_chunks(from.warmup_chunks);
  to.set_weight_decay(from.optimizer.weight_decay);
  to.set_beta1(from.optimizer.beta1);
  to.set_beta2(from.optimizer.beta2);
  to.set_eps(from.optimizer.eps);
  to.set_grad_clip(from.grad_clip);
  to.set_dropout(from.dropout);
  to.set_mode(WriteEnum(from.mode, kModes));
  to.set_max_lag_chunks(from.max_lag_chunks);
  to.set_kv_policy(WriteEnum(from.kv_policy, kKvPolicies));
  to.set_refresh_every(from.refresh_every);
  to.set_learn_from(WriteEnum(from.learn_from, kLearnFroms));
  to.set_output_weight(from.output_weight);
  to.set_receipt(from.receipt);
  to.set_gate(from.gate);
  to.set_gate_threshold(from.gate_threshold);
  to.set_init(WriteEnum(from.adapter.init, kInits));
  to.set_seed(from.adapter.seed);
  to.set_target_inter_token_ms(from.target_inter_token_ms);
  return to;
}

v1::SamplingOptions ToProto(const SamplingOptions& from) {
  v1::SamplingOptions to;
  to.set_temperature(from.temperature);
  to.set_top_p(from.top_p);
  to.set_top_k(from.top_k);
  to.set_min_p(from.min_p);
  to.set_repetition_penalty(from.repetition_penalty);
  to.set_frequency_penalty(from.frequency_penalty);
  to.set_presence_penalty(from.presence_penalty);
  to.set_seed(from.seed);
  return to;
}

v1::ModelInfo ToProto(const ModelInfo& from) {
  v1::ModelInfo to;
  to.set_name(from.name);
  to.set_architecture(from.architecture);
  to.set_parameters(from.parameters);
  to.set_vocabulary(from.vocabulary);
  to.set_layers(from.layers);
  to.set_max_positions(from.max_positions);
  to.set_has_chat_template(from.has_chat_template);
  return to;
}

v1::RowBytes ToProto(const RowBytes& from) {
  v1::RowBytes to;
  to.set_kv(from.kv);
  to.set_adapter(from.adapter);
  to.set_optimizer(from.optimizer);
  return to;
}

v1::MemoryAccount ToProto(const MemoryAccount& from) {
  v1::MemoryAccount to;
  to.set_process(from.process);
  to.set_weights(from.weights);
  to.set_rows(from.rows);
  to.set_base_row(from.base_row);
  to.set_activation(from.activation);
  to.set_logits(from.logits);
  to.set_update(from.update);
  return to;
}

v1::SessionInfo ToProto(const SessionInfo& from) {
  v1::SessionInfo to;
  to.set_session_id(from.id);
  to.set_label(from.label);
  to.set_tenant(from.client.tenant);
  to.set_peer(from.client.peer);
  to.set_state(WriteEnum(from.state, kSessionStates));
  to.set_adapter_version(from.adapter_version);
  to.set_window_tokens(from.window_tokens);
  to.set_window_position(from.window_position);
  to.set_stream_position(from.stream_position);
  to.set_lag_chunks(from.lag_chunks);
  *to.mutable_reserved_bytes() = ToProto(from.reserved);
  to.set_age_seconds(from.age_seconds);
  to.set_idle_seconds(from.idle_seconds);
  *to.mutable_usage() = ToProto(from.usage);
  to.set_updates(from.updates);
  to.set_updates_applied(from.updates_applied);
  to.set_running_command(from.running_command);
  to.set_outstanding_commands(static_cast<uint32_t>(from.outstanding_commands));
  to.set_outbox_events(static_cast<uint32_t>(from.outbox_events));
  return to;
}

}  // namespace mayfly
