#include "client/commands/info_command.h"

#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/command_session.h"
#include "client/human_format.h"
#include "client/json_lines.h"
#include "engine/base/status_macros.h"

namespace mayfly::cli {
namespace {

constexpr auto kTimeout = std::chrono::seconds(10);

absl::StatusOr<v1::GetServerInfoResponse> GetServerInfo(const OutputFlags& flags,
                                                        const Environment& env) {
  MAYFLY_ASSIGN_OR_RETURN(const auto channel, Connect(flags, env));
  const auto stub = v1::InferenceService::NewStub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kTimeout);
  v1::GetServerInfoResponse info;
  const grpc::Status status = stub->GetServerInfo(&context, v1::GetServerInfoRequest(), &info);
  if (!status.ok()) return ExplainStatus(ToAbslStatus(status), ServerAddress(flags, env));
  return info;
}

std::string Row(const char* name, const std::string& value) {
  return absl::StrFormat("  %-12s%s\n", name, value);
}

std::string ModelText(const v1::ModelInfo& model) {
  return absl::StrCat(model.name(), " (", model.architecture(), ", ",
                      Parameters(model.parameters()), " parameters, ",
                      Counted(model.layers(), "layer"), ", vocabulary ",
                      Thousands(model.vocabulary()), ", ", Thousands(model.max_positions()),
                      " positions", model.has_chat_template() ? ", chat template" : "", ")");
}

std::string RowsText(const v1::GetServerInfoResponse& info) {
  const v1::RowBytes& bytes = info.row_bytes();
  return absl::StrCat(info.rows_free(), " of ", info.rows_total(), " free; ",
                      Bytes(bytes.kv() + bytes.adapter() + bytes.optimizer()), " each: kv ",
                      Bytes(bytes.kv()), ", adapter ", Bytes(bytes.adapter()), ", optimizer ",
                      Bytes(bytes.optimizer()));
}

std::string MemoryText(const v1::MemoryAccount& memory) {
  const uint64_t passing = memory.activation() + memory.logits() + memory.update();
  const uint64_t fixed = memory.process() + memory.weights() + memory.base_row();
  return absl::StrCat(Bytes(fixed + memory.rows() + passing), " at full load: process ",
                      Bytes(memory.process()), ", weights ", Bytes(memory.weights()), ", rows ",
                      Bytes(memory.rows() + memory.base_row()), ", steps and updates ",
                      Bytes(passing));
}

std::string LimitsText(const v1::Limits& limits) {
  return absl::StrCat("window ", Thousands(limits.window_tokens()), " tokens, rank ",
                      limits.max_rank(), ", append ", Thousands(limits.max_append_tokens()),
                      " tokens, generate ", Thousands(limits.max_generate_tokens()), " tokens");
}

// "rank 16, alpha 16, ..." from every field that is set.
std::string FieldsText(const google::protobuf::Message& message) {
  const Json json = ToJson(message);
  std::vector<std::string> fields;
  for (const auto& [name, value] : json.items()) {
    fields.push_back(
        absl::StrCat(name, " ", value.is_string() ? value.get<std::string>() : value.dump()));
  }
  return absl::StrJoin(fields, ", ");
}

std::string InfoText(const v1::GetServerInfoResponse& info, const std::string& address) {
  return absl::StrCat(
      "mayflyd ", info.version(), " at ", address, "\n", Row("model", ModelText(info.model())),
      Row("device", absl::StrCat(info.device(), ", ", info.dtype())), Row("rows", RowsText(info)),
      Row("memory", MemoryText(info.memory())), Row("limits", LimitsText(info.limits())),
      Row("adaptation", FieldsText(info.default_adaptation())),
      Row("sampling", FieldsText(info.default_sampling())));
}

}  // namespace

std::vector<FlagGroup> InfoCommand::Flags() { return {OutputFlagGroup(&output_)}; }

absl::Status InfoCommand::SetArguments(const std::vector<std::string>& arguments) {
  if (arguments.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("unexpected argument '", arguments[0], "'"));
}

absl::Status InfoCommand::Run(Environment& env) {
  MAYFLY_ASSIGN_OR_RETURN(const v1::GetServerInfoResponse info, GetServerInfo(output_, env));
  if (output_.json) {
    WriteJsonLine(env.out, "info", ToJson(info));
  } else {
    env.out << InfoText(info, ServerAddress(output_, env)) << std::flush;
  }
  return absl::OkStatus();
}

}  // namespace mayfly::cli
