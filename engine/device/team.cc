#include "engine/device/team.h"

#include <omp.h>

#include <ATen/Parallel.h>

namespace mayfly {

void UseTeam(int32_t threads) {
  if (at::get_num_threads() == threads) return;
  ReleaseTeam();
  at::set_num_threads(threads);
}

void ReleaseTeam() { omp_pause_resource(omp_pause_soft, omp_get_initial_device()); }

}  // namespace mayfly
