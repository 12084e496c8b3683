#include "engine/train/adamw.h"

#include <cmath>

namespace mayfly {
namespace {

std::vector<at::Tensor> Parts(const at::Tensor& row, const std::vector<Span>& spans) {
  std::vector<at::Tensor> parts;
  parts.reserve(spans.size());
  for (const Span& span : spans) parts.push_back(row.narrow(0, span.offset, span.count));
  return parts;
}

}  // namespace

double GradientNorm(const at::Tensor& gradients, const std::vector<Span>& spans) {
  double sum_of_squares = 0;
  for (const at::Tensor& norm : at::_foreach_norm(Parts(gradients, spans), 2)) {
    const double value = norm.item<double>();
    sum_of_squares += value * value;
  }
  return std::sqrt(sum_of_squares);
}

void ClipGradients(const at::Tensor& gradients, const std::vector<Span>& spans, double norm,
                   double max_norm) {
  const double scale = max_norm / (norm + 1e-6);
  if (max_norm > 0 && scale < 1) at::_foreach_mul_(Parts(gradients, spans), scale);
}

void AdamWStep(const AdamWOptions& options, int64_t step, const std::vector<Span>& spans,
               const at::Tensor& gradients, const AdapterState& state) {
  const at::Tensor step_number =
      at::full({}, static_cast<double>(step), gradients.options().dtype(at::kFloat));
  at::_fused_adamw_(Parts(state.master, spans), Parts(gradients, spans),
                    Parts(state.moment1, spans), Parts(state.moment2, spans),
                    /*max_exp_avg_sqs=*/{}, std::vector<at::Tensor>(spans.size(), step_number),
                    options.learning_rate, options.beta1, options.beta2, options.weight_decay,
                    options.eps,
                    /*amsgrad=*/false, /*maximize=*/false);
}

}  // namespace mayfly
