#include "server/secrets/crypto.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#include <cstring>
#include <memory>

#include "engine/base/log.h"
#include "server/secrets/freed.h"

namespace mayfly {
namespace {

using CipherContext = std::unique_ptr<EVP_CIPHER_CTX, Freed<EVP_CIPHER_CTX_free>>;
using Kdf = std::unique_ptr<EVP_KDF, Freed<EVP_KDF_free>>;
using KdfContext = std::unique_ptr<EVP_KDF_CTX, Freed<EVP_KDF_CTX_free>>;

const uint8_t* Bytes(absl::string_view text) {
  return reinterpret_cast<const uint8_t*>(text.data());
}
uint8_t* Bytes(std::string* text, size_t offset = 0) {
  return reinterpret_cast<uint8_t*>(text->data()) + offset;
}

OSSL_PARAM Octets(const char* name, absl::string_view value) {
  return OSSL_PARAM_construct_octet_string(name, const_cast<char*>(value.data()), value.size());
}

}  // namespace

SecretKey::SecretKey(absl::string_view bytes) {
  MAYFLY_CHECK(bytes.size() == kBytes);
  std::memcpy(bytes_.data(), bytes.data(), kBytes);
}

SecretKey::~SecretKey() { OPENSSL_cleanse(bytes_.data(), kBytes); }

std::string RandomBytes(size_t count) {
  std::string bytes(count, '\0');
  MAYFLY_CHECK(RAND_bytes(Bytes(&bytes), static_cast<int>(count)) == 1);
  return bytes;
}

std::string Sha256(absl::string_view data) {
  std::string digest(32, '\0');
  MAYFLY_CHECK(
      EVP_Digest(data.data(), data.size(), Bytes(&digest), nullptr, EVP_sha256(), nullptr) == 1);
  return digest;
}

std::string Hkdf(const SecretKey& key, absl::string_view salt, absl::string_view info,
                 size_t bytes) {
  const Kdf hkdf(EVP_KDF_fetch(nullptr, "HKDF", nullptr));
  const KdfContext context(EVP_KDF_CTX_new(hkdf.get()));
  const absl::string_view key_bytes(reinterpret_cast<const char*>(key.data()), SecretKey::kBytes);
  char digest[] = "SHA256";
  const OSSL_PARAM params[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
      Octets(OSSL_KDF_PARAM_KEY, key_bytes),
      Octets(OSSL_KDF_PARAM_SALT, salt),
      Octets(OSSL_KDF_PARAM_INFO, info),
      OSSL_PARAM_construct_end(),
  };
  std::string derived(bytes, '\0');
  MAYFLY_CHECK(EVP_KDF_derive(context.get(), Bytes(&derived), bytes, params) == 1);
  return derived;
}

void AppendEncrypted(const SecretKey& key, absl::string_view nonce, absl::string_view associated,
                     absl::string_view plain, std::string* out) {
  MAYFLY_CHECK(nonce.size() == kNonceBytes);
  const size_t start = out->size();
  out->resize(start + plain.size() + kTagBytes);
  const CipherContext context(EVP_CIPHER_CTX_new());
  int written = 0;
  bool ok =
      EVP_EncryptInit_ex(context.get(), EVP_aes_256_gcm(), nullptr, key.data(), Bytes(nonce)) == 1;
  ok = ok && EVP_EncryptUpdate(context.get(), nullptr, &written, Bytes(associated),
                               static_cast<int>(associated.size())) == 1;
  ok = ok && EVP_EncryptUpdate(context.get(), Bytes(out, start), &written, Bytes(plain),
                               static_cast<int>(plain.size())) == 1;
  ok = ok && EVP_EncryptFinal_ex(context.get(), Bytes(out, start + plain.size()), &written) == 1;
  ok = ok && EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_GET_TAG, kTagBytes,
                                 Bytes(out, start + plain.size())) == 1;
  MAYFLY_CHECK(ok);
}

bool AppendDecrypted(const SecretKey& key, absl::string_view nonce, absl::string_view associated,
                     absl::string_view encrypted, std::string* out) {
  MAYFLY_CHECK(nonce.size() == kNonceBytes);
  if (encrypted.size() < kTagBytes) return false;
  const size_t size = encrypted.size() - kTagBytes;
  std::string tag(encrypted.substr(size));
  const size_t start = out->size();
  // The final call may want a place to write to even where nothing is left to write.
  out->resize(start + size + 1);
  const CipherContext context(EVP_CIPHER_CTX_new());
  int written = 0;
  bool ok =
      EVP_DecryptInit_ex(context.get(), EVP_aes_256_gcm(), nullptr, key.data(), Bytes(nonce)) == 1;
  ok = ok && EVP_DecryptUpdate(context.get(), nullptr, &written, Bytes(associated),
                               static_cast<int>(associated.size())) == 1;
  ok = ok && EVP_DecryptUpdate(context.get(), Bytes(out, start), &written, Bytes(encrypted),
                               static_cast<int>(size)) == 1;
  ok = ok && EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_SET_TAG, kTagBytes, Bytes(&tag)) == 1;
  ok = ok && EVP_DecryptFinal_ex(context.get(), Bytes(out, start + size), &written) == 1;
  out->resize(ok ? start + size : start);
  return ok;
}

}  // namespace mayfly
