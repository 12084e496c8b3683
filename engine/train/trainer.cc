#include "engine/train/trainer.h"

#include <algorithm>
#include <utility>

#include "engine/device/torch_guard.h"
#include "engine/train/activation_init.h"
#include "engine/train/adamw.h"
#include "engine/train/loss.h"
#include "engine/train/update_gate.h"

namespace mayfly {
namespace {

// The tokens that a pass runs. The last one predicts nothing that is known yet.
std::vector<TokenId> PassTokensOf(const UpdateWork& work) {
  std::vector<TokenId> tokens;
  if (work.gradient_scope == GradientScope::kWindow) {
    tokens = work.context;
  } else if (!work.context.empty()) {
    tokens.push_back(work.context.back());
  }
  tokens.insert(tokens.end(), work.tokens.begin(), work.tokens.end() - 1);
  return tokens;
}

// A different dropout mask for every step of every session.
uint64_t DropoutSeed(uint64_t seed, int64_t step) {
  return seed * 0x9e3779b97f4a7c15 + static_cast<uint64_t>(step);
}

}  // namespace

int64_t UpdateJob::PassTokens() const {
  const int64_t chunk = static_cast<int64_t>(work.tokens.size());
  const bool window = work.gradient_scope == GradientScope::kWindow;
  return chunk + (window ? static_cast<int64_t>(work.context.size()) : 0);
}

int64_t UpdateJob::ServiceTokens() const { return 2 * PassTokens() * work.epochs; }

// Buffers of a group, made when they are first needed: a gradient for each of its rows, and the
// state that the one job that may be undone returns to.
struct Trainer::Scratch {
  std::vector<at::Tensor> gradients;  // [elements] fp32 each
  at::Tensor master;                  // [elements] fp32
  at::Tensor moment1;
  at::Tensor moment2;

  const at::Tensor& Gradient(size_t index, const at::Tensor& like) {
    while (gradients.size() <= index) gradients.push_back(at::zeros_like(like));
    return gradients[index];
  }
  void Keep(const std::vector<Span>& spans, const AdapterState& state) {
    // Each by itself: there may have been no memory for the next one.
    for (at::Tensor* const kept : {&master, &moment1, &moment2}) {
      if (!kept->defined()) *kept = at::zeros_like(state.master);
    }
    CopySpans(spans, state.master, master);
    CopySpans(spans, state.moment1, moment1);
    CopySpans(spans, state.moment2, moment2);
  }
  void GiveBack(const std::vector<Span>& spans, const AdapterState& state) const {
    CopySpans(spans, master, state.master);
    CopySpans(spans, moment1, state.moment1);
    CopySpans(spans, moment2, state.moment2);
  }
};

// One job under way.
class Trainer::Lesson {
 public:
  Lesson(UpdateJob update, const SlotLayout* layout, const at::Tensor& gradient, at::Device device)
      : job(std::move(update)),
        spans(layout->ActiveSpans(job.spec)),
        weights{layout, job.spec, job.state.shadow},
        gradients{layout, job.spec, gradient},
        result{job.row, job.id, {}, job.steps, {}} {
    const UpdateWork& work = job.work;
    // Without a context nothing predicts the first token.
    const int64_t skip = work.context.empty() ? 1 : 0;
    label_count = static_cast<int64_t>(work.tokens.size()) - skip;
    labels = TokenTensor(work.tokens, device).narrow(0, skip, label_count);
    label_weights = at::tensor(work.weights, at::kFloat).to(device).narrow(0, skip, label_count);
    result.done.label_tokens = static_cast<int32_t>(label_weights.count_nonzero().item<int64_t>());
    tokens = PassTokensOf(work);
    first_label = static_cast<int64_t>(tokens.size()) - label_count;
  }

  // Its part of a pass. Only in chunk scope is there a prefix: what the row's keys and values hold
  // of the context, whose last token is run with the chunk.
  TrainingSegment Segment(bool learn) {
    const UpdateWork& work = job.work;
    TrainingSegment segment;
    segment.tokens = static_cast<int64_t>(tokens.size());
    segment.adapter = &weights;
    segment.gradients = learn ? &gradients : nullptr;
    if (learn) segment.dropout = LoraDropout(work.dropout, DropoutSeed(job.spec.seed, steps()));
    if (work.gradient_scope == GradientScope::kWindow) return segment;
    segment.row_begin = job.row_begin;
    if (work.context.empty()) return segment;
    segment.row_begin = job.row_begin - 1;
    segment.prefix = job.kv;
    segment.prefix_row = job.row.row;
    segment.resumes = job.inputs_are_kept;
    segment.prefix_begin = job.row_begin - static_cast<int64_t>(work.context.size());
    return segment;
  }

  AdapterView masters() const { return {weights.layout, job.spec, job.state.master}; }
  // A is still to be taken from the data.
  bool waits_for_activations() const {
    return job.spec.init == AdapterInit::kActivation && steps() == 0 && IsFresh(masters());
  }

  bool cancelled() const { return job.cancelled && job.cancelled->load(std::memory_order_relaxed); }
  int64_t steps() const { return result.steps; }
  // Nothing was learned yet, or it can be undone.
  bool can_stop() const { return result.steps == job.steps || job.MayBeUndone(); }

  const UpdateJob job;
  const std::vector<Span> spans;
  const AdapterView weights;
  AdapterView gradients;
  std::vector<TokenId> tokens;
  // The hidden states from `first_label` on predict `labels`.
  int64_t first_label = 0;
  int64_t label_count = 0;
  at::Tensor labels;         // [label_count] int64
  at::Tensor label_weights;  // [label_count] fp32
  UpdateResult result;
  TimePoint begun;
  // The state to return to is in the scratch memory.
  bool kept = false;
  // Its result is delivered.
  bool over = false;
};

Trainer::Trainer(const CausalLm* model, const SlotLayout* layout, const Numerics& numerics,
                 ThreadShare* thread_share, const Clock* clock, EngineMetrics* metrics,
                 std::function<void(UpdateResult)> deliver)
    : model_(model),
      layout_(layout),
      numerics_(numerics),
      thread_share_(thread_share),
      clock_(clock),
      metrics_(metrics),
      deliver_(std::move(deliver)),
      scratch_(std::make_unique<Scratch>()),
      stream_(numerics.device, {.priority = StreamPriority::kUpdate, .name = "mayfly_update"}) {}

Trainer::~Trainer() = default;

void Trainer::Submit(std::vector<UpdateJob> group) {
  stream_.Run([this, jobs = std::make_shared<std::vector<UpdateJob>>(std::move(group))] {
    Run(std::move(*jobs));
  });
}

void Trainer::Run(std::vector<UpdateJob> group) {
  const c10::InferenceMode no_autograd;
  const TimePoint begin = clock_->Now();
  thread_share_->BeginTraining();
  Train(std::move(group));
  thread_share_->EndTraining();
  metrics_->update_busy_seconds.Add(Seconds(clock_->Now() - begin));
}

// What throws is met again alone, so that it fails no update but its own.
void Trainer::Train(std::vector<UpdateJob> group) {
  const bool together = group.size() > 1;
  std::vector<Lesson> lessons;
  const absl::Status status = RunGuarded("update", [&] {
    lessons.reserve(group.size());
    for (size_t i = 0; i < group.size(); ++i) {
      const at::Tensor& gradient = scratch_->Gradient(i, group[i].state.master);
      lessons.emplace_back(group[i], layout_, gradient, numerics_.device);
      lessons.back().begun = clock_->Now();
    }
    Learn(lessons);
  });
  if (status.ok()) return;
  std::vector<UpdateJob> left;
  for (size_t i = 0; i < group.size(); ++i) {
    // Those that are over have their result, those that have learned keep what they learned.
    Lesson* const lesson = i < lessons.size() ? &lessons[i] : nullptr;
    if (lesson != nullptr && !lesson->over && !lesson->can_stop()) {
      RunGuarded("finishing an update", [&] { Finish(*lesson, false); }).IgnoreError();
    }
    if (lesson == nullptr || !lesson->over) left.push_back(std::move(group[i]));
  }
  if (together) return TrainOneByOne(std::move(left));
  for (const UpdateJob& job : left) {
    UpdateResult failed{job.row, job.id, {}, job.steps, {}};
    // A device that has failed has nothing left to give back or to wait for.
    RunGuarded("ending an update", [&] {
      if (!lessons.empty() && lessons[0].kept) scratch_->GiveBack(lessons[0].spans, job.state);
      failed.written = Event::OfCurrentStream(numerics_.device);
    }).IgnoreError();
    failed.done.outcome = UpdateOutcome::kFailed;
    failed.done.reason = std::string(status.message());
    deliver_(std::move(failed));
  }
}

void Trainer::TrainOneByOne(std::vector<UpdateJob> group) {
  for (UpdateJob& job : group) {
    std::vector<UpdateJob> one;
    one.push_back(std::move(job));
    Train(std::move(one));
  }
}

void Trainer::Learn(std::vector<Lesson>& lessons) {
  int32_t epochs = 0;
  for (Lesson& lesson : lessons) {
    epochs = std::max(epochs, lesson.job.work.epochs);
    lesson.job.shadow_is_free.MakeCurrentStreamWait();
    if (lesson.job.MayBeUndone()) {
      scratch_->Keep(lesson.spans, lesson.job.state);
      lesson.kept = true;
    }
    CopySpans(lesson.spans, lesson.job.state.master, lesson.job.state.shadow);
  }
  // Those that go on, without the ones that were cancelled: their rows are waited for.
  const auto remaining = [&](const auto& wants) {
    std::vector<Lesson*> going;
    for (Lesson& lesson : lessons) {
      if (!lesson.over && lesson.cancelled() && lesson.can_stop())
        Finish(lesson, /*cancelled=*/true);
      if (!lesson.over && wants(lesson)) going.push_back(&lesson);
    }
    return going;
  };
  for (int32_t epoch = 0; epoch < epochs;) {
    const std::vector<Lesson*> going =
        remaining([epoch](const Lesson& lesson) { return lesson.job.work.epochs > epoch; });
    if (!going.empty()) {
      if (!Pass(going, /*learn=*/true)) continue;  // again, without those that were cancelled
      Step(going);
    }
    ++epoch;
  }
  std::vector<Lesson*> measured;
  do {
    measured = remaining([](const Lesson& lesson) { return lesson.job.work.measure_after; });
  } while (!measured.empty() && !Pass(measured, /*learn=*/false));
  for (Lesson& lesson : lessons) {
    if (!lesson.over) Finish(lesson, /*cancelled=*/false);
  }
}

bool Trainer::Pass(const std::vector<Lesson*>& lessons, bool learn) {
  TrainingBatch batch;
  std::vector<TokenId> tokens;
  for (Lesson* const lesson : lessons) {
    tokens.insert(tokens.end(), lesson->tokens.begin(), lesson->tokens.end());
    batch.segments.push_back(lesson->Segment(learn));
    if (learn) ZeroSpans(lesson->spans, lesson->gradients.elements);
  }
  batch.tokens = TokenTensor(tokens, numerics_.device);
  batch.proceed = [&] {
    thread_share_->BeforeLayer();
    return std::none_of(lessons.begin(), lessons.end(), [](const Lesson* lesson) {
      return lesson->cancelled() && lesson->can_stop();
    });
  };
  TrainingTrace trace;
  const at::Tensor hidden = model_->TrainForward(batch, &trace);
  if (!hidden.defined()) return false;

  if (learn) InitializeAdapters(lessons, trace);

  at::Tensor dhidden = learn ? at::zeros_like(hidden) : at::Tensor();
  std::vector<double> losses;
  int64_t begin = 0;
  for (const Lesson* const lesson : lessons) {
    const int64_t first = begin + lesson->first_label;
    const LossResult loss = WeightedLoss(*model_, hidden.narrow(0, first, lesson->label_count),
                                         lesson->labels, lesson->label_weights, learn);
    losses.push_back(loss.loss);
    if (learn) dhidden.narrow(0, first, lesson->label_count).copy_(loss.dhidden);
    begin += static_cast<int64_t>(lesson->tokens.size());
  }
  if (learn && !model_->TrainBackward(dhidden, batch, &trace)) return false;
  for (size_t i = 0; i < lessons.size(); ++i) lessons[i]->result.done.losses.push_back(losses[i]);
  return true;
}

// B is zero, so what was computed forward holds for any A.
void Trainer::InitializeAdapters(const std::vector<Lesson*>& lessons, const TrainingTrace& trace) {
  for (size_t i = 0; i < lessons.size(); ++i) {
    const Lesson& lesson = *lessons[i];
    if (!lesson.waits_for_activations()) continue;
    SetFromActivations(*model_, trace, i, lesson.masters());
    CopySpans(lesson.spans, lesson.job.state.master, lesson.job.state.shadow);
  }
}

void Trainer::Step(const std::vector<Lesson*>& lessons) {
  for (Lesson* const lesson : lessons) {
    const UpdateWork& work = lesson->job.work;
    UpdateDone& done = lesson->result.done;
    const double norm = GradientNorm(lesson->gradients.elements, lesson->spans);
    done.gradient_norms.push_back(norm);
    // Nothing is learned from a number that is none.
    if (!std::isfinite(norm) || !std::isfinite(done.losses.back())) {
      Finish(*lesson, /*cancelled=*/false);
      continue;
    }
    ClipGradients(lesson->gradients.elements, lesson->spans, norm, work.grad_clip);
    AdamWStep(work.optimizer, lesson->result.steps + 1, lesson->spans, lesson->gradients.elements,
              lesson->job.state);
    CopySpans(lesson->spans, lesson->job.state.master, lesson->job.state.shadow);
    ++lesson->result.steps;
    metrics_->trained_tokens.Increment(static_cast<uint64_t>(done.label_tokens));
  }
}

void Trainer::Finish(Lesson& lesson, bool cancelled) {
  UpdateDone& done = lesson.result.done;
  const GateVerdict verdict =
      cancelled ? GateVerdict{UpdateOutcome::kSkipped, "cancelled"}
                : JudgeUpdate(done.losses, done.gradient_norms, lesson.job.work.gate);
  done.outcome = verdict.outcome;
  done.reason = verdict.reason;
  if (done.outcome != UpdateOutcome::kApplied) {
    if (lesson.job.MayBeUndone()) scratch_->GiveBack(lesson.spans, lesson.job.state);
    lesson.result.steps = lesson.job.steps;
  }
  lesson.result.written = Event::OfCurrentStream(numerics_.device);
  Deliver(lesson);
}

void Trainer::Deliver(Lesson& lesson) {
  lesson.over = true;
  UpdateDone& done = lesson.result.done;
  done.queue_seconds = Seconds(lesson.begun - lesson.job.queued);
  done.train_seconds = Seconds(clock_->Now() - lesson.begun);
  metrics_->update_queue_seconds.Observe(done.queue_seconds);
  metrics_->update_seconds.Observe(done.train_seconds);
  deliver_(std::move(lesson.result));
}

}  // namespace mayfly
