#pragma once

// The flags that several commands share, as tables over the messages they fill.

#include <string>
#include <vector>

#include "client/channel.h"
#include "client/flags.h"
#include "mayfly/v1/session.pb.h"

namespace mayfly::cli {

struct OutputFlags {
  // The address may be empty: the environment's.
  ChannelOptions server;
  bool json = false;
};

// How to reach the server.
std::vector<Flag> ServerFlags(ChannelOptions* target);
FlagGroup OutputFlagGroup(OutputFlags* target);

// What becomes of a session beyond its end; empty: nothing.
struct KeepFlags {
  std::string export_peft;
  std::string export_snapshot;
  std::string resume_from;
  bool resume = false;
};

FlagGroup KeepFlagGroup(KeepFlags* target);

// Everything that a session is opened with but sampling: window, seed, label.
FlagGroup SessionFlagGroup(v1::Open* target);
// Every option of algorithm.md's list; --adaptation is the preset.
FlagGroup AdaptationFlagGroup(v1::AdaptationOptions* target);
FlagGroup SamplingFlagGroup(v1::SamplingOptions* target);

// When a generation stops.
std::vector<Flag> StopFlags(v1::Generate* target);

}  // namespace mayfly::cli
