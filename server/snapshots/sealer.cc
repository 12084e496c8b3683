#include "server/snapshots/sealer.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace mayfly {
namespace {

constexpr absl::string_view kMagic = "MFLYSNAP";
constexpr uint32_t kVersion = 1;
constexpr size_t kSaltBytes = 32;
constexpr size_t kDigestBytes = 32;
constexpr size_t kNoncePrefixBytes = kNonceBytes - sizeof(uint32_t) - 1;
constexpr size_t kSealedSegmentBytes = Sealer::kSegmentBytes + kTagBytes;

struct Header {
  uint32_t version = kVersion;
  std::string key_id;
  std::string salt;
  int64_t created = 0;
  int64_t expires = 0;
  uint64_t plain_bytes = 0;
  std::string tenant_digest;
};

template <typename Number>
void AppendNumber(Number number, std::string* out) {
  for (size_t i = 0; i < sizeof(Number); ++i) {
    out->push_back(static_cast<char>(static_cast<uint64_t>(number) >> (8 * i)));
  }
}

// Fewer where the text ends before.
absl::string_view TakeBytes(size_t count, absl::string_view* in) {
  const absl::string_view bytes = in->substr(0, count);
  in->remove_prefix(bytes.size());
  return bytes;
}

template <typename Number>
Number TakeNumber(absl::string_view* in) {
  uint64_t number = 0;
  const absl::string_view bytes = TakeBytes(sizeof(Number), in);
  for (size_t i = 0; i < bytes.size(); ++i) {
    number |= uint64_t{static_cast<uint8_t>(bytes[i])} << (8 * i);
  }
  return static_cast<Number>(number);
}

std::string Serialize(const Header& header) {
  std::string out(kMagic);
  AppendNumber(header.version, &out);
  out += header.key_id;
  out += header.salt;
  AppendNumber(header.created, &out);
  AppendNumber(header.expires, &out);
  AppendNumber(header.plain_bytes, &out);
  out += header.tenant_digest;
  return out;
}

absl::StatusOr<Header> ParseHeader(absl::string_view in) {
  if (!absl::StartsWith(in, kMagic)) {
    return absl::InvalidArgumentError("these bytes are no snapshot");
  }
  if (in.size() < Sealer::kHeaderBytes) {
    return absl::DataLossError("the snapshot ends early, within its header");
  }
  in.remove_prefix(kMagic.size());
  Header header;
  header.version = TakeNumber<uint32_t>(&in);
  if (header.version != kVersion) {
    return absl::InvalidArgumentError(absl::StrCat("the snapshot has format version ",
                                                   header.version, ", this server reads version ",
                                                   kVersion));
  }
  header.key_id = std::string(TakeBytes(SealingKey::kIdBytes, &in));
  header.salt = std::string(TakeBytes(kSaltBytes, &in));
  header.created = TakeNumber<int64_t>(&in);
  header.expires = TakeNumber<int64_t>(&in);
  header.plain_bytes = TakeNumber<uint64_t>(&in);
  header.tenant_digest = std::string(TakeBytes(kDigestBytes, &in));
  return header;
}

std::string TenantDigest(const SecretKey& server_key, absl::string_view salt,
                         absl::string_view tenant) {
  return Hkdf(server_key, salt, absl::StrCat("mayfly snapshot tenant ", Sha256(tenant)),
              kDigestBytes);
}

// Whose it is comes first: to another tenant every snapshot looks the same.
absl::Status CheckClaims(const Header& header, const SealingKey& key, absl::string_view tenant,
                         int64_t now) {
  if (header.tenant_digest != TenantDigest(key.secret, header.salt, tenant)) {
    return absl::PermissionDeniedError("the snapshot belongs to another tenant");
  }
  if (now >= header.expires) return absl::NotFoundError("the snapshot has expired");
  return absl::OkStatus();
}

// Encrypts and decrypts the segments of one snapshot.
class Segments {
 public:
  Segments(const SecretKey& server_key, absl::string_view salt, absl::string_view header,
           absl::string_view name)
      : key_(Hkdf(server_key, salt, "mayfly snapshot key", SecretKey::kBytes)),
        nonce_prefix_(Hkdf(server_key, salt, "mayfly snapshot nonce", kNoncePrefixBytes)),
        associated_(absl::StrCat(header, name)) {}

  void Encrypt(size_t index, bool last, absl::string_view plain, std::string* out) const {
    AppendEncrypted(key_, Nonce(index, last), associated_, plain, out);
  }
  absl::Status Decrypt(size_t index, bool last, absl::string_view sealed, std::string* out) const {
    if (AppendDecrypted(key_, Nonce(index, last), associated_, sealed, out)) {
      return absl::OkStatus();
    }
    return absl::DataLossError("the snapshot was changed after it was sealed");
  }

 private:
  std::string Nonce(size_t index, bool last) const {
    std::string nonce = nonce_prefix_;
    AppendNumber(static_cast<uint32_t>(index), &nonce);
    nonce.push_back(last ? 1 : 0);
    return nonce;
  }

  const SecretKey key_;
  const std::string nonce_prefix_;
  const std::string associated_;
};

// Of a plaintext whose segments take `sealed_bytes`; nothing where no plaintext takes that many.
// Even an empty plaintext has a segment.
absl::StatusOr<uint64_t> PlainBytes(uint64_t sealed_bytes) {
  const uint64_t segments = sealed_bytes / kSealedSegmentBytes;
  const uint64_t rest = sealed_bytes % kSealedSegmentBytes;
  if (rest == 0 && segments > 0) return segments * Sealer::kSegmentBytes;
  if (rest < kTagBytes) return absl::DataLossError("the snapshot ends early, within a tag");
  return segments * Sealer::kSegmentBytes + rest - kTagBytes;
}

// The header is not authenticated yet: only the words of an error depend on its size.
absl::Status CheckSize(uint64_t claimed, absl::string_view body) {
  MAYFLY_ASSIGN_OR_RETURN(const uint64_t present, PlainBytes(body.size()));
  if (present == claimed) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("the snapshot ", present < claimed ? "ends early" : "goes on after its end",
                   ": it holds ", present, " of ", claimed, " bytes"));
}

}  // namespace

uint64_t Sealer::SealedBytes(uint64_t plain_bytes) {
  const uint64_t segments =
      std::max<uint64_t>(1, (plain_bytes + kSegmentBytes - 1) / kSegmentBytes);
  return kHeaderBytes + plain_bytes + segments * kTagBytes;
}

std::string Sealer::Seal(const SealingKey& key, const SnapshotLabel& label,
                         int64_t expires_unix_seconds, absl::string_view plain) const {
  Header header;
  header.key_id = key.id;
  header.salt = RandomBytes(kSaltBytes);
  header.created = clock_->UnixSeconds();
  header.expires = expires_unix_seconds;
  header.plain_bytes = plain.size();
  header.tenant_digest = TenantDigest(key.secret, header.salt, label.tenant);
  std::string sealed = Serialize(header);
  const Segments segments(key.secret, header.salt, sealed, label.name);
  sealed.reserve(SealedBytes(plain.size()));
  size_t index = 0;
  do {
    const absl::string_view segment = plain.substr(0, kSegmentBytes);
    plain.remove_prefix(segment.size());
    segments.Encrypt(index++, /*last=*/plain.empty(), segment, &sealed);
  } while (!plain.empty());
  return sealed;
}

absl::StatusOr<std::string> Sealer::Unseal(const KeyRing& keys, const SnapshotLabel& label,
                                           absl::string_view sealed) const {
  MAYFLY_ASSIGN_OR_RETURN(const Header header, ParseHeader(sealed));
  const SealingKey* key = keys.Find(header.key_id);
  if (key == nullptr) {
    return absl::FailedPreconditionError(
        "the snapshot was sealed with a key that this server does not have");
  }
  const absl::string_view header_bytes = sealed.substr(0, kHeaderBytes);
  absl::string_view body = sealed.substr(kHeaderBytes);
  MAYFLY_RETURN_IF_ERROR(CheckSize(header.plain_bytes, body));

  const Segments segments(key->secret, header.salt, header_bytes, label.name);
  std::string plain;
  for (size_t index = 0; index == 0 || !body.empty(); ++index) {
    const absl::string_view segment = TakeBytes(kSealedSegmentBytes, &body);
    MAYFLY_RETURN_IF_ERROR(segments.Decrypt(index, /*last=*/body.empty(), segment, &plain));
    if (index > 0) continue;
    // What the header says can be believed now.
    MAYFLY_RETURN_IF_ERROR(CheckClaims(header, *key, label.tenant, clock_->UnixSeconds()));
    plain.reserve(header.plain_bytes + 1);
  }
  return plain;
}

}  // namespace mayfly
