#pragma once

// Where a TLS listener's certificates lie; all PEM. Plain data.

#include <string>

namespace mayfly {

struct TlsFiles {
  // Both or neither: plaintext.
  std::string cert;
  std::string key;
  // Empty: clients need no certificate.
  std::string client_ca;

  bool enabled() const { return !cert.empty(); }
};

}  // namespace mayfly
