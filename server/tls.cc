#include "server/tls.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <algorithm>
#include <ctime>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/mutex.h"
#include "engine/base/status_macros.h"
#include "grpc/grpc.h"
#include "grpc/grpc_security.h"
#include "server/secrets/freed.h"

namespace mayfly {
namespace {

using Bio = std::unique_ptr<BIO, Freed<BIO_free>>;
using Certificate = std::unique_ptr<X509, Freed<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY_free>>;
using Context = std::unique_ptr<SSL_CTX, Freed<SSL_CTX_free>>;

struct PemFiles {
  std::string cert;
  std::string key;
  std::string client_ca;
};

// OpenSSL's oldest complaint, for an error's end; clears them all.
std::string Why() {
  const char* const reason = ERR_reason_error_string(ERR_peek_error());
  ERR_clear_error();
  return reason == nullptr ? "" : absl::StrCat(" (", reason, ")");
}

Bio Open(const std::string& pem) {
  return Bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

// Never asks on a terminal.
int NoPassphrase(char*, int, int, void*) { return 0; }

absl::StatusOr<std::vector<Certificate>> ParseCertificates(absl::string_view flag,
                                                           const std::string& path,
                                                           const std::string& pem) {
  std::vector<Certificate> certificates;
  const Bio bio = Open(pem);
  while (X509* certificate = PEM_read_bio_X509(bio.get(), nullptr, NoPassphrase, nullptr)) {
    certificates.emplace_back(certificate);
  }
  // The end of the file is an error like any other.
  const bool whole = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  if (whole && !certificates.empty()) {
    ERR_clear_error();
    return certificates;
  }
  return absl::InvalidArgumentError(
      absl::StrCat(flag, "=", path, ": want certificates in PEM", Why()));
}

// Asks OpenSSL what gRPC would ask it: do key and certificate fit, and are they strong enough?
absl::Status CheckPair(const TlsFiles& files, X509* certificate, const std::string& key_pem) {
  const Bio bio = Open(key_pem);
  const Key key(PEM_read_bio_PrivateKey(bio.get(), nullptr, NoPassphrase, nullptr));
  if (key == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tls_key=", files.key, ": want an unencrypted private key in PEM", Why()));
  }
  const Context context(SSL_CTX_new(TLS_method()));
  if (SSL_CTX_use_certificate(context.get(), certificate) != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tls_cert=", files.cert, ": cannot be used", Why()));
  }
  if (SSL_CTX_use_PrivateKey(context.get(), key.get()) == 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "--tls_key=", files.key, ": does not fit the certificate --tls_cert=", files.cert, Why()));
}

double UnixSeconds(const ASN1_TIME* time) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return 0;
  return static_cast<double>(timegm(&parts));
}

// A chain is good until its first certificate is not.
double Expiry(const std::vector<Certificate>& chain) {
  std::vector<double> expiries;
  for (const Certificate& certificate : chain) {
    expiries.push_back(UnixSeconds(X509_get0_notAfter(certificate.get())));
  }
  return *std::min_element(expiries.begin(), expiries.end());
}

// The chain's expiry, if gRPC can use all of these.
absl::StatusOr<double> Check(const TlsFiles& files, const PemFiles& pem) {
  ERR_clear_error();
  MAYFLY_ASSIGN_OR_RETURN(const std::vector<Certificate> chain,
                          ParseCertificates("--tls_cert", files.cert, pem.cert));
  MAYFLY_RETURN_IF_ERROR(CheckPair(files, chain.front().get(), pem.key));
  if (!files.client_ca.empty()) {
    MAYFLY_RETURN_IF_ERROR(
        ParseCertificates("--tls_client_ca", files.client_ca, pem.client_ca).status());
  }
  return Expiry(chain);
}

std::vector<std::string> Paths(const TlsFiles& files) {
  std::vector<std::string> paths = {files.cert, files.key};
  if (!files.client_ca.empty()) paths.push_back(files.client_ca);
  return paths;
}

// `message` begins with a path; which flag is that?
absl::string_view FlagOf(const TlsFiles& files, absl::string_view message) {
  const absl::string_view path = message.substr(0, message.find(": "));
  if (path == files.cert) return "--tls_cert";
  return path == files.key ? "--tls_key" : "--tls_client_ca";
}

}  // namespace

// Handed from the thread that reads files to those that shake hands.
class TlsCertificates::Source {
 public:
  void Set(PemFiles pem) {
    MutexLock lock(&mu_);
    pem_ = std::move(pem);
    changed_ = true;
  }

  // grpc_ssl_server_certificate_config_callback; one call at a time.
  static grpc_ssl_certificate_config_reload_status Fetch(
      void* source, grpc_ssl_server_certificate_config** config) {
    return static_cast<Source*>(source)->FetchInto(config);
  }

 private:
  grpc_ssl_certificate_config_reload_status FetchInto(grpc_ssl_server_certificate_config** config) {
    MutexLock lock(&mu_);
    if (!std::exchange(changed_, false)) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    const grpc_ssl_pem_key_cert_pair pair{pem_.key.c_str(), pem_.cert.c_str()};
    // The core insists on an authority, which it asks only where clients need a certificate.
    const std::string& authority = pem_.client_ca.empty() ? pem_.cert : pem_.client_ca;
    *config = grpc_ssl_server_certificate_config_create(authority.c_str(), &pair, 1);
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

  Mutex mu_;
  PemFiles pem_ ABSL_GUARDED_BY(mu_);
  bool changed_ ABSL_GUARDED_BY(mu_) = false;
};

namespace {

// The core's credentials under the C++ interface, which wraps no fetcher itself.
class FetchedCredentials final : public grpc::ServerCredentials {
 public:
  explicit FetchedCredentials(grpc_server_credentials* credentials) : credentials_(credentials) {}

  // Not used: tokens are checked where calls are answered.
  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_.get());
  }

  const std::unique_ptr<grpc_server_credentials, Freed<grpc_server_credentials_release>>
      credentials_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TlsCertificates>> TlsCertificates::Create(const TlsFiles& files,
                                                                         SecurityMetrics* metrics,
                                                                         const Logger* logger) {
  std::unique_ptr<TlsCertificates> certificates(new TlsCertificates(files, metrics, logger));
  MAYFLY_RETURN_IF_ERROR(certificates->Read());
  return certificates;
}

TlsCertificates::TlsCertificates(const TlsFiles& files, SecurityMetrics* metrics,
                                 const Logger* logger)
    : files_(files),
      metrics_(metrics),
      logger_(logger),
      source_(std::make_unique<Source>()),
      watched_(Paths(files)) {}

TlsCertificates::~TlsCertificates() = default;

absl::Status TlsCertificates::Read() {
  const auto contents = watched_.ReadIfChanged();
  if (!contents) return absl::OkStatus();
  if (!contents->ok()) {
    const absl::string_view message = contents->status().message();
    return absl::InvalidArgumentError(absl::StrCat(FlagOf(files_, message), "=", message));
  }
  const std::vector<std::string>& pem = **contents;
  PemFiles files{pem[0], pem[1], pem.size() > 2 ? pem[2] : ""};
  MAYFLY_ASSIGN_OR_RETURN(const double expiry, Check(files_, files));
  source_->Set(std::move(files));
  metrics_->tls_expiry.Set(expiry);
  logger_->Info("tls_certificate_loaded",
                {{"file", files_.cert}, {"expiry_unix_seconds", static_cast<int64_t>(expiry)}});
  return absl::OkStatus();
}

void TlsCertificates::Reload() {
  const absl::Status status = Read();
  if (status.ok()) return;
  metrics_->tls_reload_failures.Increment();
  logger_->Error("tls_reload_failed", {{"error", status.message()}});
}

std::shared_ptr<grpc::ServerCredentials> TlsCertificates::credentials() const {
  const auto request = files_.client_ca.empty()
                           ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                           : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY;
  grpc_server_credentials* const credentials = grpc_ssl_server_credentials_create_with_options(
      grpc_ssl_server_credentials_create_options_using_config_fetcher(request, &Source::Fetch,
                                                                      source_.get()));
  return std::make_shared<FetchedCredentials>(credentials);
}

}  // namespace mayfly
