// A session that leaves one server and goes on in another: nothing is lost, repeated or learned
// twice, and what is learned next is what would have been learned.

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "session/retry_after.h"
#include "session/session.h"
#include "tests/session/session_fixture.h"
#include "tests/support/fake_snapshot_vault.h"

namespace mayfly {
namespace {

using absl::StatusCode;
using testing::_;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

SessionManager::Options With(SnapshotVault* vault) {
  SessionManager::Options options;
  options.vault = vault;
  return options;
}

class SessionResumeTest : public SessionFixture {
 protected:
  // The vault is built after the fixture, and used after both.
  SessionResumeTest() : SessionFixture(With(&vault_)) {}

  void TearDown() override {
    there_.EndAll();
    engine_there_.RunUntilIdle();
    EXPECT_EQ(engine_there_.free_rows(), engine_there_.info().rows);
    SessionFixture::TearDown();
  }

  // Until nobody has anything left to do, on either server.
  void RunAll(SessionClient& client) {
    bool worked = true;
    while (worked) {
      worked = engine_.Step() || engine_there_.Step() || vault_.Step();
      while (client.ReadOne()) worked = true;
    }
  }

  OpenedEvent Resume(SessionClient& client, const std::string& token) {
    OpenCommand open;
    open.resume_token = token;
    const uint64_t id = client.Send(open);
    RunAll(client);
    const auto opened = client.All<OpenedEvent>(id);
    EXPECT_THAT(opened, SizeIs(1));
    return opened.empty() ? OpenedEvent{} : opened[0];
  }
  // Why the session did not resume.
  absl::Status ResumeFails(const std::string& token, const std::string& tenant = "tenant") {
    SessionClient client(&there_, tenant);
    OpenCommand open;
    open.resume_token = token;
    client.Send(open);
    RunAll(client);
    EXPECT_THAT(client.All<OpenedEvent>(), IsEmpty());
    EXPECT_TRUE(client.final_status().has_value());
    return client.final_status().value_or(absl::OkStatus());
  }
  std::string Store(SessionClient& client) {
    const uint64_t id = client.Send(ExportCommand{ExportFormat::kSnapshot, /*store=*/true});
    RunAll(client);
    const auto exported = client.All<ExportedEvent>(id);
    EXPECT_THAT(exported, SizeIs(1));
    EXPECT_TRUE(exported.at(0).done);
    return exported.at(0).resume_token;
  }
  static std::string TokenOf(const SessionClient& client) {
    std::string token;
    for (const DrainingEvent& draining : client.All<DrainingEvent>())
      token += draining.resume_token;
    return token;
  }

  FakeSnapshotVault vault_;
  FakeEngine engine_there_{FakeEngine::Options{}};
  SessionManager there_{With(&vault_), &engine_there_, &clock_, &log_, &metrics_};
};

// What a session learns and is told, without what depends on where it ran.
struct Seen {
  std::vector<std::string> updates;
  std::string text;
  std::vector<double> nll;

  void Add(const SessionClient& client) {
    for (const SessionEvent& event : client.events()) {
      if (const auto* update = std::get_if<UpdateEvent>(&event.body)) {
        updates.push_back(absl::StrCat(
            update->chunk_index, " of ", update->tokens, " at ", update->learning_rate,
            ", version ", update->result.adapter_version, ", nll ", update->nll.value_or(-1)));
      } else if (const auto* appended = std::get_if<AppendedEvent>(&event.body)) {
        if (appended->done) nll.push_back(appended->nll.value_or(-1));
      }
    }
    text += client.Text();
  }
  bool operator==(const Seen&) const = default;
};

TEST_F(SessionResumeTest, AStoredSessionGoesOnElsewhereAsIfItHadStayed) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    const auto pick = [&](int from, int to) {
      return std::uniform_int_distribution<int>(from, to)(random);
    };
    OpenCommand open = SmallChunks();
    open.adaptation.receipt = pick(0, 1) == 1;
    open.adaptation.warmup_chunks = pick(0, 3);
    open.adaptation.kv_policy = static_cast<KvPolicy>(pick(0, 2));
    open.adaptation.refresh_every = 2;
    if (pick(0, 2) == 0) open.adaptation.mode = UpdateMode::kParallel;
    if (pick(0, 5) == 0) open = Off();
    std::vector<SessionCommand> commands;
    for (int i = pick(2, 8); i > 0; --i) {
      if (pick(0, 1) == 0) {
        AppendCommand append;
        append.input = TextInput(std::string(static_cast<size_t>(pick(1, 25)), 'x'));
        append.score = true;
        commands.push_back(append);
      } else if (!commands.empty()) {
        GenerateCommand generate;
        generate.max_tokens = static_cast<uint32_t>(pick(1, 25));
        commands.push_back(generate);
      }
    }
    const size_t cut = static_cast<size_t>(pick(0, static_cast<int>(commands.size())));

    Seen stayed, left;
    {
      SessionClient client(&manager_);
      client.Send(open);
      for (const SessionCommand& command : commands) {
        client.Send(command);
        RunAll(client);
      }
      stayed.Add(client);
      client.Close();
      RunAll(client);
    }
    SessionClient before(&manager_), after(&there_);
    before.Send(open);
    for (size_t i = 0; i < cut; ++i) {
      before.Send(commands[i]);
      RunAll(before);
    }
    Resume(after, Store(before));
    for (size_t i = cut; i < commands.size(); ++i) {
      after.Send(commands[i]);
      RunAll(after);
    }
    left.Add(before);
    left.Add(after);
    EXPECT_EQ(left.updates, stayed.updates);
    EXPECT_EQ(left.text, stayed.text);
    EXPECT_EQ(left.nll, stayed.nll);
    before.Close();
    after.Close();
    RunAll(before);
    RunAll(after);
  }
}

TEST_F(SessionResumeTest, AResumedSessionKnowsItsOptionsAndWhereItIs) {
  SessionClient before(&manager_), after(&there_);
  OpenCommand open = SmallChunks();
  open.sampling.temperature = 0.25;
  open.seed = 77;
  open.window_tokens = 40;
  before.Send(open);
  before.Append(std::string(11, 'x'));
  RunAll(before);
  const OpenedEvent opened = Resume(after, Store(before));
  EXPECT_TRUE(opened.resumed);
  EXPECT_EQ(opened.stream_position, 11);
  EXPECT_EQ(opened.adapter_version, 1);
  EXPECT_EQ(opened.adaptation.chunk_tokens, kChunk);
  EXPECT_EQ(opened.sampling.temperature, 0.25);
  EXPECT_EQ(opened.window_tokens, 40);
  EXPECT_EQ(opened.seed, 77);
  after.Close();
  RunAll(after);
  const auto closed = after.All<ClosedEvent>();
  ASSERT_THAT(closed, SizeIs(1));
  EXPECT_EQ(closed[0].usage.prompt_tokens, 11);
  EXPECT_EQ(closed[0].updates_applied, 1);
  EXPECT_FALSE(before.final_status().has_value()) << "an export ends nothing";
}

// ---- Hand-over -------------------------------------------------------------------------------

TEST_F(SessionResumeTest, AGenerationThatIsCutOffGoesOnElsewhere) {
  SessionClient before(&manager_), after(&there_);
  before.Send(SmallChunks());
  before.Append("ab");
  before.Generate(20);
  while (before.Text().size() < 7) {
    engine_.Step();
    before.ReadAll();
  }
  manager_.StartDrain(1000);
  manager_.HandOverAll();
  RunAll(before);
  const auto generated = before.All<GeneratedEvent>();
  ASSERT_THAT(generated, SizeIs(1));
  EXPECT_EQ(generated[0].reason, FinishReason::kCancelled);
  EXPECT_THAT(*before.final_status(), HasCode(StatusCode::kUnavailable));
  EXPECT_EQ(before.All<ClosedEvent>().at(0).reason, "drained");
  const uint32_t done = static_cast<uint32_t>(before.Text().size());

  const OpenedEvent opened = Resume(after, TokenOf(before));
  EXPECT_EQ(opened.stream_position, 2 + done);
  GenerateCommand rest;
  rest.max_tokens = 20 - done;
  rest.continued_tokens = done;
  after.Send(rest);
  RunAll(after);
  EXPECT_EQ(before.Text() + after.Text(), "cdefghijklmnopqrstuv");
  EXPECT_EQ(engine_there_.SubmittedOf<GenerateWork>().at(0).continued_tokens,
            static_cast<int32_t>(done));
}

TEST_F(SessionResumeTest, AnAppendThatIsCutOffSaysHowFarItCameAndGoesOnBehindThat) {
  SessionClient before(&manager_), after(&there_);
  before.Send(Off());
  AppendCommand append;
  append.input = TextInput("the quick brown fox jumps");
  append.score = true;
  const uint64_t id = before.Send(append);
  for (int i = 0; i < 5; ++i) engine_.Step();
  manager_.StartDrain(1000);
  manager_.HandOverAll();
  RunAll(before);
  EXPECT_THAT(before.ErrorOf(id), HasCode(StatusCode::kCancelled));
  const auto reports = before.All<AppendedEvent>(id);
  ASSERT_THAT(reports, SizeIs(1));
  EXPECT_FALSE(reports[0].done);
  const int32_t taken = reports[0].tokens;
  ASSERT_GT(taken, 0);
  ASSERT_LT(taken, 25);

  Resume(after, TokenOf(before));
  append.skip_tokens = static_cast<uint32_t>(taken);
  const uint64_t rest = after.Send(append);
  RunAll(after);
  const AppendedEvent appended = after.All<AppendedEvent>(rest).at(0);
  EXPECT_TRUE(appended.done);
  EXPECT_EQ(appended.tokens, 25);
  EXPECT_EQ(reports[0].scored_tokens + appended.scored_tokens, 24);
  std::string text;
  for (const TokenId token : engine_there_.stream(0)) text += static_cast<char>(token);
  EXPECT_EQ(text, "the quick brown fox jumps");

  // All of it, and more than that.
  append.skip_tokens = 25;
  const uint64_t nothing = after.Send(append);
  append.skip_tokens = 26;
  const uint64_t more = after.Send(append);
  RunAll(after);
  EXPECT_EQ(after.All<AppendedEvent>(nothing).at(0).tokens, 25);
  EXPECT_EQ(after.All<AppendedEvent>(nothing).at(0).scored_tokens, 0);
  EXPECT_THAT(after.ErrorOf(more), StatusIs(StatusCode::kInvalidArgument,
                                            HasSubstr("skip_tokens is 26, the input has 25")));
}

TEST_F(SessionResumeTest, AnUpdateInFlightIsFinishedBeforeItsSessionLeaves) {
  for (const UpdateMode mode : {UpdateMode::kCascaded, UpdateMode::kParallel}) {
    SessionManager manager(With(&vault_), &engine_, &clock_, &log_, &metrics_);
    SessionClient before(&manager), after(&there_);
    OpenCommand open = SmallChunks();
    open.adaptation.mode = mode;
    before.Send(open);
    RunAll(before);
    engine_.HoldUpdates(true);
    before.Append(std::string(10, 'x'));
    RunAll(before);
    manager.StartDrain(1000);
    manager.HandOverAll();
    RunAll(before);
    EXPECT_FALSE(before.final_status().has_value());
    engine_.HoldUpdates(false);
    RunAll(before);
    EXPECT_THAT(before.All<UpdateEvent>(), SizeIs(1));
    const OpenedEvent opened = Resume(after, TokenOf(before));
    EXPECT_EQ(opened.adapter_version, 1);
    EXPECT_EQ(opened.stream_position, mode == UpdateMode::kParallel ? 10 : 8);
    after.Close();
    RunAll(after);
  }
}

TEST_F(SessionResumeTest, CommandsThatWaitAreAnsweredBeforeTheSessionLeaves) {
  SessionClient before(&manager_);
  before.Send(SmallChunks());
  RunAll(before);
  engine_.HoldUpdates(true);
  before.Append(std::string(5, 'x'));
  const uint64_t now = before.Adapt(AdaptAction::kUpdateNow);
  const uint64_t append = before.Append("more");
  const uint64_t generate = before.Generate(3);
  const uint64_t last = before.Send(ExportCommand{ExportFormat::kSnapshot, true});
  RunAll(before);
  manager_.StartDrain(1000);
  manager_.HandOverAll();
  engine_.HoldUpdates(false);
  RunAll(before);
  for (const uint64_t id : {now, append, last}) {
    EXPECT_THAT(before.ErrorOf(id), HasCode(StatusCode::kCancelled)) << id;
  }
  EXPECT_EQ(before.All<GeneratedEvent>(generate).at(0).reason, FinishReason::kCancelled);
  EXPECT_EQ(before.All<UpdateEvent>().at(0).result.outcome, UpdateOutcome::kApplied);
  EXPECT_THAT(TokenOf(before), HasSubstr("fake-token"));
}

TEST_F(SessionResumeTest, ASlowReaderIsHandedOverToo) {
  SessionClient before(&manager_), after(&there_);
  before.Send(Off());
  before.Append("ab");
  before.Generate(1000);
  engine_.RunUntilIdle();  // it has filled the outbox
  manager_.StartDrain(1000);
  manager_.HandOverAll();
  engine_.RunUntilIdle();
  vault_.RunUntilIdle();
  engine_.RunUntilIdle();
  RunAll(before);
  const OpenedEvent opened = Resume(after, TokenOf(before));
  EXPECT_EQ(opened.stream_position, 2 + before.Text().size());
}

TEST_F(SessionResumeTest, AHandOverThatFailsEndsTheSessionWithoutAToken) {
  SessionClient before(&manager_);
  before.Send(SmallChunks());
  before.Append("ab");
  RunAll(before);
  vault_.FailNext(absl::UnavailableError("the store is gone"));
  manager_.HandOverAll();
  RunAll(before);
  EXPECT_EQ(TokenOf(before), "");
  EXPECT_THAT(*before.final_status(), HasCode(StatusCode::kUnavailable));
}

TEST_F(SessionResumeTest, WithoutAStoreAHandOverEndsTheSessionAtOnce) {
  FakeSnapshotVault storeless(FakeSnapshotVault::Completion::kManual, /*with_store=*/false);
  SessionManager manager(With(&storeless), &engine_, &clock_, &log_, &metrics_);
  SessionClient client(&manager);
  client.Send(SmallChunks());
  client.Append("ab");
  RunAll(client);
  const uint64_t id = client.Send(ExportCommand{ExportFormat::kSnapshot, true});
  RunAll(client);
  EXPECT_THAT(client.ErrorOf(id),
              StatusIs(StatusCode::kFailedPrecondition, HasSubstr("--snapshot_store")));
  manager.HandOverAll();
  RunAll(client);
  EXPECT_THAT(*client.final_status(), HasCode(StatusCode::kUnavailable));
}

// ---- Files -----------------------------------------------------------------------------------

TEST_F(SessionResumeTest, ASnapshotLeavesInChunksThatJoinToWhatWasSealed) {
  SessionClient client(&manager_);
  client.Send(SmallChunks());
  client.Append(std::string(11, 'x'));
  const uint64_t id = client.Send(ExportCommand{ExportFormat::kSnapshot});
  RunAll(client);
  std::string sealed;
  const auto chunks = client.All<ExportedEvent>(id);
  for (const ExportedEvent& chunk : chunks) {
    EXPECT_EQ(chunk.file, "session.snapshot");
    EXPECT_EQ(chunk.offset, sealed.size());
    sealed += chunk.data;
  }
  ASSERT_FALSE(chunks.empty());
  EXPECT_TRUE(chunks.back().done);
  EXPECT_EQ(chunks.back().file_bytes, sealed.size());
  absl::StatusOr<std::string> plain;
  vault_.Unseal("tenant", sealed, [&](absl::StatusOr<std::string> answer) { plain = answer; });
  vault_.RunUntilIdle();
  ASSERT_THAT(plain, IsOk());
  const absl::StatusOr<Snapshot> snapshot = DecodeSnapshot(*plain);
  ASSERT_THAT(snapshot, IsOk());
  EXPECT_THAT(CheckSnapshot(*snapshot, engine_.info()), IsOk());
  EXPECT_EQ(snapshot->planner.position, 11);
}

TEST_F(SessionResumeTest, ASnapshotThatTheClientHeldComesBackInParts) {
  SessionClient before(&manager_), after(&there_);
  before.Send(SmallChunks());
  before.Append(std::string(11, 'x'));
  const uint64_t id = before.Send(ExportCommand{ExportFormat::kSnapshot});
  RunAll(before);
  const std::string sealed = before.All<ExportedEvent>(id).at(0).data;
  OpenCommand open;
  open.snapshot_bytes = sealed.size();
  const uint64_t open_id = after.Send(open);
  after.Send(RestoreCommand{sealed.substr(0, 100)});
  RunAll(after);
  EXPECT_THAT(after.events(), IsEmpty());
  after.Send(RestoreCommand{sealed.substr(100)});
  RunAll(after);
  ASSERT_THAT(after.All<OpenedEvent>(open_id), SizeIs(1));
  EXPECT_EQ(after.All<OpenedEvent>(open_id)[0].stream_position, 11);
}

TEST_F(SessionResumeTest, ASnapshotThatIsNotAsAnnouncedEndsTheStream) {
  const auto ends_with = [&](uint64_t bytes, const std::vector<SessionCommand>& commands,
                             StatusCode code, const std::string& message) {
    SessionClient client(&there_);
    OpenCommand open;
    open.snapshot_bytes = bytes;
    client.Send(open);
    for (const SessionCommand& command : commands) client.Send(command);
    RunAll(client);
    ASSERT_TRUE(client.final_status().has_value());
    EXPECT_THAT(*client.final_status(), StatusIs(code, HasSubstr(message)));
  };
  ends_with(5, {RestoreCommand{"123456"}}, StatusCode::kInvalidArgument, "more bytes than the 5");
  ends_with(5, {GenerateCommand{}}, StatusCode::kInvalidArgument, "bytes 0..5 must follow");
  ends_with(5, {RestoreCommand{"12345"}}, StatusCode::kInvalidArgument, "no snapshot");
  ends_with(uint64_t{1} << 40, {}, StatusCode::kInvalidArgument, "a row's snapshot has at most");
  ends_with(5, {CloseCommand{}}, StatusCode::kOk, "");
}

TEST_F(SessionResumeTest, AnAdapterLeavesAsPeftsTwoFiles) {
  SessionClient client(&manager_);
  client.Send(SmallChunks());
  const uint64_t id = client.Send(ExportCommand{ExportFormat::kPeft});
  RunAll(client);
  const auto chunks = client.All<ExportedEvent>(id);
  ASSERT_THAT(chunks, SizeIs(2));
  EXPECT_EQ(chunks[0].file, "adapter_config.json");
  EXPECT_THAT(chunks[0].data, HasSubstr("\"r\": 4"));
  EXPECT_EQ(chunks[1].file, "adapter_model.safetensors");
  EXPECT_FALSE(chunks[0].done);
  EXPECT_TRUE(chunks[1].done);

  SessionClient off(&manager_);
  off.Send(Off());
  const uint64_t refused = off.Send(ExportCommand{ExportFormat::kPeft});
  RunAll(off);
  EXPECT_THAT(off.ErrorOf(refused),
              StatusIs(StatusCode::kFailedPrecondition, HasSubstr("no adapter")));
}

TEST_F(SessionResumeTest, AnExportThatFailsOrIsCancelledLeavesTheSessionAsItWas) {
  SessionClient client(&manager_);
  client.Send(SmallChunks());
  client.Append("ab");
  RunAll(client);
  engine_.FailNext<ExportWork>(absl::ResourceExhaustedError("no memory"));
  const uint64_t failed = client.Send(ExportCommand{ExportFormat::kPeft});
  RunAll(client);
  EXPECT_THAT(client.ErrorOf(failed), HasCode(StatusCode::kResourceExhausted));
  vault_.FailNext(absl::ResourceExhaustedError("the disk is full"));
  const uint64_t full = client.Send(ExportCommand{ExportFormat::kSnapshot, true});
  RunAll(client);
  EXPECT_THAT(client.ErrorOf(full), StatusIs(StatusCode::kResourceExhausted, HasSubstr("full")));
  const uint64_t cancelled = client.Send(ExportCommand{ExportFormat::kSnapshot, true});
  engine_.RunUntilIdle();  // it waits for the vault
  client.Cancel(cancelled);
  client.Generate(3);
  RunAll(client);
  EXPECT_THAT(client.ErrorOf(cancelled), HasCode(StatusCode::kCancelled));
  EXPECT_EQ(client.Text(), "cde");
}

// ---- Copies of rows are few ------------------------------------------------------------------

TEST_F(SessionResumeTest, NoMoreExportsThanAllowedAreUnderWay) {
  SessionManager::Options options = With(&vault_);
  options.limits.max_exports = 1;
  SessionManager manager(options, &engine_, &clock_, &log_, &metrics_);
  SessionClient first(&manager), second(&manager);
  Open(first, SmallChunks());
  Open(second, SmallChunks());
  first.Send(ExportCommand{ExportFormat::kSnapshot, true});
  engine_.RunUntilIdle();  // it waits for the vault
  const uint64_t refused = second.Send(ExportCommand{ExportFormat::kPeft});
  RunAll(second);
  EXPECT_THAT(second.ErrorOf(refused),
              StatusIs(StatusCode::kResourceExhausted, HasSubstr("the limit max_exports")));
  EXPECT_EQ(RetryAfterSeconds(second.ErrorOf(refused)), 1);
  RunAll(first);
  const uint64_t taken = second.Send(ExportCommand{ExportFormat::kPeft});
  RunAll(second);
  EXPECT_THAT(second.All<ExportedEvent>(taken), SizeIs(2));
  first.Close();
  second.Close();
  RunAll(first);
}

TEST_F(SessionResumeTest, SessionsAreHandedOverAFewAtATime) {
  FakeEngine engine{{.rows = 5}};
  SessionManager manager(With(&vault_), &engine, &clock_, &log_, &metrics_);
  std::vector<std::unique_ptr<SessionClient>> clients;
  for (int i = 0; i < 5; ++i) {
    clients.push_back(std::make_unique<SessionClient>(&manager));
    clients.back()->Send(SmallChunks());
    engine.RunUntilIdle();
  }
  manager.StartDrain(0);
  manager.HandOverAll();
  for (int left = 5; left > 0; --left) {
    engine.RunUntilIdle();
    EXPECT_EQ(vault_.waiting(), static_cast<size_t>(std::min(left, 2)));
    vault_.Step();
  }
  engine.RunUntilIdle();
  EXPECT_EQ(manager.open_sessions(), 0);
  for (const auto& client : clients) {
    client->ReadAll();
    EXPECT_NE(TokenOf(*client), "");
  }
}

TEST_F(SessionResumeTest, ASnapshotThatItsClientSendsNeedsARowFirst) {
  SessionManager::Options options = With(&vault_);
  options.limits.admission_wait_seconds = 60;
  SessionManager manager(options, &engine_, &clock_, &log_, &metrics_);
  OpenCommand open;
  open.snapshot_bytes = 100;
  SessionClient first(&manager), second(&manager), third(&manager);
  first.Send(open);
  second.Send(open);
  third.Send(open);
  EXPECT_FALSE(first.final_status());
  EXPECT_FALSE(second.final_status());
  third.ReadAll();
  EXPECT_THAT(*third.final_status(),
              StatusIs(StatusCode::kResourceExhausted, HasSubstr("all 2 rows are taken")));
  first.Close();
  second.Close();
}

TEST_F(SessionResumeTest, ATokenWaitsForARowBeforeItsSnapshotIsLoaded) {
  SessionClient before(&manager_);
  before.Send(SmallChunks());
  const std::string token = Store(before);
  SessionManager::Options options = With(&vault_);
  options.limits.admission_wait_seconds = 60;
  FakeEngine engine{{.rows = 1}};
  SessionManager manager(options, &engine, &clock_, &log_, &metrics_);
  SessionClient first(&manager), waiter(&manager);
  first.Send(SmallChunks());
  engine.RunUntilIdle();
  OpenCommand open;
  open.resume_token = token;
  waiter.Send(open);
  EXPECT_EQ(vault_.waiting(), 0u);
  first.Close();
  engine.RunUntilIdle();
  EXPECT_EQ(vault_.waiting(), 1u);
  vault_.RunUntilIdle();
  engine.RunUntilIdle();
  waiter.ReadAll();
  ASSERT_THAT(waiter.All<OpenedEvent>(), SizeIs(1));
  EXPECT_TRUE(waiter.All<OpenedEvent>()[0].resumed);
  waiter.Close();
  engine.RunUntilIdle();
}

// ---- Refusals --------------------------------------------------------------------------------

TEST_F(SessionResumeTest, ATokenOpensNothingButItsTenantsSession) {
  SessionClient before(&manager_);
  before.Send(SmallChunks());
  const std::string token = Store(before);
  EXPECT_THAT(ResumeFails("no such token"), HasCode(StatusCode::kNotFound));
  EXPECT_THAT(ResumeFails(token, "another tenant"), HasCode(StatusCode::kNotFound));
  vault_.ExpireAll();
  EXPECT_THAT(ResumeFails(token), StatusIs(StatusCode::kNotFound, HasSubstr("expired")));
  EXPECT_EQ(engine_there_.free_rows(), engine_there_.info().rows);
}

TEST_F(SessionResumeTest, AServerThatIsSmallerRefusesASessionNamingTheLimit) {
  SessionClient before(&manager_);
  before.Send(SmallChunks());
  const std::string token = Store(before);
  FakeEngine::Options options;
  options.max_rank = 2;
  FakeEngine small(options);
  SessionManager manager(With(&vault_), &small, &clock_, &log_, &metrics_);
  SessionClient client(&manager);
  OpenCommand open;
  open.resume_token = token;
  client.Send(open);
  vault_.RunUntilIdle();
  client.ReadAll();
  EXPECT_THAT(*client.final_status(), StatusIs(StatusCode::kInvalidArgument, HasSubstr("rank")));
}

TEST_F(SessionResumeTest, ASessionThatEndsWhileItsSnapshotIsLoadedTakesNoRow) {
  SessionClient before(&manager_);
  before.Send(SmallChunks());
  const std::string token = Store(before);
  SessionClient client(&there_);
  OpenCommand open;
  open.resume_token = token;
  client.Send(open);
  client.session().End(CloseReason::kCancelled, absl::CancelledError("gone"));
  RunAll(client);
  EXPECT_THAT(*client.final_status(), HasCode(StatusCode::kCancelled));
  EXPECT_THAT(engine_there_.opened(), IsEmpty());
}

// ---- The encoding ----------------------------------------------------------------------------

class SnapshotTest : public SessionResumeTest {
 protected:
  std::string Plain() {
    SessionClient client(&manager_);
    client.Send(SmallChunks());
    client.Append(std::string(11, 'x'));
    const std::string token = Store(client);
    std::string plain;
    vault_.Load("tenant", token, [&](absl::StatusOr<std::string> answer) { plain = *answer; });
    vault_.RunUntilIdle();
    client.Close();
    RunAll(client);
    return plain;
  }
};

TEST_F(SnapshotTest, EncodesTheSameBytesAfterDecoding) {
  const std::string plain = Plain();
  const absl::StatusOr<Snapshot> snapshot = DecodeSnapshot(plain);
  ASSERT_THAT(snapshot, IsOk());
  EXPECT_EQ(EncodeSnapshot(*snapshot), plain);
}

TEST_F(SnapshotTest, WhatIsCutShortOrTooLongIsMalformed) {
  const std::string plain = Plain();
  for (size_t size = 0; size < plain.size(); ++size) {
    EXPECT_FALSE(DecodeSnapshot(plain.substr(0, size)).ok()) << size;
  }
  EXPECT_FALSE(DecodeSnapshot(plain + "x").ok());
}

// Whatever its bytes say, a snapshot is refused or goes on; nothing of it is believed unchecked.
TEST_F(SnapshotTest, NoByteOfItCanDoHarm) {
  const std::string plain = Plain();
  std::mt19937_64 random(1);
  for (size_t i = 0; i < plain.size(); ++i) {
    for (const int value : {0, 1, 127, 255, static_cast<int>(random() % 256)}) {
      std::string changed = plain;
      changed[i] = static_cast<char>(value);
      const absl::StatusOr<Snapshot> snapshot = DecodeSnapshot(changed);
      if (!snapshot.ok() || !CheckSnapshot(*snapshot, engine_.info()).ok()) continue;
      RowPlanner planner(snapshot->planner, snapshot->window_tokens, 0);
      while (planner.position() < planner.horizon()) planner.Add({});
      planner.NextLearning(false);
    }
  }
}

TEST_F(SnapshotTest, AnotherModelsIsRefused) {
  absl::StatusOr<Snapshot> snapshot = DecodeSnapshot(Plain());
  ASSERT_THAT(snapshot, IsOk());
  snapshot->model_fingerprint += 1;
  EXPECT_THAT(CheckSnapshot(*snapshot, engine_.info()),
              StatusIs(StatusCode::kFailedPrecondition, HasSubstr("another model")));
}

}  // namespace
}  // namespace mayfly
