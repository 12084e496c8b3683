#include "tests/load/svg_chart.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace mayfly::load {
namespace {

constexpr double kWidth = 640, kHeight = 260;
constexpr double kLeft = 56, kRight = 12, kTop = 34, kBottom = 40;
constexpr size_t kColours = 4;

// One axis: values from `low` to `high` onto pixels.
struct Axis {
  double low = 0, high = 1;
  double first_pixel = 0, last_pixel = 1;

  double Pixel(double value) const {
    return first_pixel + (value - low) / (high - low) * (last_pixel - first_pixel);
  }
};

// 1, 2 or 5 times a power of ten, so that about five of them cover `span`.
double Step(double span) {
  const double power = std::pow(10, std::floor(std::log10(span / 5)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (span / (factor * power) <= 6) return factor * power;
  }
  return 10 * power;
}

std::vector<std::pair<double, std::string>> RoundTicks(double low, double high) {
  const double step = Step(high - low);
  std::vector<std::pair<double, std::string>> ticks;
  for (double at = std::ceil(low / step) * step; at <= high + step * 1e-6; at += step) {
    ticks.emplace_back(at, absl::StrFormat("%g", std::abs(at) < step * 1e-6 ? 0 : at));
  }
  return ticks;
}

std::string Text(double x, double y, const char* anchor, const std::string& text) {
  return absl::StrFormat("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", x, y, anchor,
                         EscapeHtml(text));
}

std::string Line(double x1, double y1, double x2, double y2) {
  return absl::StrFormat("<line class=\"grid\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n",
                         x1, y1, x2, y2);
}

std::string Grid(const Chart& chart, const Axis& x, const Axis& y) {
  std::string svg;
  for (const auto& [value, label] : RoundTicks(y.low, y.high)) {
    absl::StrAppend(&svg, Line(kLeft, y.Pixel(value), kWidth - kRight, y.Pixel(value)),
                    Text(kLeft - 6, y.Pixel(value) + 4, "end", label));
  }
  const auto x_ticks = chart.x_ticks.empty() ? RoundTicks(x.low, x.high) : chart.x_ticks;
  for (const auto& [value, label] : x_ticks) {
    if (value > x.high) continue;
    absl::StrAppend(&svg, Line(x.Pixel(value), kTop, x.Pixel(value), kHeight - kBottom),
                    Text(x.Pixel(value), kHeight - kBottom + 16, "middle", label));
  }
  return svg;
}

std::string Polyline(const Series& series, size_t colour, const Axis& x, const Axis& y) {
  std::string points;
  for (const auto& [at, value] : series.points) {
    absl::StrAppendFormat(&points, "%.1f,%.1f ", x.Pixel(at), y.Pixel(value));
  }
  return absl::StrFormat("<polyline class=\"line%d\" points=\"%s\"/>\n", colour % kColours, points);
}

std::string Legend(const Chart& chart) {
  std::string svg;
  double right = kWidth - kRight;
  for (size_t i = chart.series.size(); i-- > 0;) {
    const std::string& name = chart.series[i].name;
    absl::StrAppend(&svg, Text(right, 14, "end", name));
    right -= 7.0 * static_cast<double>(name.size()) + 8;
    absl::StrAppendFormat(&svg, "<polyline class=\"line%d\" points=\"%.1f,10 %.1f,10\"/>\n",
                          i % kColours, right - 16, right);
    right -= 28;
  }
  return svg;
}

}  // namespace

std::string EscapeHtml(const std::string& text) {
  return absl::StrReplaceAll(text,
                             {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

std::string SvgChart(const Chart& chart) {
  Axis x{0, 0, kLeft, kWidth - kRight};
  Axis y{0, 0, kHeight - kBottom, kTop};
  for (const Series& series : chart.series) {
    for (const auto& [at, value] : series.points) {
      x.high = std::max(x.high, at);
      y.high = std::max(y.high, value);
      y.low = std::min(y.low, value);
    }
  }
  if (x.high <= x.low) return "";
  if (y.high <= y.low) y.high = y.low + 1;
  std::string svg = absl::StrFormat("<svg viewBox=\"0 0 %g %g\" role=\"img\" aria-label=\"%s\">\n",
                                    kWidth, kHeight, EscapeHtml(chart.title));
  absl::StrAppend(&svg, Text(4, 14, "start", absl::StrCat(chart.title, ", ", chart.y_label)),
                  Text(kWidth - kRight, kHeight - 6, "end", chart.x_label), Grid(chart, x, y),
                  Legend(chart));
  for (size_t i = 0; i < chart.series.size(); ++i) {
    absl::StrAppend(&svg, Polyline(chart.series[i], i, x, y));
  }
  return absl::StrCat(svg, "</svg>\n");
}

}  // namespace mayfly::load
