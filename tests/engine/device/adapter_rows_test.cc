// Adapters of tokens whose rows differ, on the test's device, against products token by token.

#include "engine/device/adapter_rows.h"

#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/test_device.h"

namespace mayfly {
namespace {

struct Shape {
  int64_t in;
  std::vector<int64_t> outs;
  int64_t max_rank;
};

class AdapterRowsTest : public testing::TestWithParam<std::tuple<at::ScalarType, int>> {
 protected:
  static constexpr int64_t kRows = 5;

  void SetUp() override {
    if (!MissingTestDevice().empty()) GTEST_SKIP() << MissingTestDevice();
    at::manual_seed(1);
  }

  static at::ScalarType type() { return std::get<0>(GetParam()); }
  static const Shape& shape() {
    static const std::vector<Shape> shapes = {
        {64, {48}, 8},               // whole packs of 16 bytes
        {576, {576, 192, 192}, 64},  // the default model's queries, keys and values
        {36, {20, 7}, 3},            // nothing is aligned
        {4096, {1024}, 16},
    };
    return shapes[static_cast<size_t>(std::get<1>(GetParam()))];
  }
  static double tolerance() { return type() == at::kFloat ? 1e-5 : 2e-2; }

  // Places side by side, with room around them that nothing may touch.
  std::vector<AdapterPlace> Places() {
    std::vector<AdapterPlace> places;
    for (const int64_t out : shape().outs) {
      AdapterPlace place{.a = elements_, .y_begin = width_, .out = out};
      elements_ += shape().max_rank * shape().in;
      place.b = elements_;
      elements_ += shape().max_rank * out;
      width_ += out;
      places.push_back(place);
    }
    return places;
  }

  // Rows of ranks 1..max_rank, zero beyond their own rank, one of them not used.
  at::Tensor Pool(const std::vector<AdapterPlace>& places, const std::vector<int64_t>& row_ranks) {
    at::Tensor pool = at::zeros({kRows, elements_});
    for (int64_t row = 0; row < kRows; ++row) {
      const int64_t rank = row_ranks[static_cast<size_t>(row)];
      for (const AdapterPlace& place : places) {
        pool[row].narrow(0, place.a, rank * shape().in).normal_();
        pool[row].narrow(0, place.b, rank * place.out).normal_();
      }
    }
    return pool.div_(8).to(type());
  }

  // In double precision, from what the pool holds.
  at::Tensor Expected(const at::Tensor& x, const AdapterRows& adapters,
                      const std::vector<AdapterPlace>& places, const at::Tensor& y) {
    at::Tensor expected = y.to(at::kDouble);
    for (int64_t token = 0; token < x.size(0); ++token) {
      const int64_t row = adapters.rows[token].item<int64_t>();
      if (row < 0) continue;
      const int64_t rank = adapters.ranks[token].item<int64_t>();
      const at::Tensor weights = adapters.pool[row].to(at::kDouble);
      for (const AdapterPlace& place : places) {
        const at::Tensor a = weights.narrow(0, place.a, rank * shape().in).view({rank, shape().in});
        const at::Tensor b = weights.narrow(0, place.b, rank * place.out).view({rank, place.out});
        expected[token]
            .narrow(0, place.y_begin, place.out)
            .add_(x[token].to(at::kDouble).matmul(a.t()).matmul(b),
                  adapters.scales[token].item<double>());
      }
    }
    return expected;
  }

  static AdapterRows OnDevice(const AdapterRows& host) {
    const at::Device device = TestDevice();
    return {host.pool.to(device), host.rows.to(device), host.ranks.to(device),
            host.scales.to(device), host.max_rank};
  }

  int64_t elements_ = 0;
  int64_t width_ = 0;
};

std::string Name(const testing::TestParamInfo<std::tuple<at::ScalarType, int>>& info) {
  return std::string(c10::toString(std::get<0>(info.param))) +
         std::to_string(std::get<1>(info.param));
}

INSTANTIATE_TEST_SUITE_P(TypesAndShapes, AdapterRowsTest,
                         testing::Combine(testing::Values(at::kFloat, at::kBFloat16),
                                          testing::Range(0, 4)),
                         Name);

TEST_P(AdapterRowsTest, EachTokenMeetsTheAdapterOfItsRow) {
  const std::vector<AdapterPlace> places = Places();
  const int64_t top = shape().max_rank;
  const std::vector<int64_t> row_ranks = {top, 1, std::max<int64_t>(1, top / 2), top, 2};
  const std::vector<int64_t> rows = {2, -1, 0, 4, 0, 1};
  std::vector<int64_t> ranks;
  for (const int64_t row : rows) ranks.push_back(row < 0 ? 0 : row_ranks[static_cast<size_t>(row)]);
  const int64_t tokens = static_cast<int64_t>(rows.size());
  const AdapterRows host{Pool(places, row_ranks), at::tensor(rows, at::kLong),
                         at::tensor(ranks, at::kLong),
                         at::tensor({1.0f, 9.0f, 0.5f, 2.0f, 0.25f, 0.0f}), top};
  const at::Tensor x = at::randn({tokens, shape().in}).to(type());
  const at::Tensor y = at::randn({tokens, width_}).to(type());
  const at::Tensor expected = Expected(x, host, places, y);

  const at::Tensor actual = y.to(TestDevice()).clone();
  AddAdapterRows(TestDeviceOps(), x.to(TestDevice()), OnDevice(host), places, actual);
  const at::Tensor difference = (actual.cpu().to(at::kDouble) - expected).abs();
  EXPECT_LT(difference.max().item<double>(), tolerance() * expected.abs().max().item<double>());
  // No adapter, or one of scale zero: not a bit changes.
  EXPECT_TRUE(actual.cpu()[1].equal(y[1]));
  EXPECT_TRUE(actual.cpu()[5].equal(y[5]));
}

TEST_P(AdapterRowsTest, WithoutAPoolNothingHappens) {
  const at::Tensor x = at::randn({2, shape().in}).to(type()).to(TestDevice());
  const at::Tensor y = at::randn({2, 4}).to(type()).to(TestDevice());
  const at::Tensor before = y.clone();
  AddAdapterRows(TestDeviceOps(), x, {}, {{0, 0, 0, 4}}, y);
  EXPECT_TRUE(y.equal(before));
}

}  // namespace
}  // namespace mayfly
