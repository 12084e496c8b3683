#include "tests/engine/text/goldens.h"

#include <filesystem>
#include <utility>

#include "absl/status/statusor.h"
#include "engine/text/read_file.h"

namespace mayfly {
namespace {

const char kDefaultModel[] = "models/smollm2-135m-instruct";

}  // namespace

nlohmann::json ReadGolden(const std::string& name) {
  const absl::StatusOr<std::string> text = ReadFile("tests/engine/text/goldens/" + name);
  EXPECT_TRUE(text.ok()) << text.status();
  return nlohmann::json::parse(text.value());
}

std::unique_ptr<Tokenizer> GoldenTokenizer(const std::string& name) {
  if (name == "smollm2") {
    if (!std::filesystem::exists(kDefaultModel)) return nullptr;
    return Tokenizer::Load(kDefaultModel).value();
  }
  const std::string path = "tests/engine/text/goldens/tokenizers/" + name + ".json";
  return Tokenizer::FromJson(ReadFile(path).value()).value();
}

}  // namespace mayfly
