#include "tests/support/certificates.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <ctime>
#include <memory>

#include "server/secrets/freed.h"

namespace mayfly {
namespace {

using Bio = std::unique_ptr<BIO, Freed<BIO_free>>;
using Certificate = std::unique_ptr<X509, Freed<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY_free>>;

constexpr int64_t kDaySeconds = 24 * 3600;

std::string Text(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return std::string(data, static_cast<size_t>(size));
}

TestCertificate ToPem(X509* certificate, EVP_PKEY* key) {
  const Bio certificate_pem(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509(certificate_pem.get(), certificate);
  const Bio key_pem(BIO_new(BIO_s_mem()));
  PEM_write_bio_PrivateKey(key_pem.get(), key, nullptr, nullptr, 0, nullptr, nullptr);
  return {Text(certificate_pem.get()), Text(key_pem.get())};
}

void AddExtension(X509* certificate, X509* issuer, int kind, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* const extension = X509V3_EXT_conf_nid(nullptr, &context, kind, value);
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

Certificate Unsigned(const std::string& name, EVP_PKEY* key, int64_t expiry_unix_seconds) {
  Certificate certificate(X509_new());
  X509_set_version(certificate.get(), X509_VERSION_3);
  uint64_t serial = 0;
  RAND_bytes(reinterpret_cast<unsigned char*>(&serial), sizeof(serial));
  ASN1_INTEGER_set_uint64(X509_get_serialNumber(certificate.get()), serial);
  ASN1_TIME_set(X509_getm_notBefore(certificate.get()), std::time(nullptr) - kDaySeconds);
  ASN1_TIME_set(X509_getm_notAfter(certificate.get()), expiry_unix_seconds);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate.get()), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  X509_set_pubkey(certificate.get(), key);
  return certificate;
}

}  // namespace

TestAuthority::TestAuthority() {
  const Key key(EVP_EC_gen("P-256"));
  const Certificate own = Unsigned("Test authority", key.get(), 4'000'000'000);
  X509_set_issuer_name(own.get(), X509_get_subject_name(own.get()));
  AddExtension(own.get(), own.get(), NID_basic_constraints, "critical,CA:TRUE");
  AddExtension(own.get(), own.get(), NID_key_usage, "critical,keyCertSign,cRLSign");
  X509_sign(own.get(), key.get(), EVP_sha256());
  own_ = ToPem(own.get(), key.get());
}

TestCertificate TestAuthority::Issue(const std::string& name, int64_t expiry_unix_seconds) const {
  const Bio issuer_pem(BIO_new_mem_buf(own_.certificate.data(), -1));
  const Certificate issuer(PEM_read_bio_X509(issuer_pem.get(), nullptr, nullptr, nullptr));
  const Bio issuer_key_pem(BIO_new_mem_buf(own_.key.data(), -1));
  const Key issuer_key(PEM_read_bio_PrivateKey(issuer_key_pem.get(), nullptr, nullptr, nullptr));

  const Key key(EVP_EC_gen("P-256"));
  const Certificate issued = Unsigned(name, key.get(), expiry_unix_seconds);
  X509_set_issuer_name(issued.get(), X509_get_subject_name(issuer.get()));
  AddExtension(issued.get(), issuer.get(), NID_subject_alt_name, "DNS:localhost,IP:127.0.0.1");
  X509_sign(issued.get(), issuer_key.get(), EVP_sha256());
  return ToPem(issued.get(), key.get());
}

}  // namespace mayfly
