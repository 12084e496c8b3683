#pragma once

// Certificates for a test, made when it runs: an authority and what it signs, as PEM.

#include <cstdint>
#include <string>

namespace mayfly {

struct TestCertificate {
  std::string certificate;
  std::string key;
};

// Signs for 127.0.0.1 and localhost. Each authority has a key of its own.
class TestAuthority {
 public:
  TestAuthority();

  // For clients to trust, or for servers.
  const std::string& certificate() const { return own_.certificate; }
  // `name` is the subject's; valid from a day before now until `expiry_unix_seconds`.
  TestCertificate Issue(const std::string& name, int64_t expiry_unix_seconds = 4'000'000'000) const;

 private:
  TestCertificate own_;
};

}  // namespace mayfly
