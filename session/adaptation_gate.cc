#include "session/adaptation_gate.h"

namespace mayfly {

AdaptationGate::Verdict AdaptationGate::Judge(double nll, double base_nll, double threshold) {
  mean_excess_ += kNewestWeight * (nll - base_nll - mean_excess_);
  if (mean_excess_ <= 0) return Verdict::kGood;
  if (mean_excess_ <= threshold) return Verdict::kTolerated;
  Reset();
  return Verdict::kBad;
}

}  // namespace mayfly
