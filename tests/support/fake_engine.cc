#include "tests/support/fake_engine.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/strings/match.h"
#include "engine/base/log.h"

namespace mayfly {
namespace {

EngineInfo MakeInfo(const FakeEngine::Options& options) {
  EngineInfo info;
  info.model = {.name = "fake",
                .architecture = "FakeForCausalLM",
                .parameters = 1000,
                .vocabulary = FakeEngine::kEos + 1,
                .layers = options.layers,
                .max_positions = options.window_tokens,
                .has_chat_template = options.has_chat_template};
  info.device = "fake";
  info.dtype = "float32";
  info.rows = options.rows;
  info.window_tokens = options.window_tokens;
  info.max_rank = options.max_rank;
  info.row_bytes = {.kv = 100, .adapter = 20, .optimizer = 30};
  info.memory = {.process = 1,
                 .weights = 2,
                 .rows = 300,
                 .base_row = 4,
                 .activation = 5,
                 .logits = 6,
                 .update = 7};
  info.eos_token_ids = {FakeEngine::kEos};
  info.max_update_tokens = options.max_update_tokens;
  info.deterministic = options.deterministic;
  return info;
}

std::vector<TokenId> Bytes(const std::string& text) {
  std::vector<TokenId> tokens;
  for (const char byte : text) tokens.push_back(static_cast<unsigned char>(byte));
  return tokens;
}

// "<role>content" for every message, and "<assistant>" to ask for an answer.
std::string ChatText(const ChatInput& chat) {
  std::string text;
  for (const ChatMessage& message : chat.messages) {
    text += "<" + message.role + ">" + message.content;
  }
  return chat.add_generation_prompt ? text + "<assistant>" : text;
}

absl::StatusOr<std::vector<TokenId>> TokensOf(const TextInput& input, bool has_chat_template) {
  if (const auto* text = std::get_if<std::string>(&input)) return Bytes(*text);
  if (!has_chat_template) return absl::FailedPreconditionError("the model has no chat template");
  return Bytes(ChatText(std::get<ChatInput>(input)));
}

std::string TextOf(TokenId token) {
  return token < FakeEngine::kEos ? std::string(1, static_cast<char>(token)) : "";
}

bool EndsWithOneOf(const std::string& text, const std::vector<std::string>& endings) {
  return std::any_of(endings.begin(), endings.end(),
                     [&](const std::string& ending) { return absl::EndsWith(text, ending); });
}

std::optional<FinishReason> ReasonToFinish(const GenerateWork& generate, TokenId token,
                                           const std::string& text, int32_t tokens) {
  const auto& ids = generate.stop_token_ids;
  if (std::find(ids.begin(), ids.end(), token) != ids.end()) return FinishReason::kStop;
  if (EndsWithOneOf(text, generate.stop)) return FinishReason::kStop;
  if (token == FakeEngine::kEos && !generate.ignore_eos) return FinishReason::kEos;
  if (tokens == generate.max_tokens) return FinishReason::kLength;
  return std::nullopt;
}

UpdateDone NotApplied(UpdateOutcome outcome, absl::string_view reason, uint64_t version) {
  UpdateDone done;
  done.outcome = outcome;
  done.reason = std::string(reason);
  done.adapter_version = version;
  return done;
}

UpdateDone Applied(const UpdateWork& update) {
  UpdateDone done;
  const auto& weights = update.weights;
  done.label_tokens = weights.size() - std::count(weights.begin(), weights.end(), 0.0f);
  done.losses.assign(update.epochs + (update.measure_after ? 1 : 0), 1.0);
  done.gradient_norms.assign(update.epochs, 1.0);
  return done;
}

bool IsBeside(const RowWork& work) {
  const auto* update = std::get_if<UpdateWork>(&work);
  return update != nullptr && update->parallel;
}

bool AddsTokens(const RowWork& work) {
  return std::holds_alternative<PrefillWork>(work) || std::holds_alternative<GenerateWork>(work);
}

// Work that would disturb an update in flight.
bool WaitsForUpdates(const RowWork& work) {
  return !AddsTokens(work) && !std::holds_alternative<ScoreBaseWork>(work);
}

}  // namespace

FakeEngine::FakeEngine() : FakeEngine(Options{}) {}

FakeEngine::FakeEngine(const Options& options)
    : info_(MakeInfo(options)),
      step_tokens_(options.step_tokens),
      update_steps_(options.update_steps),
      rows_(options.rows) {}

FakeEngine::~FakeEngine() { StopBackground(); }

int32_t FakeEngine::free_rows() const {
  MutexLock lock(&mu_);
  return std::count_if(rows_.begin(), rows_.end(), [](const Row& row) { return !row.open; });
}

bool FakeEngine::healthy() const {
  MutexLock lock(&mu_);
  return healthy_;
}

absl::Status FakeEngine::Open(const RowOptions& options, std::shared_ptr<TokenSink> sink) {
  if (!healthy()) return absl::UnavailableError("the device has failed");
  Post([this, options, sink = std::move(sink)] { OpenRow(options, sink); });
  return absl::OkStatus();
}

void FakeEngine::Submit(RowHandle row, WorkId id, RowWork work) {
  {
    MutexLock lock(&mu_);
    submitted_.push_back({row, id, work});
  }
  Post([this, row, id, work = std::move(work)] {
    if (Row* found = Find(row)) Queue(found, id, work);
  });
}

void FakeEngine::Tokenize(TextInput text, WorkId id, std::shared_ptr<TokenSink> sink) {
  Post([this, text = std::move(text), id, sink = std::move(sink)] {
    Emit(sink, id, Tokenized{TokensOf(text, info_.model.has_chat_template)});
  });
}

void FakeEngine::Advance(RowHandle row, WorkId id, uint64_t horizon) {
  Post([this, row, id, horizon] {
    Row* found = Find(row);
    if (found == nullptr) return;
    for (Work& work : found->works) {
      auto* generate = std::get_if<GenerateWork>(&work.work);
      if (work.id != id || generate == nullptr) continue;
      MAYFLY_CHECK(horizon >= generate->horizon);
      generate->horizon = horizon;
      work.paused = work.paused && found->stream.size() >= horizon;
    }
  });
}

void FakeEngine::Cancel(RowHandle row, WorkId id) {
  Post([this, row, id] {
    if (Row* found = Find(row)) CancelWork(found, id);
  });
}

void FakeEngine::Close(RowHandle row) {
  Post([this, row] {
    if (Row* found = Find(row)) CloseRow(found);
  });
}

bool FakeEngine::Step() {
  MutexLock step_lock(&step_mu_);
  std::deque<Delivery> deliveries;
  bool worked = false;
  {
    MutexLock lock(&mu_);
    worked = RunOne();
    deliveries.swap(deliveries_);
  }
  for (Delivery& delivery : deliveries) delivery.sink->Offer(std::move(delivery.event));
  return worked || !deliveries.empty();
}

void FakeEngine::RunUntilIdle() {
  while (Step()) {
  }
}

void FakeEngine::RunInBackground() {
  MAYFLY_CHECK(!thread_.joinable());
  thread_ = std::thread([this] {
    while (true) {
      RunUntilIdle();
      MutexLock lock(&mu_);
      while (calls_.empty() && deliveries_.empty() && !stopping_) called_.Wait(&mu_);
      if (stopping_) return;
    }
  });
}

void FakeEngine::StopBackground() {
  {
    MutexLock lock(&mu_);
    stopping_ = true;
    called_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

void FakeEngine::SetScript(Script script) {
  MutexLock lock(&mu_);
  script_ = std::move(script);
}

void FakeEngine::SetNextUpdate(UpdateDone result) {
  MutexLock lock(&mu_);
  update_results_.push_back(std::move(result));
}

void FakeEngine::HoldUpdates(bool hold) {
  MutexLock lock(&mu_);
  updates_held_ = hold;
}

void FakeEngine::SetUpdateSteps(int32_t steps) {
  MutexLock lock(&mu_);
  update_steps_ = steps;
}

void FakeEngine::FailDevice(absl::Status status) {
  MutexLock lock(&mu_);
  healthy_ = false;
  for (Row& row : rows_) {
    if (!row.open) continue;
    Emit(row.sink, 0, EngineFailed{status});
    Clear(&row);
  }
  called_.NotifyAll();
}

std::vector<FakeEngine::Submitted> FakeEngine::submitted() const {
  MutexLock lock(&mu_);
  return submitted_;
}

std::vector<RowOptions> FakeEngine::opened() const {
  MutexLock lock(&mu_);
  return opened_;
}

std::vector<TokenId> FakeEngine::stream(int32_t row) const {
  MutexLock lock(&mu_);
  return rows_[row].stream;
}

uint64_t FakeEngine::tokens_taken() const {
  MutexLock lock(&mu_);
  return tokens_taken_;
}

int FakeEngine::pauses() const {
  MutexLock lock(&mu_);
  return pauses_;
}

int FakeEngine::most_side_work() const {
  MutexLock lock(&mu_);
  return most_side_work_;
}

uint64_t FakeEngine::most_tokens_beside() const {
  MutexLock lock(&mu_);
  return most_tokens_beside_;
}

int32_t FakeEngine::window_fill(int32_t row) const {
  MutexLock lock(&mu_);
  return rows_[row].stream.size() - rows_[row].window_start;
}

void FakeEngine::FailNextOf(size_t kind, absl::Status status) {
  MutexLock lock(&mu_);
  failures_.emplace(kind, std::move(status));
}

void FakeEngine::Post(Call call) {
  MutexLock lock(&mu_);
  calls_.push_back(std::move(call));
  called_.NotifyAll();
}

bool FakeEngine::RunOne() {
  if (!calls_.empty()) {
    const Call call = std::move(calls_.front());
    calls_.pop_front();
    call();
    return true;
  }
  for (size_t tried = 0; tried < rows_.size(); ++tried) {
    Row& row = rows_[next_row_];
    next_row_ = (next_row_ + 1) % rows_.size();
    if (row.open && StepRow(&row)) return true;
  }
  return false;
}

FakeEngine::Row* FakeEngine::Find(RowHandle handle) {
  if (handle.row < 0 || handle.row >= static_cast<int32_t>(rows_.size())) return nullptr;
  Row& row = rows_[handle.row];
  return row.open && row.generation == handle.generation ? &row : nullptr;
}

void FakeEngine::OpenRow(const RowOptions& options, const std::shared_ptr<TokenSink>& sink) {
  opened_.push_back(options);
  const auto row = std::find_if(rows_.begin(), rows_.end(),
                                [](const Row& candidate) { return !candidate.open; });
  if (row == rows_.end() || !healthy_) {
    Emit(sink, 0, RowRefused{absl::ResourceExhaustedError("no row is free")});
    return;
  }
  MAYFLY_CHECK(options.window_tokens > 0 && options.window_tokens <= info_.window_tokens);
  row->open = true;
  ++row->generation;
  row->options = options;
  row->sink = sink;
  if (options.restore != nullptr) {
    row->stream.assign(options.restore->window_start, 0);  // what left the window is forgotten
    row->stream.insert(row->stream.end(), options.restore->tokens.begin(),
                       options.restore->tokens.end());
    row->window_start = options.restore->window_start;
    row->version = options.restore->adapter_version;
  }
  const RowHandle handle{static_cast<int32_t>(row - rows_.begin()), row->generation};
  Emit(sink, 0, RowOpened{handle, info_.row_bytes});
}

void FakeEngine::CancelWork(Row* row, WorkId id) {
  const auto work = std::find_if(row->works.begin(), row->works.end(),
                                 [id](const Work& candidate) { return candidate.id == id; });
  if (work == row->works.end()) return;
  if (std::holds_alternative<GenerateWork>(work->work)) {
    Emit(row->sink, id, GenerationDone{FinishReason::kCancelled, work->tokens_done, 0, 0, 0});
  } else if (std::holds_alternative<UpdateWork>(work->work)) {
    Emit(row->sink, id, NotApplied(UpdateOutcome::kSkipped, "cancelled", row->version));
  } else {
    Emit(row->sink, id, WorkFailed{absl::CancelledError("cancelled"), work->tokens_done});
  }
  row->works.erase(work);
}

void FakeEngine::Clear(Row* row) {
  const uint64_t generation = row->generation;
  *row = Row();
  row->generation = generation;
}

void FakeEngine::Take(Row* row, TokenId token) {
  row->stream.push_back(token);
  ++tokens_taken_;
  const auto beside = FindUpdateBeside(row);
  if (beside == row->works.end()) return;
  const uint64_t begin = std::get<UpdateWork>(beside->work).begin;
  most_tokens_beside_ = std::max(most_tokens_beside_, row->stream.size() - begin);
}

void FakeEngine::CloseRow(Row* row) {
  Emit(row->sink, 0, RowClosed{info_.row_bytes, 0});
  Clear(row);
}

void FakeEngine::Queue(Row* row, WorkId id, RowWork work) {
  row->works.push_back({.id = id, .work = std::move(work)});
  const int side = std::count_if(row->works.begin(), row->works.end(),
                                 [](const Work& queued) { return !AddsTokens(queued.work); });
  most_side_work_ = std::max(most_side_work_, side);
}

std::deque<FakeEngine::Work>::iterator FakeEngine::FindUpdateBeside(Row* row) {
  return std::find_if(row->works.begin(), row->works.end(),
                      [](const Work& work) { return IsBeside(work.work); });
}

std::deque<FakeEngine::Work>::iterator FakeEngine::FindNext(Row* row) {
  const auto none = row->works.end();
  const auto update = FindUpdateBeside(row);
  if (update != none && !updates_held_ && ++update->steps >= update_steps_) return update;
  auto next = none;
  for (auto work = row->works.begin(); work != none; ++work) {
    if (IsBeside(work->work)) continue;
    const bool held = updates_held_ && std::holds_alternative<UpdateWork>(work->work);
    const bool ready = !work->paused && !held && (update == none || !WaitsForUpdates(work->work));
    const bool generates = std::holds_alternative<GenerateWork>(work->work) && work->begun;
    // What adds no tokens overtakes a generation that has begun, and nothing else.
    if (ready && (next == none || !AddsTokens(work->work))) next = work;
    if (!generates) break;
  }
  return next != none || updates_held_ ? next : update;
}

bool FakeEngine::StepRow(Row* row) {
  const auto work = FindNext(row);
  if (work == row->works.end()) return false;
  if (IsBeside(work->work) && work->steps < update_steps_) return true;
  if (!std::exchange(work->begun, true)) work->version = row->version;
  const bool done =
      FailIfAsked(row, &*work) ||
      std::visit([&](const auto& body) { return Run(row, &*work, body); }, work->work);
  if (done) row->works.erase(work);
  return true;
}

bool FakeEngine::FailIfAsked(Row* row, Work* work) {
  const auto failure = failures_.find(work->work.index());
  if (failure == failures_.end()) return false;
  if (std::holds_alternative<UpdateWork>(work->work)) {
    Emit(row->sink, work->id,
         NotApplied(UpdateOutcome::kFailed, failure->second.message(), row->version));
  } else {
    Emit(row->sink, work->id, WorkFailed{failure->second, work->tokens_done});
  }
  failures_.erase(failure);
  return true;
}

bool FakeEngine::Run(Row* row, Work* work, const PrefillWork& prefill) {
  const int32_t total = prefill.tokens.size();
  const uint64_t fill = row->stream.size() - row->window_start;
  MAYFLY_CHECK(total > 0);
  MAYFLY_CHECK(fill + total - work->tokens_done <=
               static_cast<uint64_t>(row->options.window_tokens));
  Scored part;
  const int32_t end = std::min(total, work->tokens_done + step_tokens_);
  for (; work->tokens_done < end; ++work->tokens_done) {
    const uint64_t position = row->stream.size();
    if (prefill.score) part.logprobs.push_back(Logprob(position, work->version));
    if (prefill.score_base) part.base_logprobs.push_back(BaseLogprob(position));
    Take(row, prefill.tokens[work->tokens_done]);
  }
  part.adapter_version = work->version;
  part.tokens_done = end;
  part.done = end == total;
  const bool done = part.done;
  Emit(row->sink, work->id, std::move(part));
  return done;
}

bool FakeEngine::Run(Row* row, Work* work, const GenerateWork& generate) {
  const uint64_t position = row->stream.size();
  if (position >= generate.horizon) {
    work->paused = true;
    ++pauses_;
    Emit(row->sink, work->id, GenerationPaused{position});
    return false;
  }
  const uint64_t fill = position - row->window_start;
  MAYFLY_CHECK(fill > 0 && fill < static_cast<uint64_t>(row->options.window_tokens));
  const TokenId token = script_.next_token(position);
  const float logprob = Logprob(position, row->version);
  Take(row, token);
  ++work->tokens_done;
  work->text += TextOf(token);

  GeneratedToken generated{token, logprob, row->version, {}};
  for (int32_t i = 0; i < generate.logprobs; ++i) {
    generated.top.push_back({token + i, logprob - static_cast<float>(i), TextOf(token + i)});
  }
  const auto reason = ReasonToFinish(generate, token, work->text, work->tokens_done);
  const bool shown = reason != FinishReason::kStop && reason != FinishReason::kEos;
  Emit(row->sink, work->id, TextDelta{shown ? TextOf(token) : "", {std::move(generated)}});
  if (!reason) return false;
  Emit(row->sink, work->id, GenerationDone{*reason, work->tokens_done, 0, 0, 0});
  return true;
}

bool FakeEngine::Run(Row* row, Work* work, const RefreshWork& refresh) {
  MAYFLY_CHECK(refresh.begin >= row->window_start && refresh.begin < row->stream.size());
  row->window_start = refresh.begin;
  Emit(row->sink, work->id, RefreshDone{});
  return true;
}

bool FakeEngine::Run(Row* row, Work* work, const ScoreBaseWork& score) {
  MAYFLY_CHECK(row->window_start <= score.begin && score.begin < score.end &&
               score.end <= row->stream.size());
  Scored scored;
  scored.done = true;
  scored.tokens_done = score.end - score.begin;
  for (uint64_t position = score.begin; position < score.end; ++position) {
    scored.base_logprobs.push_back(BaseLogprob(position));
  }
  Emit(row->sink, work->id, std::move(scored));
  return true;
}

bool FakeEngine::Run(Row* row, Work* work, const UpdateWork& update) {
  MAYFLY_CHECK(row->options.adapter.enabled());
  MAYFLY_CHECK(!update.tokens.empty() && update.tokens.size() == update.weights.size());
  const uint64_t end = update.begin + update.tokens.size();
  MAYFLY_CHECK(update.parallel ? end <= row->stream.size() : end == row->stream.size());
  MAYFLY_CHECK(update.begin >= row->window_start + update.context.size());
  MAYFLY_CHECK(
      std::equal(update.tokens.begin(), update.tokens.end(), row->stream.begin() + update.begin));
  MAYFLY_CHECK(std::equal(update.context.begin(), update.context.end(),
                          row->stream.begin() + update.begin - update.context.size()));
  UpdateDone done = Applied(update);
  if (!update_results_.empty()) {
    done = std::move(update_results_.front());
    update_results_.pop_front();
  }
  if (done.outcome == UpdateOutcome::kApplied) ++row->version;
  done.adapter_version = row->version;
  Emit(row->sink, work->id, std::move(done));
  return true;
}

bool FakeEngine::Run(Row* row, Work* work, const CheckpointWork&) {
  Emit(row->sink, work->id, AdapterChanged{row->version});
  return true;
}

bool FakeEngine::Run(Row* row, Work* work, const RollBackWork&) {
  Emit(row->sink, work->id, AdapterChanged{++row->version});
  return true;
}

bool FakeEngine::Run(Row* row, Work* work, const ResetWork&) {
  Emit(row->sink, work->id, AdapterChanged{++row->version});
  return true;
}

// Its tensors: what the adapter would be is its version alone.
bool FakeEngine::Run(Row* row, Work* work, const ExportWork& work_to_do) {
  auto state = std::make_shared<RowState>();
  state->adapter_version = row->version;
  const float version = static_cast<float>(row->version);
  state->tensors.push_back({"version",
                            DType::kFloat32,
                            {1},
                            std::string(reinterpret_cast<const char*>(&version), sizeof(version))});
  if (!work_to_do.adapter_alone) {
    state->window_start = row->window_start;
    state->tokens.assign(row->stream.begin() + static_cast<std::ptrdiff_t>(row->window_start),
                         row->stream.end());
  }
  Emit(row->sink, work->id, RowExported{std::move(state)});
  return true;
}

float FakeEngine::Logprob(uint64_t position, uint64_t version) {
  return position == 0 ? std::nanf("") : script_.logprob(position, version);
}

float FakeEngine::BaseLogprob(uint64_t position) {
  return position == 0 ? std::nanf("") : script_.base_logprob(position);
}

template <typename Body>
void FakeEngine::Emit(const std::shared_ptr<TokenSink>& sink, WorkId id, Body body) {
  deliveries_.push_back({sink, EngineEvent{id, std::move(body)}});
}

}  // namespace mayfly
