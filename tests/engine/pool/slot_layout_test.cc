#include "engine/pool/slot_layout.h"

#include <vector>

#include "gtest/gtest.h"

namespace mayfly {
namespace {

constexpr int32_t kMaxRank = 6;
constexpr int32_t kWindow = 10;

// Grouped attention with a head size of its own, so that no two widths are equal by accident.
ModelConfig Config() {
  ModelConfig config;
  config.hidden = 12;
  config.intermediate = 20;
  config.layers = 3;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 8;
  return config;
}
SlotLayout Layout(int weight_bytes = 2) {
  return SlotLayout(Config(), kMaxRank, kWindow, weight_bytes);
}
AdapterSpec Adapter(int32_t rank, TargetModules targets, int32_t first_layer) {
  AdapterSpec spec;
  spec.rank = rank;
  spec.target_modules = targets;
  spec.first_layer = first_layer;
  return spec;
}

// How often each element of a row is covered.
std::vector<int> Coverage(const SlotLayout& layout, const std::vector<Span>& spans) {
  std::vector<int> covered(static_cast<size_t>(layout.adapter_elements()));
  for (const Span& span : spans) {
    for (int64_t i = 0; i < span.count; ++i) ++covered[static_cast<size_t>(span.offset + i)];
  }
  return covered;
}

TEST(SlotLayoutTest, ShapesFollowTheModel) {
  const SlotLayout layout = Layout();
  const auto expect = [&](Module module, int32_t in, int32_t out) {
    EXPECT_EQ(layout.shape(module).in, in) << ModuleName(module);
    EXPECT_EQ(layout.shape(module).out, out) << ModuleName(module);
    EXPECT_EQ(layout.pair(1, module).a.width, in) << ModuleName(module);
    EXPECT_EQ(layout.pair(1, module).b.width, out) << ModuleName(module);
  };
  expect(Module::kQ, 12, 32);
  expect(Module::kK, 12, 16);
  expect(Module::kV, 12, 16);
  expect(Module::kO, 32, 12);
  expect(Module::kGate, 12, 20);
  expect(Module::kUp, 12, 20);
  expect(Module::kDown, 20, 12);
}

TEST(SlotLayoutTest, AtTheLargestRankEveryElementBelongsToOneTensor) {
  const SlotLayout layout = Layout();
  const std::vector<int> covered =
      Coverage(layout, layout.ActiveSpans(Adapter(kMaxRank, TargetModules::kAll, 0)));
  for (const int times : covered) EXPECT_EQ(times, 1);
}

TEST(SlotLayoutTest, ASmallerAdapterUsesItsFirstRanksAndTouchesNoElementTwice) {
  const SlotLayout layout = Layout();
  const AdapterSpec spec = Adapter(2, TargetModules::kMlp, 1);
  const std::vector<int> covered = Coverage(layout, layout.ActiveSpans(spec));
  for (int32_t layer = 0; layer < layout.layers(); ++layer) {
    for (const Module module : kAllModules) {
      for (const AdapterTensor& tensor :
           {layout.pair(layer, module).a, layout.pair(layer, module).b}) {
        const bool adapted = layer >= 1 && module >= Module::kGate;
        for (int32_t i = 0; i < kMaxRank * tensor.width; ++i) {
          EXPECT_EQ(covered[static_cast<size_t>(tensor.offset + i)],
                    adapted && i < 2 * tensor.width ? 1 : 0);
        }
      }
    }
  }
}

TEST(SlotLayoutTest, SpansAscend) {
  const SlotLayout layout = Layout();
  int64_t end = 0;
  for (const Span& span : layout.ActiveSpans(Adapter(3, TargetModules::kAttention, 0))) {
    EXPECT_GE(span.offset, end);
    end = span.offset + span.count;
  }
  EXPECT_LE(end, layout.adapter_elements());
}

TEST(SlotLayoutTest, ParametersOfAnAdapterAreItsRankTimesItsWidths) {
  const SlotLayout layout = Layout();
  const int64_t attention = (12 + 32) + (12 + 16) + (12 + 16) + (32 + 12);
  const int64_t mlp = (12 + 20) + (12 + 20) + (20 + 12);
  EXPECT_EQ(layout.ActiveElements(Adapter(2, TargetModules::kAttention, 0)), 3 * 2 * attention);
  EXPECT_EQ(layout.ActiveElements(Adapter(2, TargetModules::kMlp, 2)), 2 * mlp);
  EXPECT_EQ(layout.ActiveElements(Adapter(kMaxRank, TargetModules::kAll, 0)),
            layout.adapter_elements());
}

TEST(SlotLayoutTest, NothingIsUsedWithoutAnAdapterOrAboveTheLastLayer) {
  const SlotLayout layout = Layout();
  EXPECT_TRUE(layout.ActiveSpans(Adapter(0, TargetModules::kAll, 0)).empty());
  EXPECT_TRUE(layout.ActiveSpans(Adapter(2, TargetModules::kAll, 3)).empty());
}

TEST(SlotLayoutTest, BytesAreThoseOfThePools) {
  for (const int weight_bytes : {2, 4}) {
    const SlotLayout layout = Layout(weight_bytes);
    const uint64_t elements = static_cast<uint64_t>(layout.adapter_elements());
    const uint64_t weight = static_cast<uint64_t>(weight_bytes);
    const RowBytes bytes = layout.row_bytes();
    EXPECT_EQ(layout.kv_elements(), 3 * kWindow * 2 * 8);
    EXPECT_EQ(bytes.kv, 2 * 3 * kWindow * 2 * 8 * weight);
    // Two serving copies and the checkpoint; masters and two moments.
    EXPECT_EQ(bytes.adapter, elements * (2 * weight + 4));
    EXPECT_EQ(bytes.optimizer, elements * 12);
    EXPECT_EQ(bytes.total(), bytes.kv + bytes.adapter + bytes.optimizer);
  }
}

TEST(SlotLayoutTest, TargetsNameTheirModules) {
  for (const Module module : kAllModules) {
    const bool mlp = module == Module::kGate || module == Module::kUp || module == Module::kDown;
    EXPECT_TRUE(IsTarget(TargetModules::kAll, module));
    EXPECT_EQ(IsTarget(TargetModules::kMlp, module), mlp) << ModuleName(module);
    EXPECT_EQ(IsTarget(TargetModules::kAttention, module), !mlp) << ModuleName(module);
  }
}

}  // namespace
}  // namespace mayfly
