#include "server/auth.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/status_macros.h"
#include "server/secrets/crypto.h"

namespace mayfly {
namespace {

constexpr char kWantLine[] = "want TOKEN TENANT [admin]";

std::vector<absl::string_view> Fields(absl::string_view line) {
  std::vector<absl::string_view> fields =
      absl::StrSplit(line, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
  const auto comment = std::find_if(fields.begin(), fields.end(), [](absl::string_view field) {
    return absl::StartsWith(field, "#");
  });
  fields.erase(comment, fields.end());
  return fields;
}

bool IsPrintable(absl::string_view field) {
  return std::all_of(field.begin(), field.end(), absl::ascii_isgraph);
}

absl::StatusOr<TokenList::Entry> ParseEntry(const std::vector<absl::string_view>& fields) {
  const bool admin = fields.size() == 3 && fields[2] == "admin";
  if (fields.size() != 2 && !admin) return absl::InvalidArgumentError(kWantLine);
  if (!IsPrintable(fields[0]) || !IsPrintable(fields[1])) {
    return absl::InvalidArgumentError(absl::StrCat(kWantLine, " in visible ASCII characters"));
  }
  return TokenList::Entry{Sha256(fields[0]), std::string(fields[1]), admin};
}

// The token of "Bearer TOKEN"; nothing for any other header, or for several.
absl::string_view BearerToken(const grpc::CallbackServerContext& context) {
  constexpr absl::string_view kScheme = "bearer ";
  const auto [first, last] = context.client_metadata().equal_range("authorization");
  if (first == last || std::next(first) != last) return "";
  const absl::string_view value(first->second.data(), first->second.size());
  if (!absl::StartsWithIgnoreCase(value, kScheme)) return "";
  return absl::StripAsciiWhitespace(value.substr(kScheme.size()));
}

}  // namespace

absl::StatusOr<TokenList> TokenList::Parse(absl::string_view text) {
  TokenList list;
  int number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    const std::vector<absl::string_view> fields = Fields(line);
    if (fields.empty()) continue;
    absl::StatusOr<Entry> entry = ParseEntry(fields);
    if (entry.ok() && list.Find(fields[0]) != nullptr) {
      entry = absl::InvalidArgumentError("its token is also on a line before");
    }
    if (!entry.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", number, ": ", entry.status().message()));
    }
    list.entries_.push_back(*std::move(entry));
  }
  if (list.entries_.empty()) return absl::InvalidArgumentError("holds no token");
  return list;
}

const TokenList::Entry* TokenList::Find(absl::string_view token) const {
  const std::string digest = Sha256(token);
  const Entry* found = nullptr;
  for (const Entry& entry : entries_) {
    if (CRYPTO_memcmp(entry.token_digest.data(), digest.data(), digest.size()) == 0) found = &entry;
  }
  return found;
}

absl::StatusOr<std::unique_ptr<Authenticator>> Authenticator::Create(const Options& options,
                                                                     SecurityMetrics* metrics,
                                                                     const Logger* logger) {
  std::unique_ptr<Authenticator> authenticator(new Authenticator(options, metrics, logger));
  if (!options.tokens_file.empty()) MAYFLY_RETURN_IF_ERROR(authenticator->ReadTokens());
  return authenticator;
}

Authenticator::Authenticator(const Options& options, SecurityMetrics* metrics, const Logger* logger)
    : options_(options), metrics_(metrics), logger_(logger), files_({options.tokens_file}) {}

absl::Status Authenticator::ReadTokens() {
  const auto contents = files_.ReadIfChanged();
  if (!contents) return absl::OkStatus();
  if (!contents->ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--auth_tokens_file=", contents->status().message()));
  }
  absl::StatusOr<TokenList> list = TokenList::Parse((**contents)[0]);
  if (!list.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--auth_tokens_file=", options_.tokens_file, ": ", list.status().message()));
  }
  logger_->Info("auth_tokens_loaded", {{"file", options_.tokens_file}, {"tokens", list->size()}});
  MutexLock lock(&mu_);
  tokens_ = std::make_shared<const TokenList>(*std::move(list));
  return absl::OkStatus();
}

void Authenticator::Reload() {
  if (options_.tokens_file.empty()) return;
  const absl::Status status = ReadTokens();
  if (status.ok()) return;
  metrics_->auth_reload_failures.Increment();
  logger_->Error("auth_tokens_reload_failed", {{"error", status.message()}});
}

absl::StatusOr<Caller> Authenticator::Authenticate(
    const grpc::CallbackServerContext& context) const {
  if (options_.tokens_file.empty()) {
    return Caller{{.tenant = "", .peer = context.peer()}, options_.anonymous_admin};
  }
  const absl::string_view token = BearerToken(context);
  if (token.empty()) {
    return absl::UnauthenticatedError("the call carries no bearer token in `authorization`");
  }
  std::shared_ptr<const TokenList> tokens;
  {
    MutexLock lock(&mu_);
    tokens = tokens_;
  }
  const TokenList::Entry* const entry = tokens->Find(token);
  if (entry == nullptr) return absl::UnauthenticatedError("the bearer token is not valid");
  return Caller{{.tenant = entry->tenant, .peer = context.peer()}, entry->admin};
}

}  // namespace mayfly
