#pragma once

// Continuous batching: picks which rows run in the next step and with how many tokens, and which
// updates begin. Pure data in and out; what it remembers is who was served how much. Owned by the
// engine loop.
//
// Every row that decodes gets its one token while the step has room. What is left of the step's
// tokens goes to rows that feed (prefill, refresh, scoring). Wherever not all can be served, the
// tenant that has been served least comes first, and within a tenant the row that has waited
// longest; so no row waits for ever, and tenants that always have work get the same service
// whatever the number of their sessions. Service is counted in tokens, training included.

#include <cstdint>
#include <map>
#include <set>
#include <vector>

namespace mayfly {

// What a row could do now.
struct RowDemand {
  int32_t row = 0;
  int32_t tenant = 0;
  // Tokens it could feed; 1 for a row that decodes.
  int64_t tokens = 0;
  bool decode = false;
};

// An update that could begin now. Oldest first.
struct UpdateDemand {
  int32_t row = 0;
  int32_t tenant = 0;
  // Tokens of its training pass, and what all its passes cost in tokens of service.
  int64_t tokens = 0;
  int64_t service = 0;
  // Shares no pass with others.
  bool alone = false;
};

struct StepDemand {
  // One a row, in ascending order.
  std::vector<RowDemand> rows;
  std::vector<UpdateDemand> updates = {};
  // Tokens that rows may feed beside rows that decode; 0: as many as the step has room for.
  int64_t feed_beside_decode = 0;
  // Nobody trains, so that a group of updates may begin.
  bool trainer_is_free = false;
};

// What a row does in this step.
struct StepSlice {
  int32_t row = 0;
  int64_t tokens = 0;
  bool decode = false;

  bool operator==(const StepSlice&) const = default;
};

struct StepPlan {
  std::vector<StepSlice> slices;
  // Rows whose updates begin now, in one training pass.
  std::vector<int32_t> updates;

  int64_t tokens() const;
  bool decodes() const;
};

// How much each tenant has been served, in tokens, after the virtual token counter of Sheng et al.
// (arXiv 2401.00588): who comes back after a pause starts level with the least served of those that
// stayed, so that idling saves nothing up.
class FairShare {
 public:
  // The tenants that have work now.
  void SetActive(const std::set<int32_t>& tenants);
  void Charge(int32_t tenant, int64_t tokens) { served_[tenant] += tokens; }
  int64_t served(int32_t tenant) const;

 private:
  std::map<int32_t, int64_t> served_;
  std::set<int32_t> active_;
  int64_t level_ = 0;
};

struct SchedulerOptions {
  // Tokens of a step.
  int64_t step_tokens = 512;
  // A row that feeds gets all it asks for up to step_tokens or nothing, so that the shapes it is
  // computed in depend on its own stream alone.
  bool whole_pieces = false;
  // Tokens and sessions of one training pass.
  int64_t update_tokens = 1024;
  int32_t update_group = 4;
};

class Scheduler {
 public:
  explicit Scheduler(const SchedulerOptions& options) : options_(options) {}

  // A step in which some row feeds and others decode serves both: at least an eighth of its tokens
  // is kept for either.
  StepPlan Next(const StepDemand& demand);

 private:
  void PlanDecodes(std::vector<RowDemand> rows, int64_t budget, StepPlan* plan);
  void PlanFeeds(std::vector<RowDemand> rows, int64_t budget, StepPlan* plan);
  void PlanUpdates(std::vector<UpdateDemand> updates, StepPlan* plan);
  // The next to be served; `rows` is not empty.
  std::vector<RowDemand>::iterator NextRow(std::vector<RowDemand>& rows) const;
  void Serve(const RowDemand& demand, int64_t tokens, StepPlan* plan);

  const SchedulerOptions options_;
  FairShare share_;
  uint64_t turn_ = 0;
  // The turn in which a row was served last.
  std::map<int32_t, uint64_t> last_turn_;
};

}  // namespace mayfly
