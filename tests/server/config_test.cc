#include "server/config.h"

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace mayfly {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::Optional;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

// With the one flag that has no default.
absl::StatusOr<Config> Parse(std::vector<std::string> args, const Environment& env = {}) {
  args.push_back("--model=/m");
  return ParseConfig(args, env);
}

// A file in the test's own temporary folder, gone with the object.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& text)
      : path_(testing::TempDir() + "/flags_" + std::to_string(reinterpret_cast<uintptr_t>(this))) {
    std::ofstream(path_) << text;
  }
  ~TemporaryFile() { std::remove(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

TEST(ConfigTest, DefaultsAreThoseOfTheContract) {
  const auto config = Parse({});
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->engine.model_dir, "/m");
  EXPECT_EQ(config->listen, "127.0.0.1:7400");
  EXPECT_EQ(config->http_listen, "127.0.0.1:7401");
  EXPECT_EQ(config->health_listen, "");
  EXPECT_EQ(config->engine.device, "cpu");
  EXPECT_EQ(config->engine.slots, 8);
  EXPECT_EQ(config->max_message_bytes, 1 << 20);
  EXPECT_EQ(config->drain_timeout_seconds, 30);
  EXPECT_FALSE(config->sessions.default_adaptation.rank.has_value());
}

TEST(ConfigTest, TheEngineLikesItsDefaults) {
  const auto config = Parse({});
  ASSERT_THAT(config, IsOk());
  EXPECT_THAT(config->engine.Validate(), IsOk());
}

TEST(ConfigTest, AValueMayFollowAnEqualsSignOrASpace) {
  EXPECT_EQ(Parse({"--slots=3"})->engine.slots, 3);
  EXPECT_EQ(Parse({"--slots", "3"})->engine.slots, 3);
}

TEST(ConfigTest, ABoolCanBeSetNegatedAndSpelledOut) {
  EXPECT_THAT(Parse({"--gate"})->sessions.default_adaptation.gate, Optional(true));
  EXPECT_THAT(Parse({"--nogate"})->sessions.default_adaptation.gate, Optional(false));
  EXPECT_THAT(Parse({"--gate=false"})->sessions.default_adaptation.gate, Optional(false));
  EXPECT_EQ(Parse({})->sessions.default_adaptation.gate, std::nullopt);
}

TEST(ConfigTest, SessionOptionsGoByTheirOwnNames) {
  const auto config = Parse({"--preset=paper", "--rank=8", "--learning_rate=1e-3",
                             "--kv_policy=keep", "--temperature=0.5", "--top_k=40", "--seed=7"});
  ASSERT_THAT(config, IsOk());
  const AdaptationWishes& adaptation = config->sessions.default_adaptation;
  EXPECT_THAT(adaptation.preset, Optional(Preset::kPaper));
  EXPECT_THAT(adaptation.rank, Optional(8));
  EXPECT_THAT(adaptation.learning_rate, Optional(1e-3));
  EXPECT_THAT(adaptation.kv_policy, Optional(KvPolicy::kKeep));
  EXPECT_THAT(adaptation.seed, Optional(7u));
  EXPECT_THAT(config->sessions.default_sampling.temperature, Optional(0.5));
  EXPECT_THAT(config->sessions.default_sampling.top_k, Optional(40));
  EXPECT_THAT(config->sessions.default_sampling.seed, Optional(7u));
}

TEST(ConfigTest, TheEnginesUpdatesAreSetByFlags) {
  const auto config = Parse({"--update_threads=1", "--update_tokens=100",
                             "--max_update_tokens=5000", "--update_group=2", "--deterministic"});
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->engine.update_threads, 1);
  EXPECT_EQ(config->engine.update_tokens, 100);
  EXPECT_EQ(config->engine.max_update_tokens, 5000);
  EXPECT_EQ(config->engine.update_group, 2);
  EXPECT_TRUE(config->engine.deterministic);
  const EngineOptions defaults;
  EXPECT_EQ(Parse({})->engine.update_tokens, defaults.update_tokens);
  EXPECT_EQ(Parse({})->engine.max_update_tokens, defaults.max_update_tokens);
  EXPECT_EQ(Parse({})->engine.update_group, defaults.update_group);
}

TEST(ConfigTest, DefaultsOfSessionsMustSuitTheEngine) {
  EXPECT_THAT(Parse({"--update_tokens=100", "--max_update_tokens=99"}),
              StatusIs(kInvalid, HasSubstr("--max_update_tokens=99: want at least")));
  EXPECT_THAT(Parse({"--chunk_tokens=2000", "--max_update_tokens=1999"}),
              StatusIs(kInvalid, HasSubstr("max_update_tokens is 1999")));
  EXPECT_THAT(Parse({"--mode=parallel"}), IsOk());
  EXPECT_THAT(Parse({"--mode=parallel", "--deterministic"}),
              StatusIs(kInvalid, HasSubstr("mode parallel cannot be deterministic")));
  EXPECT_THAT(
      Parse({"--target_inter_token_ms=20"})->sessions.default_adaptation.target_inter_token_ms,
      Optional(20.0));
  EXPECT_THAT(Parse({"--target_inter_token_ms=-1"}),
              StatusIs(kInvalid, HasSubstr("target_inter_token_ms is -1")));
}

TEST(ConfigTest, BytesAndDurationsTakeUnits) {
  EXPECT_EQ(Parse({"--memory_budget=3GiB"})->engine.memory_budget_bytes, uint64_t{3} << 30);
  EXPECT_EQ(Parse({"--memory_budget=4096"})->engine.memory_budget_bytes, 4096u);
  EXPECT_EQ(Parse({"--idle_timeout=5m"})->sessions.limits.idle_timeout_seconds, 300);
  EXPECT_EQ(Parse({"--idle_timeout=1h30m"})->sessions.limits.idle_timeout_seconds, 5400);
  EXPECT_EQ(Parse({"--idle_timeout=2.5"})->sessions.limits.idle_timeout_seconds, 2.5);
}

TEST(ConfigTest, LimitsAreSetByFlags) {
  const auto defaults = Parse({});
  ASSERT_THAT(defaults, IsOk());
  EXPECT_EQ(defaults->sessions.limits.admission_wait_seconds, 0);
  EXPECT_EQ(defaults->sessions.limits.max_tokens_per_minute_per_tenant, 0);
  EXPECT_EQ(defaults->sessions.limits.slow_reader_timeout_seconds, 60);
  EXPECT_EQ(defaults->max_connection_age_seconds, 0);
  const auto config = Parse({"--admission_wait=90s", "--max_waiting_sessions=7",
                             "--max_tokens_per_minute_per_tenant=5000", "--slow_reader_timeout=2m",
                             "--max_outstanding_commands=3", "--max_connection_age=1h",
                             "--max_connection_age_grace=5m", "--max_exports=2"});
  ASSERT_THAT(config, IsOk());
  const SessionLimits& limits = config->sessions.limits;
  EXPECT_EQ(limits.admission_wait_seconds, 90);
  EXPECT_EQ(limits.max_waiting_sessions, 7);
  EXPECT_EQ(limits.max_exports, 2);
  EXPECT_EQ(limits.max_tokens_per_minute_per_tenant, 5000);
  EXPECT_EQ(limits.slow_reader_timeout_seconds, 120);
  EXPECT_EQ(limits.max_outstanding_commands, 3);
  EXPECT_EQ(config->max_connection_age_seconds, 3600);
  EXPECT_EQ(config->max_connection_age_grace_seconds, 300);
}

TEST(ConfigTest, ABudgetWithoutSlotsDecidesTheNumberOfRows) {
  EXPECT_EQ(Parse({"--memory_budget=1GiB"})->engine.slots, 0);
  EXPECT_EQ(Parse({"--memory_budget=1GiB", "--slots=2"})->engine.slots, 2);
  EXPECT_EQ(Parse({"--memory_budget=1GiB"}, {{"MAYFLY_SLOTS", "2"}})->engine.slots, 2);
}

TEST(ConfigTest, TheCommandLineBeatsTheEnvironmentBeatsTheFlagFile) {
  const TemporaryFile file("# ours\n--slots=1\nthreads=1\n\n  --max_rank=32\n");
  const auto config = Parse({"--flagfile=" + file.path(), "--slots=3"},
                            {{"MAYFLY_SLOTS", "2"}, {"MAYFLY_THREADS", "2"}});
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->engine.slots, 3);
  EXPECT_EQ(config->engine.threads, 2);
  EXPECT_EQ(config->engine.max_rank, 32);
}

TEST(ConfigTest, TheEnvironmentMayNameTheFlagFile) {
  const TemporaryFile file("slots=5");
  EXPECT_EQ(Parse({}, {{"MAYFLY_FLAGFILE", file.path()}})->engine.slots, 5);
}

TEST(ConfigTest, VariablesThatNameNoFlagAreSomebodyElses) {
  EXPECT_THAT(Parse({}, {{"MAYFLY_SERVICE_HOST", "10.0.0.1"}, {"MAYFLY_SERVER", "x"}}), IsOk());
}

TEST(ConfigTest, TheLastOfTwoEqualFlagsCounts) {
  EXPECT_EQ(Parse({"--slots=3", "--slots=4"})->engine.slots, 4);
}

TEST(ConfigTest, HelpAndVersionNeedNoModel) {
  EXPECT_TRUE(ParseConfig({"--help"}, {})->help);
  EXPECT_TRUE(ParseConfig({"--version"}, {})->version);
}

TEST(ConfigTest, HelpNamesEveryFlagOnce) {
  const std::string help = ConfigHelp();
  for (const char* name : {"model", "listen", "flagfile", "preset", "seed", "presence_penalty"}) {
    EXPECT_THAT(help, HasSubstr(std::string("  --") + name + " "));
  }
}

TEST(ConfigTest, ErrorsNameTheFlagItsValueAndItsLimitOnOneLine) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"--slots=0"}, "--slots=0: want a whole number from 1 to 65536"},
      {{"--slots", "many"}, "--slots=many: want a whole number from 1 to 65536"},
      {{"--device=tpu"}, "--device=tpu: want cpu, cuda or cuda:N"},
      {{"--device=cuda:"}, "--device=cuda:: want cpu, cuda or cuda:N"},
      {{"--dtype=fp8"}, "--dtype=fp8: want one of bf16, fp32"},
      {{"--learning_rate=nan"}, "--learning_rate=nan: want a finite number"},
      {{"--learning_rate=inf"}, "--learning_rate=inf: want a finite number"},
      {{"--receipt=maybe"}, "--receipt=maybe: want true or false"},
      {{"--memory_budget=1GB"}, "--memory_budget=1GB: want bytes"},
      {{"--memory_budget=99999999999999999TiB"}, "want bytes"},
      {{"--idle_timeout=-1s"}, "--idle_timeout=-1s: want seconds"},
      {{"--max_message_bytes=1"}, "from 1024 to 67108864"},
      {{"--listen=7400"}, "--listen=7400: want host:port"},
      {{"--listen=127.0.0.1:70000"}, "want host:port, with a port from 0 to 65535"},
      {{"--http_listen=unix:/x"}, "--http_listen=unix:/x: want host:port"},
      {{"--colour=red"}, "--colour=red: no such flag"},
      {{"--noslots"}, "--noslots: no such flag"},
      {{"book.txt"}, "book.txt: want --name=value"},
      {{"--flagfile=/no/such/file"}, "--flagfile=/no/such/file: cannot read it"},
  };
  for (const auto& [args, message] : cases) {
    EXPECT_THAT(Parse(args), StatusIs(kInvalid, AllOf(HasSubstr(message), Not(HasSubstr("\n")))));
  }
}

TEST(ConfigTest, DefaultsOfSessionsMustFitEachOtherAndTheServer) {
  EXPECT_THAT(Parse({"--dropout=2"}), StatusIs(kInvalid, HasSubstr("dropout is 2")));
  EXPECT_THAT(Parse({"--rank=65"}), StatusIs(kInvalid, HasSubstr("rank is 65")));
  EXPECT_THAT(Parse({"--temperature=-1"}), StatusIs(kInvalid, HasSubstr("temperature is -1")));
  EXPECT_THAT(Parse({"--window_tokens=64", "--chunk_tokens=128"}),
              StatusIs(kInvalid, HasSubstr("128")));
}

TEST(ConfigTest, ErrorsNameTheVariableOrTheLineTheyComeFrom) {
  EXPECT_THAT(Parse({}, {{"MAYFLY_SLOTS", "0"}}),
              StatusIs(kInvalid, HasSubstr("MAYFLY_SLOTS=0: want a whole number")));
  const TemporaryFile file("slots=1\nbogus=1\n");
  EXPECT_THAT(Parse({"--flagfile", file.path()}),
              StatusIs(kInvalid, HasSubstr(file.path() + ":2: --bogus=1: no such flag")));
}

TEST(ConfigTest, AFlagWithoutItsValueIsAnError) {
  EXPECT_THAT(ParseConfig({"--model"}, {}), StatusIs(kInvalid, "--model: want a value"));
}

TEST(ConfigTest, TheModelIsRequired) {
  EXPECT_THAT(ParseConfig({}, {}), StatusIs(kInvalid, HasSubstr("--model")));
}

TEST(ConfigTest, AListenerOffTheLoopbackWantsTlsAndToKnowWhoCalls) {
  const std::vector<std::string> tls = {"--tls_cert=c", "--tls_key=k"};
  const auto with = [](std::vector<std::string> args, const std::vector<std::string>& more) {
    args.insert(args.end(), more.begin(), more.end());
    return Parse(args).status();
  };
  for (const char* address : {"0.0.0.0:1", "[::]:1", "example.org:1", "127.example.org:1"}) {
    const std::string flag = std::string("--listen=") + address;
    EXPECT_THAT(with({flag}, {}),
                StatusIs(kInvalid, AllOf(HasSubstr("--tls_cert"), HasSubstr("--insecure"))))
        << address;
    EXPECT_THAT(with({flag}, {"--auth_tokens_file=t"}), StatusIs(kInvalid, HasSubstr("--tls_cert")))
        << address;
    EXPECT_THAT(with({flag}, tls),
                StatusIs(kInvalid, AllOf(HasSubstr("--auth_tokens_file"), HasSubstr("--insecure"))))
        << address;
    EXPECT_THAT(with({flag, "--auth_tokens_file=t"}, tls), IsOk()) << address;
    EXPECT_THAT(with({flag, "--tls_client_ca=a"}, tls), IsOk()) << address;
    EXPECT_THAT(with({flag}, {"--insecure"}), IsOk()) << address;
  }
}

TEST(ConfigTest, TlsFlagsGoTogether) {
  EXPECT_THAT(Parse({"--tls_cert=c"}), StatusIs(kInvalid, HasSubstr("--tls_key")));
  EXPECT_THAT(Parse({"--tls_key=k"}), StatusIs(kInvalid, HasSubstr("--tls_cert")));
  EXPECT_THAT(Parse({"--tls_client_ca=a"}), StatusIs(kInvalid, HasSubstr("--tls_client_ca=a")));
  const auto config =
      Parse({"--tls_cert=c", "--tls_key=k", "--tls_client_ca=a", "--auth_tokens_file=t"});
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->tls.cert, "c");
  EXPECT_EQ(config->tls.key, "k");
  EXPECT_EQ(config->tls.client_ca, "a");
  EXPECT_EQ(config->auth_tokens_file, "t");
}

TEST(ConfigTest, TheLoopbackAndUnixSocketsNeedNoPermission) {
  for (const char* address :
       {"127.0.0.1:0", "127.1.2.3:1", "localhost:1", "[::1]:1", "unix:/tmp/mayfly"}) {
    EXPECT_THAT(Parse({std::string("--listen=") + address}), IsOk()) << address;
  }
}

TEST(ConfigTest, ProbesAndMetricsMayListenAnywhere) {
  EXPECT_THAT(Parse({"--health_listen=0.0.0.0:1", "--http_listen=0.0.0.0:2"}), IsOk());
}

TEST(ConfigTest, SnapshotsAreSealedForAnHourAndNotStoredByDefault) {
  const auto config = Parse({});
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->snapshots.key_file, "");
  EXPECT_EQ(config->snapshots.store, "");
  EXPECT_EQ(config->snapshots.ttl_seconds, 3600);
}

TEST(ConfigTest, ASnapshotStoreNeedsAKeyAndAnAddressThatCanBe) {
  EXPECT_THAT(Parse({"--snapshot_store=/s"}), StatusIs(kInvalid, HasSubstr("--snapshot_key_file")));
  EXPECT_THAT(Parse({"--snapshot_store=redis://:s3cret@h:x", "--snapshot_key_file=/k"}),
              StatusIs(kInvalid, AllOf(HasSubstr("--snapshot_store: want a Redis port"),
                                       Not(HasSubstr("s3cret")))));
  EXPECT_THAT(Parse({"--snapshot_ttl=0"}),
              StatusIs(kInvalid, HasSubstr("--snapshot_ttl=0: want at least a second")));
  for (const char* store : {"/s", "redis://:s3cret@h", "redis+unix:///s"}) {
    EXPECT_EQ(Parse({std::string("--snapshot_store=") + store, "--snapshot_key_file=/k",
                     "--snapshot_ttl=5m"})
                  ->snapshots.store,
              store);
  }
}

TEST(ConfigTest, OnlyOurVariablesAreReadFromTheEnvironment) {
  const char* const variables[] = {"PATH=/bin", "MAYFLY_SLOTS=2", "MAYFLY_LISTEN=a=b", nullptr};
  EXPECT_EQ(ReadEnvironment(variables),
            (Environment{{"MAYFLY_SLOTS", "2"}, {"MAYFLY_LISTEN", "a=b"}}));
}

}  // namespace
}  // namespace mayfly
