#pragma once

// The calling thread's team: the OpenMP workers that at::parallel_for in it uses. Every thread that
// has run in parallel keeps a team of its own, and once a process has more workers than cores,
// OpenMP's threads sleep between parallel sections instead of spinning, which halves the speed of
// short steps. So a thread that will not run in parallel for a while lets its team go.

#include <cstdint>

namespace mayfly {

// From the next parallel section on; a team of another size goes.
void UseTeam(int32_t threads);

// The next parallel section starts a new team of the same size, in some tens of microseconds.
void ReleaseTeam();

}  // namespace mayfly
