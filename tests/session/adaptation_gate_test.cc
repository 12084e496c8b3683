#include "session/adaptation_gate.h"

#include "gtest/gtest.h"

namespace mayfly {
namespace {

using Verdict = AdaptationGate::Verdict;

TEST(AdaptationGateTest, AnAdapterThatEqualsTheBaseIsGood) {
  AdaptationGate gate;
  EXPECT_EQ(gate.Judge(3.0, 3.0, 0.05), Verdict::kGood);
}

TEST(AdaptationGateTest, OneOddChunkWithinThreeThresholdsIsTolerated) {
  AdaptationGate gate;
  EXPECT_EQ(gate.Judge(3.14, 3.0, 0.05), Verdict::kTolerated);
}

TEST(AdaptationGateTest, AnAdapterThatStaysWorseIsCondemned) {
  AdaptationGate gate;
  EXPECT_EQ(gate.Judge(3.1, 3.0, 0.05), Verdict::kTolerated);
  EXPECT_EQ(gate.Judge(3.1, 3.0, 0.05), Verdict::kBad);
}

TEST(AdaptationGateTest, AVerdictOfBadStartsTheMeanAnew) {
  AdaptationGate gate;
  EXPECT_EQ(gate.Judge(5.0, 3.0, 0.05), Verdict::kBad);
  EXPECT_EQ(gate.mean_excess(), 0);
  EXPECT_EQ(gate.Judge(3.0, 3.0, 0.05), Verdict::kGood);
}

TEST(AdaptationGateTest, PastGainsOutweighOneBadChunk) {
  AdaptationGate gate;
  for (int i = 0; i < 10; ++i) EXPECT_EQ(gate.Judge(2.5, 3.0, 0.05), Verdict::kGood);
  EXPECT_EQ(gate.Judge(3.5, 3.0, 0.05), Verdict::kGood);
}

TEST(AdaptationGateTest, AThresholdOfZeroToleratesNothing) {
  AdaptationGate gate;
  EXPECT_EQ(gate.Judge(3.001, 3.0, 0), Verdict::kBad);
}

}  // namespace
}  // namespace mayfly
