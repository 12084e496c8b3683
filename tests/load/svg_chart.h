#pragma once

// A line chart as inline SVG. Colours come from the page's classes (`line0` to `line3`, `grid`), so
// that they follow light and dark. Pure.

#include <string>
#include <utility>
#include <vector>

namespace mayfly::load {

struct Series {
  std::string name;
  // Ascending in x.
  std::vector<std::pair<double, double>> points;
};

struct Chart {
  std::string title;
  std::string x_label;
  std::string y_label;
  std::vector<Series> series;
  // Where the x axis is marked, and how; empty: at round numbers.
  std::vector<std::pair<double, std::string>> x_ticks;
};

// Empty when there is nothing to draw.
std::string SvgChart(const Chart& chart);

// `text` with what HTML takes for its own written out.
std::string EscapeHtml(const std::string& text);

}  // namespace mayfly::load
