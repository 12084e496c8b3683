#include "engine/train/trainer.h"

#include <utility>
#include <vector>

#include <ATen/Parallel.h>

#include "engine/device/torch_guard.h"
#include "engine/train/adamw.h"
#include "engine/train/loss.h"
#include "engine/train/update_gate.h"

namespace mayfly {
namespace {

// The tokens that one pass runs and what it learns from them.
struct Lesson {
  TrainingBatch batch;
  // The hidden states [first_label, first_label + labels) predict `labels`.
  int64_t first_label = 0;
  at::Tensor labels;   // [n] int64
  at::Tensor weights;  // [n] fp32
};

at::Tensor TokenTensor(const std::vector<TokenId>& tokens, at::Device device) {
  return at::tensor(tokens, at::kInt).to(at::kLong).to(device);
}

// Labels are the chunk's tokens, less the first where nothing comes before it.
void SetLabels(const UpdateWork& work, bool has_context, at::Device device, Lesson* lesson) {
  const int64_t skip = has_context ? 0 : 1;
  const int64_t count = static_cast<int64_t>(work.tokens.size()) - skip;
  lesson->labels = TokenTensor(work.tokens, device).narrow(0, skip, count);
  lesson->weights = at::tensor(work.weights, at::kFloat).to(device).narrow(0, skip, count);
}

// Context and chunk are run again, from position 0, as one text.
Lesson WindowLesson(const UpdateWork& work, at::Device device) {
  std::vector<TokenId> tokens = work.context;
  tokens.insert(tokens.end(), work.tokens.begin(), work.tokens.end() - 1);
  Lesson lesson;
  lesson.batch.tokens = TokenTensor(tokens, device);
  lesson.first_label = work.context.empty() ? 0 : static_cast<int64_t>(work.context.size()) - 1;
  SetLabels(work, !work.context.empty(), device, &lesson);
  return lesson;
}

// Only the chunk is run, shifted by one so that the last token of the context predicts its first;
// the context before that is what the row's keys and values hold.
Lesson ChunkLesson(const UpdateJob& job, const KvPool* kv, at::Device device) {
  const UpdateWork& work = job.work;
  std::vector<TokenId> tokens(work.tokens.begin(), work.tokens.end() - 1);
  Lesson lesson;
  lesson.batch.row_begin = job.row_begin;
  if (!work.context.empty()) {
    tokens.insert(tokens.begin(), work.context.back());
    lesson.batch.row_begin = job.row_begin - 1;
    lesson.batch.prefix = kv;
    lesson.batch.prefix_row = job.row.row;
    lesson.batch.prefix_begin = job.row_begin - static_cast<int64_t>(work.context.size());
  }
  lesson.batch.tokens = TokenTensor(tokens, device);
  SetLabels(work, !work.context.empty(), device, &lesson);
  return lesson;
}

// A different dropout mask for every step of every session.
uint64_t DropoutSeed(uint64_t seed, int64_t step) {
  return seed * 0x9e3779b97f4a7c15 + static_cast<uint64_t>(step);
}

}  // namespace

// Buffers of one job, made once: the shadow weights that training passes read, the gradients, and
// the state to return to when the update is dropped.
struct Trainer::Scratch {
  at::Tensor shadow;     // [elements], weights' type
  at::Tensor gradients;  // [elements] fp32
  at::Tensor masters;    // [elements] fp32
  at::Tensor moment1;
  at::Tensor moment2;

  void Allocate(const SlotLayout& layout, const Numerics& numerics) {
    if (shadow.defined()) return;
    shadow = at::zeros({layout.adapter_elements()}, numerics.WeightOptions());
    gradients = at::zeros_like(shadow, at::TensorOptions().dtype(at::kFloat));
    masters = at::zeros_like(gradients);
    moment1 = at::zeros_like(gradients);
    moment2 = at::zeros_like(gradients);
  }

  static void Copy(const std::vector<Span>& spans, const at::Tensor& from, const at::Tensor& to) {
    for (const Span& span : spans) {
      to.narrow(0, span.offset, span.count).copy_(from.narrow(0, span.offset, span.count));
    }
  }
  void Keep(const std::vector<Span>& spans, const AdapterState& state) const {
    Copy(spans, state.master, masters);
    Copy(spans, state.moment1, moment1);
    Copy(spans, state.moment2, moment2);
  }
  void GiveBack(const std::vector<Span>& spans, const AdapterState& state) const {
    Copy(spans, masters, state.master);
    Copy(spans, moment1, state.moment1);
    Copy(spans, moment2, state.moment2);
  }
};

Trainer::Trainer(const CausalLm* model, const KvPool* kv, const SlotLayout* layout,
                 const Numerics& numerics, int32_t threads, const Clock* clock,
                 EngineMetrics* metrics, std::function<void(UpdateResult)> deliver)
    : model_(model),
      kv_(kv),
      layout_(layout),
      numerics_(numerics),
      threads_(threads),
      clock_(clock),
      metrics_(metrics),
      deliver_(std::move(deliver)),
      scratch_(std::make_unique<Scratch>()),
      jobs_(1 << 16),
      worker_([this] { WorkerMain(); }) {}

Trainer::~Trainer() {
  jobs_.Close();
  worker_.join();
}

void Trainer::Submit(UpdateJob job) {
  metrics_->updates_waiting.Add(1);
  jobs_.PostUnbounded(std::move(job));
}

void Trainer::WorkerMain() {
  at::set_num_threads(threads_);
  while (true) {
    std::deque<UpdateJob> jobs = jobs_.WaitAndTakeAll();
    if (jobs.empty()) return;
    for (const UpdateJob& job : jobs) {
      metrics_->updates_waiting.Add(-1);
      deliver_(Run(job));
    }
  }
}

UpdateResult Trainer::Run(const UpdateJob& job) {
  const c10::InferenceMode no_autograd;
  const TimePoint begin = clock_->Now();
  UpdateResult result{job.row, job.id, {}, job.steps};
  const absl::Status status = RunGuarded("update", [&] { Train(job, &result); });
  if (!status.ok()) {
    result.done.outcome = UpdateOutcome::kFailed;
    result.done.reason = std::string(status.message());
    scratch_->GiveBack(layout_->ActiveSpans(job.spec), job.state);
  }
  result.done.queue_seconds = Seconds(begin - job.queued);
  result.done.train_seconds = Seconds(clock_->Now() - begin);
  metrics_->update_queue_seconds.Observe(result.done.queue_seconds);
  metrics_->update_seconds.Observe(result.done.train_seconds);
  metrics_->update_busy_seconds.Add(result.done.train_seconds);
  return result;
}

void Trainer::Train(const UpdateJob& job, UpdateResult* result) {
  const UpdateWork& work = job.work;
  UpdateDone& done = result->done;
  const std::vector<Span> spans = layout_->ActiveSpans(job.spec);
  scratch_->Allocate(*layout_, numerics_);
  scratch_->Keep(spans, job.state);

  Lesson lesson = work.gradient_scope == GradientScope::kWindow
                      ? WindowLesson(work, numerics_.device)
                      : ChunkLesson(job, kv_, numerics_.device);
  const AdapterView weights{layout_, job.spec, scratch_->shadow};
  AdapterView gradients{layout_, job.spec, scratch_->gradients};
  lesson.batch.adapter = &weights;
  lesson.batch.cancelled = job.cancelled.get();
  done.label_tokens = static_cast<int32_t>(lesson.weights.count_nonzero().item<int64_t>());

  int64_t step = job.steps;
  bool cancelled = false;
  const auto measure = [&](bool learn) {
    Scratch::Copy(spans, job.state.master, scratch_->shadow);
    TrainingTrace trace;
    const at::Tensor hidden = model_->TrainForward(lesson.batch, &trace);
    if (!hidden.defined()) return false;
    const int64_t labels = lesson.labels.size(0);
    LossResult loss = WeightedLoss(*model_, hidden.narrow(0, lesson.first_label, labels),
                                   lesson.labels, lesson.weights, learn);
    done.losses.push_back(loss.loss);
    if (!learn) return true;
    at::Tensor dhidden = at::zeros_like(hidden);
    dhidden.narrow(0, lesson.first_label, labels).copy_(loss.dhidden);
    for (const Span& span : spans) gradients.elements.narrow(0, span.offset, span.count).zero_();
    return model_->TrainBackward(dhidden, lesson.batch, &trace, gradients);
  };
  for (int32_t epoch = 0; epoch < work.epochs && !cancelled; ++epoch) {
    lesson.batch.dropout = LoraDropout(work.dropout, DropoutSeed(job.spec.seed, step));
    cancelled = !measure(/*learn=*/true);
    if (cancelled) break;
    const double norm = GradientNorm(gradients.elements, spans);
    done.gradient_norms.push_back(norm);
    ClipGradients(gradients.elements, spans, norm, work.grad_clip);
    AdamWStep(work.optimizer, ++step, spans, gradients.elements, job.state);
    metrics_->trained_tokens.Increment(work.tokens.size());
  }
  lesson.batch.dropout = LoraDropout();
  if (!cancelled && work.measure_after) cancelled = !measure(/*learn=*/false);

  const GateVerdict verdict = cancelled ? GateVerdict{UpdateOutcome::kSkipped, "cancelled"}
                                        : JudgeUpdate(done.losses, done.gradient_norms, work.gate);
  done.outcome = verdict.outcome;
  done.reason = verdict.reason;
  if (done.outcome == UpdateOutcome::kApplied) {
    result->steps = step;
  } else {
    scratch_->GiveBack(spans, job.state);
  }
}

}  // namespace mayfly
