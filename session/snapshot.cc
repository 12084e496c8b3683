#include "session/snapshot.h"

#include <cstddef>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "session/options_resolver.h"

namespace mayfly {
namespace {

constexpr uint32_t kVersion = 1;

// ---- Both directions from one description of the fields --------------------------------------

class Writer {
 public:
  explicit Writer(std::string* out) : out_(out) {}

  void Bytes(const void* data, size_t size) { out_->append(static_cast<const char*>(data), size); }
  // How many elements follow, each of at least `element_bytes`.
  template <typename Container>
  void Size(Container& container, size_t /*element_bytes*/) {
    const uint64_t size = container.size();
    Bytes(&size, sizeof(size));
  }

 private:
  std::string* const out_;
};

class Reader {
 public:
  explicit Reader(absl::string_view in) : in_(in) {}

  void Bytes(void* data, size_t size) {
    if (size > in_.size()) {
      ok_ = false;
      in_ = {};
      std::memset(data, 0, size);
      return;
    }
    std::memcpy(data, in_.data(), size);
    in_.remove_prefix(size);
  }
  // Never more than the bytes that are left can hold.
  template <typename Container>
  void Size(Container& container, size_t element_bytes) {
    uint64_t size = 0;
    Bytes(&size, sizeof(size));
    if (size > in_.size() / element_bytes) {
      ok_ = false;
      size = 0;
    }
    container.resize(size);
  }
  void Fail() { ok_ = false; }
  // All was read, and all of it was sound.
  bool finished() const { return ok_ && in_.empty(); }

 private:
  absl::string_view in_;
  bool ok_ = true;
};

template <typename Archive, typename Number>
requires std::is_arithmetic_v<Number>
void Visit(Archive& archive, Number& number) { archive.Bytes(&number, sizeof(number)); }

void Visit(Writer& writer, bool& value) {
  const uint8_t byte = value;
  writer.Bytes(&byte, 1);
}
void Visit(Reader& reader, bool& value) {
  uint8_t byte = 0;
  reader.Bytes(&byte, 1);
  if (byte > 1) reader.Fail();
  value = byte == 1;
}

// The last enumerator of each.
constexpr uint8_t Last(TargetModules) { return static_cast<uint8_t>(TargetModules::kAll); }
constexpr uint8_t Last(AdapterInit) { return static_cast<uint8_t>(AdapterInit::kActivation); }
constexpr uint8_t Last(Preset) { return static_cast<uint8_t>(Preset::kOff); }
constexpr uint8_t Last(GradientScope) { return static_cast<uint8_t>(GradientScope::kChunk); }
constexpr uint8_t Last(UpdateMode) { return static_cast<uint8_t>(UpdateMode::kParallel); }
constexpr uint8_t Last(KvPolicy) { return static_cast<uint8_t>(KvPolicy::kRefreshEvery); }
constexpr uint8_t Last(LearnFrom) { return static_cast<uint8_t>(LearnFrom::kBoth); }
constexpr uint8_t Last(TokenOrigin) { return static_cast<uint8_t>(TokenOrigin::kOutput); }
constexpr uint8_t Last(DType) { return static_cast<uint8_t>(DType::kFloat32); }

template <typename Enum>
requires std::is_enum_v<Enum>
void Visit(Writer& writer, Enum& value) {
  const uint8_t byte = static_cast<uint8_t>(value);
  writer.Bytes(&byte, 1);
}
template <typename Enum>
requires std::is_enum_v<Enum>
void Visit(Reader& reader, Enum& value) {
  uint8_t byte = 0;
  reader.Bytes(&byte, 1);
  if (byte > Last(Enum{})) return reader.Fail();
  value = static_cast<Enum>(byte);
}

template <typename Archive>
void Visit(Archive& archive, std::string& text) {
  archive.Size(text, 1);
  archive.Bytes(text.data(), text.size());
}

template <typename Archive, typename Number>
requires std::is_arithmetic_v<Number>
void Visit(Archive& archive, std::vector<Number>& numbers) {
  archive.Size(numbers, sizeof(Number));
  archive.Bytes(numbers.data(), numbers.size() * sizeof(Number));
}

template <typename Archive, typename... Fields>
void VisitAll(Archive& archive, Fields&... fields) {
  (Visit(archive, fields), ...);
}

template <typename Archive>
void Visit(Archive& archive, AdapterSpec& spec) {
  VisitAll(archive, spec.rank, spec.alpha, spec.target_modules, spec.first_layer, spec.init,
           spec.seed);
}

template <typename Archive>
void Visit(Archive& archive, AdamWOptions& options) {
  VisitAll(archive, options.learning_rate, options.beta1, options.beta2, options.eps,
           options.weight_decay);
}

template <typename Archive>
void Visit(Archive& archive, AdaptationOptions& options) {
  VisitAll(archive, options.preset, options.adapter, options.chunk_tokens, options.context_tokens,
           options.epochs, options.gradient_scope, options.optimizer, options.warmup_chunks,
           options.grad_clip, options.dropout, options.mode, options.max_lag_chunks,
           options.kv_policy, options.refresh_every, options.learn_from, options.output_weight,
           options.receipt, options.gate, options.gate_threshold, options.target_inter_token_ms);
}

template <typename Archive>
void Visit(Archive& archive, SamplingOptions& options) {
  VisitAll(archive, options.temperature, options.top_p, options.top_k, options.min_p,
           options.repetition_penalty, options.frequency_penalty, options.presence_penalty,
           options.seed);
}

template <typename Archive>
void Visit(Archive& archive, Usage& usage) {
  VisitAll(archive, usage.prompt_tokens, usage.generated_tokens, usage.trained_tokens);
}

template <typename Archive>
void Visit(Archive& archive, HistoryToken& token) {
  VisitAll(archive, token.id, token.origin, token.learn, token.adapter_version, token.logprob,
           token.base_logprob);
}
// What the smallest of each takes at least.
constexpr size_t kHistoryTokenBytes = 22;
constexpr size_t kTensorBytes = 25;

template <typename Archive>
void Visit(Archive& archive, std::vector<HistoryToken>& tokens) {
  archive.Size(tokens, kHistoryTokenBytes);
  for (HistoryToken& token : tokens) Visit(archive, token);
}

template <typename Archive>
void Visit(Archive& archive, RowPlanner::State& state) {
  VisitAll(archive, state.options, state.paused, state.position, state.window_start, state.history,
           state.chunk_begin, state.chunk_index, state.deferred_chunks, state.version,
           state.learned_chunks, state.updates_since_refresh, state.refresh_due, state.mean_excess);
}

template <typename Archive>
void Visit(Archive& archive, std::vector<TensorBytes>& tensors) {
  archive.Size(tensors, kTensorBytes);
  for (TensorBytes& tensor : tensors) {
    VisitAll(archive, tensor.name, tensor.type, tensor.shape, tensor.bytes);
  }
}

template <typename Archive>
void Visit(Archive& archive, RowState& row) {
  VisitAll(archive, row.tokens, row.window_start, row.kv_length, row.lower_length,
           row.adapter_version, row.optimizer_steps, row.tensors);
}

template <typename Archive>
void Visit(Archive& archive, Snapshot& snapshot) {
  VisitAll(archive, snapshot.model_fingerprint, snapshot.dtype, snapshot.label,
           snapshot.window_tokens, snapshot.seed, snapshot.sampling, snapshot.usage,
           snapshot.updates, snapshot.updates_applied, snapshot.window_broken, snapshot.planner);
}

size_t RowBytesOf(const RowState& row) {
  size_t bytes = 0;
  for (const TensorBytes& tensor : row.tensors) bytes += tensor.bytes.size();
  return bytes;
}

// The row's window and the planner's are one.
absl::Status CheckWindow(const Snapshot& snapshot, const EngineInfo& engine) {
  const RowPlanner::State& planner = snapshot.planner;
  const RowState& row = *snapshot.row;
  if (row.window_start != planner.window_start ||
      row.window_start + row.tokens.size() != planner.position ||
      row.adapter_version != planner.version) {
    return absl::InvalidArgumentError("its row is not where its stream is");
  }
  for (const TokenId token : row.tokens) {
    if (token >= 0 && token < engine.model.vocabulary) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "its token ", token, " is not in the vocabulary of ", engine.model.vocabulary));
  }
  return absl::OkStatus();
}

}  // namespace

std::string EncodeSnapshot(const Snapshot& snapshot) {
  std::string bytes;
  bytes.reserve(RowBytesOf(*snapshot.row) + kHistoryTokenBytes * snapshot.planner.history.size() +
                sizeof(TokenId) * snapshot.row->tokens.size() + 4096);
  Writer writer(&bytes);
  uint32_t version = kVersion;
  Visit(writer, version);
  // A Writer only reads.
  Visit(writer, const_cast<Snapshot&>(snapshot));
  Visit(writer, const_cast<RowState&>(*snapshot.row));
  return bytes;
}

absl::StatusOr<Snapshot> DecodeSnapshot(absl::string_view bytes) {
  Reader reader(bytes);
  uint32_t version = 0;
  Visit(reader, version);
  if (version != kVersion) {
    return absl::InvalidArgumentError(
        absl::StrCat("the snapshot has version ", version, ", this server reads ", kVersion));
  }
  Snapshot snapshot;
  Visit(reader, snapshot);
  auto row = std::make_shared<RowState>();
  Visit(reader, *row);
  snapshot.row = std::move(row);
  if (!reader.finished()) return absl::InvalidArgumentError("the snapshot is malformed");
  return snapshot;
}

absl::Status CheckSnapshot(const Snapshot& snapshot, const EngineInfo& engine) {
  if (snapshot.model_fingerprint != engine.model.fingerprint || snapshot.dtype != engine.dtype) {
    return absl::FailedPreconditionError(
        absl::StrCat("the snapshot is of another model or number type than ", engine.model.name,
                     " in ", engine.dtype));
  }
  MAYFLY_RETURN_IF_ERROR(ResolveWindow(snapshot.window_tokens, engine).status());
  const AdaptationWishes wishes = ToWishes(snapshot.planner.options);
  MAYFLY_RETURN_IF_ERROR(
      ResolveAdaptation(wishes, {}, engine, snapshot.window_tokens, snapshot.seed).status());
  MAYFLY_RETURN_IF_ERROR(ResolveSampling(ToWishes(snapshot.sampling), {}, {}, 0).status());
  MAYFLY_RETURN_IF_ERROR(CheckWindow(snapshot, engine));
  return RowPlanner::Check(snapshot.planner, snapshot.window_tokens);
}

}  // namespace mayfly
