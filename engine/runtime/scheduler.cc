#include "engine/runtime/scheduler.h"

#include <algorithm>
#include <tuple>

namespace mayfly {

int64_t StepPlan::tokens() const {
  int64_t total = 0;
  for (const StepSlice& slice : slices) total += slice.tokens;
  return total;
}

bool StepPlan::decodes() const {
  return std::any_of(slices.begin(), slices.end(), [](const StepSlice& s) { return s.decode; });
}

// ---- Fair shares -----------------------------------------------------------------------------

void FairShare::SetActive(const std::set<int32_t>& tenants) {
  for (const int32_t tenant : tenants) {
    int64_t& served = served_[tenant];
    if (!active_.contains(tenant)) served = std::max(served, level_);
  }
  if (!tenants.empty()) {
    const int32_t least =
        *std::min_element(tenants.begin(), tenants.end(),
                          [this](int32_t a, int32_t b) { return served_.at(a) < served_.at(b); });
    level_ = std::max(level_, served_.at(least));
  }
  active_ = tenants;
  // Who is away and not ahead would start level anyway.
  std::erase_if(served_, [this](const auto& entry) {
    return !active_.contains(entry.first) && entry.second <= level_;
  });
}

int64_t FairShare::served(int32_t tenant) const {
  const auto it = served_.find(tenant);
  return it == served_.end() ? level_ : it->second;
}

// ---- Plans -------------------------------------------------------------------------------------

StepPlan Scheduler::Next(const StepDemand& demand) {
  std::set<int32_t> tenants;
  std::vector<RowDemand> decoding, feeding;
  for (const RowDemand& row : demand.rows) {
    if (row.tokens == 0) continue;
    (row.decode ? decoding : feeding).push_back(row);
    tenants.insert(row.tenant);
  }
  for (const UpdateDemand& update : demand.updates) tenants.insert(update.tenant);
  share_.SetActive(tenants);
  ++turn_;

  StepPlan plan;
  const bool mixed = !decoding.empty() && !feeding.empty();
  const int64_t kept = mixed ? std::max<int64_t>(1, options_.step_tokens / 8) : 0;
  PlanDecodes(std::move(decoding), std::max<int64_t>(1, options_.step_tokens - kept), &plan);
  int64_t room = std::max<int64_t>(1, options_.step_tokens - plan.tokens());
  if (mixed && demand.feed_beside_decode > 0) room = std::min(room, demand.feed_beside_decode);
  PlanFeeds(std::move(feeding), room, &plan);
  if (demand.trainer_is_free) PlanUpdates(demand.updates, &plan);
  return plan;
}

void Scheduler::PlanDecodes(std::vector<RowDemand> rows, int64_t budget, StepPlan* plan) {
  for (; budget > 0 && !rows.empty(); --budget) {
    const auto next = NextRow(rows);
    Serve(*next, 1, plan);
    rows.erase(next);
  }
}

void Scheduler::PlanFeeds(std::vector<RowDemand> rows, int64_t budget, StepPlan* plan) {
  while (budget > 0 && !rows.empty()) {
    const auto next = NextRow(rows);
    const int64_t most = options_.whole_pieces ? options_.step_tokens : budget;
    const int64_t tokens = std::min(most, next->tokens);
    Serve(*next, tokens, plan);
    budget -= tokens;
    rows.erase(next);
  }
}

// The least served tenant's oldest update begins; others join it while they fit.
void Scheduler::PlanUpdates(std::vector<UpdateDemand> updates, StepPlan* plan) {
  int64_t budget = options_.update_tokens;
  while (!updates.empty() && plan->updates.size() < static_cast<size_t>(options_.update_group)) {
    const auto next = std::min_element(updates.begin(), updates.end(),
                                       [this](const UpdateDemand& a, const UpdateDemand& b) {
                                         return share_.served(a.tenant) < share_.served(b.tenant);
                                       });
    const UpdateDemand update = *next;
    updates.erase(next);
    const bool first = plan->updates.empty();
    if (!first && (update.alone || update.tokens > budget)) continue;
    plan->updates.push_back(update.row);
    share_.Charge(update.tenant, update.service);
    budget -= update.tokens;
    if (update.alone) return;
  }
}

std::vector<RowDemand>::iterator Scheduler::NextRow(std::vector<RowDemand>& rows) const {
  const auto key = [this](const RowDemand& demand) {
    const auto turn = last_turn_.find(demand.row);
    return std::tuple(share_.served(demand.tenant), turn == last_turn_.end() ? 0 : turn->second,
                      demand.row);
  };
  return std::min_element(rows.begin(), rows.end(),
                          [&](const RowDemand& a, const RowDemand& b) { return key(a) < key(b); });
}

void Scheduler::Serve(const RowDemand& demand, int64_t tokens, StepPlan* plan) {
  plan->slices.push_back({demand.row, tokens, demand.decode});
  share_.Charge(demand.tenant, tokens);
  last_turn_[demand.row] = turn_;
}

}  // namespace mayfly
