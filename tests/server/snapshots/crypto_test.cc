#include "server/secrets/crypto.h"

#include <string>

#include "absl/strings/escaping.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mayfly {
namespace {

std::string Hex(absl::string_view bytes) { return absl::BytesToHexString(bytes); }

// 0, 1, 2 … 31.
SecretKey CountingKey() {
  std::string bytes;
  for (char i = 0; i < 32; ++i) bytes += i;
  return SecretKey(bytes);
}

TEST(CryptoTest, Sha256GivesTheDigestOfFips180) {
  EXPECT_EQ(Hex(Sha256("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

// Computed with Python's hmac after RFC 5869.
TEST(CryptoTest, HkdfFollowsRfc5869) {
  EXPECT_EQ(Hex(Hkdf(CountingKey(), "salt", "info", 42)),
            "64cc2a23b7a1da4310420350405fdf5d632cb9bda3700d753e96cbcfeb81d4496259e7075d6da9d2c325");
  EXPECT_EQ(Hex(Hkdf(CountingKey(), "", "info", 8)), "cccad7895238973b");
}

// Test case 14 of the GCM specification (McGrew and Viega).
TEST(CryptoTest, EncryptionIsAes256Gcm) {
  std::string out = "before ";
  const std::string zeros(16, '\0');
  AppendEncrypted(SecretKey(zeros + zeros), std::string(12, '\0'), "", zeros, &out);
  EXPECT_EQ(out.substr(0, 7), "before ");
  EXPECT_EQ(Hex(out.substr(7)), "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919");
}

TEST(CryptoTest, WhatDoesNotMatchIsNotDecrypted) {
  const std::string nonce(12, 'n');
  std::string sealed;
  AppendEncrypted(CountingKey(), nonce, "with", "plain", &sealed);

  std::string out = "before ";
  EXPECT_TRUE(AppendDecrypted(CountingKey(), nonce, "with", sealed, &out));
  EXPECT_EQ(out, "before plain");

  out = "before ";
  EXPECT_FALSE(AppendDecrypted(SecretKey(std::string(32, 'k')), nonce, "with", sealed, &out));
  EXPECT_FALSE(AppendDecrypted(CountingKey(), std::string(12, 'm'), "with", sealed, &out));
  EXPECT_FALSE(AppendDecrypted(CountingKey(), nonce, "other", sealed, &out));
  EXPECT_FALSE(AppendDecrypted(CountingKey(), nonce, "with", sealed.substr(1), &out));
  EXPECT_FALSE(AppendDecrypted(CountingKey(), nonce, "with", "short", &out));
  EXPECT_EQ(out, "before ");
}

TEST(CryptoTest, RandomBytesDiffer) {
  EXPECT_EQ(RandomBytes(32).size(), 32u);
  EXPECT_NE(RandomBytes(32), RandomBytes(32));
}

}  // namespace
}  // namespace mayfly
